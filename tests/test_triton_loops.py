"""Loops over chunks are one kernel each: stacked states, gradients of what steps share, systems of one column."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton")

import mixer_ir as mx
from backends import reference
from backends.triton.inverses import inverted
from backends.triton.kernel import Setting
from backends.triton.levels import levels
from backends.triton.partition import plan
from backends.triton.real import real
from backends.triton.steps import Repeat
from backends.triton.totals import totalled
from backends.triton.unstacked import unstacked
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program, Value
from mixer_ir.driver.kernels import lowered
from tests.programs import arrays
from tests.test_triton import run_both


@mx.recurrence
def momentum_delta(
    M: mx.State("k v"), S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", e: "b t h", w: "b t h", a: "b t h"
):
    M = e * M + w * mx.outer(k, v - k @ S)
    S = a * S + M
    return M, S, q @ S


@mx.recurrence
def shared_decay(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", a: "h", beta: "b t h"):
    S = a * (S - beta * mx.outer(k, k @ S)) + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def vector_delta(s: mx.State("k"), q: "b t h k", k: "b t h k", v: "b t h", a: "b t h", beta: "b t h"):
    s = a * (s - beta * k * (k @ s)) + k * v
    return s, q @ s


@mx.recurrence
def two_decayed(S: mx.State("k v"), q: "b t h k", k: "b t h k", e: "b t h k", v: "b t h v", w: "b t h v", g: "b t h k"):
    S = mx.exp(-(g * g)) * S
    S = S + mx.outer(k, v - k @ S)
    S = S + mx.outer(e, w - e @ S)
    return S, q @ S


MIXERS = (momentum_delta, shared_decay, vector_delta, two_decayed)
REWRITES = {"unstacked": unstacked, "totalled": totalled, "inverted": lambda of: inverted(of, 128)}


def passes(mixer: mx.Mixer, form: str = "chunked") -> list[Program]:
    """Forward and backward, in seven chunks of eight steps."""
    sizes = {"b": 2, "t": 56, "h": 2, "k": 16, "v": 16}
    of = lowered(
        mixer, form, 8, {a: n for a, n in sizes.items() if a in {x for s in mixer.signals.values() for x in s}}
    )
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])
    return [real(levels(x)) for x in (of, back)]


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda m: m.name)
def test_a_loop_over_chunks_is_one_kernel(mixer: mx.Mixer) -> None:
    for of in passes(mixer):
        assert any(isinstance(v.op, p.Scan) for v in of.order)
        assert not [s for s in plan(of, Setting()).steps if isinstance(s, Repeat)]


@pytest.mark.parametrize(
    ("mixer", "form", "name"),
    [
        (momentum_delta, "chunked", "unstacked"),
        (momentum_delta, "recurrent", "unstacked"),
        (shared_decay, "chunked", "totalled"),
        (shared_decay, "recurrent", "totalled"),
        (vector_delta, "chunked", "inverted"),
        (two_decayed, "chunked", "inverted"),
    ],
    ids=str,
)
def test_rewritten_loops_give_the_same(mixer: mx.Mixer, form: str, name: str) -> None:
    changed = False
    for of in passes(mixer, form):
        made = REWRITES[name](of)
        changed |= made is not of
        want, got = (reference.prepare(x)({n: 0.3 * x for n, x in arrays(of).items()}) for x in (of, made))
        for n, x in want.items():
            np.testing.assert_allclose(got[n], x, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(x).max()))
    assert changed


def test_no_entries_are_no_block() -> None:
    """A slice of nothing beside a state that a loop carries in halves."""
    b = Builder()
    x = b.input("x", ("t", "k"), (4, 6))

    def step(i: Builder, carry: list[Value], steps: list[Value], _: list[Value]) -> tuple[list[Value], list[Value]]:
        halves = [i.slice(carry[0], "k", j, j + 3) for j in (0, 3)]
        return [i.add(i.concat(halves, "k"), steps[0])], [i.slice(steps[0], "k", 2, 2)]

    (last,), (nothing,) = b.scan("t", step, [b.full(0.0, {"k": 6})], [x], [])
    of = program({"last": last, "nothing": nothing}, [x])
    made = unstacked(of)
    assert made is not of
    want, got = (reference.prepare(y)(arrays(of)) for y in (of, made))
    assert got["nothing"].shape == (4, 0)
    np.testing.assert_allclose(got["last"], want["last"], rtol=1e-12)


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda m: m.name)
def test_values_and_gradients(mixer: mx.Mixer) -> None:
    run_both(mixer, "chunked", 9, 1e-7, chunk=4)


@mx.recurrence
def dense(H: mx.State("n"), A: "b t h m n", x: "b t h m", q: "b t h n"):
    H = mx.rename(A @ H + x, m="n")
    return H, q @ H


@mx.recurrence
def of_all_heads(S: mx.State("n"), a: "t n", beta: "b t", k: "b t h n", v: "b t h", q: "b t h n"):
    S = S - beta * a * (a @ S) + k * v
    return S, q @ S


@mx.recurrence
def two_coupled(
    S: mx.State("k v"), R: mx.State("k v"), a: "b t h k", e: "b t h", k: "b t h k", v: "t h v", q: "b t h k"
):
    S = 0.5 * S + e * R - 0.3 * mx.outer(a, a @ S) + mx.outer(k, v)
    R = 0.9 * R + 0.1 * S
    return S, R, q @ S


@mx.recurrence
def shared_keys(S: mx.State("k v"), q: "b t h k", k: "b t k", v: "b t h v", a: "b t h"):
    S = a * S + mx.outer(k, v)
    return S, q @ S


STEPWISE = (dense, of_all_heads, shared_keys, two_coupled)


@pytest.mark.parametrize("mixer", STEPWISE, ids=lambda m: m.name)
def test_a_loop_over_steps_is_one_kernel(mixer: mx.Mixer) -> None:
    """Nothing is launched step by step: a transition's transpose on the way back, gradients of keys that all heads
    share, of values that all sequences share, states that are coupled.
    """
    sizes = {"b": 8, "t": 100, "h": 16, "k": 64, "v": 64, "m": 64, "n": 64}
    taken = {a: n for a, n in sizes.items() if a in {x for s in mixer.signals.values() for x in s}}
    of = lowered(mixer, "recurrent", None, taken)
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])
    for x in (of, back):
        steps = plan(real(levels(x)), Setting()).steps
        assert not [s for s in steps if isinstance(s, Repeat)]
        assert len(steps) <= 10


@pytest.mark.parametrize("mixer", STEPWISE, ids=lambda m: m.name)
def test_values_and_gradients_step_by_step(mixer: mx.Mixer) -> None:
    run_both(mixer, "recurrent", 9, 1e-7)
