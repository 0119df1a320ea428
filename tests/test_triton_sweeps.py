"""Affine scans along time as loops over blocks of steps: the same results, and no state in memory."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import catalog
import mixer_ir as mx
from backends import reference
from backends.triton.kernel import Setting
from backends.triton.partition import plan
from backends.triton.real import real
from backends.triton.sweeps import swept
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.driver import samples
from mixer_ir.driver.kernels import lowered
from tests.programs import arrays

ENTRIES = [("mamba", "selective_scan"), ("rg_lru", "rg_lru"), ("mega_ema", "damped_ema"), ("s4d", "s4d")]
ENTRIES += [("mega_ema", "two_way_ema"), ("retnet", "retention")]
MIXERS = {key: catalog.get(name).mixers[key] for name, key in ENTRIES}
LEAST = 1
"""entries of a tile so few that blocks are as short as they get"""


def passes(mixer: mx.Mixer, **sizes: int) -> list[Program]:
    """The scan, forward and backward."""
    axes = {a for of in mixer.signals.values() for a in of}
    of = lowered(mixer, "scan", None, {a: n for a, n in sizes.items() if a in axes})
    inputs = [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable]
    return [of, adjoint(of, inputs)]


def same(of: Program, made: Program) -> None:
    given = {n: np.abs(x) if n in ("gamma", "A") else x for n, x in arrays(of).items()}
    want, got = (reference.prepare(x)(given) for x in (of, made))
    for n, x in want.items():
        np.testing.assert_allclose(got[n], x, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(x).max()))


def scans(of: Program) -> int:
    return sum(isinstance(v.op, p.AffineScan) for v in of.order)


@pytest.mark.parametrize("t", [2, 8, 19])
@pytest.mark.parametrize("name", MIXERS)
def test_loops_over_blocks_give_the_same(name: str, t: int) -> None:
    """Two steps, one block, several blocks of which the last is not full; signals and states of odd sizes."""
    for of in passes(MIXERS[name], b=2, t=t, h=2, d=5, n=3, k=6, v=5, r=3):
        made = swept(of, LEAST)
        same(of, made)
        assert scans(of) and not scans(made)


@pytest.mark.parametrize("reverse", [False, True])
def test_states_at_both_ends(reverse: bool) -> None:
    """What a scan starts from, the states before and after each step, and the last one, with all their gradients."""
    b = Builder()
    first = b.input("first", ("n", "d"), (3, 4))
    a, x = b.input("a", ("t", "n"), (19, 3)), b.input("x", ("t", "d"), (19, 4))
    q = b.input("q", ("t", "n"), (19, 3))
    driven = b.mul(b.expand(x, {"n": 3}), q)
    ends = (b.expand(first, {"t": 1}), driven)
    decay = b.pad(b.map("sigmoid", a), "t", *((0, 1) if reverse else (1, 0)), 1.0)
    h = b.affine_scan(decay, b.concat(ends[::-1] if reverse else ends, "t"), "t", reverse=reverse)
    old, new = (b.slice(h, "t", i, i + 19) for i in ((1, 0) if reverse else (0, 1)))
    reads = {"before": b.contract(q, old, ("n",)), "after": b.contract(q, new, ("n",))}
    last = b.at(h, "t", 0 if reverse else 19)
    of = program({**reads, "last": last, "all": b.sum(b.mul(new, new), ("t", "n"))}, [first, a, x, q])
    for one in (of, adjoint(of, list(of.input_names))):
        same(one, swept(one, LEAST))
    assert not scans(swept(of, LEAST))


def test_states_that_are_a_result_stay_a_scan() -> None:
    """A loop would store them all the same."""
    b = Builder()
    a, x = b.input("a", ("t", "n"), (19, 3)), b.input("x", ("t", "d"), (19, 4))
    h = b.affine_scan(a, b.mul(x, a), "t")
    of = program({"h": h, "y": b.sum(h, ("n",))}, [a, x])
    assert swept(of, LEAST) is of


@pytest.mark.parametrize("name", ["selective_scan", "damped_ema", "s4d"])
def test_no_state_goes_through_memory(name: str) -> None:
    """Forward is one kernel of the signals and the result; backward stores a sixteenth of the states at most."""
    sizes = {"b": 8, "t": 4096, "d": 1024, "n": 16}
    forward, backward = (plan(real(x), Setting(dot="bf16")).kernels() for x in passes(MIXERS[name], **sizes))
    (one,) = forward
    assert {b.name for b in one.reads} <= {*MIXERS[name].signals}
    assert [b.name for b in one.writes] == ["y"]
    assert max(prod(b.value.shape) for k in backward for b in k.writes) <= prod(sizes.values()) // 16


@pytest.mark.parametrize("key", ["selective_scan", "rg_lru"])
def test_blocks_with_states_and_resets(key: str) -> None:
    """More steps than a block has, in the interpreter, from a state to a state, with pieces that begin anew."""
    mixer = MIXERS[key]
    signals = samples.draw(mixer, samples.sizes_for(mixer, 67), seed=0)
    reset = torch.zeros(2, 67, dtype=torch.bool)
    reset[:, 33] = reset[0, -1] = True
    start = mx.compile(mixer, form="scan", backend="eager")(**signals, return_state=True)[1]
    results = []
    for backend in ("eager", "triton"):
        given = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in signals.items()}
        state = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in start.items()}
        f = mx.compile(mixer, form="scan", backend=backend)
        y, end = f(**given, reset=reset, initial_state=state, return_state=True)
        ends = [y, *(x for x in end.values() if x.is_floating_point())]
        loss = sum((x * torch.arange(1.0, x.numel() + 1).reshape(x.shape).sin()).sum() for x in ends)
        wanted = [x for x in (*given.values(), *state.values()) if x.requires_grad]
        results.append([*ends, *torch.autograd.grad(loss, wanted)])
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
