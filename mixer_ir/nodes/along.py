"""The words for signals along an axis and along time: sums, norms, cumulations, delays, rows of a table."""

from __future__ import annotations

from typing import Any, overload

from mixer_ir.errors import AxisError, DeclarationError
from mixer_ir.nodes.check import checked, needs, show
from mixer_ir.nodes.expr import (
    SOURCE,
    TIME,
    Cumulate,
    Delay,
    Detach,
    Expr,
    Index,
    Reduce,
    Rename,
    Reverse,
    Size,
    Take,
    as_expr,
    call,
    contract,
    parse_axes,
)
from mixer_ir.nodes.matrix import Matrix, Softmax

__all__ = [
    "outer", "contract", "sum", "mean", "amax", "amin", "norm", "l2norm", "softmax",
    "cumsum", "cummax", "cumprod", "delay", "reverse", "rename", "source", "index", "size", "take", "one_hot", "detach",
]  # fmt: skip


def outer(a: Any, b: Any) -> Expr:
    """a bᵀ: the product of two signals, as `a * b`, of which each brings an axis that the other lacks."""
    left, right = as_expr(a), as_expr(b)
    if set(left.axes) <= set(right.axes) or set(right.axes) <= set(left.axes):
        raise AxisError(
            f"mx.outer of {show(left.axes)} and {show(right.axes)}: each side must bring an axis that the other lacks; "
            "call one of them differently with mx.rename(x, k='v'), or write a * b for the product entry by entry"
        )
    return call("mul", left, right)


def _over(fn: str, x: Any, over: str) -> Expr:
    e = as_expr(x)
    axes = parse_axes(over, of=f"mx.{fn}")
    if not axes:
        raise AxisError(f"mx.{fn} needs the name of an axis, as in mx.{fn}(x, 'k')")
    needs(f"the operand of mx.{fn} over {over!r}", e, *axes)
    return e


def sum(x: Any, over: str) -> Expr:
    """Σ_over x."""
    return checked(Reduce(fn="sum", of=_over("sum", x, over), over=parse_axes(over, of="over")))


def mean(x: Any, over: str) -> Expr:
    """The mean over the axes `over`."""
    total = sum(x, over)
    for axis in parse_axes(over, of="over"):
        total = total / size(axis)
    return total


def amax(x: Any, over: str) -> Expr:
    """The largest entry along the axes `over`."""
    return checked(Reduce(fn="max", of=_over("amax", x, over), over=parse_axes(over, of="over")))


def amin(x: Any, over: str) -> Expr:
    """The smallest entry along the axes `over`."""
    return checked(Reduce(fn="min", of=_over("amin", x, over), over=parse_axes(over, of="over")))


def norm(x: Any, over: str) -> Expr:
    """√(Σ_over |x|²)."""
    size_of = call("abs", _over("norm", x, over))
    return call("sqrt", sum(call("mul", size_of, size_of), over))


def l2norm(x: Any, over: str, eps: float = 1e-6) -> Expr:
    """x / √(Σ_over x² + eps): every vector along `over` brought to length one."""
    e = _over("l2norm", x, over)
    return e / call("sqrt", sum(call("mul", e, e), over) + eps)


@overload
def softmax(x: Matrix) -> Matrix: ...
@overload
def softmax(x: Expr, axis: str) -> Expr: ...
def softmax(x: Any, axis: str | None = None) -> Any:
    """Of a matrix, M[t, s] = e^x[t, s] / Σ_u e^x[t, u] over what a mask leaves; of a signal, along `axis`."""
    if isinstance(x, Matrix):
        if axis is not None:
            raise AxisError("mx.softmax of a matrix is along its rows; it takes no axis")
        return Softmax(of=x)
    if axis is None:
        raise AxisError("mx.softmax of a signal needs an axis, as in mx.softmax(x, axis='k')")
    shifted = call("exp", as_expr(x) - detach(amax(x, axis)))
    return shifted / sum(shifted, axis)


def cumsum(x: Any) -> Expr:
    """y_t = x_0 + … + x_t."""
    return checked(Cumulate(fn="sum", of=as_expr(x)))


def cummax(x: Any) -> Expr:
    """y_t = max(x_0, …, x_t)."""
    return checked(Cumulate(fn="max", of=as_expr(x)))


def cumprod(x: Any) -> Expr:
    """y_t = x_0 · … · x_t."""
    return checked(Cumulate(fn="prod", of=as_expr(x)))


def delay(x: Any, by: int = 1) -> Expr:
    """y_t = x_{t−by}, zero where that is outside the sequence; a negative `by` looks ahead."""
    return checked(Delay(of=as_expr(x), by=whole("mx.delay", "by", by)))


def reverse(x: Any) -> Expr:
    """y_t = x_{T−1−t}."""
    return checked(Reverse(of=as_expr(x)))


def rename(x: Any, /, **names: str) -> Expr:
    """The same values with axes called differently: mx.rename(x, k='j') calls the axis k of x j."""
    e = as_expr(x)
    if not names:
        raise AxisError("mx.rename needs at least one axis, as in mx.rename(x, k='j')")
    for old, new in names.items():
        if not isinstance(new, str):
            raise AxisError(
                f"mx.rename(x, {old}={new!r}): the new name of an axis is a string, as in mx.rename(x, k='j')"
            )
        e = checked(Rename(of=e, old=old, new=new))
    return e


def source(x: Any) -> Expr:
    """x at the source's time: its axis t is called s, as the columns of a matrix read it."""
    return rename(x, **{TIME: SOURCE})


def index(axis: str) -> Expr:
    """The position 0, 1, 2 … along an axis."""
    return checked(Index(axis=axis))


def size(axis: str) -> Expr:
    """The length of an axis."""
    return checked(Size(axis=axis))


def take(table: Any, index: Any, axis: str) -> Expr:
    """y[…] = table[index[…]] along `axis`: rows chosen by an integer signal."""
    return checked(Take(table=as_expr(table), axis=axis, index=as_expr(index)))


def one_hot(index: Any, axis: str) -> Expr:
    """1 at the position `index` along a new axis, else 0; the axis' length is that of a signal that has it."""
    e = as_expr(index)
    if axis in e.axes:
        raise AxisError(f"mx.one_hot over {axis!r}: the index has that axis already, its axes are {show(e.axes)}")
    return call("where", call("eq", e, checked(Index(axis=axis))), 1.0, 0.0)


def detach(x: Any) -> Expr:
    """The same values; no gradient passes."""
    return Detach(of=as_expr(x))


def whole(where: str, name: str, value: Any) -> int:
    """`value`, which must be an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise DeclarationError(f"{where} needs a whole number for {name}, not {value!r}")
    return value
