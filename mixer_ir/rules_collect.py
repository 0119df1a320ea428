"""Rules that gather a matrix into one structure, for reading it and for its traits; applying it needs none of them."""

from __future__ import annotations

from collections.abc import Callable

from mixer_ir.matrix import Matrix

Rule = Callable[[Matrix], Matrix | None]
RULES: tuple[Rule, ...] = ()
