"""What is above 0 whatever its symbols are, by how a formula is made: its value in the field may still be no square.

So may that of |z|², of a sum z: such z are factors by themselves, so that |z w| = |z| |w|.
"""

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
            return bool(args[0].real)  # exp(iπ) is real too
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


def modulus(x: Formula) -> Element | None:
    """|x| of a complex x, the root of x x̄; None where that is none of the field's real numbers."""
    assert x.value is not None
    made, rest = _made(x.value, moduli(x))
    root = field.root(_norm(rest))
    return None if root is None else field.mul(made, root)


def moduli(x: Formula) -> dict[Element, int]:
    """The powers in which numbers z whose |z|² is no square, by value, stand in x as factors."""
    if x.moduli is None:
        x.moduli = _moduli(x)
    return x.moduli


def _moduli(x: Formula) -> dict[Element, int]:
    found: dict[Element, int] = {}
    match x.op:
        case "mul" | "div":
            found = dict(moduli(x.args[0]))
            for z, n in moduli(x.args[1]).items():
                found[z] = found.get(z, 0) + (n if x.op == "mul" else -n)
        case "pow":
            found = {z: n * int(x.args[1].number) for z, n in moduli(x.args[0]).items()}
        case "conjugate":
            found = {field.conjugate(z): n for z, n in moduli(x.args[0]).items()}
        case "add":
            left, right = map(moduli, x.args)
            found = {z: n for z, n in left.items() if right.get(z) == n}
    assert x.value is not None
    _, rest = _made(x.value, found)
    norm = _norm(rest)
    if isinstance(norm, int) and norm and not field.positive(norm):
        found[rest] = found.get(rest, 0) + 1
    return found


def _made(x: Element, of: dict[Element, int]) -> tuple[Element, Element]:
    """(Π |z|ⁿ, x / Π zⁿ)."""
    made: Element = 1
    for z, n in of.items():
        root = field.root(_norm(z))
        assert root is not None
        made = field.mul(made, field.power(root, n))
        x = field.mul(x, field.power(z, -n))
    return made, x


def _norm(x: Element) -> Element:
    return field.mul(x, field.conjugate(x))
