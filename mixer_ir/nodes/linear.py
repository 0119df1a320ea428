"""The matrix that an expression is in one of its signals: y = M v, read off the expression."""

from __future__ import annotations

from mixer_ir.nodes.expr import (
    SOURCE,
    TIME,
    Call,
    Cumulate,
    Delay,
    Expr,
    Index,
    Literal,
    Rename,
    Reverse,
    Signal,
    Size,
    call,
)
from mixer_ir.nodes.matrix import (
    Apply,
    Causal,
    Dense,
    Diagonal,
    Entrywise,
    Flip,
    Identity,
    LowRank,
    Matrix,
    Product,
    Resets,
    Scale,
    Semiseparable,
    Shift,
    Sum,
)
from mixer_ir.nodes.node import Node, rebuild, walk
from mixer_ir.nodes.process import Process, Read

ONE = Literal(value=1.0)


def depends(on: Node, name: str) -> bool:
    """Whether the signal `name` stands anywhere in a node."""
    return any(isinstance(n, Signal) and n.name == name for n in walk(on))


def matrix_of(expr: Expr, name: str) -> Matrix | None:
    """M with expr = M · (the signal `name`) along time.

    None where there is none: the expression is not linear in the signal, or mixes it along other axes too. The real
    part of M v is that of M, times v: that holds of a real v alone (`wants_real`).
    """
    terms = _terms(expr, name)
    return None if terms is None else _sum(terms)


def wants_real(expr: Expr, name: str) -> bool:
    """Whether `matrix_of` speaks of a real signal alone: a real or imaginary part is taken of what it gave."""
    return any(isinstance(n, Call) and n.fn in ("real", "imag") and depends(n, name) for n in walk(expr))


def _sum(terms: list[Matrix]) -> Matrix:
    return terms[0] if len(terms) == 1 else Sum(terms=tuple(terms))


def _scaled(c: Expr, M: Matrix) -> Matrix:
    """diag(c) M, or c M where c is free of time."""
    if isinstance(c, Literal) and c.value == 1:
        return M
    if TIME not in c.axes:
        return Scale(factor=c, of=M)
    return Diagonal(d=c) if isinstance(M, Identity) else Product(factors=(Diagonal(d=c), M))


def _after(M: Matrix, terms: list[Matrix] | None) -> list[Matrix] | None:
    """M · (Σ terms)."""
    if terms is None:
        return None
    inner = _sum(terms)
    return [M if isinstance(inner, Identity) else Product(factors=(M, inner))]


def _terms(expr: Expr, name: str) -> list[Matrix] | None:
    """The terms of Σ M_i with expr = Σ M_i v."""
    match expr:
        case Signal(name=n) if n == name:
            return [Identity()]
        case Rename(of=of, old=old) if old == TIME:
            return _terms(of, name)
        case Apply(matrix=M, of=of) if not depends(M, name):
            return _after(M, _terms(of, name))
        case Read():
            return _read(expr, name)
        case Call(fn="add" | "sub" as fn, args=(a, b)):
            return _added(a, b if fn == "add" else call("neg", b), name)
        case Call(fn="neg", args=(a,)):
            return _times(Literal(value=-1), a, name)
        case Call(fn="mul", args=(a, b)) if depends(b, name):
            return None if depends(a, name) else _times(a, b, name)
        case Call(fn="mul", args=(a, b)):
            return _times(b, a, name)
        case Call(fn="div", args=(a, b)) if not depends(b, name):
            return _times(call("div", ONE, b), a, name)
        case Call(fn="real" | "imag" as fn, args=(a,)):
            inner = _terms(a, name)
            return None if inner is None else [Entrywise(fn=fn, args=(M,)) for M in inner]
        case Delay(of=of, by=by, reset=reset):
            step: Matrix = Shift(of=Identity(), by=by)
            return _after(step if reset is None else Resets(of=step, reset=reset), _terms(of, name))
        case Cumulate(fn="sum", of=of, reset=reset):
            ones: Matrix = Causal(of=LowRank(q=ONE, k=ONE, over=()))
            return _after(ones if reset is None else Resets(of=ones, reset=reset), _terms(of, name))
        case Reverse(of=of) if depends(of, name):
            turned = _reversed(of)
            if any(isinstance(n, Reverse) and isinstance(n.of, Signal) and n.of.name == name for n in walk(turned)):
                return _after(_exchange(), _terms(of, name))
            inner = _terms(turned, name)
            return None if inner is None else [Flip(of=_sum(inner))]
    return None


