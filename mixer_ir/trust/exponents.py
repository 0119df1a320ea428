"""What stands in exponents, worked out: exp(a + b) = exp(a) exp(b), exp(log p) = p, exp(2πi k/n) is a root.

An exponent becomes Σ c · Π g^n over generators g: symbols, exp of a monomial, exp(i x), roots, inverses of sums, and
functions of anything else, which are symbols of their own. Each generator has a value in the field, and so has an
exponential. Numbers are read as the decimals they were written as.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import reduce
from typing import Any

from mixer_ir.trust import field
from mixer_ir.trust.draws import Draws
from mixer_ir.trust.field import Element
from mixer_ir.trust.polynomials import (
    BITS,
    SIMPLE,
    Key,
    Terms,
    add,
    decimal,
    exponents,
    part_of_pi,
    scaled,
    total,
    whole,
)

MIRRORED = ("atom", "log", "sqrt")
"""generators whose conjugate is one of another argument"""
POWERS = 9
"""up to this power of a fraction, a number is known as its logarithm"""
MOST = 4096
"""products of terms that are worked out in an exponent; a longer one is a symbol"""


WORK = 1_200_000
"""formulas and products of terms that are worked out in one proof: about half a minute"""


class TooLarge(Exception):
    """More than `WORK`: a proof that would not end soon."""


class TooLong(ArithmeticError):
    """A product in an exponent of more than `MOST` terms."""


class Exponents(Draws):
    """The generators that have turned up so far with their values, and the polynomials in them."""

    def __init__(self) -> None:
        super().__init__()
        self.index: dict[Any, int] = {}
        self.names: list[Any] = []
        self.values: list[Element] = []
        self.known: dict[Key, Mapping[int, int]] = {}
        self.i = self.generator("i", field.I)
        self.pi = self.generator("pi", self.real("pi"))
        self.units: list[Fraction] = [Fraction(1)]
        self.spent = 0

    def spend(self, work: int) -> None:
        self.spent += work
        if self.spent > WORK:
            raise TooLarge(f"more than {WORK:,} formulas")

    # ------------------------------------------------------------------ generators and values

    def generator(self, name: Any, value: Element) -> Terms:
        """The generator called `name` as a polynomial."""
        if name not in self.index:
            self.index[name] = len(self.names)
            self.names.append(name)
            self.values.append(value)
        return {1 << (BITS * self.index[name]): 1}

    def atom(self, value: Element) -> Terms:
        """What is not looked into, by its value."""
        return self.generator(("atom", value), value)

    def powers(self, key: Key) -> Mapping[int, int]:
        """The exponents in a monomial, by generator."""
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = exponents(key)
        return found

    def value(self, x: Terms) -> Element:
        """The value of a polynomial in the field."""
        made: Element = 0
        for key, c in x.items():
            self.spend(1 + len(self.powers(key)) // 8)
            term: Element = field.number(Fraction(c))
            for g, n in self.powers(key).items():
                term = field.mul(term, field.power(self.values[g], n))
            made = field.add(made, term)
        return made

    # ------------------------------------------------------------------ arithmetic

    def mul(self, x: Terms, y: Terms) -> Terms:
        if len(x) * len(y) > MOST:
            raise TooLong
        self.spend(len(x) * len(y) // 8)
        (x, p), (y, q) = whole(x), whole(y)  # whole numbers are multiplied much faster than fractions
        below, out = p * q, Terms()
        for k, a in x.items():
            for l, b in y.items():
                out[k + l] = out.get(k + l, 0) + a * b
        return self.settled({k: Fraction(c, below) for k, c in out.items() if c})

    def power(self, x: Terms, n: int) -> Terms:
        if n < 0:
            return self.power(self.inverse(x), -n)
        if len(x) == 1:
            ((key, c),) = x.items()
            return self.settled({key * n: c**n})
        out: Terms = {0: 1}
        for _ in range(n):
            out = self.mul(out, x)
        return out

    def inverse(self, x: Terms) -> Terms:
        """1 / x: of a monomial a monomial, of a sum a generator of its own."""
        if not x:
            raise ZeroDivisionError("an inverse of zero")
        if len(x) == 1:
            ((key, c),) = x.items()
            return self.settled({-key: Fraction(1) / c})
        if self.conjugate(x) != x:
            norm = self.mul(x, self.conjugate(x))
            return self.mul(self.conjugate(x), self.inverse(norm))
        lead = max(x)
        if self.conjugate({lead: 1}) != {lead: 1}:
            lead = 0
        c = x.get(lead, x[max(x)])
        shifted: Terms = {k - lead: Fraction(v) / c for k, v in x.items()}
        made = self.generator(("inverse", frozenset(shifted.items())), field.inverse(self.value(shifted)))
        return self.mul({-lead: Fraction(1) / c}, made)

    def conjugate(self, x: Terms) -> Terms:
        """Complex conjugate: symbols and functions are real, i and exp(i x) are turned over."""
        out: Terms = {}
        for key, c in x.items():
            made: Terms = {key: c}
            for g, n in self.powers(key).items():
                kind, value, one = self._kind(g), self.values[g], 1 << (BITS * g)
                if kind == "i" and n % 2:
                    made = scaled(made, -1)
                elif kind == "turn":
                    made = {k - 2 * n * one: v for k, v in made.items()}
                elif kind in MIRRORED and field.conjugate(value) != value:
                    other = self._mirrored(g)
                    made = {k + n * (other - one): v for k, v in made.items()}
            out = add(out, made)
        return out

    def _mirrored(self, g: int) -> Key:
        """The conjugate of a generator that is a complex number of its own."""
        kind, of = self.names[g]
        if kind == "atom":
            (key,) = self.atom(field.conjugate(self.values[g]))
        else:
            mirror = self.conjugate(dict(of))
            (key,) = self.log(mirror) if kind == "log" else self.sqrt(mirror)
        return key

    def settled(self, x: Terms) -> Terms:
        """With i² = −1 and √p² = p."""
        out: Terms = {}
        i = self.index["i"]
        for key, c in x.items():
            powers = self.powers(key)
            if not -1 < powers.get(i, 0) < 2:
                n = powers[i] % 4
                key, c = key - ((powers[i] - n % 2) << (BITS * i)), (-c if n >= 2 else c)
            roots = [g for g, n in powers.items() if not -1 < n < 2 and self._kind(g) == "sqrt"]
            made: Terms = {key: c}
            for g in roots:
                n = powers[g] // 2
                made = {k - (2 * n << (BITS * g)): v for k, v in made.items()}
                made = self.mul(made, self.power(dict(self.names[g][1]), n))
            out = add(out, made)
        return out

    def _kind(self, g: int) -> Any:
        name = self.names[g]
        return name[0] if isinstance(name, tuple) else name

    # ------------------------------------------------------------------ functions

    def sqrt(self, x: Terms) -> Terms:
        of = self.value(x)
        value = field.root(of)
        return self.generator(("sqrt", frozenset(x.items())), self.function("sqrt", (of,)) if value is None else value)

    def log(self, x: Terms) -> Terms:
        """log of a product of exponentials is the sum of what stands in them."""
        if len(x) == 1:
            ((key, c),) = x.items()
            parts = {self.names[g]: n for g, n in self.powers(key).items()}
            if c == 1 and all(isinstance(p, tuple) and p[0] == "exp" and isinstance(p[1], frozenset) for p in parts):
                return total(scaled(dict(p[1]), n * p[2]) for p, n in parts.items())
        if set(x) == {0} and x[0] > 0:
            return {0: decimal(math.log(x[0]))}
        return self.generator(("log", frozenset(x.items())), self.function("log", (self.value(x),)))

    def exp(self, x: Terms) -> Terms:
        """exp Σ c m = Π exp(m)^c; exp(c log p) = p^c for whole c; exp(i x) is a turn."""
        single, times = 0, Fraction(1)  # all single terms at once: a long exponent has many
        rest: list[Terms] = []
        for key, c in x.items():
            made = self._exp_term(key, Fraction(c))
            if len(made) == 1:
                ((k, v),) = made.items()
                single, times = single + k, times * v
            else:
                rest.append(made)
        return reduce(self.mul, rest, self.settled({single: times}))

    def _exp_term(self, key: Key, c: Fraction) -> Terms:
        powers = self.powers(key)
        self.spend(1 + len(powers))
        i = self.index["i"]
        if key == 0:
            return self._exp_number(c)
        rest = key - (powers.get(i, 0) << (BITS * i))
        if i in powers:
            if {rest: 1} == self.pi:
                return self.turn("pi", c)
            if rest == 0 and (half := part_of_pi(c)) is not None:
                return self.turn("pi", half)
        names = [self.names[g] for g in powers]
        if len(names) == 1 and isinstance(names[0], tuple) and names[0][0] == "log" and c.denominator == 1:
            return self.power(dict(names[0][1]), int(c))
        unit, times = self._unit(c)
        (mirror,) = self.conjugate({rest: 1})
        if mirror == rest:
            of = frozenset({(rest, unit)})
            return self.turn(of, times) if i in powers else self._positive(of, times)
        side = 1 if rest < mirror else -1  # exp(m) = exp(Re m) exp(i Im m), exp(i m) = exp(i Re m) exp(−Im m)
        real, imaginary = (("re", min(rest, mirror), unit), ("im", min(rest, mirror), unit))
        if i in powers:
            return self.mul(self.turn(real, times), self._positive(imaginary, -side * times))
        return self.mul(self._positive(real, times), self.turn(imaginary, side * times))

    def _positive(self, of: Any, c: Fraction) -> Terms:
        """exp(c · of), of a real `of`."""
        value = field.fractional(self.positive(of), Fraction(1, c.denominator))
        return self.power(self.generator(("exp", of, Fraction(1, c.denominator)), value), c.numerator)

    def _unit(self, c: Fraction) -> tuple[Fraction, Fraction]:
        """c = unit · times with a small fraction `times`; the unit is 1, or a number met before (as √2 is)."""
        for unit in self.units:
            self.spend(1)
            times = c / unit if unit == 1 else Fraction(float(c / unit)).limit_denominator(SIMPLE)
            if (
                times.denominator <= SIMPLE
                and abs(times) <= SIMPLE
                and abs(float(times * unit - c)) <= 1e-13 * abs(float(c))
            ):
                return unit, times
        self.units.append(c)
        return c, Fraction(1)

    def turn(self, of: Any, c: Fraction) -> Terms:
        """exp(i c · of)."""
        value: Element
        if of == "pi":
            value = field.turn(Fraction(1, 2 * c.denominator))
        else:
            x = field.fractional(self.positive(("turn", of)), Fraction(1, c.denominator))
            value = (x, 0, pow(x, -1, field.P), 0)
        return self.power(self.generator(("turn", of, Fraction(1, c.denominator)), value), c.numerator)

    def _exp_number(self, c: Fraction) -> Terms:
        """exp of a number: a fraction's power, if that is what the number is the logarithm of."""
        x = float(c)
        if x == 0:
            return {0: 1}
        for n in range(1, POWERS):
            base = Fraction(math.exp(x / n)).limit_denominator(SIMPLE) if abs(x / n) < math.log(SIMPLE) else 0
            if base and abs(n * math.log(base) - x) <= 1e-12 * abs(x):
                return {0: base**n}
        return self.generator(("number", c), field.fractional(self.positive("e"), c))
