"""An update as a product of simpler ones, S ← F_n(… F_1(S)): one rank-one change of the state after the other.

What lies between two of them is an expression that every path from the update down to the state passes through.
"""

from __future__ import annotations

from collections.abc import Callable

from mixer_ir.nodes.expr import TIME, Expr, without
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Run, State
from mixer_ir.rules.algebra import replaced
from mixer_ir.rules.linear_form import Form


def chained(state: State, update: Expr, whole: Form, read: Callable[[Expr], Form]) -> tuple[Form, ...]:
    """Forms with one low-rank pair each that are the update one after the other, the first one first.

    whole   the update as one form        read   an expression as a linear form in `state` alone
    () where the update has one pair or none, or cannot be cut so.
    """
    if _rank(whole) < 2 or any(t.shown is not None for t in whole.terms):
        return ()
    between = _between(state, update)
    found: list[Form] = []
    at = 0
    while at < len(between) - 1:
        made = [(i, read(replaced(between[i], {between[at]: state}))) for i in range(at + 1, len(between))]
        fitting = [(i, form) for i, form in made if _rank(form) == 1]
        if not fitting:
            return ()
        at, form = fitting[-1]
        found.append(form)
    return tuple(found)


def _rank(form: Form) -> int:
    return sum(bool(t.over) for t in form.terms)


def _between(state: State, update: Expr) -> list[Expr]:
    """The state, every expression on all paths from the update to it that has the state's axes, and the update.

    A node is on all paths where as many pass it as there are: those below it times those above.
    """
    nodes = list(walk(update, (Run,)))
    below: dict[Node, int] = {}
    above: dict[Node, int] = dict.fromkeys(nodes, 0)
    for n in nodes:
        below[n] = 1 if n is state else 0 if isinstance(n, Run) else sum(below[c] for c in n.children())
    above[update] = 1
    for n in reversed(nodes):
        for c in () if isinstance(n, Run) else n.children():
            above[c] += above[n]
    axes = without(update.axes, (TIME,))
    return [
        n
        for n in nodes
        if isinstance(n, Expr)
        and below[n] * above[n] == below[update]
        and set(state.axes) <= set(n.axes) <= {*axes, *state.axes, TIME}
    ]
