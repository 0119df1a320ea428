"""The derived adjoint is the derivative: against differences, against autograd, and so is the adjoint's adjoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends import eager, reference
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program, Value
from lowering.prune import prune
from mixer_ir.errors import GradientError
from tests.programs import BOOLEAN, DRAWN, PRIMITIVE, Drawn, arrays, mapped

SMOOTH = sorted(set(PRIMITIVE) - BOOLEAN - {"lt", "le", "eq", "ne", "floordiv"})
POSITIVE = {"log", "sqrt", "pow", "div", "mod", "log1p", "sign", "abs"}


def _away_from_zero(x: np.ndarray) -> np.ndarray:
    """Floating entries brought to the right of 0, where logarithms, roots and quotients are smooth."""
    if x.dtype.kind == "c":
        return np.asarray(_away_from_zero(x.real) + 0.2j * np.tanh(x.imag))
    return np.asarray(0.6 + 0.2 * np.tanh(x)) if x.dtype.kind == "f" else x


def is_derivative(of: Program, positive: bool = False) -> Program:
    """⟨ȳ, f(x + εd) − f(x − εd)⟩ / 2ε = ⟨x̄, d⟩ along a random direction; returns the adjoint."""
    wrt = [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable]
    results = [n for n, v in zip(of.names, of.outputs, strict=True) if v.differentiable]
    back = adjoint(of, wrt, results)
    x = arrays(of, seed=1)
    if positive:
        x = {n: _away_from_zero(z) for n, z in x.items()}
    d = {n: z for n, z in arrays(of, seed=2).items() if n in wrt}
    ct = {n: z for n, z in arrays(back, seed=3).items() if n not in x}
    run, eps = reference.prepare(of), 1e-6
    ahead = run({**x, **{n: x[n] + eps * z for n, z in d.items()}})
    behind = run({**x, **{n: x[n] - eps * z for n, z in d.items()}})
    want = sum(np.sum((np.conj(ct[f"d:{n}"]) * (ahead[n] - behind[n])).real) / (2 * eps) for n in results)
    found = reference.prepare(back)({**x, **ct})
    for n in wrt:
        assert found[f"d:{n}"].shape == x[n].shape
    got = sum(np.sum((np.conj(found[f"d:{n}"]) * z).real) for n, z in d.items())
    scale = sum(np.sum(np.abs(found[f"d:{n}"] * z)) for n, z in d.items())
    assert got == pytest.approx(want, rel=1e-6, abs=1e-6 * max(scale, 1.0))
    tensors = {n: torch.from_numpy(z) for n, z in {**x, **ct}.items()}
    by_eager = eager.prepare(back)(tensors)
    for n in by_eager:
        np.testing.assert_allclose(by_eager[n].numpy(), found[n], rtol=1e-9, atol=1e-11 * max(scale, 1.0))
    return back


@pytest.mark.parametrize("op", [op for op in DRAWN if op is not p.Detach], ids=lambda op: op.__name__)
@given(data=st.data())
def test_adjoint_of_an_operation(op: type, data: st.DataObject) -> None:
    of = DRAWN[op](Drawn(data.draw))
    back = is_derivative(of)
    is_derivative(back)


@pytest.mark.parametrize("fn", SMOOTH)
@given(data=st.data())
def test_adjoint_of_a_function(fn: str, data: st.DataObject) -> None:
    back = is_derivative(mapped(Drawn(data.draw), fn), fn in POSITIVE)
    is_derivative(back, fn in POSITIVE)


@pytest.mark.parametrize(
    "fn", sorted({"log", "sqrt", "abs", "sign", "sigmoid", "softplus", "tanh", "exp", "erf", "expm1"})
)
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_functions_differentiate_as_autograd_does(fn: str, kind: str) -> None:
    """At 0 and far out too, where differences say nothing; and complex numbers by the same convention."""
    if kind == "complex" and fn in ("softplus", "erf"):
        return
    b = Builder()
    points = torch.tensor([0.0, 1.0, -1.0, 3.0, -40.0, 200.0, 1e-3], dtype=torch.float64)
    x = b.input("x", ("i",), (len(points),), kind)  # type: ignore[arg-type]
    y = b.map(fn, x)
    of = program({"y": b.sum(b.map("real", y), ("i",))}, [x])
    at = (points if kind == "real" else torch.complex(points, points.flip(0).clamp(-3, 3))).requires_grad_()
    (want,) = torch.autograd.grad(eager.prepare(of)({"x": at})["y"], at)
    got = eager.prepare(adjoint(of, ["x"]))({"x": at.detach(), "d:y": torch.ones((), dtype=torch.float64)})["d:x"]
    fine = torch.isfinite(want)
    torch.testing.assert_close(got[fine], want[fine], rtol=1e-10, atol=1e-12)


def test_a_detached_value_has_no_cotangent() -> None:
    b = Builder()
    x = b.input("x", ("i",), (3,))
    back = adjoint(program({"y": b.mul(x, b.detach(x))}, [x]), ["x"])
    found = reference.prepare(back)({"x": [1.0, 2.0, 3.0], "d:y": [1.0, 1.0, 1.0]})["d:x"]
    assert found.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("fn", ["min", "max"])
def test_ties_are_split(fn: str) -> None:
    b = Builder()
    x, z = b.input("x", ("i",), (3,)), b.input("z", ("i",), (3,))
    of = program({"y": b.map(fn, x, z), "r": b.reduce(fn, x, ("i",))}, [x, z])
    given_ = {"x": [1.0, 2.0, 2.0], "z": [1.0, 3.0, 1.0]}
    found = reference.prepare(adjoint(of, ["x", "z"], ["y"]))({**given_, "d:y": [1.0, 1.0, 1.0]})
    assert found["d:x"].tolist() == ([0.5, 1.0, 0.0] if fn == "min" else [0.5, 0.0, 1.0])
    assert (found["d:x"] + found["d:z"]).tolist() == [1.0, 1.0, 1.0]
    found = reference.prepare(adjoint(of, ["x"], ["r"]))({**given_, "d:r": 1.0})
    assert found["d:x"].tolist() == ([1.0, 0.0, 0.0] if fn == "min" else [0.0, 0.5, 0.5])


def test_a_product_with_zeros_has_a_derivative() -> None:
    """Where one factor is 0 the others' derivative is 0, and its own is the product of the others."""
    b = Builder()
    x = b.input("x", ("t",), (4,))
    of = program({"y": b.cumulate("prod", x, "t")}, [x])
    found = reference.prepare(adjoint(of, ["x"]))({"x": [2.0, 0.0, 3.0, 5.0], "d:y": [0.0, 0.0, 0.0, 1.0]})["d:x"]
    assert found.tolist() == [0.0, 30.0, 0.0, 0.0]


