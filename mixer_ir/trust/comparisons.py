"""Which of two formulas is the greater: drawn, in several draws, so that each condition is true or false in each.

Whether x < y depends on y − x alone, and so does whether x = y: in each draw that value has one sign, 0 among them, and
its negative the other. In every three draws it has each of −1, 0 and 1 once, in random order. So in a draw all masks,
choices and resets are decided, and what remains are formulas without conditions.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from mixer_ir.trust import field
from mixer_ir.trust.field import Element
from mixer_ir.trust.formulas import Formula

DRAWS, TOLD = 9, 3
"""how many there are, and how many signs are printed"""
K = TypeVar("K")


class Comparisons(ABC):
    """Conditions on formulas and choices by them, as Python's truth values; with SymPy's names."""

    def __init__(self) -> None:
        self.draw = 0
        self._asked: dict[Element, tuple[str, int]] = {}
        self._random = random.Random(2)
        self._signs: dict[Element, list[int]] = {}

    @abstractmethod
    def read(self, x: Any) -> Formula:
        """A number or a formula as a formula."""

    def draws(self, once: Callable[[], Iterable[tuple[K, str | None]]]) -> dict[K, str | None]:
        """What is checked `once` a draw, with where it fails or None; a single time if nothing is ever compared."""
        found: dict[K, str | None] = {}
        for self.draw in range(DRAWS):
            for what, difference in once():
                if found.setdefault(what, None) is None and difference is not None:
                    found[what] = difference + self.drawn
            if not self._asked or any(found.values()):
                break
        self.draw = 0
        return found

    @property
    def drawn(self) -> str:
        """Some of the signs in this draw, for a person to read; nothing if nothing is compared."""
        told = []
        for x, (text, side) in self._asked.items():
            if len(self._signs[x]) > self.draw:
                told.append(f"{text} {'=><'[side * self._signs[x][self.draw]]} 0")
        return f", where {', '.join([*told[:TOLD], *(['…'] if told[TOLD:] else [])])}" if told else ""

    @property
    def compared(self) -> str:
        """That something is compared, for a person to read; nothing if not."""
        return f"; with comparisons of signals in up to {DRAWS} draws" if self._asked else ""

    def signed(self, x: Formula) -> int | None:
        """−1, 0 or 1; None of what is undefined."""
        if x.number is not None:
            return None if math.isnan(x.number) else (x.number > 0) - (x.number < 0)
        value = x.value
        assert value is not None
        if value == 0:
            return 0
        if x.positive:
            return 1
        other = field.mul(field.P - 1, value)
        key, side = (value, 1) if field.pair(value) < field.pair(other) else (other, -1)
        self._asked.setdefault(key, (str(x), side))
        drawn = self._signs.setdefault(key, [])
        while len(drawn) <= self.draw:
            drawn += self._random.sample((-1, 0, 1), 3)
        return side * drawn[self.draw]

    def _apart(self, x: Any, y: Any) -> int | None:
        """The sign of y − x."""
        x, y = self.read(x), self.read(y)
        if x == y:
            return 0
        if y.number == 0:
            sign = self.signed(x)
            return None if sign is None else -sign
        return self.signed(y - x)

    def Lt(self, x: Any, y: Any) -> bool:
        return self._apart(x, y) == 1

    def Le(self, x: Any, y: Any) -> bool:
        return self._apart(x, y) in (0, 1)

    def Eq(self, x: Any, y: Any) -> bool:
        return self._apart(x, y) == 0

    def Ne(self, x: Any, y: Any) -> bool:
        return not self.Eq(x, y)

    def true(self, x: Any) -> bool:
        """Whether a condition holds; of a number whether it is not zero."""
        return self.Ne(x, 0) if isinstance(x, Formula) else bool(x)

    def Not(self, x: Any) -> bool:
        return not self.true(x)

    def And(self, x: Any, y: Any) -> bool:
        return self.true(x) and self.true(y)

    def Or(self, x: Any, y: Any) -> bool:
        return self.true(x) or self.true(y)

    def Piecewise(self, first: tuple[Any, Any], last: tuple[Any, Any]) -> Formula:
        """The first where its condition holds, else the last."""
        return self.read(first[0] if self.true(first[1]) else last[0])
