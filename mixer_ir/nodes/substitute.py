"""Putting expressions in the place of signals, and what follows: the batch axes of recurrences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixer_ir.nodes.check import check
from mixer_ir.nodes.expr import TIME, Axes, Expr, Signal, union, without
from mixer_ir.nodes.node import Node, rebuild, walk
from mixer_ir.nodes.process import Recurrence, Run, State


def batch_axes(states: tuple[State, ...], updates: tuple[Expr, ...], reset: Expr | None = None) -> Axes:
    """The axes that every state of a recurrence has beside its own: whatever the new values bring along."""
    own = union(*(s.axes for s in states))
    more = () if reset is None else reset.axes
    return without(union(*(u.axes for u in updates), more), (TIME, *own))


def recurrence(
    name: str, states: tuple[State, ...], updates: tuple[Expr, ...], output: Expr, reset: Expr | None
) -> Recurrence:
    """A recurrence with the batch axes that follow from its parts."""
    batch = batch_axes(states, updates, reset)
    return Recurrence(name=name, states=states, batch=batch, updates=updates, output=output, reset=reset)


def run_axes(of: Recurrence, order: Axes) -> Axes:
    """The axes of a recurrence's output: batch axes as they stand in `order`, then the states' own."""
    reads = any(isinstance(n, State) for n in walk(of.output))
    have = union(of.output.axes, of.batch if reads else (), (TIME,))
    own = union(*(s.axes for s in of.states))
    batch = [a for a in order if a in have and a not in own]
    return union(tuple(batch), without(have, own), tuple(a for a in have if a in own))


def refreshed(here: Node) -> Node:
    """A recurrence or its run with the axes that follow from its parts; any other node as it is."""
    match here:
        case Recurrence():
            return recurrence(here.name, here.states, here.updates, here.output, here.reset)
        case Run(recurrence=inner, axes=axes):
            return Run(recurrence=inner, axes=run_axes(inner, axes))
    return here


def substitute(root: Node, exprs: Mapping[str, Expr]) -> Any:
    """`root` with each signal named in `exprs` replaced by its expression; well formed, or AxisError."""

    def change(here: Node) -> Node:
        if isinstance(here, Signal):
            return exprs.get(here.name, here)
        new = refreshed(here)
        check(new)
        return new

    return rebuild(root, change)
