"""What makes a node well formed: the law of each node's fields, checked for declarations and for specs alike."""

from __future__ import annotations

from typing import Any, TypeVar

from mixer_ir.errors import AxisError, DeclarationError
from mixer_ir.nodes.expr import (
    BATCH,
    SOURCE,
    TIME,
    Axes,
    Call,
    Contract,
    Cumulate,
    Delay,
    Expr,
    Index,
    Join,
    Reduce,
    Rename,
    Reverse,
    Signal,
    Size,
    Take,
    parse_axes,
    union,
)
from mixer_ir.nodes.functions import FUNCTIONS
from mixer_ir.nodes.matrix import (
    Apply,
    Band,
    Cauchy,
    Circulant,
    Decay,
    Dense,
    Entrywise,
    LowRank,
    Mask,
    Monarch,
    Normalize,
    Product,
    Resets,
    Scale,
    Semiseparable,
    Sum,
    Toeplitz,
    Vandermonde,
)
from mixer_ir.nodes.node import Node
from mixer_ir.nodes.process import Process, Recurrence, State, Transition

N = TypeVar("N", bound=Node)

REDUCTIONS = ("sum", "max", "min")
CUMULATIONS = ("sum", "max", "prod")


def show(axes: Axes) -> str:
    """`(b t h)`: axes as messages write them."""
    return f"({' '.join(axes)})"


def needs(what: str, expr: Expr, *axes: str) -> None:
    """`expr` must have each of `axes`."""
    missing = [a for a in axes if a not in expr.axes]
    if missing:
        raise AxisError(f"{what} needs the axis {' and '.join(missing)}, but it has axes {show(expr.axes)}")


def lacks(what: str, expr: Expr, *axes: str) -> None:
    """`expr` must have none of `axes`."""
    for a in axes:
        if a in expr.axes:
            raise AxisError(f"{what} may not have the axis {a}, but it has axes {show(expr.axes)}")


def _among(what: str, over: Axes, *sides: Expr) -> None:
    if len(set(over)) != len(over):
        raise AxisError(f"{what} names an axis twice: {show(over)}")
    have = union(*(side.axes for side in sides))
    for a in over:
        if a not in have:
            raise AxisError(
                f"{what} is over {a!r}, which is not among the axes {' and '.join(show(e.axes) for e in sides)}"
            )
        if a in (TIME, SOURCE):
            raise AxisError(f"{what} cannot be over the time axis {a!r}")


def _reset(what: str, reset: Expr | None) -> None:
    if reset is not None:
        needs(f"the reset of {what}", reset, TIME)


def _known(what: str, name: str, names: Any) -> None:
    if name not in names:
        raise DeclarationError(f"{what} {name!r} is not known; there are {', '.join(names)}")


def _axis(name: str, of: str) -> None:
    if len(parse_axes(name, of=of)) != 1:
        raise DeclarationError(f"{of}: {name!r} is not the name of one axis")


def check(node: Node) -> None:
    """Raise AxisError or DeclarationError if `node` breaks its law; its children are taken to be well formed."""
    match node:
        case Signal(name=name, axes=axes):
            parse_axes(" ".join(axes), of=name)
        case State(name=name, axes=axes):
            parse_axes(" ".join(axes), of=f"state {name}")
            taken = [a for a in axes if a in (BATCH, TIME, SOURCE)]
            if taken:
                raise AxisError(f"state {name} has the axis {taken[0]}: a state's axes are its own, without b, t and s")
        case Call(fn=fn, args=args):
            _arity(fn, len(args))
        case Contract(left=left, right=right, over=over):
            for a in over:
                if a not in left.axes or a not in right.axes:
                    raise AxisError(f"cannot contract {show(left.axes)} with {show(right.axes)} over {a!r}")
        case Reduce(fn=fn, of=of, over=over):
            _known("the reduction", fn, REDUCTIONS)
            needs(f"the operand of a {fn} over {' '.join(over)}", of, *over)
        case Cumulate(fn=fn, of=of, reset=reset):
            _known("the cumulation", fn, CUMULATIONS)
            needs(f"the operand of a cumulative {fn}", of, TIME)
            _reset(f"a cumulative {fn}", reset)
        case Delay(of=of, reset=reset):
            needs("the operand of a delay", of, TIME)
            _reset("a delay", reset)
        case Reverse(of=of):
            needs("the operand of a reversal", of, TIME)
        case Rename(of=of, old=old, new=new):
            needs("the operand of a rename", of, old)
            _axis(new, "rename")
            if new in of.axes:
                raise AxisError(f"cannot rename {old} to {new} in {show(of.axes)}: it has an axis {new} already")
        case Index(axis=axis) | Size(axis=axis):
            _axis(axis, "axis")
        case Take(table=table, axis=axis):
            needs("the table of a take", table, axis)
        case Join(parts=parts, along=along, axis=axis):
            for part, a in zip(parts, along, strict=True):
                needs("a part of a join", part, *((a,) if a else ()))
                if axis != a and axis in part.axes:
                    raise AxisError(f"parts are joined along {axis}, an axis that {show(part.axes)} has already")
        case Apply(of=of):
            if TIME in of.axes and SOURCE in of.axes:
                raise AxisError(f"a matrix is applied to {show(of.axes)}, which has both t and s; it needs one of them")
        case Transition():
            _check_transition(node)
        case Process(axes=axes, over=over, reset=reset):
            if not set(over) <= set(axes):
                raise AxisError(f"a process over {show(over)} needs these among its axes {show(axes)}")
            _reset("a process", reset)
        case Recurrence():
            _check_recurrence(node)
        case _:
            _check_matrix(node)


