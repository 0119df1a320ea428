"""The tile of every operation that is computed in place; the others are steps of their own (partition.py)."""

from __future__ import annotations

from backends.triton.entries import ENTRIES
from backends.triton.evaluate import Rule
from backends.triton.sums import SUMS

RULES: dict[type, Rule] = {**ENTRIES, **SUMS}