def loop_of_segments(segments: int, length: int) -> Program:
    """A loop over segments whose body is a loop over steps with several intermediate results."""
    b = Builder()
    x, s = b.input("x", ("c", "i", "k"), (segments, length, 4)), b.input("s", ("k",), (4,))

    def step(b: Builder, c: list[Value], s: list[Value], k: list[Value]) -> tuple[list[Value], list[Value]]:
        h = b.map("tanh", b.add(b.mul(c[0], 0.5), s[0]))
        return [h], [b.mul(h, b.map("exp", h))]

    def segment(b: Builder, c: list[Value], s: list[Value], k: list[Value]) -> tuple[list[Value], list[Value]]:
        last, results = b.scan("i", step, c, s)
        return last, results

    _, y = b.scan("c", segment, [s], [x])
    return program({"y": y[0]}, [x, s])


def test_a_loop_keeps_only_the_carries_that_enter_a_step() -> None:
    """The adjoint of a loop over segments stores one state a segment: no step's intermediate results, no result."""
    back = adjoint(loop_of_segments(6, 10), ["x", "s"])
    forward, backward = (v.op for v in back.order if isinstance(v.op, p.Scan))
    assert not forward.reverse
    assert backward.reverse
    assert [v.shape for v in forward.body.outputs[forward.carries :]] == [(4,)]
    is_derivative(loop_of_segments(3, 4))


def test_pruning_drops_what_nobody_reads() -> None:
    """A carry that only feeds itself, a step and a result that nobody reads leave the loop."""
    b = Builder()
    x, z = b.input("x", ("t",), (5,)), b.input("z", ("t",), (5,))
    zero = b.const(0.0)
    last, results = b.scan(
        "t", lambda b, c, s, k: ([b.add(c[0], s[0]), b.add(c[1], s[1])], list(c)), [zero, zero], [x, z]
    )
    pruned = prune(program({"y": last[0], "r": results[0]}, [x, z]))
    (loop,) = (v for v in pruned.order if isinstance(v.op, p.Scan))
    assert len(loop.args) == 2
    assert len(loop.op.body.outputs) == 2  # type: ignore[union-attr]
    found = reference.prepare(pruned)({"x": np.arange(5.0), "z": np.ones(5)})
    assert found["y"] == 10
    assert found["r"].tolist() == [0, 0, 1, 3, 6]


def test_a_region_brings_its_own_adjoint() -> None:
    b, inner = Builder(), Builder()
    x, at, ct = b.input("x", ("i",), (3,)), inner.input("x", ("i",), (3,)), inner.input("d:y", ("i",), (3,))
    own = program({"d:x": inner.mul(ct, 7.0)}, [at, ct])
    (y,) = b.region("square", program({"y": inner.mul(at, at)}, [at]), [x], own)
    back = adjoint(program({"y": y}, [x]), ["x"])
    assert reference.prepare(back)({"x": np.ones(3), "d:y": np.ones(3)})["d:x"].tolist() == [7.0, 7.0, 7.0]


def test_only_what_is_asked_for_is_derived() -> None:
    b = Builder()
    x, z = b.input("x", ("i",), (3,)), b.input("z", ("i",), (3,))
    of = program({"y": b.mul(x, b.map("exp", z))}, [x, z])
    assert sum(isinstance(v.op, p.Map) for v in adjoint(of, ["x"]).order) == 2
    unread = adjoint(program({"y": b.mul(x, 2.0)}, [x, z]), ["z"])
    assert reference.prepare(unread)({"x": np.ones(3), "z": np.ones(3), "d:y": np.ones(3)})["d:z"].tolist() == [0.0] * 3


def test_what_has_no_derivative_is_named() -> None:
    b = Builder()
    x, i = b.input("x", ("i",), (3,)), b.input("i", ("i",), (3,), "int")
    of = program({"y": b.mul(x, i)}, [x, i])
    with pytest.raises(GradientError, match="there is no input 'z' to differentiate; inputs: x, i"):
        adjoint(of, ["z"])
    with pytest.raises(GradientError, match="'i' holds int numbers, which have no derivative"):
        adjoint(of, ["i"])
