"""C spellings: the type of each kind of number, literals, and every primitive function by the kind it works on."""

from __future__ import annotations

import math
from collections.abc import Callable

from mixer_ir.nodes.functions import Kind

TYPES: dict[Kind, str] = {"bool": "uint8_t", "int": "int64_t", "real": "real", "complex": "cplx"}

Spelling = str | Callable[..., str]


def literal(value: complex, kind: Kind) -> str:
    """A number of this kind."""
    if kind == "complex":
        z = complex(value)
        return f"MAKE_COMPLEX({literal(z.real, 'real')}, {literal(z.imag, 'real')})"
    x = value.real
    if kind == "bool":
        return str(int(bool(x)))
    if kind == "int":
        return f"((int64_t){int(x)})" if int(x) > -(2**63) else "INT64_MIN"
    if math.isnan(x):
        return '((real)__builtin_nan(""))'
    if math.isinf(x):
        return "INF" if x > 0 else "(-INF)"
    return f"((real){float(x)!r})"


FUNCTIONS: dict[str, dict[Kind, str]] = {
    "add": {"int": "({0} + {1})", "real": "({0} + {1})", "complex": "({0} + {1})"},
    "sub": {"int": "({0} - {1})", "real": "({0} - {1})", "complex": "({0} - {1})"},
    "mul": {"int": "({0} * {1})", "real": "({0} * {1})", "complex": "({0} * {1})"},
    "div": {"real": "({0} / {1})", "complex": "({0} / {1})"},
    "pow": {"int": "i_pow({0}, {1})", "real": "m_pow({0}, {1})", "complex": "c_pow({0}, {1})"},
    "neg": {"int": "(-{0})", "real": "(-{0})", "complex": "(-{0})"},
    "exp": {"real": "m_exp({0})", "complex": "c_exp({0})"},
    "log": {"real": "m_log({0})", "complex": "c_log({0})"},
    "log1p": {"real": "m_log1p({0})", "complex": "c_log1p({0})"},
    "expm1": {"real": "m_expm1({0})", "complex": "c_expm1({0})"},
    "sqrt": {"real": "m_sqrt({0})", "complex": "c_sqrt({0})"},
    "abs": {"bool": "((real){0})", "int": "((real)llabs({0}))", "real": "m_abs({0})", "complex": "c_abs({0})"},
    "sign": {"int": "i_sign({0})", "real": "m_sign({0})", "complex": "c_sign({0})"},
    "sigmoid": {"real": "m_sigmoid({0})", "complex": "c_sigmoid({0})"},
    "softplus": {"real": "m_softplus({0})", "complex": "c_softplus({0})"},
    "tanh": {"real": "m_tanh({0})", "complex": "c_tanh({0})"},
    "sin": {"real": "m_sin({0})", "complex": "c_sin({0})"},
    "cos": {"real": "m_cos({0})", "complex": "c_cos({0})"},
    "erf": {"real": "m_erf({0})"},
    "min": {"int": "i_smaller({0}, {1})", "real": "smaller({0}, {1})"},
    "max": {"int": "i_larger({0}, {1})", "real": "larger({0}, {1})"},
    "where": dict.fromkeys(TYPES, "({0} ? {1} : {2})"),
    "lt": {"bool": "({0} < {1})", "int": "({0} < {1})", "real": "({0} < {1})"},
    "le": {"bool": "({0} <= {1})", "int": "({0} <= {1})", "real": "({0} <= {1})"},
    "eq": dict.fromkeys(TYPES, "({0} == {1})"),
    "ne": dict.fromkeys(TYPES, "({0} != {1})"),
    "and": {"bool": "({0} & {1})"},
    "or": {"bool": "({0} | {1})"},
    "not": {"bool": "(!{0})"},
    "real": {"bool": "((real){0})", "int": "((real){0})", "real": "{0}", "complex": "c_real({0})"},
    "imag": {"bool": "((real)0)", "int": "((real)0)", "real": "((real)0)", "complex": "c_imag({0})"},
    "conj": {"int": "{0}", "real": "{0}", "complex": "c_conj({0})"},
    "complex": {"real": "MAKE_COMPLEX({0}, {1})"},
    "mod": {"int": "i_mod({0}, {1})", "real": "m_mod({0}, {1})"},
    "floordiv": {"int": "i_floordiv({0}, {1})", "real": "m_floordiv({0}, {1})"},
}
"""function -> the kind of its arguments (of the last one, for `where`) -> its text"""

SPECIAL = frozenset(
    ("exp", "log", "log1p", "expm1", "sigmoid", "softplus", "tanh", "sin", "cos", "erf", "pow", "mod", "floordiv")
)
"""those that cost as much as ten others"""


def call(fn: str, kind: Kind, args: list[str]) -> str:
    """`fn` of arguments of one kind."""
    return FUNCTIONS[fn][kind].format(*args)


def cast(text: str, old: Kind, new: Kind) -> str:
    """A number of one kind as one of another."""
    if old == new:
        return text
    if old == "complex":
        text, old = f"c_real({text})", "real"
    if new == "bool":
        return f"({text} != 0)"
    return f"(({TYPES[new]}){text})"


NEUTRAL: dict[str, Callable[[Kind], str]] = {
    "sum": lambda kind: literal(0, kind),
    "prod": lambda kind: literal(1, kind),
    "max": lambda kind: "(-INF)" if kind == "real" else "INT64_MIN" if kind == "int" else "0",
    "min": lambda kind: "INF" if kind == "real" else "INT64_MAX" if kind == "int" else "1",
}
"""what a sum, product, maximum or minimum starts from"""


def combined(fn: str, kind: Kind, total: str, x: str) -> str:
    """One more entry taken into a sum, product, maximum or minimum."""
    if kind == "bool":
        return f"({total} {'|' if fn == 'max' else '&'} {x})"
    if fn in ("sum", "prod"):
        return f"({total} {'+' if fn == 'sum' else '*'} {x})"
    return call(fn, kind, [total, x])
