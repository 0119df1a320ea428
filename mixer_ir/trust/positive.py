"""What is above 0 whatever its symbols are, by how a formula is made: its value in the field may still be no square."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixer_ir.trust import field
from mixer_ir.trust.field import Element

if TYPE_CHECKING:
    from mixer_ir.trust.formulas import Formula


def positive(op: str, args: tuple[Any, ...]) -> bool:
    """Whether it can be seen that op(args) is above 0."""
    match op:
        case "exp":
            return bool(field.conjugate(args[0].value) == args[0].value)  # exp(iπ) is real too
        case "add" | "mul" | "div":
            return bool(args[0].positive and args[1].positive)
        case "sqrt" | "pow":
            return bool(args[0].positive)
        case "Max":
            return any(x.positive for x in args)
    return False


def apart(x: Formula, n: int) -> tuple[Element, Element]:
    """(p, q) with x = pⁿ q, and p a product of formulas that are seen to be above 0 though their values are not."""
    assert x.value is not None
    p: Element = 1
    q = x.value
    for z, times in factors(x).items():
        p = field.mul(p, field.power(z, times // n))
        q = field.mul(q, field.power(z, -(times // n) * n))
    return p, q


def factors(x: Formula) -> dict[int, int]:
    """The powers in which such formulas, by value, stand in x as factors; those of all terms in a sum."""
    if x.factors is None:
        x.factors = _factors(x)
    return x.factors


def _factors(x: Formula) -> dict[int, int]:
    match x.op:
        case "mul" | "div":
            made, sign = dict(factors(x.args[0])), 1 if x.op == "mul" else -1
            for z, n in factors(x.args[1]).items():
                made[z] = made.get(z, 0) + sign * n
            return made
        case "pow":
            return {z: n * int(x.args[1].number) for z, n in factors(x.args[0]).items()}
        case "conjugate" | "re" | "im":
            return factors(x.args[0])
    if x.positive and isinstance(x.value, int):
        if field.positive(x.value):
            return {}
        other = pow(x.value, -1, field.P)
        return {x.value: 1} if x.value < other else {other: -1}
    if x.op == "add":
        left, right = map(factors, x.args)
        return {z: n for z, n in left.items() if right.get(z) == n}
    return {}
