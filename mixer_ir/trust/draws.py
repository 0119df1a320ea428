"""Random numbers of the field for what has no law: symbols, real and complex, and functions of given arguments."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from mixer_ir.trust import field
from mixer_ir.trust.field import Element


class Draws:
    """One number a name, the same whenever it is asked for again."""

    def __init__(self) -> None:
        self.drawn: dict[Any, int] = {}
        self.random = random.Random(1)

    def real(self, name: Any) -> int:
        """The value of a real symbol."""
        return self.drawn.setdefault(name, self.random.randrange(1, field.P))

    def positive(self, name: Any) -> int:
        """The value of a positive one."""
        return self.real(("positive", name)) ** 2 % field.P

    def complex(self, name: Any) -> Element:
        """The value of a complex one: z and z̄ are two numbers, and |z|² is a square, so that |z| is a number too."""
        for n in count():
            re, im = self.real((name, "re", n)), self.real((name, "im", n))
            if field.positive((re * re + im * im) % field.P):
                return field.complex(re, im)
        raise AssertionError

    def function(self, name: str, of: tuple[Any, ...]) -> Element:
        """The value of a function, by its arguments' values: real where they are, and F(z̄) is the conjugate of F(z)."""
        mirror = tuple(x if isinstance(x, str) else field.conjugate(x) for x in of)
        if mirror == of:
            return self.real((name, of))
        first = min(of, mirror, key=repr)
        value = self.complex((name, first))
        return value if of == first else field.conjugate(value)
