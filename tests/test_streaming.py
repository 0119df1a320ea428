"""Splitting a sequence anywhere and handing the states on changes nothing; what cannot be streamed says so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mixer_ir as mx
from backends import reference
from lowering.context import Choice, Lowered, SignalType
from lowering.lower import lower
from mixer_ir.definition import oracle
from mixer_ir.errors import StreamError
from mixer_ir.nodes import expr as x
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import TIME, Contract, Cumulate, Delay, Expr, Index, call
from mixer_ir.nodes.matrix import Apply
from mixer_ir.nodes.process import Process, Read, Recurrence, Run, State, Transition
from tests.test_matrix_forms import (
    CROSS,
    FORMS,
    LOG,
    MATRICES,
    QK,
    RESET,
    VS,
    K,
    Q,
    V,
    assert_close,
    axes_of,
    data_of,
    signals_in,
    type_of,
)

NOT_STREAMED = {
    "low rank",
    "Toeplitz, both sides",
    "Toeplitz, short, both sides",
    "circulant",
    "Vandermonde",
    "Cauchy",
    "Fourier",
    "inverse Fourier",
    "scale",
    "dense",
    "relative",
    "band, both sides",
    "mask",
    "softmax",
    "causal part of a softmax",
    "softmax, masked",
    "softmax, transposed",
    "softmax, flipped",
    "softmax, shifted",
    "transpose",
    "flip",
    "flipped filter",
    "shift ahead",
    "packed, shifted, flipped",
    "packed product",
    "sum",
    "entrywise exp",
}
STATE = Process(name="S", axes=("k", "v"), over=("k",), transition=Transition(log=LOG), inputs=((K, V),), reset=RESET)
S = State(name="S", axes=("k",))
PLAIN = Recurrence(
    name="plain",
    states=(S,),
    batch=("b", "t", "h"),
    updates=(call("tanh", call("add", S, K)),),
    output=Contract(left=Q, right=call("tanh", call("add", S, K)), over=("k",)),
    reset=RESET,
)
EXPRS: dict[str, Expr] = {
    **{n: Apply(matrix=M, of=V) for n, M in MATRICES.items() if n not in NOT_STREAMED},
    "cumulated sum": Cumulate(fn="sum", of=V),
    "cumulated sum, packed": Cumulate(fn="sum", of=V, reset=RESET),
    "cumulated max": Cumulate(fn="max", of=V),
    "cumulated max, packed": Cumulate(fn="max", of=V, reset=RESET),
    "cumulated product, packed": Cumulate(fn="prod", of=V, reset=RESET),
    "cumulated product": Cumulate(fn="prod", of=V),
    "delay": Delay(of=V, by=1),
    "long delay": Delay(of=V, by=4),
    "delay, packed": Delay(of=V, by=3, reset=RESET),
    "position": call("mul", V, Index(axis=TIME)),
    "process": Read(process=STATE, query=Q),
    "process before": call("add", Read(process=STATE, query=Q, before=True), Read(process=STATE, query=K)),
    "run": Run(recurrence=PLAIN, axes=("b", "t", "h")),
    "of a delay": Apply(matrix=m.Softmax(of=m.Causal(of=m.LowRank(q=Q, k=Delay(of=K, by=1), over=("k",)))), of=V),
    "of one another": Apply(matrix=m.Causal(of=QK), of=Apply(matrix=m.Softmax(of=m.Band(of=QK, before=4)), of=V)),
    "cross": Apply(matrix=m.Softmax(of=CROSS), of=VS),
}


def lowered(e: Expr, data: Mapping[str, torch.Tensor], **options: object) -> Lowered:
    forms = options.pop("forms", {})
    types: dict[str, SignalType] = {s.name: type_of(s, data[s.name]) for s in signals_in(e)}
    return lower(e, returns=e.axes, signals=types, forms=forms, **options)  # type: ignore[arg-type]


def cut(e: Expr, data: Mapping[str, torch.Tensor], start: int, stop: int, lengths: bool) -> dict[str, torch.Tensor]:
    """The signals at some steps; one over t and s has, as columns, the steps so far."""
    made = {}
    for s in signals_in(e):
        value = data[s.name]
        if TIME in s.axes:
            value = value.narrow(s.axes.index(TIME), start, stop - start)
            if "s" in s.axes and lengths:
                value = value.narrow(s.axes.index("s"), 0, stop)
        made[s.name] = value
    return made


def streamed(
    e: Expr, data: Mapping[str, torch.Tensor], cuts: list[int], room: int | None = None, **options: object
) -> np.ndarray:
    """The result in pieces that end at `cuts`, states handed on."""
    results, states, past, start = [], {}, 0, 0
    for stop in cuts:
        now = cut(e, data, start, stop, lengths=True)
        made = lowered(e, now, initial=start > 0, final=True, past=past, room=room, **options)
        given = {n: value.numpy() for n, value in now.items()}
        given |= {f"state:{n}": states[n] for n in made.entering}
        for name, like in made.entering.items():
            assert states[name].shape == like.shape, name
        out = reference.prepare(made.program)(given)
        results.append(np.asarray(out["y"]))
        states = {n: np.asarray(out[f"state:{n}"]) for n in made.states}
        past = stop if room is None else room
        start = stop
    return np.concatenate(results, axis=e.axes.index(TIME))


@pytest.mark.parametrize("name", EXPRS)
@given(cuts=st.lists(st.integers(1, 10), max_size=4, unique=True).map(sorted), room=st.sampled_from((None, 11, 16)))
def test_a_split_changes_nothing(name: str, cuts: list[int], room: int | None) -> None:
    e = EXPRS[name]
    data = data_of(e, 11)
    want = oracle.evaluate(e, data, axes_of(e))
    assert_close(streamed(e, data, [*cuts, 11], room), want)


@pytest.mark.parametrize(
    ("name", "form"), [(n, f) for n, forms in FORMS.items() if n not in NOT_STREAMED for f in forms]
)
@pytest.mark.parametrize("room", (None, 20))
def test_a_split_changes_nothing_in_any_form(name: str, form: str, room: int | None) -> None:
    e = EXPRS[name]
    data = data_of(e, 17)
    want = oracle.evaluate(e, data, axes_of(e))
    for cuts in ([17], [9, 17], [9, 10, 11, 17]):
        assert_close(streamed(e, data, cuts, room, forms={e: Choice(form, 4)}), want)


@pytest.mark.parametrize("name", sorted(NOT_STREAMED))
def test_what_looks_ahead_cannot_be_streamed(name: str) -> None:
    e = Apply(matrix=MATRICES[name], of=V)
    with pytest.raises(StreamError, match=r"cannot be streamed: .*(looks ahead|backward)"):
        lowered(e, data_of(e, 5), final=True)


def test_a_bounded_window_keeps_a_bounded_cache() -> None:
    e = Apply(matrix=m.Softmax(of=m.Band(of=QK, before=5)), of=V)
    made = lowered(e, data_of(e, 50), final=True)
    assert {s.shape[s.axes.index(TIME)] for n, s in made.states.items() if n != "time"} == {4}


@pytest.mark.parametrize(
    ("e", "why"),
    (
        (x.Reverse(of=V), "reversed"),
        (Delay(of=V, by=-1), "looks ahead"),
        (x.Reduce(fn="sum", of=V, over=("t",)), "all t"),
        (x.Rename(of=V, old="t", new="s"), "at all times"),
        (call("div", V, x.Size(axis="t")), "length of axis t"),
    ),
)
def test_expressions_that_cannot_be_streamed_say_why(e: Expr, why: str) -> None:
    with pytest.raises(StreamError, match=why):
        lowered(e, data_of(e, 5), final=True)


@mx.mixer
def hidden_softmax(f: "b t", q: "b t k", k: "b t k", v: "b t"):
    """zero after the diagonal, but a row's softmax is over all columns"""
    return (mx.toeplitz(f) * mx.softmax(mx.lowrank(q, k))) @ v


