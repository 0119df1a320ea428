"""The words for signals entry by entry: functions, comparisons, choices; of a matrix, on its entries."""

from __future__ import annotations

from typing import Any

from mixer_ir.errors import AxisError, DeclarationError
from mixer_ir.nodes.check import checked, show
from mixer_ir.nodes.expr import SOURCE, TIME, Expr, Literal, as_expr, call
from mixer_ir.nodes.matrix import Entrywise, LowRank, Matrix

__all__ = [
    "exp", "exp2", "log", "log1p", "expm1", "sqrt", "abs", "sign", "sigmoid", "softplus", "relu", "silu", "gelu", "elu",
    "tanh", "sin", "cos", "erf", "real", "imag", "conj", "complex", "minimum", "maximum", "min", "max", "clamp",
    "where", "equal", "not_equal", "logical_and", "logical_or", "logical_not", "mod", "floordiv",
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
