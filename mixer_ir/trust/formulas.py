"""A formula: a node with its arguments for people to read, and its value in a finite field.

Two formulas are equal if their values are (algebra.py says when that is).
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from mixer_ir.trust import field
from mixer_ir.trust.field import Element
from mixer_ir.trust.polynomials import Terms
from mixer_ir.trust.positive import positive

if TYPE_CHECKING:
    from mixer_ir.trust.algebra import Algebra

DEEP = 12
"""levels of a formula that are printed"""
INFIX = {"add": " + ", "mul": "*", "div": "/", "sub": " - "}


class Formula:
    """op(args); `number` if it is one (infinities and NaN too), `value` in the field unless it is not finite."""

    __slots__ = ("algebra", "args", "factors", "moduli", "number", "op", "positive", "terms", "value")

    def __init__(
        self, algebra: Algebra, op: str, args: tuple[Any, ...], value: Element | None, number: Any = None
    ) -> None:
        algebra.exponents.spend(1)
        self.algebra, self.op, self.args, self.value, self.number = algebra, op, args, value, number
        self.terms: Terms | None = None
        self.factors: dict[int, int] | None = None
        self.moduli: dict[Element, int] | None = None
        self.positive = number is not None and number > 0 if op == "number" else positive(op, args)

    @property
    def finite(self) -> bool:
        return self.value is not None

    @property
    def real(self) -> bool:
        """Whether it is its own conjugate."""
        return self.value is None or field.conjugate(self.value) == self.value

    @property
    def is_number(self) -> bool:
        return self.number is not None

    @property
    def is_Symbol(self) -> bool:  # as SymPy calls it
        return self.op == "symbol"

    @property
    def key(self) -> Any:
        """What tells it from others."""
        return self.value if self.finite else str(self.number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Formula | int | float | complex | Fraction):
            return NotImplemented
        if isinstance(other, bool) and self.number is None:
            return False
        x = self.algebra.read(other)
        return bool(self.key == x.key and self.key != "nan")

    def __hash__(self) -> int:
        return hash(self.key)

    def __add__(self, other: Any) -> Formula:
        return self.algebra.add(self, self.algebra.read(other))

    def __radd__(self, other: Any) -> Formula:
        return self.algebra.add(self.algebra.read(other), self)

    def __mul__(self, other: Any) -> Formula:
        return self.algebra.mul(self, self.algebra.read(other))

    def __rmul__(self, other: Any) -> Formula:
        return self.algebra.mul(self.algebra.read(other), self)

    def __neg__(self) -> Formula:
        return self.algebra.mul(self.algebra.read(-1), self)

    def __sub__(self, other: Any) -> Formula:
        return self + -self.algebra.read(other)

    def __rsub__(self, other: Any) -> Formula:
        return self.algebra.read(other) + -self

    def __truediv__(self, other: Any) -> Formula:
        return self.algebra.div(self, self.algebra.read(other))

    def __rtruediv__(self, other: Any) -> Formula:
        return self.algebra.div(self.algebra.read(other), self)

    def __pow__(self, other: Any) -> Formula:
        return self.algebra.pow(self, self.algebra.read(other))

    def __rpow__(self, other: Any) -> Formula:
        return self.algebra.pow(self.algebra.read(other), self)

    def __int__(self) -> int:
        return int(self.number)

    def __float__(self) -> float:
        return float(self.number)

    def __str__(self) -> str:
        return _text(self, DEEP)


def _text(x: Any, deep: int) -> str:
    if not isinstance(x, Formula) or x.op == "symbol":
        return str(x.args[0] if isinstance(x, Formula) else x)
    if x.is_number:
        return str(x.number)
    if not deep:
        return "…"
    args = [_text(a, deep - 1) for a in x.args]
    if x.op in INFIX:
        return f"({INFIX[x.op].join(args)})"
    return f"{x.op}({', '.join(args)})"
