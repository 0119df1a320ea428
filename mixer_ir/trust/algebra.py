"""What computes with formulas: two that are equal in a finite field are the same function of their symbols.

Every symbol stands for a random number of the field (field.py), and nothing is multiplied out. What rational
functions, roots, exponentials, conjugates and |·| of real numbers obey, the values obey exactly; what stands in
exponents is worked out (exponents.py). All other functions have a random value for each value of their arguments;
so have roots and logs of complex numbers, which have branches. A complex symbol is a number and its conjugate's.
Formulas that are equal by these laws have equal values; others have equal values by chance, about their degree in 2¹²⁷.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mixer_ir.trust import field
from mixer_ir.trust.comparisons import Comparisons
from mixer_ir.trust.exponents import Exponents, TooLong
from mixer_ir.trust.field import Element
from mixer_ir.trust.formulas import Formula
from mixer_ir.trust.polynomials import LONG, SIMPLE, Terms, add, decimal, scaled
from mixer_ir.trust.positive import apart, modulus


class Algebra(Comparisons):
    """Formulas over one choice of random numbers. Functions have SymPy's names, so that either can be computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.exponents = Exponents()
        self.known: dict[Element, Terms] = {}
        self.small: dict[int, Formula] = {}
        self.small = {n: self.read(n) for n in range(-1, 3)}
        self.nan = Formula(self, "number", (), None, math.nan)
        self.oo = Formula(self, "number", (), None, math.inf)
        self.I = Formula(self, "i", (), field.I)
        self.pi = self._of_terms("pi", (), self.exponents.pi)

    # ------------------------------------------------------------------ leaves

    def Symbol(self, name: str, *, complex: bool = False) -> Formula:
        """A free real number, or a complex one."""
        draw = self.exponents.complex if complex else self.exponents.real
        return Formula(self, "symbol", (name,), draw(("symbol", name)))

    def read(self, x: Any) -> Formula:
        """A number as a formula: a float is the decimal that it was written as, or the constant that it is."""
        if isinstance(x, Formula):
            return x
        if type(x) is int and x in self.small:
            return self.small[x]
        if isinstance(x, complex):
            return self.add(self.read(x.real), self.mul(self.I, self.read(x.imag)))
        if isinstance(x, float):
            if not math.isfinite(x):
                return Formula(self, "number", (), None, x)
            for c in (2, math.pi / 2):  # 1/√2 and 2/√π
                if abs(abs(x) - 1 / math.sqrt(c)) < 1e-14:
                    root = self.sqrt(self.read(2) if c == 2 else self.div(self.pi, self.read(4)))
                    return self.div(self.read(int(math.copysign(1, x))), root)
        number = Fraction(x)
        if isinstance(x, float):
            simple = number.limit_denominator(10**6)
            power = Fraction(math.log(abs(x)) if x else 0).limit_denominator(SIMPLE)
            if float(simple) != x and abs(math.exp(power) - abs(x)) <= 4e-16 * abs(x):  # exp was worked out in a float
                return self.mul(self.read(1 if x > 0 else -1), self.exp(self.read(power)))
            number = simple if float(simple) == x else decimal(x)
        if number.denominator > LONG:  # a float written out exactly
            number = decimal(float(number))
        return Formula(self, "number", (), field.number(number), number)

    sympify = Integer = read

    def Rational(self, p: int, q: int) -> Formula:
        return self.read(Fraction(int(p), int(q)))

    # ------------------------------------------------------------------ arithmetic

    def add(self, x: Formula, y: Formula) -> Formula:
        if x.is_number and y.is_number:
            return self.read(x.number + y.number)
        if not (x.finite and y.finite):
            return self._infinite(x, y)
        if x.number == 0 or y.number == 0:
            return y if x.number == 0 else x
        return Formula(self, "add", (x, y), field.add(_v(x), _v(y)))

    def _infinite(self, x: Formula, y: Formula) -> Formula:
        """x + y, where one is an infinity or undefined."""
        if x.finite or y.finite:
            return y if x.finite else x
        return self.read(x.number + y.number)

    def mul(self, x: Formula, y: Formula) -> Formula:
        if x.number == 0 or y.number == 0:
            return self.read(0)  # a masked entry may be infinite
        if x.is_number and y.is_number:
            return self.read(x.number * y.number)
        if not (x.finite and y.finite):
            return self.nan
        if x.number == 1 or y.number == 1:
            return y if x.number == 1 else x
        return Formula(self, "mul", (x, y), field.mul(_v(x), _v(y)))

    def div(self, x: Formula, y: Formula) -> Formula:
        if y.number == 0 or y.value == 0 or not y.finite:
            return self.read(0) if x.finite and y.number in (math.inf, -math.inf) else self.nan
        if x.number == 0 or y.number == 1:
            return x
        if x.finite and x.is_number and y.is_number:
            return self.read(x.number / y.number)
        if not x.finite:
            return self.nan
        try:
            return Formula(self, "div", (x, y), field.mul(_v(x), field.inverse(_v(y))))
        except ZeroDivisionError:
            return self.nan

    def pow(self, x: Formula, y: Formula) -> Formula:
        if y.number is not None and y.finite:
            c = Fraction(y.number)
            if c.denominator == 1 and x.finite:
                if x.is_number and (x.number != 0 or c >= 0):
                    return self.read(x.number ** int(c))
                if x.value == 0 and c < 0:
                    return self.nan
                return Formula(self, "pow", (x, y), field.power(_v(x), int(c)))
            if c.denominator == 2:
                return self.pow(self.sqrt(x), self.read(c.numerator))
        return self.exp(self.mul(y, self.log(x)))

    # ------------------------------------------------------------------ functions with laws

    def exp(self, given: Any) -> Formula:
        x = self.read(given)
        if not x.finite:
            return {math.inf: self.oo, -math.inf: self.read(0)}.get(x.number, self.nan)
        return self._of_terms("exp", (x,), self.exponents.exp(self.terms(x)))

    def log(self, given: Any) -> Formula:
        x = self.read(given)
        if not x.finite or x.number == 0:
            return {math.inf: self.oo, 0: -self.oo}.get(x.number, self.nan)
        return self._of_terms("log", (x,), self.exponents.log(self.terms(x)))

    def sqrt(self, given: Any) -> Formula:
        x = self.read(given)
        if not x.finite or x.number in (0, 1):
            return x
        if x.number is not None and x.number > 0:
            n = Fraction(x.number)
            p, q = math.isqrt(n.numerator), math.isqrt(n.denominator)
            if p * p == n.numerator and q * q == n.denominator:
                return self.read(Fraction(p, q))
        out, rest = apart(x, 2)
        value = field.root(rest)
        if value is None:
            value = self.exponents.function("sqrt", (rest,))
        return Formula(self, "sqrt", (x,), field.mul(out, value))

    def Abs(self, given: Any) -> Formula:
        x = self.read(given)
        if x.is_number:
            return self.read(abs(x.number))
        if x.positive:
            return x
        if isinstance(x.value, int):
            out, rest = apart(x, 1)
            negative = isinstance(rest, int) and rest != 0 and not field.positive(rest)
            return Formula(self, "abs", (x,), field.mul(out, field.mul(rest, field.P - 1 if negative else 1)))
        found = modulus(x)
        return Formula(self, "abs", (x,), self.exponents.function("abs", (x.key,)) if found is None else found)

    def conjugate(self, given: Any) -> Formula:
        x = self.read(given)
        if isinstance(x.value, int) or not x.finite:
            return x
        return Formula(self, "conjugate", (x,), field.conjugate(_v(x)))

    def re(self, given: Any, evaluate: bool = True) -> Formula:
        x = self.read(given)
        if isinstance(x.value, int) or not x.finite:
            return x
        half = field.number(Fraction(1, 2))
        return Formula(self, "re", (x,), field.mul(half, field.add(_v(x), field.conjugate(_v(x)))))

    def im(self, given: Any, evaluate: bool = True) -> Formula:
        x = self.read(given)
        if isinstance(x.value, int) or not x.finite:
            return self.read(0)
        minus = field.mul(field.P - 1, field.conjugate(_v(x)))
        under = field.inverse(field.mul(2, field.I))
        return Formula(self, "im", (x,), field.mul(under, field.add(_v(x), minus)))

    def cos(self, x: Any) -> Formula:
        turn = self.exp(self.I * x)
        return (turn + 1 / turn) / 2

    def sin(self, x: Any) -> Formula:
        turn = self.exp(self.I * x)
        return (turn - 1 / turn) / (2 * self.I)

    # ------------------------------------------------------------------ the largest

    def Max(self, *xs: Any) -> Formula:
        """In no order, each once; numbers are compared."""
        flat: dict[Any, Formula] = {}
        for x in map(self.read, xs):
            for part in x.args if x.op == "Max" else (x,):
                flat.setdefault(part.key, part)
        numbers = [x for x in flat.values() if x.is_number]
        rest = [x for x in flat.values() if not x.is_number]
        if numbers:
            top = max(numbers, key=lambda x: x.number)
            rest += [top] if top.number != -math.inf or not rest else []
        if len(rest) == 1 or any(x.number == math.inf for x in rest):
            return rest[-1]
        return Formula(self, "Max", tuple(rest), self.exponents.real(("Max", frozenset(x.key for x in rest))))

    def Min(self, *xs: Any) -> Formula:
        return -self.Max(*(-self.read(x) for x in xs))

    # ------------------------------------------------------------------ functions without laws

    def sign(self, given: Any) -> Formula:
        x = self.read(given)
        return self._plain("sign", lambda n: (n > 0) - (n < 0), x) if x.real else x / self.Abs(x)

    def floor(self, x: Any) -> Formula:
        return self._plain("floor", math.floor, x)

    def tanh(self, x: Any) -> Formula:
        return self._plain("tanh", None, x)

    def erf(self, x: Any) -> Formula:
        return self._plain("erf", None, x)

    def Mod(self, x: Any, y: Any) -> Formula:
        return self._plain("Mod", lambda a, b: a % b, x, y)

    def _plain(self, name: str, known: Callable[..., Any] | None, *xs: Any) -> Formula:
        """Of numbers what is known of them; else a symbol of its own for every value of its arguments."""
        args = tuple(map(self.read, xs))
        if known is not None and all(a.is_number and a.finite for a in args):
            return self.read(known(*(a.number for a in args)))
        if known is None and args[0].number == 0:
            return args[0]  # an odd function
        return Formula(self, name, args, self.exponents.function(name, tuple(a.key for a in args)))

    # ------------------------------------------------------------------ exponents

    def _of_terms(self, op: str, args: tuple[Formula, ...], terms: Terms) -> Formula:
        if not terms or set(terms) == {0}:
            return self.read(Fraction(terms.get(0, 0)))
        made = Formula(self, op, args, self.exponents.value(terms))
        made.terms = terms
        return made

    def terms(self, x: Formula) -> Terms:
        """A formula multiplied out, for an exponent: as the first of its value was, or by value if that is too long."""
        if x.terms is None and x.finite and not x.is_number:
            x.terms = self.known.get(_v(x))
        if x.terms is None:
            try:
                x.terms = self._terms(x)
            except TooLong:
                x.terms = self.exponents.atom(_v(x))
            self.known[_v(x)] = x.terms
        return x.terms

    def _terms(self, x: Formula) -> Terms:
        ring = self.exponents
        if x.is_number:
            return {0: x.number} if x.number else {}
        match x.op, x.args:
            case "i", _:
                return ring.i
            case "add", (a, b):
                return add(self.terms(a), self.terms(b))
            case "mul", (a, b):
                return ring.mul(self.terms(a), self.terms(b))
            case "div", (a, b):
                return ring.mul(self.terms(a), ring.inverse(self.terms(b)))
            case "pow", (a, n):
                return ring.power(self.terms(a), int(n.number))
            case "sqrt", (a,):
                return ring.sqrt(self.terms(a))
            case "conjugate", (a,):
                return ring.conjugate(self.terms(a))
            case "re", (a,):
                return scaled(add(self.terms(a), ring.conjugate(self.terms(a))), Fraction(1, 2))
            case "im", (a,):
                apart = add(self.terms(a), scaled(ring.conjugate(self.terms(a)), -1))
                return ring.mul(scaled(apart, Fraction(-1, 2)), ring.i)
        return ring.atom(_v(x))


def _v(x: Formula) -> Element:
    assert x.value is not None
    return x.value
