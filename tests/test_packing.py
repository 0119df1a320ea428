"""Packed sequences by cumulated lengths: what each piece alone would give, gradients and states too."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import catalog
import mixer_ir as mx
from mixer_ir.driver import samples
from mixer_ir.errors import AxisError, MixerError, SignalError, StreamError

ENDS = [0, 1, 4, 4, 9, 10, 10]
"""pieces of one step, empty ones in the middle and at the end"""
LENGTH = ENDS[-1]
FORMS = [("gla", form) for form in ("recurrent", "chunked", "parallel", "scan")] + [
    ("gated_deltanet", "chunked"),
    ("retnet", "chunked"),
    ("mamba", "scan"),
    ("softmax_attention", "flash"),
]


def one(name: str) -> mx.Mixer:
    return next(iter(catalog.get(name).mixers.values()))


def signals_of(mixer: mx.Mixer) -> dict[str, torch.Tensor]:
    return samples.draw(mixer, {**samples.sizes_for(mixer, LENGTH), "b": 1}, seed=0)


def recorded(signals: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in signals.items()}


def part(mixer: mx.Mixer, signals: dict[str, torch.Tensor], start: int, end: int) -> dict[str, torch.Tensor]:
    """The signals of one piece."""
    cut = {n: [a.index(x) for x in ("t", "s") if x in a] for n, a in mixer.signals.items()}
    made = {}
    for n, x in signals.items():
        for i in cut[n]:
            x = x.narrow(i, start, end - start)
        made[n] = x
    return made


CASES = [(name, form, "eager", torch.int64) for name, form in FORMS]
CASES += [("gla", "chunked", "native", torch.int64), ("gla", "chunked", "eager", torch.int32)]


@pytest.mark.parametrize(("name", "form", "backend", "dtype"), CASES)
def test_every_piece_is_by_itself(name, form, backend, dtype):
    mixer = one(name)
    f = mx.compile(mixer, form=form, backend=backend, **({"chunk": 4} if form == "chunked" else {}))
    found = []
    for whole in (True, False):
        given = recorded(signals_of(mixer))
        if whole:
            y = f(**given, cu_seqlens=torch.tensor(ENDS, dtype=dtype))
        else:
            spans = [(a, b) for a, b in pairwise(ENDS) if b > a]
            y = torch.cat([f(**part(mixer, given, a, b)) for a, b in spans], mixer.returns.index("t"))
        grads = torch.autograd.grad(y.square().sum(), [x for x in given.values() if x.requires_grad])
        found.append([y.detach(), *grads])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["linear_attention", "retnet", "gla", "deltanet", "mamba", "transformer_vq"])
def test_packing_costs_no_form(name):
    """What has a state has it on packed pieces too."""
    mixer = one(name)
    assert set(mixer.forms()) <= {*mixer.with_reset().forms(), "flash"}


@pytest.mark.parametrize(("name", "form"), [("gla", "chunked"), ("gated_deltanet", "recurrent")])
def test_states_are_one_for_each_piece(name, form):
    """From states and to states, against a call of every piece; an empty piece hands on what it was given."""
    mixer = one(name)
    f = mx.compile(mixer, form=form)
    given = recorded(signals_of(mixer))
    _, first = f(**given, cu_seqlens=torch.tensor(ENDS), return_state=True)
    count = len(ENDS) - 1
    assert {x.shape[0] for x in first.values()} == {count}
    assert all(bool((x[2] == 0).all()) for x in first.values())
    before = {n: torch.randn_like(x).requires_grad_() for n, x in first.items()}
    y, after = f(**given, cu_seqlens=torch.tensor(ENDS), initial_state=before, return_state=True)
    parts, states = [], []
    for i, (a, b) in enumerate(pairwise(ENDS)):
        state = {n: x[i : i + 1] for n, x in before.items()}
        if b > a:
            z, state = f(**part(mixer, given, a, b), initial_state=state, return_state=True)
            parts.append(z)
        states.append(state)
    joined = {n: torch.cat([s[n] for s in states]) for n in before}
    wanted = [x for x in (*given.values(), *before.values()) if x.requires_grad]
    totals = [y.square().sum() + sum(x.square().sum() for x in after.values())]
    totals.append(torch.cat(parts, 1).square().sum() + sum(x.square().sum() for x in joined.values()))
    torch.testing.assert_close(y, torch.cat(parts, 1))
    for n in after:
        torch.testing.assert_close(after[n], joined[n])
    for ours, theirs in zip(*(torch.autograd.grad(t, wanted) for t in totals), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_state_that_grows_is_refused_for_pieces():
    mixer = one("softmax_attention")
    with pytest.raises(StreamError, match="grows with the sequence"):
        mx.compile(mixer)(**signals_of(mixer), cu_seqlens=torch.tensor([0, 4, LENGTH]), return_state=True)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([0, 4, 9], SignalError, "end at the length of the sequence, t = 10"),
        ([1, 4, 10], SignalError, "must start at 0"),
        ([0, 6, 4, 10], SignalError, "never fall"),
        ([0], SignalError, "names no piece"),
        ([[0, 10]], SignalError, "one dimension"),
        ([0.0, 10.0], SignalError, "int32 or int64"),
    ],
)
def test_lengths_that_do_not_fit_are_named(given, error, words):
    mixer = one("gla")
    with pytest.raises(error, match=words):
        mx.compile(mixer)(**signals_of(mixer), cu_seqlens=torch.tensor(given))


def test_what_else_does_not_go_together():
    mixer = one("gla")
    f, signals, ends = mx.compile(mixer), signals_of(mixer), torch.tensor(ENDS)
    with pytest.raises(SignalError, match="give one of them"):
        f(**signals, cu_seqlens=ends, reset=torch.zeros(1, LENGTH, dtype=torch.bool))
    two = {n: x.expand(2, *x.shape[1:]) if mixer.signals[n][0] == "b" else x for n, x in signals.items()}
    with pytest.raises(AxisError, match="in one row"):
        f(**two, cu_seqlens=ends)
    with pytest.raises(MixerError, match="it is a tensor"):
        f(**signals, cu_seqlens=ENDS)


def test_a_graph_holds_the_packing():
    """Without states nothing waits for the lengths: they may change from call to call."""
    mixer = one("gla")
    f = mx.compile(mixer, form="chunked", chunk=4)
    traced, signals = torch.compile(f, fullgraph=True, backend="aot_eager"), signals_of(mixer)
    for ends in (torch.tensor([0, 3, 7, 10]), torch.tensor([0, 0, 9, 10])):
        torch.testing.assert_close(traced(**signals, cu_seqlens=ends), f(**signals, cu_seqlens=ends))
