"""Whether a kernel's programs and tiles reach every entry of what it stores, seen from the places that its stores name.

A place along an axis is made of numbers that run by themselves: a program's place, a loop's variable, an entry of a
tile. Every entry is reached if those of each axis count it through and no two axes share one: the same number along
both i and s would reach the diagonal alone.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from math import inf

from backends.triton.evaluate import Buffer, Where
from backends.triton.tile import Index
from mixer_ir.errors import BackendError

COUNTED = re.compile(r"\(?(?:\d+ - )?[ij]_\w+\)?")
"""a program's place or a loop's variable, forwards or backwards"""


class Uncovered(BackendError):
    """A kernel would leave entries of what it stores unwritten: a fault of the emitter's, found before it is run."""


def covered(kernel: str, b: Buffer, stores: Sequence[Where]) -> None:
    """Uncovered if it is not seen that every entry of a buffer is stored at one of `stores`."""
    where = reduce(_together, [{a: there[a] for a in b.value.axes} for there in stores])
    digits: dict[Index, list[tuple[int, float, int]]] = defaultdict(list)

    def need(ix: Index, n: int) -> None:
        """0 … n − 1 are to be reached by ix."""
        if n <= 1 and ix.low == ix.high == 0:
            return
        if ix.origin is not None and ix.origin[1] < 0:
            need(ix.origin[0], n - ix.origin[1])
        elif ix.parts is not None:
            outer, inner, inside = ix.parts
            need(inner, min(n, inside))
            need(outer, -(-n // inside))
        else:
            root, low, high = _digit(ix)
            digits[root].append((low, high, n))

    def fail(why: str) -> None:
        raise Uncovered(f"{kernel} would leave entries of {b.name} unwritten: {why}")

    for a, n in b.value.sizes.items():
        need(where[a], n)
    shared: Counter[str] = Counter()
    while digits:
        root, found = digits.popitem()
        found.sort()
        for (_, high, _), (low, _, _) in pairwise(found):
            if low % high:
                fail(f"two of its axes share {root.text}")
        if any(low * n > high for low, high, n in found):
            fail(f"{root.text} does not count an axis through")
        last = sum((n - 1) * low for low, _, n in found)
        if root.parts is not None:
            need(root, last + 1)
            continue
        shared.update({*re.findall(r"\b[oij]_\w+", root.text)})
        if root.plain is None and not COUNTED.fullmatch(root.text):
            fail(f"{root.text} is not seen to count an axis through")
        if root.low > 0 or root.high < last:
            fail(f"{root.text} runs from {root.low} to {root.high}, and it has to reach 0 to {last}")
    for name, times in shared.items():
        if times > 1:
            fail(f"two of its axes share {name}")


def _digit(ix: Index) -> tuple[Index, int, float]:
    """(root, low, high), where ix is (root mod high) // low."""
    if ix.of is None:
        return ix, 1, inf
    whole, n, inside = ix.of
    root, low, high = _digit(whole)
    return (root, low, min(high, low * n)) if inside else (root, low * n, high)


def _together(first: dict[str, Index], second: dict[str, Index]) -> dict[str, Index]:
    """Where two stores lie that are the same but along one axis, on which one goes on where the other ends."""
    axes = [a for a in first if first[a] != second[a]]
    made = dict(first)
    for a in axes[:1]:
        x, y = sorted((first[a], second[a]), key=lambda ix: ix.high - ix.low)
        if len(axes) == 1 and x.low <= y.high + 1 and y.low <= x.high + 1:
            made[a] = replace(y, low=min(x.low, y.low), high=max(x.high, y.high))
    return made
