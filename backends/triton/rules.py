"""The tile of every operation that is computed in place; the others are steps of their own (partition.py)."""

from __future__ import annotations

from backends.triton.cumulations import CUMULATIONS
from backends.triton.entries import ENTRIES
from backends.triton.evaluate import Rule
from backends.triton.joint import map_or_sum
from backends.triton.sums import SUMS
from lowering import program as p

RULES: dict[type, Rule] = {**ENTRIES, **SUMS, **CUMULATIONS, p.Map: map_or_sum}