def test_a_product_with_what_looks_ahead_is_not_streamed() -> None:
    s = {"f": torch.randn(1, 4), "q": torch.randn(1, 4, 2), "k": torch.randn(1, 4, 2), "v": torch.randn(1, 4)}
    with pytest.raises(mx.StreamError, match="Softmax looks ahead"):
        mx.compile(hidden_softmax).prefill(**s)


@mx.mixer
def beside_given_columns(f: "l", q: "b t k", k: "b t k", m: "b t s", v: "b t"):
    return (mx.toeplitz(f, lags="l") + mx.softmax(mx.band(mx.lowrank(q, k) + mx.dense(m), 3))) @ v


@pytest.mark.parametrize("form", beside_given_columns.forms())
def test_forms_are_priced_with_the_states_that_are_handed_in(form: str) -> None:
    s = {"f": torch.randn(2), "q": torch.randn(1, 7, 2), "k": torch.randn(1, 7, 2), "v": torch.randn(1, 7)}
    m, f = torch.randn(1, 7, 7), mx.compile(beside_given_columns, form=form)
    first, rest = ({n: x if n == "f" else x[:, at] for n, x in s.items()} for at in (slice(5), slice(5, None)))
    y, state = f.prefill(**first, m=m[:, :5, :5])
    z = f(**rest, m=m[:, 5:], initial_state=state)
    torch.testing.assert_close(torch.cat([y, z], 1), f(**s, m=m))


def test_later_pieces_of_a_stream_bring_a_column_for_every_step_so_far() -> None:
    s = {"f": torch.randn(2), "q": torch.randn(1, 7, 2), "k": torch.randn(1, 7, 2), "v": torch.randn(1, 7)}
    m, f = torch.randn(1, 7, 9), mx.compile(beside_given_columns)
    pieces = [{n: x if n == "f" else x[:, at] for n, x in s.items()} for at in (slice(3), slice(3, 5), slice(5, 7))]
    _, state = f.prefill(**pieces[0], m=m[:, :3, :3])
    for columns in (2, 3, 4, 6):
        wrong = r"over t = 2 after 3 steps, but m has s = \d columns: give s = 5, one for every step so far"
        with pytest.raises(mx.AxisError, match=wrong):
            f(**pieces[1], m=m[:, 3:5, :columns], initial_state=state)
    for _ in range(3):  # calls that are alike are not bound again, but their states are longer
        _, later = f(**pieces[1], m=m[:, 3:5, :5], initial_state=state, return_state=True)
        with pytest.raises(mx.AxisError, match="after 5 steps"):
            f(**pieces[2], m=m[:, 5:, :5], initial_state=later)
    at_5 = {n: x if n == "f" else x[:, 5] for n, x in s.items()}
    _, later = f.step(later, **at_5, m=m[:, 5, :6])
    with pytest.raises(mx.AxisError, match="t = 1 after 6 steps, but m has s = 6 columns: give s = 7"):
        f.step(later, **at_5, m=m[:, 5, :6])
