"""Exact equality of formulas: Laurent polynomials over the rationals in symbols, exponentials and other functions.

A formula becomes Σ c · Π g^n over generators g: symbols, exp of a monomial (so that exp(a + b) = exp(a) exp(b)),
exp(i x), inverses of sums, and functions of anything else, which are symbols of their own. Two formulas are equal
when their difference, with all inverses cleared, has no terms: for rational functions of these generators that is a
decision, not a sample. Numbers are read as the decimals they were written as.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy

from mixer_ir.trust.polynomials import (
    BITS,
    LONG,
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

UNORDERED = ("Max", "Min", "And", "Or", "Equality", "Unequality")
CONSTANTS = {float(c): c for c in (1 / sympy.sqrt(2), 2 / sympy.sqrt(sympy.pi))}
"""numbers that a float is read as, beside decimals"""


class Ring:
    """The generators that have turned up so far, and the polynomials in them."""

    def __init__(self) -> None:
        self.index: dict[Any, int] = {}
        self.names: list[Any] = []
        self.memo: dict[Any, Terms] = {}
        self.exponents: dict[Key, Mapping[int, int]] = {}
        self.plain: dict[Key, bool] = {}
        self.i = self.generator("i")
        self.bases: list[tuple[float, Fraction]] = []
        self.units: list[Fraction] = [Fraction(1)]

    # ------------------------------------------------------------------ generators

    def generator(self, name: Any) -> Terms:
        """The generator called `name` as a polynomial."""
        if name not in self.index:
            self.index[name] = len(self.names)
            self.names.append(name)
        return {1 << (BITS * self.index[name]): 1}

    def powers(self, key: Key) -> Mapping[int, int]:
        """The exponents in a monomial, by generator."""
        known = self.exponents.get(key)
        if known is None:
            known = self.exponents[key] = exponents(key)
        return known

    # ------------------------------------------------------------------ arithmetic

    def mul(self, x: Terms, y: Terms) -> Terms:
        if len(x) > len(y):
            x, y = y, x
        below = 1
        if len(x) > 1:  # whole numbers are multiplied much faster than fractions
            (x, p), (y, q) = whole(x), whole(y)
            below = p * q
        out: Terms = {}
        get = out.get
        for k, a in x.items():
            for l, b in y.items():
                out[k + l] = get(k + l, 0) + a * b
        if below == 1:
            return {k: c for k, c in out.items() if c}
        return {k: Fraction(c, below) for k, c in out.items() if c}

    def power(self, x: Terms, n: int) -> Terms:
        if n < 0:
            return self.power(self.inverse(x), -n)
        if n == 1:
            return x
        out: Terms = {0: 1}
        for _ in range(n):
            out = self.mul(out, x)
        return out

    def inverse(self, x: Terms) -> Terms:
        """1 / x: of a monomial a monomial, of a sum a generator of its own."""
        x = self.settled(x)
        if not x:
            raise ZeroDivisionError("an inverse of zero")
        if len(x) == 1:
            ((key, c),) = x.items()
            return {-key: Fraction(1) / c}
        if self.conjugate(x) != x:
            whole = self.mul(x, self.conjugate(x))
            return self.mul(self.conjugate(x), self.inverse(whole))
        lead = min(x)
        c = x[lead]
        shifted = {k - lead: Fraction(v) / c for k, v in x.items()}
        made = self.generator(("inverse", frozenset(shifted.items())))
        return self.mul({-lead: Fraction(1) / c}, made)

    def conjugate(self, x: Terms) -> Terms:
        """Complex conjugate: symbols and functions are real, i and exp(i x) are turned over."""
        out: Terms = {}
        for key, c in x.items():
            for g, n in self.powers(key).items():
                name = self.names[g]
                if name == "i":
                    c = -c if n % 2 else c
                elif isinstance(name, tuple) and name[0] == "turn":
                    key -= 2 * n << (BITS * g)
            out[key] = out.get(key, 0) + c
        return out

    # ------------------------------------------------------------------ reading a formula

    def read(self, x: Any) -> Terms:
        """A SymPy expression (or a Python number) as a polynomial."""
        if isinstance(x, sympy.Basic):
            if x not in self.memo:
                self.memo[x] = self._short(self.settled(self._read(x)))
            return self.memo[x]
        return self._number(x)

    def _short(self, x: Terms) -> Terms:
        """x with roots of unity in their least powers, where sums of them cancel; i is kept."""
        roots = self._roots(x)
        return x if not roots else self._rooted(x if len(roots) == 1 else self._commensurate(x), with_i=False)

    def _number(self, x: Any) -> Terms:
        if isinstance(x, complex):
            return add(self._number(x.real), self.mul(self.i, self._number(x.imag)))
        for value, constant in CONSTANTS.items():
            if isinstance(x, float) and abs(abs(x) - value) < 1e-14:
                return scaled(self.read(constant), 1 if x > 0 else -1)
        number = decimal(x) if isinstance(x, float) else Fraction(x)
        if number.denominator > LONG:  # a float written out exactly
            number = decimal(float(number))
        return {0: number} if number else {}

    def _read(self, x: Any) -> Terms:
        match x:
            case sympy.Rational():
                return self._number(Fraction(int(x.p), int(x.q)))
            case sympy.Float():
                return self._number(float(x))
            case sympy.Symbol():
                return self.generator(x.name)
            case sympy.Add():
                total: Terms = {}
                for part in x.args:
                    total = add(total, self.read(part))
                return total
            case sympy.Mul():
                made: Terms = {0: 1}
                for part in sorted(x.args, key=lambda p: len(self.read(p))):
                    made = self.mul(made, self.read(part))
                return made
            case sympy.Pow():
                return self._pow(x.base, x.exp)
        if x is sympy.I:
            return self.i
        if x is sympy.E:
            return self.exp({0: 1})
        if x is sympy.pi:
            return self.generator("pi")
        if x is sympy.true or x is sympy.false:
            return {0: 1} if x else {}
        return self._function(x)

    def _pow(self, base: Any, exponent: Any) -> Terms:
        if base is sympy.E:
            return self.exp(self.read(exponent))
        if exponent.is_Integer:
            return self.power(self.read(base), int(exponent))
        if exponent.is_Rational and exponent.q == 2:
            n, inside = int(exponent.p), self.read(base)
            if n < 0 and set(inside) == {0}:  # of a number, so that 1/√2 is √2/2
                return self.mul(self.power(self._sqrt(inside), -n), self.power(inside, n))
            return self.power(self._sqrt(inside), n)
        if base.is_number and base.is_positive:
            return self.exp(self.mul(self.read(exponent), self._number(math.log(float(base)))))
        return self.exp(self.mul(self.read(exponent), self._log(self.read(base))))

    def _sqrt(self, x: Terms) -> Terms:
        if x in ({0: 2}, {0: 3}):
            turn = self.turn("pi", Fraction(1, 4) if x == {0: 2} else Fraction(1, 6))
            return add(turn, self.power(turn, -1))
        return self.generator(("sqrt", frozenset(x.items())))

    def _function(self, x: Any) -> Terms:
        name = type(x).__name__
        args = [self.read(a) for a in x.args]
        if (meaning := FUNCTIONS.get(name)) is not None:
            return meaning(self, *args)
        keys = [self.key(a) for a in args]
        return self.generator((name, frozenset(keys)) if name in UNORDERED else (name, *keys))

    def _log(self, x: Terms) -> Terms:
        if len(x) == 1:  # a monomial of exponentials: log exp(a) = a
            ((key, c),) = x.items()
            parts = {self.names[g]: n for g, n in self.powers(key).items()}
            if c == 1 and all(isinstance(p, tuple) and p[0] == "exp" for p in parts):
                return total(scaled(dict(p[1]), n * p[2]) for p, n in parts.items())
        if set(x) == {0} and x[0] > 0:
            return self._number(math.log(float(x[0])))
        return self.generator(("log", frozenset(x.items())))

    # ------------------------------------------------------------------ exponentials

    def exp(self, x: Terms) -> Terms:
        """exp Σ c m = Π exp(m)^c; exp(c log p) = p^c for whole c; exp(i x) is a turn."""
        made: Terms = {0: 1}
        for key, c in self.settled(x).items():
            made = self.mul(made, self._exp_term(key, Fraction(c)))
        return made

    def _exp_term(self, key: Key, c: Fraction) -> Terms:
        powers = self.powers(key)
        i = self.index["i"]
        if key == 0:
            return self._exp_number(float(c))
        if i in powers:
            rest = key - (powers[i] << (BITS * i))
            if self._is_pi(rest):
                return self.turn("pi", c)
            if rest == 0 and (half := part_of_pi(c)) is not None:
                return self.turn("pi", half)
            unit, times = self._unit(c)
            return self.turn(frozenset({(rest, unit)}), times)
        names = [self.names[g] for g in powers]
        if len(names) == 1 and isinstance(names[0], tuple) and names[0][0] == "log" and c.denominator == 1:
            return self.power(dict(names[0][1]), int(c))
        unit, times = self._unit(c)
        made = self.generator(("exp", frozenset({(key, unit)}), Fraction(1, times.denominator)))
        return self.power(made, times.numerator)

    def _unit(self, c: Fraction) -> tuple[Fraction, Fraction]:
        """c = unit · times with a small fraction `times`; the unit is 1, or a number met before (as √2 is)."""
        for unit in self.units:
            times = c / unit if unit == 1 else Fraction(float(c / unit)).limit_denominator(SIMPLE)
            if times.denominator <= SIMPLE and abs(float(times * unit - c)) <= 1e-13 * abs(float(c)):
                return unit, times
        self.units.append(c)
        return c, Fraction(1)

    def _is_pi(self, key: Key) -> bool:
        return [(self.names[g], n) for g, n in self.powers(key).items()] == [("pi", 1)]

    def turn(self, of: Any, c: Fraction) -> Terms:
        """exp(i c · of)."""
        return self.power(self.generator(("turn", of, Fraction(1, c.denominator))), c.numerator)

    def _exp_number(self, x: float) -> Terms:
        """exp of a number: a whole power of the first such number it is a multiple of."""
        for base, value in self.bases:
            n = x / base
            if abs(n - round(n)) < 1e-9 and abs(n) < 1000:
                return {0: value ** round(n)}
        if x == 0:
            return {0: 1}
        self.bases.append((x, decimal(math.exp(x))))
        return {0: self.bases[-1][1]}

    # ------------------------------------------------------------------ relations and equality

    def settled(self, x: Terms) -> Terms:
        """With i² = −1, √p² = p, and p · (1/p) left for `cleared`."""
        out: Terms = {}
        i = self.index["i"]
        for key, c in x.items():
            if self._plain(key):
                out[key] = out.get(key, 0) + c
                continue
            powers = self.powers(key)
            if not -1 < powers.get(i, 0) < 2:
                n = powers[i] % 4
                key, c = key - ((powers[i] - n % 2) << (BITS * i)), (-c if n >= 2 else c)
            roots = [g for g, n in powers.items() if not -1 < n < 2 and self._kind(g) == "sqrt"]
            if not roots:
                out[key] = out.get(key, 0) + c
                continue
            made: Terms = {key: c}
            for g in roots:
                whole = powers[g] // 2
                made = self.mul({k - (2 * whole << (BITS * g)): v for k, v in made.items()}, {0: 1})
                made = self.mul(made, self.power(dict(self.names[g][1]), whole))
            out = add(out, self.settled(made))
        return {k: c for k, c in out.items() if c}

    def _plain(self, key: Key) -> bool:
        """Whether there is no power of i or of a root in a monomial that is to be worked out."""
        known = self.plain.get(key)
        if known is None:
            i, powers = self.index["i"], self.powers(key)
            known = all(-1 < n < 2 or not (g == i or self._kind(g) == "sqrt") for g, n in powers.items())
            self.plain[key] = known
        return known

    def present(self, x: Terms) -> set[int]:
        """The generators in x."""
        return set().union(*map(self.powers, x))

    def _kind(self, g: int) -> Any:
        name = self.names[g]
        return name[0] if isinstance(name, tuple) else name

    def cleared(self, x: Terms) -> Terms:
        """x times the sums that its terms divide by, and a number: zero exactly if x is."""
        return self._cleared(x)[0]

    def fraction(self, x: Terms) -> tuple[Terms, dict[int, int]]:
        """(numerator, the generators of inverses with their powers), the newest inverses cleared first."""
        above, below, times = self._cleared(x)
        return scaled(above, Fraction(1, times)), below

    def _cleared(self, x: Terms) -> tuple[Terms, dict[int, int], int]:
        """(numerator times a number, the generators of inverses with their powers, that number): in whole numbers."""
        x, times = whole(self._commensurate(self.settled(x)))
        below: dict[int, int] = {}
        while True:
            present = [g for g in self.present(x) if self._kind(g) == "inverse"]
            if not present:
                return self._rooted(x, with_i=True), below, times
            g = max(present)
            degree = max(self.powers(key).get(g, 0) for key in x)
            below[g] = below.get(g, 0) + degree
            p, more = whole(dict(self.names[g][1]))
            times *= more**degree
            gathered: dict[int, Terms] = {}
            for key, c in x.items():
                n = self.powers(key).get(g, 0)
                gathered.setdefault(n, {})[key - (n << (BITS * g))] = c * more**n
            x = total(self.mul(part, self.power(p, degree - n)) for n, part in gathered.items())
            x = self._commensurate(self.settled(x))

    def key(self, x: Terms) -> Any:
        """The same for formulas that are written differently."""
        above, below = self.fraction(x)
        return frozenset(above.items()), frozenset(below.items())

    def absolute(self, x: Terms) -> Terms:
        """|x|, with what is positive, and every common factor, taken out of it."""
        above, below = self.fraction(x)
        if not above:
            return {}
        made: Terms = {0: 1}
        for g, n in below.items():
            one: Terms = {1 << (BITS * g): 1}
            p = dict(self.names[g][1])
            made = self.mul(made, self.power(one if self._positive(p) else self._magnitude(one), n))
        powers = [self.powers(key) for key in above]
        for g in sorted({g for row in powers for g in row}):
            n = min(row.get(g, 0) for row in powers)
            if n:
                one = {1 << (BITS * g): 1}
                above = {key - (n << (BITS * g)): c for key, c in above.items()}
                plain = self._positive(one) or n % 2 == 0
                made = self.mul(made, self.power(one if plain else self._magnitude(one), n))
        lead = Fraction(above[min(above)])
        rest: Terms = {key: c / lead for key, c in above.items()}
        return self.mul(scaled(made, max(lead, -lead)), rest if self._positive(rest) else self._magnitude(rest))

    def _magnitude(self, x: Terms) -> Terms:
        return self.generator(("Abs", frozenset(x.items())))

    def _positive(self, x: Terms) -> bool:
        """Whether x is a sum of positive numbers times exponentials."""
        return all(c > 0 and all(self._kind(g) == "exp" for g in self.powers(key)) for key, c in x.items())

    def _commensurate(self, x: Terms) -> Terms:
        """exp(m/2) and exp(m/3) both as powers of exp(m/6)."""
        powers = {g: self.names[g] for g in self.present(x) if self._kind(g) in ("exp", "turn")}
        steps: dict[Any, int] = {}
        for name in powers.values():
            steps[name[:2]] = math.lcm(steps.get(name[:2], 1), name[2].denominator)
        moved: dict[int, Key] = {}  # what a generator that is too coarse is replaced by, less itself
        for g, name in powers.items():
            fine = steps[name[:2]]
            if name[2].denominator != fine:
                (unit,) = self.generator((*name[:2], Fraction(1, fine)))
                moved[g] = (fine // name[2].denominator) * unit - (1 << (BITS * g))
        if not moved:
            return x
        out: Terms = {}
        for key, c in x.items():
            key += sum(n * moved[g] for g, n in self.powers(key).items() if g in moved)
            out[key] = out.get(key, 0) + c
        return {k: c for k, c in out.items() if c}

    def _roots(self, x: Terms) -> list[int]:
        """The roots of unity in x."""
        return [g for g in self.present(x) if self._kind(g) == "turn" and self.names[g][1] == "pi"]

    def _rooted(self, x: Terms, *, with_i: bool) -> Terms:
        """exp(i π / L) is a root of its cyclotomic polynomial, and i is exp(i π / 2)."""
        if not (used := self._roots(x)):
            return x
        (g,) = used
        L = math.lcm(self.names[g][2].denominator, 2 if with_i else 1)
        scale = L // self.names[g][2].denominator
        i, modulus = self.index["i"], cyclotomic(2 * L)
        groups: dict[Key, dict[int, Fraction | int]] = {}
        for key, c in x.items():
            powers = self.powers(key)
            n, m = powers.get(g, 0), powers.get(i, 0) if with_i else 0
            rest = key - (n << (BITS * g)) - (m << (BITS * i))
            at = (n * scale + m * L // 2) % (2 * L)
            row = groups.setdefault(rest, {})
            row[at] = row.get(at, 0) + c
        out: Terms = {}
        for rest, row in groups.items():
            dense = [row.get(n, 0) for n in range(2 * L)]
            for top in range(2 * L - 1, len(modulus) - 2, -1):
                c = dense[top]
                for j, a in enumerate(modulus):
                    dense[top - len(modulus) + 1 + j] -= c * a
            out |= {rest + (n << (BITS * g)): c for n, c in enumerate(dense) if c}
        return out

    def equal(self, x: Any, y: Any) -> bool:
        """Whether two formulas are the same function of their symbols."""
        a, b = self.read(x), self.read(y)
        return a == b or not self.cleared(add(a, scaled(b, -1)))


@lru_cache(maxsize=64)
def cyclotomic(n: int) -> list[int]:
    """The coefficients of the polynomial whose roots are the primitive n-th roots of unity, the constant one first."""
    z = sympy.Symbol("z")
    return [int(c) for c in sympy.Poly(sympy.cyclotomic_poly(n, z), z).all_coeffs()][::-1]


def _sigmoid(r: Ring, x: Terms) -> Terms:
    return r.inverse(add({0: 1}, r.exp(scaled(x, -1))))


def _softplus(r: Ring, x: Terms) -> Terms:
    return r._log(add({0: 1}, r.exp(x)))


def _cos(r: Ring, x: Terms) -> Terms:
    turn = r.exp(r.mul(r.i, x))
    return scaled(add(turn, r.conjugate(turn)), Fraction(1, 2))


def _sin(r: Ring, x: Terms) -> Terms:
    turn = r.exp(r.mul(r.i, x))
    return r.mul(scaled(add(turn, scaled(r.conjugate(turn), -1)), Fraction(-1, 2)), r.i)


def _real(r: Ring, x: Terms) -> Terms:
    return scaled(add(x, r.conjugate(x)), Fraction(1, 2))


def _imag(r: Ring, x: Terms) -> Terms:
    return r.mul(scaled(add(x, scaled(r.conjugate(x), -1)), Fraction(-1, 2)), r.i)


FUNCTIONS: dict[str, Callable[..., Terms]] = {
    "Abs": lambda r, x: r.absolute(x) if r.conjugate(x) == x else r._sqrt(r.mul(x, r.conjugate(x))),
    "exp": lambda r, x: r.exp(x),
    "log": lambda r, x: r._log(x),
    "log1p": lambda r, x: r._log(add({0: 1}, x)),
    "expm1": lambda r, x: add(r.exp(x), {0: -1}),
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "cos": _cos,
    "sin": _sin,
    "re": _real,
    "im": _imag,
    "real": _real,
    "imag": _imag,
    "conjugate": lambda r, x: r.conjugate(x),
    "conj": lambda r, x: r.conjugate(x),
}
