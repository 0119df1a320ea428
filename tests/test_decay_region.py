"""The region `decay`: its own adjoint against the tree's, and a backend's spelling of both against the program's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from backends import available, native
from backends.autograd import differentiable
from backends.eager import prepare as eagerly
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.decay import Span, Tree, tree
from lowering.decay_region import products
from lowering.program import Program
from lowering.segment import Column, Row

SIZES = {"b": 2, "h": 3, "r": 2, "_k": 3}
AXES = {  # step, row q0, row q1 (before its step), column k0, column k1; `_i` is the step's place
    "one head": ("_i _k", "_i _k", "_i _k", "_i _k", "_i _k"),
    "batched": ("b h _i _k", "b h _i _k", "h b _i _k", "b h _i _k", "b _i h _k"),
    "steps alike": ("h _k", "b h _i _k", "h _k", "h _i _k", "b h _i _k"),
    "rows alike": ("b h _i _k", "_k", "b _i _k", "h _k", "_i _k"),
    "pairs of a low rank": ("b _i _k", "b _i r _k", "b _i r _k", "b _i h _k", "b _i _k"),
}
GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "mixed": lambda x: -(10 ** (9 * x - 6)),  # −1e-6 … −1e3
    "closing": lambda x: torch.where(x < 0.1, -torch.inf, torch.where(x > 0.9, 0.0, -3 * x)),
    "closed": lambda x: torch.full_like(x, -torch.inf),
    "even": lambda x: torch.full_like(x, -20.0),
}
LATE, EARLY, FIRST, SECOND = Row("q0", before=False), Row("q1", before=True), Column("k0"), Column("k1")
NAMES = ("step", "q0", "q1", "k0", "k1")


def spelled(
    make: Callable[..., Tree], axes: tuple[str, ...], length: int, kinds: dict[str, str] | None = None
) -> Program:
    """The results of `make` (the tree, or the region) for two rows and two columns."""
    sizes = {**SIZES, "_i": length}
    b = Builder()
    kinds = kinds or {}
    given = {
        n: b.input(n, tuple(a.split()), tuple(sizes[x] for x in a.split()), kinds.get(n, "real"))  # type: ignore[arg-type]
        for n, a in zip(NAMES, axes, strict=True)
    }
    rows, columns = {LATE: given["q0"], EARLY: given["q1"]}, {FIRST: given["k0"], SECOND: given["k1"]}
    pairs = [(row, column) for row in rows for column in columns if length > 1 or not row.before]
    made = make(b, Span(given["step"], "log"), length, rows, columns, pairs)
    results = {f"entering {row.name}": x for row, x in made.entering.items()}
    results |= {f"leaving {column.name}": y for column, y in made.leaving.items()}
    results |= {f"scores {r.name} {c.name}": s for (r, c), s in made.scores.items() if s is not None}
    results["whole"] = b.map("exp", made.whole.value)
    full = {a: n for a, n in given["step"].sizes.items() if a not in ("_i", "_k")}
    results = {n: b.expand(x, full) for n, x in results.items()}
    return program({n: b.order(x, tuple(sorted(x.axes))) for n, x in results.items()}, list(given.values()))


def drawn(of: Program, gates: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    made = {}
    for v in of.inputs:
        name = v.op.name  # type: ignore[union-attr]
        kind = torch.complex128 if v.kind == "complex" else torch.float64
        if name == "step":
            made[name] = GATES[gates](torch.rand(v.shape, generator=generator, dtype=torch.float64)).to(kind)
        else:
            made[name] = torch.randn(v.shape, generator=generator, dtype=kind)
    return {n: x if x.is_complex() else x.to(dtype) for n, x in made.items()}


def everything(
    of: tuple[Program, Program], arrays: dict[str, Tensor], prepare: Callable[[Program], Any] = eagerly
) -> dict[str, Tensor]:
    """Results and, for cotangents drawn once, every gradient."""
    forward, back = of
    made = dict(prepare(forward)(arrays))
    generator = torch.Generator().manual_seed(11)
    cts = {
        f"d:{n}": torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for n, y in made.items()
    }
    return made | prepare(back)({**arrays, **cts})


def close(made: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    assert made.keys() == want.keys()
    for name, x in want.items():
        y = made[name].to(x.dtype)
        assert y.isfinite().all(), name
        assert (y - x).abs().max() <= tolerance * max(1.0, x.abs().max().item()), name


def opened(of: Program) -> Program:
    """The program without regions."""
    b = Builder()
    done: dict[Any, Any] = {}
    for v in of.order:
        if isinstance(v.op, p.Input):
            done[v] = v
        elif isinstance(v.op, p.Region):
            names = v.op.body.input_names
            done[v] = b.inline(opened(v.op.body), {n: done[a] for n, a in zip(names, v.args, strict=True)})
        elif isinstance(v.op, p.Pick):
            done[v] = b.order(done[v.args[0]][v.op.index], v.axes)
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=of.inputs, outputs=tuple(done[v] for v in of.outputs), names=of.names)


@cache
def programs(axes: str, length: int, kinds: tuple[tuple[str, str], ...] = ()) -> dict[str, tuple[Program, Program]]:
    """The tree, the region, and the region opened: each with its adjoint."""
    made = {"tree": spelled(tree, AXES[axes], length, dict(kinds))}
    made["region"] = spelled(products, AXES[axes], length, dict(kinds))
    pairs = {name: (of, adjoint(of, of.input_names)) for name, of in made.items()}
    return pairs | {"body": (opened(pairs["region"][0]), opened(pairs["region"][1]))}


def lengths(axes: str) -> tuple[int, ...]:
    return (1, 2, 7, 63, 129) if axes == "one head" else (1, 2, 7, 33)


@pytest.mark.parametrize(
    ("axes", "gates"), [("one head", g) for g in GATES] + [(a, g) for a in AXES for g in ("mixed", "closing")][2:]
)
def test_the_region_and_its_adjoint_are_the_tree_and_its_adjoint(axes: str, gates: str) -> None:
    for length in lengths(axes):
        of = programs(axes, length)
        arrays = drawn(of["tree"][0], gates)
        want = everything(of["tree"], arrays)
        close(everything(of["region"], arrays), want, 1e-12)
        close(everything(of["body"], arrays), want, 1e-12)


@pytest.mark.parametrize("gates", GATES)
def test_gradients_keep_their_digits_in_single_precision(gates: str) -> None:
    for length in (63, 129):
        of = programs("one head", length)
        arrays = {n: x.float().double() for n, x in drawn(of["tree"][0], gates).items()}
        want = everything(of["tree"], arrays)
        for name in ("region", "body"):
            close(everything(of[name], {n: x.float() for n, x in arrays.items()}), want, 1e-5)


def test_a_closed_step_has_no_gradient_and_none_comes_through_it() -> None:
    of = programs("one head", 63)
    arrays = drawn(of["tree"][0], "closing")
    made = everything(of["region"], {n: x.float() for n, x in arrays.items()})
    assert (made["d:step"][arrays["step"].isinf()] == 0).all()


@pytest.mark.parametrize("kinds", [{"step": "complex"}, {"k0": "complex"}, {"q0": "complex", "step": "complex"}])
def test_complex_factors_and_vectors(kinds: dict[str, str]) -> None:
    for axes in ("batched", "steps alike"):
        of = programs(axes, 7, tuple(kinds.items()))
        arrays = drawn(of["tree"][0], "even")
        if "step" in kinds:
            arrays["step"] = arrays["step"] / 20 + 1j * torch.linspace(-3, 3, 3, dtype=torch.float64)
        want = everything(of["tree"], arrays)
        close(everything(of["region"], arrays), want, 1e-12)
        close(everything(of["body"], arrays), want, 1e-12)


def test_a_derivative_of_the_adjoint_is_that_of_the_tree() -> None:
    of = programs("one head", 5)
    found = []
    for name in ("tree", "region"):
        arrays = {n: x.requires_grad_() for n, x in drawn(of[name][0], "even").items()}
        with torch.no_grad():
            arrays["step"] /= 20
        made = differentiable(of[name][0])(arrays)
        first = torch.autograd.grad(
            sum(y.square().sum() for y in made.values()), list(arrays.values()), create_graph=True
        )
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), list(arrays.values())))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


compiled = pytest.mark.skipif("native" not in available(), reason="needs a C compiler")


@compiled
@pytest.mark.parametrize(("axes", "gates"), [(a, g) for a in AXES for g in ("mixed", "closing")])
def test_compiled_loops_agree(axes: str, gates: str) -> None:
    for length in (1, 12, 33) if axes in ("one head", "batched") else (6,):
        of = programs(axes, length)["region"]
        arrays = drawn(of[0], gates)
        close(everything(of, arrays, native.prepare), everything(of, arrays), 1e-12)


@compiled
@pytest.mark.parametrize("gates", ["mixed", "closing"])
def test_compiled_loops_agree_on_whole_vectors(gates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "_k", 32)
    forward = spelled(products, AXES["pairs of a low rank"], 70)
    of = forward, adjoint(forward, forward.input_names)
    arrays = {n: x.float().double() for n, x in drawn(forward, gates).items()}
    want = everything(of, arrays)
    close(everything(of, {n: x.float() for n, x in arrays.items()}, native.prepare), want, 1e-5)


@compiled
def test_a_compiled_closed_step_has_no_gradient() -> None:
    of = programs("one head", 33)["region"]
    arrays = drawn(of[0], "closing")
    made = everything(of, arrays, native.prepare)
    assert (made["d:step"][arrays["step"].isinf()] == 0).all()