def _arity(fn: str, given: int) -> None:
    _known("the function", fn, FUNCTIONS)
    if FUNCTIONS[fn].arity != given:
        raise DeclarationError(f"{fn} takes {FUNCTIONS[fn].arity} arguments, not {given}")


def _check_transition(node: Transition) -> None:
    if sum(x is not None for x in (node.log, node.factor, node.dense)) > 1:
        raise DeclarationError("a transition has one of a log-decay, a factor and a dense matrix")
    for e in node.exprs:
        lacks("a transition", e, SOURCE)
    if node.along is None and (node.low_rank or node.dense is not None):
        raise AxisError("a transition that is not diagonal must name the state axis that it acts along")
    for a, b in node.low_rank:
        needs("each side of a transition's low-rank pair", a, str(node.along))
        needs("each side of a transition's low-rank pair", b, str(node.along))
    if node.dense is not None:
        if node.row is None or node.row == node.along:
            raise AxisError("a dense transition has a row axis other than the one it acts along")
        needs("a dense transition", node.dense, str(node.along), node.row)


def _check_recurrence(node: Recurrence) -> None:
    names = [s.name for s in node.states]
    if not names or len(names) != len(node.updates) or len(set(names)) != len(names):
        raise DeclarationError("a recurrence has one or more states of different names, and one update for each")
    own = {a for s in node.states for a in s.axes}
    if own & set(node.batch) or TIME in node.batch:
        raise AxisError(f"the batch axes {show(node.batch)} of a recurrence hold neither t nor an axis of a state")
    for state, update in zip(node.states, node.updates, strict=True):
        extra = [a for a in update.axes if a not in (TIME, *node.batch, *state.axes)]
        if extra:
            raise AxisError(
                f"state {state.name} has axes {show(state.axes)}, but its new value also has {' '.join(extra)}: "
                "contract or sum over it, or declare it as an axis of the state"
            )
    _reset("a recurrence", node.reset)


def _check_matrix(node: Node) -> None:
    match node:
        case LowRank(q=q, k=k, over=over):
            _among("a low-rank matrix", over, q, k)
            lacks("the left part of a low-rank matrix, which is read at the row's time t,", q, SOURCE)
        case Semiseparable(C=C, A=A, B=B, over=over):
            _among("a semiseparable matrix", over, C, B, *A.exprs)
            lacks("C of a semiseparable matrix", C, SOURCE)
            lacks("B of a semiseparable matrix", B, SOURCE)
            if A.along is not None and A.along not in over:
                raise AxisError(f"the transition acts along {A.along}, but C and B are contracted over {show(over)}")
        case Toeplitz(h=h, anti=anti, lags=lags):
            for part, name in ((h, "h"), (anti, "anti")):
                if part is not None:
                    needs(f"{name} of a Toeplitz matrix", part, lags)
                    lacks(f"{name} of a Toeplitz matrix", part, SOURCE, *(() if lags == TIME else (TIME,)))
        case Circulant(h=h):
            needs("h of a circulant matrix", h, TIME)
            lacks("h of a circulant matrix", h, SOURCE)
        case Vandermonde(x=x, weight=weight, over=over):
            needs("x of a Vandermonde matrix", x, TIME)
            _among("a Vandermonde matrix", over, x, *(() if weight is None else (weight,)))
        case Cauchy(x=x, y=y, over=over):
            needs("x of a Cauchy matrix", x, TIME)
            lacks("x of a Cauchy matrix", x, SOURCE)
            _among("a Cauchy matrix", over, x, y)
        case Monarch(left=left, right=right, grid=grid, rows=rows):
            if len({*grid, *rows}) != 4:
                raise AxisError(f"a Monarch matrix needs four different axes, not {show(grid + rows)}")
            needs("left of a Monarch matrix", left, grid[0], rows[1], grid[1])
            needs("right of a Monarch matrix", right, grid[1], grid[0], rows[0])
        case Dense(m=m):
            needs("a dense matrix", m, TIME, SOURCE)
        case Band(before=before, after=after):
            if before is not None and after is not None and before + after < 1:
                raise DeclarationError(f"band({before}, after={after}) leaves no entry; the window must be 1 or more")
        case Mask(mask=mask):
            if TIME not in mask.axes and SOURCE not in mask.axes:
                raise AxisError(f"a mask needs the axis t or s or both, but it has axes {show(mask.axes)}")
        case Decay(log=log, factor=factor):
            given = [x for x in (log, factor) if x is not None]
            if len(given) != 1:
                raise DeclarationError("a decay is given by its log or as a factor, by one of them")
            lacks("a decay", given[0], SOURCE)
        case Normalize(floor=floor) if floor is not None:
            lacks("the floor of a normaliser", floor, SOURCE)
        case Resets(reset=reset):
            needs("a reset", reset, TIME)
        case Sum(terms=parts) | Product(factors=parts):
            if not parts:
                raise DeclarationError("a sum or product of matrices needs at least one")
        case Scale(factor=factor):
            lacks("the factor of c * M", factor, TIME, SOURCE)
        case Entrywise(fn=fn, args=args):
            _arity(fn, len(args))
        case _:
            pass


def checked(node: N) -> N:
    """`node`, once it was found well formed."""
    check(node)
    return node
