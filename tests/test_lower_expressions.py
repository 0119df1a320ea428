"""Expressions lowered: every node equals its definition, results take the order asked for, errors say what to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backends import reference
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.context import Choice, SignalType
from lowering.lower import lower
from mixer_ir.definition import oracle
from mixer_ir.errors import AxisError, FormError, SignalError
from mixer_ir.nodes import expr as x
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import Contract, Cumulate, Delay, Expr, call
from mixer_ir.nodes.matrix import Apply
from mixer_ir.nodes.process import Process, Read, Recurrence, Run, State, Transition
from tests.test_matrix_forms import LOG, QK, RESET, K, Q, V, assert_close, axes_of, data_of, sig, signals_in, type_of

TABLE, WHICH = sig("table", "c k"), sig("which", "b t h")
S, N = State(name="S", axes=("k", "v")), State(name="N", axes=("k",))
PROCESS = Process(name="S", axes=("k", "v"), over=("k",), transition=Transition(log=LOG), inputs=((K, V),))
ONCE = Read(process=PROCESS, query=Q)
GATED = Recurrence(
    name="gated",
    states=(S, N),
    batch=("b", "t", "h"),
    updates=(
        call("add", call("mul", call("sigmoid", N), call("tanh", S)), call("mul", K, V)),
        call("max", call("add", N, LOG), call("mul", K, 0.5)),
    ),
    output=Contract(left=Q, right=call("mul", S, call("cos", N)), over=("k",)),
    reset=RESET,
)
EXPRS: dict[str, Expr] = {
    "arithmetic": call("div", call("sub", call("mul", Q, 2), K), call("add", call("exp", LOG), 1)),
    "contract": Contract(left=Q, right=K, over=("k",)),
    "outer": call("mul", K, V),
    "sum": x.Reduce(fn="sum", of=Q, over=("k", "h")),
    "sum over t": x.Reduce(fn="sum", of=Q, over=("t",)),
    "max": x.Reduce(fn="max", of=Q, over=("t",)),
    "index": call("mul", Q, x.Index(axis="k")),
    "size": call("div", Q, x.Size(axis="t")),
    "rename": Contract(left=Q, right=x.Rename(of=K, old="t", new="s"), over=("k",)),
    "reverse": x.Reverse(of=Q),
    "delay": Delay(of=V, by=2),
    "delay ahead": Delay(of=V, by=-2),
    "delay beyond": Delay(of=V, by=40),
    "delay in pieces": Delay(of=V, by=1, reset=RESET),
    "delay ahead in pieces": Delay(of=V, by=-1, reset=RESET),
    "detach": x.Detach(of=Q),
    "take": x.Take(table=TABLE, axis="c", index=WHICH),
    "cumulated": Cumulate(fn="prod", of=V, reset=RESET),
    "read": ONCE,
    "read of a read": Read(process=PROCESS, query=call("mul", Q, x.Reduce(fn="max", of=ONCE, over=("v",)))),
    "run": Run(recurrence=GATED, axes=("b", "t", "h", "v")),
    "applied twice": Apply(matrix=m.Causal(of=QK), of=Apply(matrix=m.Softmax(of=QK), of=V)),
}


def inputs(e: Expr, T: int) -> dict[str, torch.Tensor]:
    data = data_of(e, T)
    if "which" in data:
        data["which"] = data["which"].abs().mul(3).long() % 4
    return data


def types_of(e: Expr, data: dict[str, torch.Tensor]) -> dict[str, SignalType]:
    return {s.name: type_of(s, data[s.name]) for s in signals_in(e)}


@pytest.mark.parametrize("name", EXPRS)
@pytest.mark.parametrize("T", (1, 5, 70, 131))
def test_every_expression_equals_its_definition(name: str, T: int) -> None:
    e = EXPRS[name]
    data = inputs(e, T)
    made = lower(e, returns=e.axes, signals=types_of(e, data))
    got = reference.prepare(made.program)({n: v.numpy() for n, v in data.items()})["y"]
    assert_close(np.asarray(got), oracle.evaluate(e, data, axes_of(e)))


@pytest.mark.parametrize("name", [n for n in EXPRS if n not in ("take", "detach")])
@pytest.mark.parametrize("T", (5, 70))
def test_gradients_are_those_of_the_definition(name: str, T: int) -> None:
    e = EXPRS[name]
    data = inputs(e, T)
    wrt = {n: v.clone().requires_grad_() if v.is_floating_point() else v for n, v in data.items()}
    y = oracle.evaluate(e, wrt, axes_of(e))
    ct = torch.randn_like(y)
    names = [n for n, v in wrt.items() if v.requires_grad]
    want = torch.autograd.grad(y, [wrt[n] for n in names], ct, allow_unused=True)
    back = adjoint(lower(e, returns=e.axes, signals=types_of(e, data)).program, names)
    got = reference.prepare(back)({**{n: v.numpy() for n, v in data.items()}, "d:y": ct.numpy()})
    for n, g in zip(names, want, strict=True):
        assert_close(np.asarray(got[f"d:{n}"]), torch.zeros_like(data[n]) if g is None else g)


def test_the_result_has_the_axes_asked_for() -> None:
    data = inputs(Q, 3)
    made = lower(Q, returns=("h", "k", "b", "t"), signals=types_of(Q, data))
    assert made.program.output("y").axes == ("h", "k", "b", "t")


def test_reads_of_one_process_are_lowered_once() -> None:
    e = call("add", Read(process=PROCESS, query=Q), Read(process=PROCESS, query=K))
    data = inputs(e, 40)
    made = lower(e, returns=e.axes, signals=types_of(e, data), forms={PROCESS: Choice("recurrent")}).program
    once = lower(ONCE, returns=ONCE.axes, signals=types_of(e, data), forms={PROCESS: Choice("recurrent")}).program
    scans = [sum(isinstance(v.op, p.Scan) for v in of.order) for of in (made, once)]
    assert scans[0] == scans[1]


def test_a_missing_signal_is_named() -> None:
    with pytest.raises(SignalError, match="signal k is not given; given: q"):
        lower(call("add", Q, K), returns=Q.axes, signals={"q": SignalType(Q.axes, (1, 2, 3, 4))})


def test_an_axis_without_a_size_is_named() -> None:
    e = call("mul", Q, x.Index(axis="z"))
    with pytest.raises(AxisError, match=r"axis 'z'.*known: b, t, h, k"):
        lower(e, returns=e.axes, signals={"q": SignalType(Q.axes, (1, 2, 3, 4))})


@pytest.mark.parametrize(
    ("form", "why"), (("flash", "not a softmax"), ("fft", "not a convolution"), ("scan", "no form"))
)
def test_a_form_that_a_matrix_lacks_is_refused(form: str, why: str) -> None:
    e = Apply(matrix=QK, of=V)
    data = inputs(e, 3)
    with pytest.raises(FormError, match=why):
        lower(e, returns=e.axes, signals=types_of(e, data), forms={e: Choice(form)})


def test_a_deep_expression_is_lowered_without_recursion() -> None:
    y: Expr = Q
    for _ in range(1500):
        y = Delay(of=call("add", call("mul", y, 0.5), K), by=0)
    data = inputs(y, 3)
    made = lower(y, returns=y.axes, signals=types_of(y, data)).program
    got = reference.prepare(made)({n: v.numpy() for n, v in data.items()})["y"]
    assert_close(np.asarray(got), 2 * data["k"])


def test_a_deep_update_is_lowered_part_by_part() -> None:
    """Neither its depth nor the number of ways through it counts."""
    new: Expr = call("add", N, K)
    for _ in range(1500):
        new = call("mul", call("add", new, new), 0.5)
    deep = Recurrence(name="deep", states=(N,), batch=("b", "t", "h"), updates=(new,), output=new)
    e = Run(recurrence=deep, axes=("b", "t", "h", "k"))
    data = inputs(e, 3)
    made = lower(e, returns=e.axes, signals=types_of(e, data)).program
    got = reference.prepare(made)({n: v.numpy() for n, v in data.items()})["y"]
    assert_close(np.asarray(got), data["k"].cumsum(1))


def test_the_fft_form_is_a_small_program() -> None:
    e = Apply(matrix=m.Toeplitz(h=sig("h", "h t")), of=V)
    made = lower(e, returns=e.axes, signals=types_of(e, inputs(e, 100)), forms={e: Choice("fft")})
    assert len(made.program.order) <= 16
