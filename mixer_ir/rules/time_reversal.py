"""Running backward in time: expressions on reversed signals, and which expressions do not notice."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

from mixer_ir.nodes.expr import SOURCE, TIME, Cumulate, Delay, Expr, Index, Reverse, Signal
from mixer_ir.nodes.matrix import Apply, Circulant, Toeplitz
from mixer_ir.nodes.node import Node
from mixer_ir.nodes.process import Read, Run
from mixer_ir.rules.algebra import renamed

N = TypeVar("N", bound=Node)


@lru_cache(maxsize=65536)
def pointwise(x: Node) -> bool:
    """Whether the value at t follows from the signals at t alone, wherever t stands in the sequence."""
    if isinstance(x, Cumulate | Delay | Reverse | Apply | Read | Run):
        return TIME not in x.axes
    if isinstance(x, Index):
        return x.axis not in (TIME, SOURCE)
    return all(pointwise(c) for c in x.children())


@lru_cache(maxsize=65536)
def cross(x: Node) -> bool:
    """Whether a signal inside is over s alone, so that columns may be another sequence than rows."""
    if isinstance(x, Signal):
        return SOURCE in x.axes and TIME not in x.axes
    return any(cross(c) for c in x.children())


def on_reversed_signals(x: N) -> N:
    """x with every signal read backward in time; filters, whose axis counts lags, are left."""
    memo: dict[Node, Node] = {}

    def change(here: Node) -> Node:
        if here not in memo:
            memo[here] = step(here)
        return memo[here]

    def step(here: Node) -> Node:
        match here:
            case Signal():
                return backward(here)
            case Toeplitz() | Circulant():
                return here
            case Reverse(of=of) if isinstance(of, Signal):
                return of if SOURCE not in of.axes else here.with_children(change)
        return here.with_children(change)

    return change(x)  # type: ignore[return-value]


def backward(x: Expr) -> Expr:
    """x reversed along t and along s."""
    made = (x.of if isinstance(x, Reverse) else Reverse(of=x)) if TIME in x.axes else x
    if SOURCE not in made.axes:
        return made
    turned = renamed(renamed(made, TIME, "t_"), SOURCE, TIME)
    return renamed(renamed(Reverse(of=turned), TIME, SOURCE), "t_", TIME)


def conjugated(x: Expr) -> Expr:
    """The expression that gives on reversed signals what x gives on the signals, reversed."""
    return x if pointwise(x) else backward(on_reversed_signals(x))
