"""Every operation and every function has a spelling in each backend, and all backends agree on what it is."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends import eager, native, reference, symbolic
from backends.eager.entries import MAPS
from backends.eager.loops import LOOPS
from backends.native.spelling import FUNCTIONS as native_functions
from lowering import adjoint_entries
from lowering import program as p
from lowering.adjoint import FLAT, RULES
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.nodes.functions import FUNCTIONS
from tests.programs import BOOLEAN, DRAWN, PRIMITIVE, Drawn, arrays, largest, mapped

OPERATIONS = set(get_args(p.Op))


def test_every_operation_is_spelled_everywhere() -> None:
    run = OPERATIONS - {p.Input}
    assert set(reference.OPERATIONS) == run
    assert set(symbolic.OPERATIONS) == run
    assert set(eager.OPERATIONS) | set(LOOPS) == run
    assert set(native.OPERATIONS) == run
    assert set(RULES) | set(FLAT) | {p.Scan, p.Region, p.Pick} == OPERATIONS
    assert set(DRAWN) | {p.Pick} == run


def test_every_function_is_spelled_everywhere() -> None:
    for table in (reference.MAPS, symbolic.MAPS, MAPS, native_functions, adjoint_entries.FUNCTIONS):
        assert set(table) == set(PRIMITIVE)


def agree(of: Program, exact: bool = True, seed: int = 0) -> None:
    """Reference, eager in both precisions and, where `exact`, SymPy give the same numbers in the shapes declared."""
    given_ = arrays(of, seed)
    want = reference.prepare(of)(given_)
    for name, v in zip(of.names, of.outputs, strict=True):
        assert want[name].shape == v.shape
    for real, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        cast = {"real": real, "complex": torch.complex128 if real == torch.float64 else torch.complex64}
        tensors = {n: torch.from_numpy(x) for n, x in given_.items()}
        tensors = {
            n: tensors[n].to(cast.get(v.kind, tensors[n].dtype)) for n, v in zip(of.input_names, of.inputs, strict=True)
        }
        got = eager.prepare(of)(tensors)
        for name in want:
            assert tuple(got[name].shape) == want[name].shape
            np.testing.assert_allclose(
                got[name].numpy(), want[name], rtol=tolerance, atol=tolerance * largest(want[name])
            )
    if exact:
        simple = {n: np.round(8 * x) / 8 if x.dtype.kind in "fc" else x for n, x in given_.items()}
        want, found = reference.prepare(of)(simple), symbolic.prepare(of)(simple)
        for name in want:
            assert found[name].shape == want[name].shape
            values = [complex(sympy.sympify(e).evalf()) for e in found[name].ravel()]
            np.testing.assert_allclose(np.array(values).reshape(want[name].shape), want[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("op", DRAWN, ids=lambda op: op.__name__)
@given(data=st.data())
def test_backends_agree_on_an_operation(op: type, data: st.DataObject) -> None:
    agree(DRAWN[op](Drawn(data.draw)))


@pytest.mark.parametrize("fn", PRIMITIVE)
@given(data=st.data())
def test_backends_agree_on_a_function(fn: str, data: st.DataObject) -> None:
    agree(mapped(Drawn(data.draw), fn), exact=False)


POINTS = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, 40.0, -40.0, 800.0, -800.0, math.inf, -math.inf, 1e-12, -1e-12)


@pytest.mark.parametrize("fn", sorted(set(PRIMITIVE) - BOOLEAN - {"where", "complex", "mod", "floordiv"}))
def test_functions_at_the_edges(fn: str) -> None:
    """Infinities, zeros and large numbers: NumPy and PyTorch agree, and SymPy where the value is a number."""
    b = Builder()
    n = len(POINTS)
    x, y = b.input("x", ("i",), (n,)), b.input("y", ("j",), (n,))
    arguments = [x] if FUNCTIONS[fn].arity == 1 else [x, y]
    of = program({"y": b.map(fn, *arguments)}, arguments)
    values = {v.op.name: np.array(POINTS) for v in arguments}
    want = reference.prepare(of)(values)["y"]
    got = eager.prepare(of)({n: torch.from_numpy(z) for n, z in values.items()})["y"].numpy()
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_truth_values_are_counted() -> None:
    """True + True is 2, a sum of truth values is how many hold, and their contraction too."""
    b = Builder()
    x = b.input("x", ("i",), (3,), "bool")
    y = b.rename(x, "i", "j")
    of = program({"a": b.add(x, x), "b": b.sum(x, ("i",)), "c": b.contract(x, x, ("i",)), "d": b.mul(x, y)}, [x])
    for found in (
        reference.prepare(of)({"x": [True, True, False]}),
        eager.prepare(of)({"x": torch.tensor([True, True, False])}),
        symbolic.prepare(of)({"x": [True, True, False]}),
    ):
        assert [int(e) for e in found["a"]] == [2, 2, 0]
        assert int(found["b"]) == int(found["c"]) == 2
        assert [int(e) for e in found["d"][0]] == [1, 1, 0]


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("backend", [reference, eager])
def test_solve_reads_only_beyond_the_diagonal(backend: object, upper: bool) -> None:
    """NaN on the diagonal and on the other side changes nothing."""
    b = Builder()
    lower, r = b.input("l", ("b", "t", "s"), (2, 5, 5)), b.input("r", ("t", "v"), (5, 3))
    of = program({"w": b.solve(lower, r, "t", "s", upper=upper)}, [lower, r])
    given_ = arrays(of)
    side = (np.triu if upper else np.tril)(np.ones((5, 5)), 1 if upper else -1) > 0
    clean = {**given_, "l": np.where(side, given_["l"], 0)}
    dirty = {**given_, "l": np.where(side, given_["l"], np.nan)}
    run = backend.prepare(of)  # type: ignore[attr-defined]
    clean, dirty = ({n: torch.from_numpy(x) for n, x in z.items()} for z in (clean, dirty))
    assert np.array_equal(np.asarray(run(clean)["w"]), np.asarray(run(dirty)["w"]))


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5, 1e-30, 1j])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 300])
@pytest.mark.parametrize("reverse", [False, True])
def test_affine_scan_of_any_factor_and_length(factor: complex, n: int, reverse: bool) -> None:
    """Zero, negative, large, tiny and complex factors: as the loop, on short and on long axes."""
    b = Builder()
    a, x = b.input("a", ("t",), (n,), "complex"), b.input("x", ("b", "t"), (2, n))
    of = program({"h": b.affine_scan(a, x, "t", reverse=reverse)}, [a, x])
    given_ = arrays(of)
    given_["a"] = np.where(np.arange(n) % 3 == 0, factor, given_["a"] * 0.7)
    want = reference.prepare(of)(given_)["h"]
    got = eager.prepare(of)({n: torch.from_numpy(z) for n, z in given_.items()})["h"].numpy()
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12 * largest(want))