def _exchange() -> Matrix:
    """J: one where t + s = T − 1, else 0."""
    t = Index(axis=TIME)
    last = call("eq", call("add", t, Rename(of=t, old=TIME, new=SOURCE)), call("sub", Size(axis=TIME), 1))
    return Dense(m=call("where", last, 1.0, 0.0))


def _times(c: Expr, e: Expr, name: str) -> list[Matrix] | None:
    terms = _terms(e, name)
    return None if terms is None else [_scaled(c, M) for M in terms]


def _added(a: Expr, b: Expr, name: str) -> list[Matrix] | None:
    left, right = _terms(a, name), _terms(b, name)
    return None if left is None or right is None else left + right


def _read(read: Read, name: str) -> list[Matrix] | None:
    """Σ_j semiseparable(C = query, A, B = key_j) · value_j."""
    p: Process = read.process
    fixed: list[Node] = [read.query, p.transition, *(() if p.reset is None else (p.reset,))]
    if any(depends(part, name) for part in fixed):
        return None
    found: list[Matrix] = []
    for key, value in p.inputs:
        if depends(key, name):
            c = None if depends(value, name) else coefficient(key, name)
            inner: list[Matrix] | None = [Identity()]
        else:
            c, inner = key, _terms(value, name)
        if c is None or inner is None:
            return None
        if depends(key, name) and not _is_one(value):
            c = call("mul", c, value)
        M: Matrix = Semiseparable(C=read.query, A=p.transition, B=c, over=p.over, strict=read.before)
        M = M if p.reset is None else Resets(of=M, reset=p.reset)
        found += _after(M, inner) or []
    return found


def _is_one(e: Expr) -> bool:
    return isinstance(e, Literal) and e.value == 1


def coefficient(expr: Expr, name: str) -> Expr | None:
    """c with expr = c · (the signal `name`) entry by entry, or None."""
    match expr:
        case Signal(name=n) if n == name:
            return ONE
        case Call(fn="neg", args=(a,)):
            inner = coefficient(a, name)
            return None if inner is None else call("neg", inner)
        case Call(fn="mul", args=(a, b)):
            if depends(a, name):
                a, b = b, a
            inner = None if depends(a, name) else coefficient(b, name)
            return inner if inner is None else a if _is_one(inner) else call("mul", a, inner)
        case Call(fn="div", args=(a, b)) if not depends(b, name):
            inner = coefficient(a, name)
            return None if inner is None else call("div", inner, b)
        case Rename(of=of, old=old, new=new):
            inner = coefficient(of, name)
            own = {a for n in walk(of) if isinstance(n, Signal) and n.name == name for a in n.axes}
            if inner is None or {old, new} & own:
                return None
            return Rename(of=inner, old=old, new=new) if old in inner.axes else inner
        case Call(fn="add" | "sub" as fn, args=(a, b)):
            left, right = coefficient(a, name), coefficient(b, name)
            return None if left is None or right is None else call(fn, left, right)
    return None


def _reversed(expr: Expr) -> Expr:
    """`expr` of the signals reversed in time, for signals under a reversal: reversed twice is as it was."""

    def change(here: Node) -> Node:
        match here:
            case Signal(axes=axes) if TIME in axes:
                return Reverse(of=here)
            case Reverse(of=Reverse(of=of)):
                return of
        return here

    result: Expr = rebuild(expr, change)
    return result


def value_signal(expr: Expr, signals: dict[str, tuple[str, ...]], returns: tuple[str, ...]) -> str | None:
    """The signal that an expression applies its matrix to: one in which it is linear, along time alone.

    Among several, first those with the result's axes, then v, x and u by name, then the last declared.
    """
    found = [n for n, axes in signals.items() if (TIME in axes or SOURCE in axes) and matrix_of(expr, n) is not None]
    usual = {"v": 3, "x": 2, "u": 1}

    def rank(n: str) -> tuple[bool, int, int]:
        axes = {TIME if a == SOURCE else a for a in signals[n]}
        contracted = not axes <= set(returns)
        return (not contracted and axes == set(returns), usual.get(n, 0), found.index(n))

    found = [n for n in found if {TIME if a == SOURCE else a for a in signals[n]} <= set(returns)]
    return max(found, key=rank) if found else None
