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
from backends.triton.affine import affine_of
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


@mx.recurrence
def turning(x: mx.State("n"), u: "b t d", nu: "d n", theta: "d n", B: "d n", C: "d n", D: "d") -> "b t d":
    """Complex states of each channel, that every step turns and shrinks alike."""
    x = mx.exp(mx.complex(-mx.softplus(nu), theta)) * x + B * u
    return x, mx.real(mx.complex(C, B) @ x) + D * u


@mx.recurrence
def selective(x: mx.State("n"), u: "b t d", dt: "b t d", theta: "d n", B: "b t n", C: "b t n") -> "b t d":
    """Complex states whose factors, inputs and reads change with the step."""
    x = mx.exp(mx.softplus(dt) * mx.complex(-1.0, theta)) * x + mx.complex(B, C) * u
    return x, mx.real(mx.complex(C, B) @ x)


@mx.recurrence
def rotor(x: mx.State(""), u: "b t d", nu: "b t d", theta: "d") -> "b t d":
    """One complex state a channel, of which both parts are read."""
    x = mx.exp(mx.complex(-mx.softplus(nu), theta)) * x + u
    return x, mx.real(x) + mx.imag(x) * u


COMPLEX = {m.name: m for m in (turning, selective, rotor)}
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
    return sum(affine_of(v) is not None for v in of.order)


@pytest.mark.parametrize("t", [2, 8, 19])
@pytest.mark.parametrize("name", MIXERS)
def test_loops_over_blocks_give_the_same(name: str, t: int) -> None:
    """Two steps, one block, several blocks of which the last is not full; signals and states of odd sizes."""
    for of in passes(MIXERS[name], b=2, t=t, h=2, d=5, n=3, k=6, v=5, r=3):
        made = swept(of, LEAST)
        same(of, made)
        assert scans(of) and not scans(made)


@pytest.mark.parametrize("t", [2, 8, 19])
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_states_are_scanned_as_pairs(name: str, t: int) -> None:
    """Loops over blocks, as those of real states are; without them, one scan for both parts and none step by step."""
    for of in passes(COMPLEX[name], b=2, t=t, d=5, n=3):
        whole = real(of)
        made = swept(whole, LEAST)
        same(whole, made)
        assert scans(whole) and not scans(made)
        assert not any(isinstance(v.op, p.Scan) for v in whole.order)


def test_a_complex_state_with_real_factors_is_two_real_scans() -> None:
    b = Builder()
    a, x = b.input("a", ("t", "n"), (9, 3)), b.input("x", ("t", "n"), (9, 3), "complex")
    of = real(program({"h": b.affine_scan(a, x, "t")}, [a, x]))
    assert sum(isinstance(v.op, p.AffineScan) for v in of.order) == scans(of) == 2


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


def test_no_complex_state_goes_through_memory() -> None:
    """What enters each block is stored, a sixteenth of the states, in two parts."""
    sizes = {"b": 8, "t": 4096, "d": 1024, "n": 16}
    forward, backward = (plan(real(x), Setting(dot="bf16")).kernels() for x in passes(turning, **sizes))
    assert [b.name for b in forward[-1].writes] == ["y"]
    assert max(prod(b.value.shape) for k in forward[:-1] for b in k.writes) <= prod(sizes.values()) // 4096
    assert max(prod(b.value.shape) for k in backward for b in k.writes) <= prod(sizes.values()) // 16


def test_one_complex_state_for_all_channels() -> None:
    """What drives it, the scan, and the reads, which are products of matrices; `auto` takes it."""
    lru = catalog.get("lru").mixer
    sizes = {"b": 8, "t": 4096, "d": 1024, "n": 16}
    axes = {a for of in lru.signals.values() for a in of}
    of = lowered(lru, "auto", None, {a: n for a, n in sizes.items() if a in axes})
    assert scans(real(of)) == 1
    made = plan(real(of), Setting(dot="bf16")).kernels()
    assert len(made) == 3
    assert ["tl.dot" in k.source for k in made] == [True, False, True]


def parts(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


STATES = {key: MIXERS[key] for key in ("selective_scan", "rg_lru")} | COMPLEX | catalog.get("lru").mixers


@pytest.mark.parametrize("key", STATES)
def test_blocks_with_states_and_resets(key: str) -> None:
    """More steps than a block has, in the interpreter, from a state to a state, with pieces that begin anew."""
    mixer = STATES[key]
    signals = samples.draw(mixer, samples.sizes_for(mixer, 67), seed=0)
    reset = torch.zeros(2, 67, dtype=torch.bool)
    reset[:, 33] = reset[0, -1] = True
    start = mx.compile(mixer, form="scan", backend="eager")(**signals, return_state=True)[1]
    results = []
    for backend in ("eager", "triton"):
        given = {n: x.clone().requires_grad_(x.is_floating_point() or x.is_complex()) for n, x in signals.items()}
        state = {n: x.clone().requires_grad_(x.is_floating_point() or x.is_complex()) for n, x in start.items()}
        f = mx.compile(mixer, form="scan", backend=backend)
        y, end = f(**given, reset=reset, initial_state=state, return_state=True)
        ends = [parts(x) for x in (y, *end.values()) if x.is_floating_point() or x.is_complex()]
        loss = sum((x * torch.arange(1.0, x.numel() + 1).reshape(x.shape).sin()).sum() for x in ends)
        wanted = [x for x in (*given.values(), *state.values()) if x.requires_grad]
        results.append([*ends, *torch.autograd.grad(loss, wanted)])
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
