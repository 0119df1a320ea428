"""Whether a mixer is time-invariant in one of its signals: M[t, s] depends on t − s alone."""

from __future__ import annotations

from enum import IntEnum

from mixer_ir.nodes.expr import (
    SOURCE,
    TIME,
    Call,
    Contract,
    Cumulate,
    Delay,
    Detach,
    Expr,
    Index,
    Join,
    Literal,
    Reduce,
    Rename,
    Reverse,
    Signal,
    Size,
    Take,
)
from mixer_ir.nodes.matrix import (
    Apply,
    Band,
    Causal,
    Circulant,
    Decay,
    Diagonal,
    Entrywise,
    Flip,
    Identity,
    Matrix,
    Product,
    Scale,
    Semiseparable,
    Shift,
    Sum,
    Toeplitz,
    Transpose,
)
from mixer_ir.nodes.node import Node
from mixer_ir.nodes.process import Read, Run, Transition
from mixer_ir.rules.reach import Reach, entries_reach, reach_of


class Moves(IntEnum):
    """How an expression behaves when the value signal is moved in time."""

    FIXED = 0  # it has nothing to do with time
    WITH_IT = 1  # it moves as the signal does
    OTHERWISE = 2  # it depends on the time itself, or on other signals over time


def is_time_invariant(expr: Expr, value: str) -> bool:
    """Whether `expr` moves with the signal `value` and depends on no other signal over time."""
    return _moves(expr, value, {}) == Moves.WITH_IT


def _moves(x: Node, value: str, memo: dict[Node, Moves]) -> Moves:
    if x not in memo:
        memo[x] = _step(x, value, memo)
    return memo[x]


def _step(x: Node, value: str, memo: dict[Node, Moves]) -> Moves:
    def most(*parts: Node | None) -> Moves:
        return max((_moves(p, value, memo) for p in parts if p is not None), default=Moves.FIXED)

    def only_fixed(*parts: Node | None) -> bool:
        return most(*parts) == Moves.FIXED

    def after(*parts: Expr) -> Moves:
        """How `x`, which moves with its parts, behaves as a whole: two kernels that look to both sides miss, one after
        the other, what lies beyond the ends of the sequence."""
        inner = [reach_of(p, lambda s: s.name == value) for p in parts]
        if any(r & ~Reach.NOW for r in inner) and two_sided(x):
            return Moves.OTHERWISE
        return most(*parts)

    def two_sided(e: Node) -> bool:
        whole = reach_of(e, lambda s: s.name == value)  # type: ignore[arg-type]
        return Reach.PAST in whole and Reach.FUTURE in whole

    match x:
        case Signal(name=name, axes=axes):
            if SOURCE in axes or (TIME in axes and name != value):
                return Moves.OTHERWISE
            return Moves.WITH_IT if TIME in axes else Moves.FIXED
        case Index(axis=axis):
            return Moves.OTHERWISE if axis in (TIME, SOURCE) else Moves.FIXED
        case Size(axis=axis):
            return Moves.OTHERWISE if axis in (TIME, SOURCE) else Moves.FIXED
        case Literal():
            return Moves.FIXED
        case Call() | Rename() | Detach() | Take() | Join():
            return most(*x.children())
        case Contract(over=over) | Reduce(over=over):
            return Moves.OTHERWISE if TIME in over or SOURCE in over else most(*x.children())
        case Cumulate(fn=fn, of=of, reset=reset):
            return after(of) if fn == "sum" and reset is None and most(of) == Moves.WITH_IT else Moves.OTHERWISE
        case Delay(of=of, reset=reset):
            return after(of) if reset is None else Moves.OTHERWISE
        case Read(process=p, query=query):
            fixed = only_fixed(*p.transition.exprs, query) and p.reset is None
            inputs = [after(k, v) for k, v in p.inputs]
            return Moves.WITH_IT if fixed and all(m == Moves.WITH_IT for m in inputs) else Moves.OTHERWISE
        case Apply(matrix=M, of=of):
            return Moves.WITH_IT if after(of) == Moves.WITH_IT and is_toeplitz(M) else Moves.OTHERWISE
        case Reverse() | Run():
            return Moves.OTHERWISE
    return Moves.OTHERWISE


def is_toeplitz(M: Matrix) -> bool:
    """Whether it can be seen from the nodes that M[t, s] depends on t − s alone."""
    match M:
        case Identity() | Toeplitz() | Circulant():
            return True
        case Diagonal(d=d):
            return fixed(d)
        case Semiseparable(C=C, A=A, B=B):
            return fixed(C, B, A)
        case Causal(of=of) | Band(of=of) | Transpose(of=of) | Flip(of=of) | Scale(of=of):
            return is_toeplitz(of)
        case Shift(of=of, by=by):
            return is_toeplitz(of) and (Reach.FUTURE if by > 0 else Reach.PAST) not in entries_reach(of)
        case Decay(of=of, log=log, factor=factor):
            return is_toeplitz(of) and fixed(*(x for x in (log, factor) if x is not None))
        case Sum(terms=ms) | Entrywise(args=ms):
            return all(map(is_toeplitz, ms))
        case Product(factors=ms):
            reach = [entries_reach(m) for m in ms]
            one_way = all(Reach.FUTURE not in r for r in reach) or all(Reach.PAST not in r for r in reach)
            return one_way and all(map(is_toeplitz, ms))
    return False


def fixed(*parts: Expr | Transition) -> bool:
    """Whether no part depends on time."""
    return not any(TIME in p.axes or SOURCE in p.axes for p in parts)
