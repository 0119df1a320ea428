"""Positions along axes as sums Σ coefficient · variable + constant, with the quotients that splitting an axis needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variable:
    """A whole number 0 … size − 1 in the emitted text.

    needs   the loop variables that it hangs on; itself, if it is one
    whole   a loop that cannot run as two
    """

    text: str
    size: int
    needs: frozenset[str] = frozenset()
    whole: bool = False


class Cut(Exception):
    """A loop variable has to run as two, the inner one over `inner` positions, for an index to have a quotient."""

    def __init__(self, text: str, inner: int) -> None:
        super().__init__(f"{text} in pieces of {inner}")
        self.text, self.inner = text, inner


@dataclass(frozen=True, slots=True)
class Index:
    """Σ coefficient · variable + constant; the terms are sorted, so that equal sums are equal."""

    terms: tuple[tuple[Variable, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(variable: Variable) -> Index:
        return Index(((variable, 1),)) if variable.size > 1 else Index()

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.constant + other)
        total = dict(self.terms)
        for variable, n in other.terms:
            total[variable] = total.get(variable, 0) + n
        terms = sorted(((v, n) for v, n in total.items() if n), key=lambda term: term[0].text)
        return Index(tuple(terms), self.constant + other.constant)

    def __mul__(self, factor: int) -> Index:
        if factor == 0:
            return Index()
        return Index(tuple((v, n * factor) for v, n in self.terms), self.constant * factor)

    def __sub__(self, other: Index) -> Index:
        return self + other * -1

    @property
    def needs(self) -> frozenset[str]:
        """The loop variables that it hangs on."""
        return frozenset().union(*(v.needs for v, _ in self.terms))

    @property
    def least(self) -> int:
        return self.constant + sum(min(0, n * (v.size - 1)) for v, n in self.terms)

    @property
    def most(self) -> int:
        return self.constant + sum(max(0, n * (v.size - 1)) for v, n in self.terms)

    def divided(self, n: int) -> tuple[Index, Index]:
        """(quotient, remainder) by n.

        Raises Cut where one loop variable, run as two, would make them sums again.
        """
        whole = Index(tuple((v, c // n) for v, c in self.terms if c % n == 0), self.constant // n)
        rest = Index(tuple((v, c) for v, c in self.terms if c % n), self.constant % n)
        below = -(rest.least // n) if rest.least < 0 else 0  # the text's division is towards zero
        whole, rest = whole + -below, rest + below * n
        if 0 <= rest.least and rest.most < n:
            return whole, rest
        if len(rest.terms) == 1 and abs(rest.terms[0][1]) == 1:
            variable = rest.terms[0][0]
            if (
                not variable.whole
                and variable.needs == {variable.text}
                and variable.size > n
                and variable.size % n == 0
            ):
                raise Cut(variable.text, n)
        text = str(rest)
        quotient = Variable(f"(({text}) / {n})", rest.most // n + 1, rest.needs)
        remainder = Variable(f"(({text}) % {n})", n, rest.needs)
        return whole + Index.of(quotient), Index.of(remainder)

    def __str__(self) -> str:
        parts = [v.text if n == 1 else f"{n} * {v.text}" for v, n in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return " + ".join(parts)


def joined(indices: Iterable[Index]) -> frozenset[str]:
    """The loop variables that any of them hangs on."""
    return frozenset().union(*(i.needs for i in indices))
