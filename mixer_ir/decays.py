"""The logarithm of a decay, where its factors show it: products of exp, sigmoid and positive numbers."""

from __future__ import annotations

import math

from mixer_ir.expr import Call, Expr, Literal, call
from mixer_ir.expr import Transition as _Transition


def log_of(decay: Expr) -> Expr | None:
    """log(decay) where `decay` is a product of positive factors: exp(x) → x, sigmoid(x) → −softplus(−x), c → log c."""
    match decay:
        case Literal(value=value) if not isinstance(value, complex) and 0 < value < math.inf:
            return Literal(value=math.log(value))
        case Call(fn="exp", args=(x,)):
            return x
        case Call(fn="exp2", args=(x,)):
            return call("mul", x, math.log(2.0))
        case Call(fn="sigmoid", args=(x,)):
            return call("neg", call("softplus", call("neg", x)))
        case Call(fn="mul" | "div" as fn, args=(a, b)):
            left, right = log_of(a), log_of(b)
            if left is not None and right is not None:
                return call("add" if fn == "mul" else "sub", left, right)
        case Call(fn="sqrt", args=(a,)):
            inner = log_of(a)
            return None if inner is None else call("mul", 0.5, inner)
    return None


def diagonal_transition(decay: Expr) -> _Transition:
    """diag(decay), kept as its logarithm where that is known."""
    log = log_of(decay)
    return _Transition(factor=decay) if log is None else _Transition(log=log)
