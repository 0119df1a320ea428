"""The functions that act entry by entry: one row each, with the number of arguments and what kind of number comes out.

Primitive functions are spelled by every backend and have an adjoint (lowering/adjoint.py); the others are defined
here by the primitive ones and unfolded when a mixer is lowered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

Kind = Literal["bool", "int", "real", "complex"]
Rule = Literal["widest", "float", "bool", "real", "complex", "branch"]


@dataclass(frozen=True)
class Function:
    """One row: `result` says how the kind of the value follows from the kinds of the arguments.

    widest   the widest of the arguments, at least int     float    as widest, at least real
    bool     a truth value                                 real     real (a complex argument loses its imaginary part)
    complex  complex                                       branch   the widest of all arguments but the first
    """

    arity: int
    result: Rule
    text: str
    meaning: Callable[..., Any] | None = None

    @property
    def primitive(self) -> bool:
        return self.meaning is None


def _exp2(f: Any, x: Any) -> Any:
    return f("exp", f("mul", x, 0.6931471805599453))


def _silu(f: Any, x: Any) -> Any:
    return f("mul", x, f("sigmoid", x))


def _gelu(f: Any, x: Any) -> Any:
    return f("mul", f("mul", x, 0.5), f("add", f("erf", f("mul", x, 0.7071067811865476)), 1.0))


def _elu(f: Any, x: Any) -> Any:
    return f("where", f("lt", 0.0, x), x, f("expm1", f("min", x, 0.0)))


def _clamp(f: Any, x: Any, low: Any, high: Any) -> Any:
    return f("min", f("max", x, low), high)


FUNCTIONS: dict[str, Function] = {
    "add": Function(2, "widest", "{} + {}"),
    "sub": Function(2, "widest", "{} − {}"),
    "mul": Function(2, "widest", "{} {}"),
    "div": Function(2, "float", "{} / {}"),
    "pow": Function(2, "widest", "{}^{}"),
    "neg": Function(1, "widest", "−{}"),
    "exp": Function(1, "float", "exp({})"),
    "log": Function(1, "float", "log({})"),
    "log1p": Function(1, "float", "log1p({})"),
    "expm1": Function(1, "float", "expm1({})"),
    "sqrt": Function(1, "float", "sqrt({})"),
    "abs": Function(1, "real", "|{}|"),
    "sign": Function(1, "widest", "sign({})"),
    "sigmoid": Function(1, "float", "sigmoid({})"),
    "softplus": Function(1, "float", "softplus({})"),
    "tanh": Function(1, "float", "tanh({})"),
    "sin": Function(1, "float", "sin({})"),
    "cos": Function(1, "float", "cos({})"),
    "erf": Function(1, "float", "erf({})"),
    "min": Function(2, "widest", "min({}, {})"),
    "max": Function(2, "widest", "max({}, {})"),
    "where": Function(3, "branch", "where({}, {}, {})"),
    "lt": Function(2, "bool", "{} < {}"),
    "le": Function(2, "bool", "{} ≤ {}"),
    "eq": Function(2, "bool", "{} = {}"),
    "ne": Function(2, "bool", "{} ≠ {}"),
    "and": Function(2, "bool", "{} and {}"),
    "or": Function(2, "bool", "{} or {}"),
    "not": Function(1, "bool", "not {}"),
    "real": Function(1, "real", "Re({})"),
    "imag": Function(1, "real", "Im({})"),
    "conj": Function(1, "widest", "conj({})"),
    "complex": Function(2, "complex", "({} + i {})"),
    "mod": Function(2, "widest", "{} mod {}"),
    "floordiv": Function(2, "widest", "⌊{} / {}⌋"),
    "exp2": Function(1, "float", "exp2({})", _exp2),
    "relu": Function(1, "widest", "relu({})", lambda f, x: f("max", x, 0)),
    "silu": Function(1, "float", "silu({})", _silu),
    "gelu": Function(1, "float", "gelu({})", _gelu),
    "elu": Function(1, "float", "elu({})", _elu),
    "clamp": Function(3, "widest", "clamp({}, {}, {})", _clamp),
}
WIDTH: dict[Kind, int] = {"bool": 0, "int": 1, "real": 2, "complex": 3}


def result_kind(fn: str, kinds: tuple[Kind, ...]) -> Kind:
    """The kind of number that `fn` gives for arguments of the given kinds."""
    rule = FUNCTIONS[fn].result
    if rule in ("bool", "real", "complex"):
        return rule
    among = kinds[1:] if rule == "branch" else kinds
    widest = max(among, key=WIDTH.__getitem__)
    least: Kind = "real" if rule == "float" else ("int" if rule == "widest" else "bool")
    return max(widest, least, key=WIDTH.__getitem__)


CONSTANTS: dict[float, Callable[[Any], Any]] = {
    math.log(2): lambda s: s.log(2),
    math.sqrt(0.5): lambda s: 1 / s.sqrt(2),
    2 / math.sqrt(math.pi): lambda s: 2 / s.sqrt(s.pi),
}
"""floats that are read as the constants they are rounded from"""


def number(s: Any, x: Any) -> Any:
    """x in SymPy (`s`) without rounding: the constant that a float is the float of, or the simplest fraction."""
    if isinstance(x, bool):
        return x
    if isinstance(x, complex):
        return number(s, x.real) + s.I * number(s, x.imag)
    if not isinstance(x, float):
        return s.sympify(x)
    if not math.isfinite(x):
        return s.nan if math.isnan(x) else s.oo * int(math.copysign(1, x))
    for value, constant in CONSTANTS.items():
        if x == value:
            return constant(s)
    simple = Fraction(x).limit_denominator(10**6)
    fraction = simple if float(simple) == x else Fraction(x)
    return s.Rational(fraction.numerator, fraction.denominator)


def part(s: Any, x: Any, fn: str) -> Any:
    """`re` or `im` of x in SymPy (`s`), where x is a formula left as it stands: working it out multiplies all out."""
    x = s.sympify(x)
    return getattr(s, fn)(x, evaluate=x.is_number or x.is_Symbol)
