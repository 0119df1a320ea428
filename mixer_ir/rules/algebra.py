"""Products and sums of expressions: taking them apart into factors and addends, and putting them together tidily."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache
from typing import TypeVar

from mixer_ir.nodes.expr import TIME, Axes, Call, Contract, Expr, Index, Literal, Number, Reduce, Rename, union
from mixer_ir.nodes.node import Node

N = TypeVar("N", bound=Node)

ZERO, ONE, MINUS = Literal(value=0.0), Literal(value=1.0), Literal(value=-1.0)


def number(e: Expr) -> Number | None:
    """The value of a literal, else None."""
    return e.value if isinstance(e, Literal) else None


def is_zero(e: Expr) -> bool:
    return isinstance(e, Literal) and e.value == 0


def is_one(e: Expr) -> bool:
    return isinstance(e, Literal) and e.value == 1


def factors(e: Expr) -> list[Expr]:
    """e = the product of these; products, quotients and signs are taken apart, sums are not."""
    match e:
        case Call(fn="mul", args=(a, b)):
            return [*factors(a), *factors(b)]
        case Call(fn="div", args=(a, Literal(value=c))) if c != 0:
            return [*factors(a), Literal(value=1 / c)]
        case Call(fn="div", args=(a, b)):
            return [b_inverse for b_inverse in (*factors(a), Call(fn="div", args=(ONE, b))) if not is_one(b_inverse)]
        case Call(fn="neg", args=(a,)):
            return [Literal(value=-1.0), *factors(a)]
    return [] if is_one(e) else [e]


def product(*parts: Expr) -> Expr:
    """The product, with ones left out, numbers folded into one, and zero where any part is zero."""
    scale: Number = 1
    rest: list[Expr] = []
    for part in parts:
        for f in factors(part):
            if isinstance(f, Literal):
                scale = scale * f.value
            else:
                rest.append(f)
    if scale == 0:
        return ZERO
    if not rest:
        return Literal(value=scale)
    made = rest[0]
    for f in rest[1:]:
        made = Call(fn="mul", args=(made, f))
    if scale == 1:
        return made
    return Call(fn="neg", args=(made,)) if scale == -1 else Call(fn="mul", args=(Literal(value=scale), made))


def addends(e: Expr) -> list[Expr]:
    """e = the sum of these; sums, differences and signs are taken apart, products are not."""
    match e:
        case Call(fn="add", args=(a, b)):
            return [*addends(a), *addends(b)]
        case Call(fn="sub", args=(a, b)):
            return [*addends(a), *(product(Literal(value=-1.0), x) for x in addends(b))]
        case Call(fn="neg", args=(a,)):
            return [product(Literal(value=-1.0), x) for x in addends(a)]
    return [] if is_zero(e) else [e]


def total(parts: Iterable[Expr]) -> Expr:
    """The sum, with zeros left out; a term with a minus sign is subtracted."""
    made: Expr | None = None
    for part in parts:
        if is_zero(part):
            continue
        if made is None:
            made = part
        elif isinstance(part, Call) and part.fn == "neg":
            made = Call(fn="sub", args=(made, part.args[0]))
        else:
            made = Call(fn="add", args=(made, part))
    return ZERO if made is None else made


def distributed(e: Expr, inseparable: Callable[[Expr], bool]) -> list[Expr]:
    """Addends of e in which no factor that `inseparable` names is itself a sum."""
    made: list[Expr] = []
    for addend in addends(e):
        parts = factors(addend)
        for i, f in enumerate(parts):
            inner = addends(f)
            if len(inner) > 1 and inseparable(f):
                others = parts[:i] + parts[i + 1 :]
                for x in inner:
                    made += distributed(product(*others, x), inseparable)
                break
        else:
            made.append(addend)
    return made


def split(parts: Iterable[Expr], axes: Axes) -> tuple[Expr, Expr]:
    """The product of the factors that carry any of `axes`, and the product of the others."""
    having: list[Expr] = []
    lacking: list[Expr] = []
    for part in parts:
        for f in factors(part):
            (having if any(a in f.axes for a in axes) else lacking).append(f)
    return product(*having), product(*lacking)


def contracted(left: Expr, right: Expr, over: Axes) -> Expr:
    """Σ_over left · right, with every factor that lacks `over` taken out of the sum."""
    if is_zero(left) or is_zero(right):
        return ZERO
    if not over:
        return product(left, right)
    (a, outside_a), (b, outside_b) = split([left], over), split([right], over)
    gone = tuple(x for x in over if x in a.axes or x in b.axes)
    counts = [ones(x) for x in over if x not in gone]
    for x in counts:
        a, gone = product(a, x), (*gone, *x.axes)
    shared = tuple(x for x in gone if x in a.axes and x in b.axes)
    if len(shared) == len(gone):
        inner: Expr = Contract(left=a, right=b, over=gone)
    else:
        inner = Reduce(fn="sum", of=product(a, b), over=gone)
    return product(outside_a, inner, outside_b)


def ones(axis: str) -> Expr:
    """1 at every position of an axis."""
    return Call(fn="add", args=(Call(fn="mul", args=(Index(axis=axis), ZERO)), ONE))


def zeros(axis: str) -> Expr:
    """0 at every position of an axis."""
    return Call(fn="mul", args=(Index(axis=axis), ZERO))


def basis(axis: str, fresh: str) -> Expr:
    """1 where the positions along `axis` and `fresh` (an axis as long) are equal, else 0."""
    same = Call(fn="eq", args=(renamed(Index(axis=axis), axis, fresh), Index(axis=axis)))
    return Call(fn="where", args=(same, ONE, ZERO))


def renamed(e: Expr, old: str, new: str) -> Expr:
    """e with the axis `old` called `new`; e itself where it lacks `old`, and never a renaming of a renaming back."""
    if old not in e.axes or old == new:
        return e
    if isinstance(e, Rename) and e.new == old and (new not in e.of.axes or e.old == new):
        return renamed(e.of, e.old, new)
    return Rename(of=e, old=old, new=new)


def fresh(axis: str, taken: Container[str]) -> str:
    """A name for an axis that is bound in a matrix, like `axis`, but none of `taken` and none that can be declared."""
    name = f"{axis}_"
    while name in taken:
        name += "_"
    return name


def keep(condition: Expr) -> Expr:
    """0 where the condition holds, else 1."""
    return Call(fn="where", args=(condition, ZERO, ONE))


def log_of(e: Expr) -> Expr | None:
    """log e, where e is a product of exponentials, sigmoids, positive numbers and their powers; else None."""
    logs = [_log_of_factor(f) for f in factors(e)]
    return None if any(x is None for x in logs) else total(x for x in logs if x is not None)


def _log_of_factor(e: Expr) -> Expr | None:
    match e:
        case Literal(value=bool()):
            return None
        case Literal(value=int() | float() as c) if c > 0:
            return Literal(value=math.log(c))
        case Call(fn="exp", args=(x,)):
            return x
        case Call(fn="exp2", args=(x,)):
            return product(Literal(value=math.log(2.0)), x)
        case Call(fn="sigmoid", args=(x,)):
            return product(Literal(value=-1.0), Call(fn="softplus", args=(product(Literal(value=-1.0), x),)))
        case Call(fn="sub", args=(Literal(value=1), Call(fn="sigmoid", args=(x,)))):
            return product(Literal(value=-1.0), Call(fn="softplus", args=(x,)))
        case Call(fn="div", args=(Literal(value=1), x)):
            inner = log_of(x)
            return None if inner is None else product(Literal(value=-1.0), inner)
        case Call(fn="sqrt", args=(x,)):
            inner = log_of(x)
            return None if inner is None else product(Literal(value=0.5), inner)
        case Call(fn="pow", args=(x, power)):
            inner = log_of(x)
            return None if inner is None else product(power, inner)
        case Call(fn="where", args=(c, x, y)):
            return _log_of_choice(c, x, y)
    return None


def _log_of_choice(condition: Expr, yes: Expr, no: Expr) -> Expr | None:
    nothing = Literal(value=-math.inf)
    logs = [nothing if is_zero(x) else log_of(x) for x in (yes, no)]
    if logs[0] is None or logs[1] is None or (is_zero(yes) and is_zero(no)):
        return None
    return Call(fn="where", args=(condition, logs[0], logs[1]))


def replaced(root: N, table: Mapping[Node, Node]) -> N:
    """`root` with every node that is a key of `table` exchanged for its value (values are not searched again)."""
    memo: dict[Node, Node] = dict(table)

    def change(here: Node) -> Node:
        if here not in memo:
            memo[here] = here.with_children(change)
        return memo[here]

    return change(root)  # type: ignore[return-value]


@lru_cache(maxsize=65536)
def _varies(e: Node) -> bool:
    axes = getattr(e, "axes", ())
    return TIME in axes or "s" in axes


def varies(*parts: Expr | None) -> bool:
    """Whether any part depends on time."""
    return any(p is not None and _varies(p) for p in parts)


def all_axes(parts: Iterable[Expr]) -> Axes:
    return union(*(p.axes for p in parts))
