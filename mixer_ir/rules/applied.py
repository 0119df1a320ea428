"""Rules on applications: y = M v by the structure of M. The docstring is the identity.

Each rule replaces Apply(M, v) by applications of smaller matrices, or by a read of a driven state; what is left are
the pieces that lowering knows as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from mixer_ir.nodes.expr import SOURCE, TIME, Call, Delay, Expr, Literal, Reverse, union, without
from mixer_ir.nodes.matrix import (
    Apply,
    Diagonal,
    Flip,
    Identity,
    Normalize,
    Product,
    Resets,
    Scale,
    Semiseparable,
    Shift,
    Sum,
)
from mixer_ir.nodes.process import Process, Read, Run
from mixer_ir.rules.affine import NotAffine, normal_form
from mixer_ir.rules.algebra import ONE, fresh, keep, ones, product, renamed, total
from mixer_ir.rules.time_reversal import backward, cross, on_reversed_signals

Rule = Callable[[Expr], Expr | None]


def affine_recurrence_is_read(e: Expr) -> Expr | None:
    """S_t = A_t S_{t−1} + Σ k_t v_tᵀ, y_t = f(q_tᵀ S_t): the traced update in its normal form"""
    if isinstance(e, Run):
        made = normal_form(e.recurrence)
        return None if isinstance(made, NotAffine) else made
    return None


def sum_applied(e: Expr) -> Expr | None:
    """(A + B) v  =  A v + B v"""
    match e:
        case Apply(matrix=Sum(terms=terms), of=v):
            return total(Apply(matrix=m, of=v) for m in terms)
    return None


def product_applied(e: Expr) -> Expr | None:
    """(A B) v  =  A (B v)"""
    match e:
        case Apply(matrix=Product(factors=fs), of=v) if not cross(e):
            for m in reversed(fs):
                v = Apply(matrix=m, of=v)
            return v
        case Apply(matrix=Product(factors=(*rest, Diagonal(d=d))), of=v) if rest and TIME not in (*v.axes, *d.axes):
            return Apply(matrix=Product(factors=tuple(rest)), of=product(d, v))
        case Apply(matrix=Product(factors=(first, *rest)), of=v) if rest and not cross(first):
            if any(cross(m) and not isinstance(m, Diagonal) for m in rest):
                return Apply(matrix=first, of=Apply(matrix=Product(factors=tuple(rest)), of=v))
    return None


def scale_applied(e: Expr) -> Expr | None:
    """(c M) v  =  c (M v)"""
    match e:
        case Apply(matrix=Scale(factor=c, of=of), of=v):
            return product(c, Apply(matrix=of, of=v))
    return None


def diagonal_applied(e: Expr) -> Expr | None:
    """diag(d) v  =  d v,  I v  =  v"""
    match e:
        case Apply(matrix=Diagonal(d=d), of=v) if not cross(e):
            return product(d, v) if TIME in product(d, v).axes else Call(fn="mul", args=(d, v))
        case Apply(matrix=Identity(), of=v) if TIME in v.axes:
            return v
    return None


def flip_applied(e: Expr) -> Expr | None:
    """(J M J) v  =  J (M (J v)), M on signals reversed in time"""
    match e:
        case Apply(matrix=Flip(of=of), of=v):
            return Reverse(of=Apply(matrix=on_reversed_signals(of), of=backward(v)))
    return None


def shift_applied(e: Expr) -> Expr | None:
    """shift(M, n) v  =  M v, n steps late; on packed pieces, late within the piece"""
    match e:
        case Apply(matrix=Shift(of=of, by=by), of=v):
            return Delay(of=Apply(matrix=of, of=v), by=by)
        case Apply(matrix=Resets(of=Shift(of=of, by=by), reset=reset), of=v):
            return Delay(of=Apply(matrix=Resets(of=of, reset=reset), of=v), by=by, reset=reset)
    return None


def normalize_applied(e: Expr) -> Expr | None:
    """normalize(M) v  =  (M v) / (M 1): M applied to v with a column of ones"""
    match e:
        case Apply(matrix=Normalize(of=of, eps=eps, floor=floor), of=v):
            n: Expr = Apply(matrix=of, of=ones(TIME if TIME in v.axes else SOURCE))
            n = n if eps == 0 else Call(fn="add", args=(n, Literal(value=eps)))
            if floor is not None:
                n = Call(fn="max", args=(Call(fn="abs", args=(n,)), floor))
            return Call(fn="div", args=(Apply(matrix=of, of=v), n))
    return None


def semiseparable_applied_is_read(e: Expr) -> Expr | None:
    """semiseparable(C, A, B) v  =  C_tᵀ S_t with S_t = A_t S_{t−1} + B_t v_tᵀ;  strict: C_tᵀ S_{t−1};
    resets drop the state that comes in"""
    match e:
        case Apply(matrix=Semiseparable() as M, of=v) if not cross(e):
            return driven(M, v, None)
        case Apply(matrix=Resets(of=Semiseparable() as M, reset=reset), of=v) if not cross(e):
            return driven(M, v, reset)
    return None


def driven(M: Semiseparable, v: Expr, reset: Expr | None) -> Expr:
    """The read of the state that M drives; axes of v that M contracts are called differently meanwhile."""
    taken = (*M.over, *((M.A.row,) if M.A.row is not None else ()))
    clash = {a: fresh(a, {*taken, *v.axes}) for a in v.axes if a in taken}
    value = ONE if v is ones(TIME) else v
    for a, name in clash.items():
        value = renamed(value, a, name)
    batch = union(M.A.axes, M.B.axes, () if reset is None else reset.axes)
    own = union(M.over, without(value.axes, (TIME, *batch)))
    process = Process(name="", axes=own, over=M.over, transition=M.A, inputs=((M.B, value),), reset=reset)
    missing = [ones(a) for a in M.over if a not in M.C.axes and a not in M.B.axes and a not in M.A.axes]
    query = product(M.C, *missing)
    if reset is not None and M.strict:
        query = product(query, keep(reset))
    made: Expr = Read(process=process, query=query, before=M.strict)
    for a, name in clash.items():
        made = renamed(made, name, a)
    return made


def reversed_twice(e: Expr) -> Expr | None:
    """J J x  =  x"""
    match e:
        case Reverse(of=Reverse(of=of)):
            return of
        case Delay(of=of, by=0):
            return of
    return None


RULES: tuple[Rule, ...] = (
    affine_recurrence_is_read,
    sum_applied,
    product_applied,
    scale_applied,
    diagonal_applied,
    flip_applied,
    shift_applied,
    normalize_applied,
    semiseparable_applied_is_read,
    reversed_twice,
)
