"""The laws of a whole body: states stay in their recurrences, runs have the axes of their parts, sizes are known."""

from __future__ import annotations

from collections.abc import Mapping

from mixer_ir.errors import AxisError, DeclarationError
from mixer_ir.nodes.check import show
from mixer_ir.nodes.expr import (
    SOURCE,
    TIME,
    Axes,
    Contract,
    Cumulate,
    Delay,
    Expr,
    Index,
    Reduce,
    Rename,
    Reverse,
    Size,
    Take,
)
from mixer_ir.nodes.matrix import Apply
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Process, Read, Recurrence, Run, State
from mixer_ir.nodes.substitute import refreshed


def check_body(body: Expr, signals: Mapping[str, Axes]) -> None:
    """Raise AxisError or DeclarationError if a body of well-formed nodes breaks a law of the whole."""
    check_sizes(body, signals)
    check_states(body)
    for n in walk(body):
        new = refreshed(n)
        if isinstance(n, Recurrence) and isinstance(new, Recurrence) and set(new.batch) != set(n.batch):
            raise AxisError(f"the batch axes of recurrence {n.name} are {show(new.batch)}, not {show(n.batch)}")
        if isinstance(n, Run) and isinstance(new, Run) and set(new.axes) != set(n.axes):
            raise AxisError(f"the run of {n.recurrence.name} has axes {show(new.axes)}, not {show(n.axes)}")


def check_sizes(body: Expr, signals: Mapping[str, Axes]) -> None:
    """Raise AxisError where an axis gets its size from no signal."""
    known = {a for axes in signals.values() for a in axes}
    nodes = list(walk(body))
    known |= {n.new for n in nodes if isinstance(n, Rename)}
    for n in nodes:
        used: Axes = n.axes if isinstance(n, State) else (n.axis,) if isinstance(n, Index | Size) else ()
        unknown = [a for a in used if a not in known]
        if unknown:
            what = f"state {n.name}" if isinstance(n, State) else "mx.index or mx.size"
            hint = "; for the position of a column write mx.source(mx.index('t'))" if unknown[0] == SOURCE else ""
            raise AxisError(
                f"{what} has the axis {unknown[0]}, which no signal has, so that its size is not known; "
                f"the signals have {show(tuple(sorted(known)))}{hint}"
            )


def check_states(body: Expr) -> None:
    """Raise DeclarationError where a state is used outside its recurrence, or along time inside it."""
    free: dict[Node, frozenset[State]] = {}
    for here in walk(body):
        inside = frozenset[State]().union(*(free[c] for c in here.children()))
        if isinstance(here, State):
            inside = frozenset((here,))
        elif isinstance(here, Recurrence):
            inside -= set(here.states)
        if inside and (isinstance(here, Read | Process | Run | Recurrence | Apply) or along_time(here)):
            name = next(iter(inside)).name
            raise DeclarationError(
                f"state {name} is used along time ({type(here).__name__.lower()}): inside a recurrence a state is "
                "known at one t alone; update it step by step, or keep what is needed as a state of its own"
            )
        free[here] = inside
    if free[body]:
        raise DeclarationError(f"state {next(iter(free[body])).name} is used outside a recurrence")


def along_time(node: Node) -> bool:
    """Whether an expression's node looks at more than one t."""
    match node:
        case Cumulate() | Delay() | Reverse():
            return True
        case Contract(over=over) | Reduce(over=over):
            return TIME in over or SOURCE in over
        case Rename(old=old, new=new):
            return old in (TIME, SOURCE) or new in (TIME, SOURCE)
        case Take(axis=axis):
            return axis in (TIME, SOURCE)
    return False
