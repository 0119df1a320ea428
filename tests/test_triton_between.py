"""What lies in memory between two kernels: in how many bits, in which order, and what is stored instead of computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backends import reference
from backends.triton import launch, partition
from backends.triton.evaluate import OFTEN
from backends.triton.inverses import inverted
from backends.triton.kernel import Setting
from backends.triton.narrow import narrow
from backends.triton.partition import plan
from backends.triton.real import real
from backends.triton.steps import Call, Launch
from lowering import program as p
from lowering.build import Builder, program
from lowering.program import Program, Value
from tests.programs import arrays

pytest.importorskip("triton")
N = 32


def signals(b: Builder, *names: str) -> list[Value]:
    return [b.input(n, ("b", "i", "k"), (2, N, N)) for n in names]


def between(use: str) -> tuple[Program, Value]:
    """A product that is stored, and then used in some way."""
    b = Builder()
    x, y = signals(b, "x", "y")
    s = b.contract(b.rename(x, "i", "l"), b.rename(y, "i", "j"), ("k",))
    if use == "factor":
        made = b.contract(b.where(b.map("lt", b.iota("l", N), b.iota("j", N)), s, 0.0), b.rename(x, "i", "l"), ("l",))
    elif use == "exponent":
        made = b.contract(b.map("exp", s), b.rename(x, "i", "l"), ("l",))
    elif use == "cumulated":
        made = b.cumulate("sum", s, "l")
    else:
        made = b.slice(s, "l", 0, 3)
    return program({"z": made}, [x, y]), s


@pytest.mark.parametrize(
    ("use", "rounded"), [("factor", True), ("exponent", False), ("cumulated", False), ("result", False)]
)
def test_what_is_rounded_between_kernels(use: str, rounded: bool) -> None:
    """Factors of products of matrices are; exponents, cumulated sums and results in float32 are not."""
    of, s = between(use)
    wide = of.outputs if use == "result" else ()
    assert narrow(of, [s], wide) == ({s} if rounded else set())


def test_what_is_computed_beside_a_value_sees_it_before_it_is_rounded() -> None:
    """A product that the kernel sums that stores it is a factor alone where it is read from memory."""
    b = Builder()
    x, y = signals(b, "x", "y")
    s = b.contract(b.rename(x, "i", "l"), b.rename(y, "i", "j"), ("k",))
    total, z = b.sum(s, ("j",)), b.contract(s, b.rename(x, "i", "l"), ("l",))
    of = program({"e": b.map("exp", total), "z": z}, [x, y])
    assert narrow(of, [s], (), {s: {total}}) == {s} and not narrow(of, [s], (), {s: {z}})


@pytest.mark.parametrize("upper", [False, True])
def test_systems_of_one_matrix_share_its_inverse(upper: bool) -> None:
    """(I − L)⁻¹ x and (I − Lᵀ)⁻¹ y take one inverse, and are what solving gives."""
    b = Builder()
    x, y = signals(b, "x", "y")
    lower = b.mul(b.contract(x, b.rename(x, "i", "j"), ("k",)), 0.1)
    first = b.solve(lower, x, "i", "j")
    swapped = b.rename(b.rename(b.rename(lower, "i", "o"), "j", "i"), "o", "j")
    second = b.solve(swapped, y, "i", "j", upper=True) if upper else b.solve(lower, y, "i", "j")
    of = program({"u": first, "w": second}, [x, y])
    assert sum(isinstance(v.op, p.Solve) for v in inverted(of, 128).order) == 1
    given = {n: torch.randn(2, N, N, dtype=torch.float64) for n in ("x", "y")}
    made = launch.prepare(of)(given)
    left = torch.tril(given["x"] @ given["x"].mT * 0.1, -1)
    eye = torch.eye(N, dtype=torch.float64)
    torch.testing.assert_close(made["u"], torch.linalg.solve(eye - left, given["x"]))
    torch.testing.assert_close(made["w"], torch.linalg.solve(eye - (left.mT if upper else left), given["y"]))


def test_what_kernels_have_as_tiles_lies_together_and_libraries_get_packed_arrays() -> None:
    """Batch axes first for what only kernels read; a system too large for a tile is solved by a library, as it lies."""
    b = Builder()
    x, y = (b.input(n, ("i", "b", "k"), (160, 2, 20)) for n in ("x", "y"))
    scores = b.contract(x, b.rename(y, "i", "j"), ("k",))
    lower = b.mul(b.order(scores, ("i", "j", "b")), 0.01)
    of = program({"u": b.solve(lower, x, "i", "j")}, [x, y])
    made = plan(of, Setting("tl.float64", "ieee"))
    calls = [s for s in made.steps if isinstance(s, Call)]
    written = {w.value: w for s in made.steps if isinstance(s, Launch) for w in s.kernel.writes}
    assert calls
    assert all(written[a].layout is None for c in calls for a in c.buffer.value.args if a in written)
    given = {n: torch.randn(160, 2, 20, dtype=torch.float64) for n in ("x", "y")}
    left = torch.tril(torch.einsum("ibk,jbk->bij", given["x"], given["y"]) * 0.01, -1)
    wanted = torch.linalg.solve(torch.eye(160, dtype=torch.float64) - left, given["x"].permute(1, 0, 2))
    torch.testing.assert_close(launch.prepare(of)(given)["u"], wanted.permute(1, 0, 2))


def test_a_buffer_may_lie_in_another_order_than_its_axes() -> None:
    b = Builder()
    x = b.input("x", ("i", "b", "k"), (3, 5, 7))
    assert partition.Buffer("x", x).strides == (35, 7, 1)
    assert partition.Buffer("x", x, ("b", "i", "k")).strides == (7, 21, 1)


def test_a_tree_of_products_is_several_kernels() -> None:
    """The product of 512 matrices, pair by pair: written out it would be one kernel of 511 products."""
    b = Builder()
    x = y = b.input("x", ("t", "m", "n"), (512, 4, 4))
    for _ in range(9):
        y = b.split(y, "t", "t", "i", 2)
        left, right = b.at(y, "i", 0), b.rename(b.rename(b.at(y, "i", 1), "n", "o"), "m", "n")
        y = b.rename(b.contract(left, right, ("n",)), "o", "n")
    of = program({"y": y}, [x])
    kernels = plan(real(of), Setting()).kernels()
    assert 1 < len(kernels) <= 4 and all(k.text.count("tl.load(") <= 4 * OFTEN for k in kernels)
    given = {"x": np.eye(4) + 0.1 * arrays(of)["x"]}
    want = reference.prepare(of)(given)["y"]
    got = launch.prepare(of)({"x": torch.from_numpy(given["x"])})["y"].numpy()
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * np.abs(want).max())


def test_a_long_way_from_a_result_is_several_kernels() -> None:
    """What comes before is in memory, so that evaluation goes no deeper than Python lets it."""
    b = Builder()
    x = y = b.input("x", ("t",), (8,))
    for _ in range(600):
        y = b.add(b.map("sin", y), 1.0)
    of = program({"y": y}, [x])
    assert len(plan(real(of), Setting()).kernels()) == 10
    given = arrays(of)
    got = launch.prepare(of)({n: torch.from_numpy(a) for n, a in given.items()})["y"].numpy()
    np.testing.assert_allclose(got, reference.prepare(of)(given)["y"], rtol=1e-9)
