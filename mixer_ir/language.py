"""The words for signals: functions entry by entry, along an axis, and along time."""

from __future__ import annotations

from typing import Any, overload

from mixer_ir.check import checked, needs, show
from mixer_ir.errors import AxisError, DeclarationError
from mixer_ir.expr import (
    SOURCE,
    TIME,
    Cumulate,
    Delay,
    Detach,
    Expr,
    Index,
    Literal,
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
from mixer_ir.matrix import Entrywise, LowRank, Matrix, Softmax

__all__ = [
    "exp", "exp2", "log", "log1p", "expm1", "sqrt", "abs", "sign", "sigmoid", "softplus", "relu", "silu", "gelu", "elu",
    "tanh", "sin", "cos", "erf", "real", "imag", "conj", "complex", "minimum", "maximum", "min", "max", "clamp",
    "where", "equal", "not_equal", "logical_and", "logical_or", "logical_not", "mod", "floordiv",
    "outer", "contract", "sum", "mean", "amax", "amin", "norm", "l2norm", "softmax",
    "cumsum", "cummax", "cumprod", "delay", "reverse", "rename", "source", "index", "size", "take", "one_hot", "detach",
]  # fmt: skip


def _entries(value: Any) -> Matrix:
    """A matrix as it is; a number or a signal free of time as the matrix with that value everywhere."""
    if isinstance(value, Matrix):
        return value
    c = as_expr(value)
    if TIME in c.axes or SOURCE in c.axes:
        raise AxisError(
            f"a signal with axes {show(c.axes)} stands beside a matrix in an entry-by-entry function; "
            "make it a matrix first, as mx.dense(x) with axes t and s"
        )
    return LowRank(q=c, k=Literal(value=1.0), over=())


def _entrywise(fn: str, *args: Any) -> Any:
    """`fn` entry by entry, on signals or on the entries of matrices."""
    if any(isinstance(a, Matrix) for a in args):
        return checked(Entrywise(fn=fn, args=tuple(_entries(a) for a in args)))
    return call(fn, *args)


def exp(x: Any) -> Any:
    """e^x."""
    return _entrywise("exp", x)


def exp2(x: Any) -> Any:
    """2^x."""
    return _entrywise("exp2", x)


def log(x: Any) -> Any:
    """The natural logarithm."""
    return _entrywise("log", x)


def log1p(x: Any) -> Any:
    """log(1 + x)."""
    return _entrywise("log1p", x)


def expm1(x: Any) -> Any:
    """e^x − 1."""
    return _entrywise("expm1", x)


def sqrt(x: Any) -> Any:
    """The square root."""
    return _entrywise("sqrt", x)


def abs(x: Any) -> Any:
    """|x|, real also for complex x."""
    return _entrywise("abs", x)


def sign(x: Any) -> Any:
    """−1, 0 or 1."""
    return _entrywise("sign", x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^−x)."""
    return _entrywise("sigmoid", x)


def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    return _entrywise("softplus", x)


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return _entrywise("relu", x)


def silu(x: Any) -> Any:
    """x · sigmoid(x)."""
    return _entrywise("silu", x)


def gelu(x: Any) -> Any:
    """x · Φ(x), exact (with erf)."""
    return _entrywise("gelu", x)


def elu(x: Any) -> Any:
    """x where x > 0, else e^x − 1."""
    return _entrywise("elu", x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    return _entrywise("tanh", x)


def sin(x: Any) -> Any:
    """The sine."""
    return _entrywise("sin", x)


def cos(x: Any) -> Any:
    """The cosine."""
    return _entrywise("cos", x)


def erf(x: Any) -> Any:
    """The error function."""
    return _entrywise("erf", x)


def real(x: Any) -> Any:
    """The real part."""
    return _entrywise("real", x)


def imag(x: Any) -> Any:
    """The imaginary part."""
    return _entrywise("imag", x)


def conj(x: Any) -> Any:
    """The complex conjugate."""
    return _entrywise("conj", x)


def complex(re: Any, im: Any) -> Any:
    """re + i·im."""
    return _entrywise("complex", re, im)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of a and b, entry by entry."""
    return _entrywise("min", a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of a and b, entry by entry."""
    return _entrywise("max", a, b)


min, max = minimum, maximum


def clamp(x: Any, low: Any, high: Any) -> Any:
    """min(max(x, low), high)."""
    return _entrywise("clamp", x, low, high)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition is true, else b."""
    if not isinstance(condition, Expr | Matrix):
        raise DeclarationError(
            f"mx.where needs a condition made of signals, as x > 0 or mx.equal(x, y), not {condition!r}"
        )
    return _entrywise("where", condition, a, b)


def equal(a: Any, b: Any) -> Any:
    """Whether a = b, entry by entry."""
    return _entrywise("eq", a, b)


def not_equal(a: Any, b: Any) -> Any:
    """Whether a ≠ b, entry by entry."""
    return _entrywise("ne", a, b)


def logical_and(a: Any, b: Any) -> Any:
    """Whether both hold (also `a & b`)."""
    return _entrywise("and", a, b)


def logical_or(a: Any, b: Any) -> Any:
    """Whether one of them holds (also `a | b`)."""
    return _entrywise("or", a, b)


def logical_not(a: Any) -> Any:
    """Whether it does not hold (also `~a`)."""
    return _entrywise("not", a)


def mod(a: Any, b: Any) -> Any:
    """a − b ⌊a / b⌋ (also `a % b`)."""
    return _entrywise("mod", a, b)


def floordiv(a: Any, b: Any) -> Any:
    """⌊a / b⌋ (also `a // b`)."""
    return _entrywise("floordiv", a, b)


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
    """Of a matrix: M[t, s] = e^x[t, s] / Σ_u e^x[t, u] over the entries that a mask leaves. Of a signal: along `axis`."""
    if isinstance(x, Matrix):
        if axis is not None:
            raise AxisError("mx.softmax of a matrix is along its rows; it takes no axis")
        return Softmax(of=x)
    if axis is None:
        raise AxisError("mx.softmax of a signal needs an axis, as in mx.softmax(x, axis='k')")
    shifted = exp(as_expr(x) - detach(amax(x, axis)))
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


def rename(x: Any, **names: str) -> Expr:
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
