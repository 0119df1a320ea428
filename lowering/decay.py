"""Products of transitions inside a segment, by a binary tree: the array meaning of the segment formula's blocks.

The scores of a block of 2m steps are the scores of its halves and, between them, a product of what leaves the left
half with what enters the right half:

    scores₂ₘ = [ scores_L        0       ]     entering₂ₘ = [ entering_L          ]     whole₂ₘ = whole_R whole_L
               [ X̃_R Ỹ_L    scores_R    ]                  [ entering_R whole_L  ]
                                               leaving₂ₘ  = [ whole_R leaving_L    leaving_R ]

So nothing is ever divided and no two sums are ever subtracted: a logarithm that is exponentiated is the sum of exactly
the steps that it spans (never positive for a decay, and −inf is fine), and a factor may be zero, negative, complex
or above one. All blocks of one size are done at once, so a segment of C steps takes log₂ C rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lowering.build import Builder
from lowering.parts import EACH, KEY, ROW
from lowering.program import Value
from lowering.segment import Column, Row

STEP, SOURCE, CHUNK, SOURCE_RANK = "_i", "_s", "_c", "_p"
"""Step inside a segment as a row and as a column, the segments, the pairs of a low rank as columns."""
BLOCK, HALF = "_n", "_h"
EVERY = "every"
"""The name of rows that have one entry for several steps."""


@dataclass(frozen=True, slots=True)
class Span:
    """The product of consecutive transitions: exp(value), value, or a matrix (`_l`, `_k`), as in Parts.dense.

    A value without the axis `_n` (blocks) is the same for all blocks of its size.
    """

    value: Value
    rule: Literal["log", "factor", "dense"]

    def factor(self, b: Builder) -> Value:
        """The diagonal (or scalar) itself."""
        with b.named("decay"):
            return b.map("exp", self.value) if self.rule == "log" else self.value

    def factors(self, b: Builder) -> Span:
        """The same span without a logarithm."""
        return Span(self.factor(b), "factor") if self.rule == "log" else self

    def after(self, b: Builder, earlier: Span) -> Span:
        """This span's product times that of the one before it."""
        match self.rule:
            case "log":
                return replace(self, value=b.add(self.value, earlier.value))
            case "factor":
                return replace(self, value=b.mul(self.value, earlier.value))
            case "dense":
                return replace(self, value=chain(b, self.value, earlier.value))

    def enter(self, b: Builder, x: Value) -> Value:
        """xᵀ Φ for rows x."""
        if self.rule != "dense":
            return b.mul(x, self.factor(b))
        n = self.value.size(KEY)
        if x.size(KEY) == n and EACH not in self.value.axes:
            return b.contract(b.rename(x, KEY, ROW), self.value, (ROW,))
        made = b.contract(b.split(x, KEY, ROW, EACH, x.size(KEY) // n), self.value, (ROW,))
        return b.merge(made, KEY, EACH, KEY)

    def leave(self, b: Builder, y: Value) -> Value:
        """Φ y for columns y."""
        if self.rule != "dense":
            return b.mul(y, self.factor(b))
        n = self.value.size(KEY)
        if y.size(KEY) == n and EACH not in self.value.axes:
            return b.rename(b.contract(self.value, y, (KEY,)), ROW, KEY)
        made = b.contract(self.value, b.split(y, KEY, KEY, EACH, y.size(KEY) // n), (KEY,))
        return b.merge(made, ROW, EACH, KEY)

    def matrix(self, b: Builder, n: int) -> Value:
        """The map as an array with `_l` and `_k`, both of size n."""
        if self.rule != "dense":
            return b.where(b.map("eq", b.iota(ROW, n), b.iota(KEY, n)), self.factor(b), 0.0)
        major = self.value.size(KEY)
        if major == n and EACH not in self.value.axes:
            return self.value
        same = b.map("eq", b.iota(EACH, n // major), b.iota("_m", n // major))
        return b.merge(b.merge(b.where(same, self.value, 0.0), ROW, EACH, ROW), KEY, "_m", KEY)

    def half(self, b: Builder, i: int) -> Span:
        """The left or right halves, where blocks are paired along `_h`."""
        return replace(self, value=b.at(self.value, HALF, i)) if HALF in self.value.axes else self

    def paired(self, b: Builder) -> Span:
        if BLOCK not in self.value.axes:
            return self
        return replace(self, value=b.split(self.value, BLOCK, BLOCK, HALF, 2))


def chain(b: Builder, later: Value, earlier: Value) -> Value:
    """The matrix product of two maps with axes (`_l`, `_k`)."""
    return b.contract(b.rename(later, KEY, "_m"), b.rename(earlier, ROW, "_m"), ("_m",))


@dataclass(frozen=True, slots=True)
class Tree:
    """Rows carried to the entry, columns to the exit, the whole product, and the scores by (row, column)."""

    entering: Mapping[Row, Value]
    leaving: Mapping[Column, Value]
    whole: Span
    scores: Mapping[tuple[Row, Column], Value | None]


def tree(
    b: Builder,
    step: Span,
    length: int,
    rows: Mapping[Row, Value],
    columns: Mapping[Column, Value],
    pairs: Sequence[tuple[Row, Column]],
) -> Tree:
    """The tree over `length` steps along `_i`; vectors without that axis are repeated along it.

    step   the transition of each step, along `_i`, or without that axis the same for all
    A length that is no power of two is filled up with steps that change nothing.
    """
    size = 1 << (length - 1).bit_length()
    step = _blocks_of_one(b, step, length, size)
    xs = {row: _vector(b, x, length, size) for row, x in rows.items()}
    ys = {col: _vector(b, y, length, size) for col, y in columns.items()}
    scores = {(row, col): None if row.before else _grid(b, b.contract(xs[row], ys[col], (KEY,))) for row, col in pairs}
    xs = {row: x if row.before else step.enter(b, x) for row, x in xs.items()}
    while size > 1:
        factors = step.factors(b).paired(b)
        left, right = factors.half(b, 0), factors.half(b, 1)
        xs2 = {row: b.split(x, BLOCK, BLOCK, HALF, 2) for row, x in xs.items()}
        ys2 = {col: b.split(y, BLOCK, BLOCK, HALF, 2) for col, y in ys.items()}
        scores = {
            (row, col): _joined(b, scores[row, col], _pick(b, xs2[row], 1), _pick(b, ys2[col], 0)) for row, col in pairs
        }
        xs = {row: _carried(b, x, left, 1) for row, x in xs2.items()}
        ys = {col: _carried(b, y, right, 0) for col, y in ys2.items()}
        step = step.paired(b)
        step = step.half(b, 1).after(b, step.half(b, 0))
        size //= 2
    return Tree(
        entering={row: b.slice(_single(b, x), STEP, 0, length) for row, x in xs.items()},
        leaving={col: b.rename(b.slice(_single(b, y), STEP, 0, length), STEP, SOURCE) for col, y in ys.items()},
        whole=replace(step, value=_single(b, step.value)),
        scores={pair: _cropped(b, s, length) for pair, s in scores.items()},
    )


def _blocks_of_one(b: Builder, step: Span, length: int, size: int) -> Span:
    value = step.value
    if STEP not in value.axes:
        if size == length:
            return step
        value = b.expand(value, {STEP: length})
    if step.rule == "dense" and size > length:
        eye = b.cast(b.map("eq", b.iota(ROW, value.size(ROW)), b.iota(KEY, value.size(KEY))), "real")
        value = b.concat([value, b.expand(eye, {STEP: size - length})], STEP)
    else:
        value = b.pad(value, STEP, 0, size - length, 0.0 if step.rule == "log" else 1.0)
    return replace(step, value=b.rename(value, STEP, BLOCK))


def _vector(b: Builder, x: Value, length: int, size: int) -> Value:
    """A vector in blocks of one: axes … `_n`, `_i` of size 1, …"""
    x = b.pad(b.expand(x, {STEP: length}), STEP, 0, size - length)
    return b.split(x, STEP, BLOCK, STEP, 1)


def _grid(b: Builder, diagonal: Value) -> Value:
    """Scores of single steps as blocks of one row and one column."""
    return b.split(diagonal, STEP, STEP, SOURCE, 1)


def _single(b: Builder, x: Value) -> Value:
    """The only block."""
    return b.at(x, BLOCK, 0) if BLOCK in x.axes else x


def _pick(b: Builder, x: Value, i: int) -> Value:
    """The left or right halves of paired vectors."""
    return b.merge(b.slice(x, HALF, i, i + 1), HALF, STEP, STEP)


def _carried(b: Builder, x: Value, span: Span, half: int) -> Value:
    """Paired vectors as blocks of twice the size, with `span` applied to one half of each."""
    halves = [_pick(b, x, 0), _pick(b, x, 1)]
    halves[half] = span.enter(b, halves[half]) if half else span.leave(b, halves[half])
    return b.concat(halves, STEP)


def _joined(b: Builder, scores: Value | None, x: Value, y: Value) -> Value:
    """The scores of paired blocks, from those of the halves and the vectors between them."""
    cross = b.contract(x, b.rename(y, STEP, SOURCE), (KEY,))
    m = cross.size(STEP)
    if scores is None:
        return b.pad(b.pad(cross, SOURCE, 0, m), STEP, m, 0)
    scores = b.split(scores, BLOCK, BLOCK, HALF, 2) if BLOCK in scores.axes else scores
    left, right = _pick(b, scores, 0), _pick(b, scores, 1)
    return b.concat([b.pad(left, SOURCE, 0, m), b.concat([cross, right], SOURCE)], STEP)


def _cropped(b: Builder, scores: Value | None, length: int) -> Value | None:
    if scores is None:
        return None
    return b.slice(b.slice(_single(b, scores), STEP, 0, length), SOURCE, 0, length)


def scalars(b: Builder, step: Span, length: int, updates: int = 1) -> Tree:
    """The same of one number a step, for the row and the column of ones: each product is cumulated by itself.

    Scores[t, s] = Π_{s < l ≤ t} α_l, the factors after s being cumulated over t, or their logarithms summed; those of
    a row that reads before its step are one row late. Where `updates` of these steps are one of the sequence, rows
    EVERY read after the last of them, or before the first, and what comes to them is cumulated by as many at once.
    """
    fn, one = ("sum", 0.0) if step.rule == "log" else ("prod", 1.0)
    value = b.expand(step.value, {STEP: length})
    row, source = b.iota(STEP, length), b.iota(SOURCE, length)

    def product(x: Value, **options: bool) -> Value:
        with b.named("cumulated"):
            cumulated = replace(step, value=b.cumulate(fn, x, STEP, **options))
        return cumulated.factor(b)

    with b.named("decay: decays between the steps of a chunk, from each column to each row after it"):
        between = product(b.where(b.map("lt", source, row), value, one))
        late = b.where(b.map("le", source, row), between, 0.0)
    with b.named("decay: decays of a chunk: up to each step, after it, of the whole"):
        entering = {Row("", before): product(value, exclusive=before) for before in (False, True)}
        leaving = b.rename(product(value, reverse=True, exclusive=True), STEP, SOURCE)
        whole = b.at(b.cumulate(fn, value, STEP), STEP, length - 1)
    scores = {Row("", before): b.delay(late, STEP, int(before)) for before in (False, True)}
    for before in (False, True) if updates > 1 else ():

        def each(x: Value) -> Value:
            parts = [b.slice(x, STEP, i, length, updates) for i in range(updates)]
            return b.add(*parts) if step.rule == "log" else b.mul(*parts)

        with b.named("decay: decays between the updates of a chunk, from each column to each step after it"):
            between = product(each(b.where(b.map("lt", source, row), value, one)), exclusive=before)
            after = b.map("lt" if before else "le", source, read_at(b, row, updates, before))
            scores[Row(EVERY, before)] = b.where(after, between, 0.0)
        with b.named("decay: decays of a chunk: up to each step, after it, of the whole"):
            entering[Row(EVERY, before)] = product(each(value), exclusive=before)
    return Tree(
        entering=entering,
        leaving={Column(""): leaving},
        whole=replace(step, value=whole),
        scores={(row, Column("")): x for row, x in scores.items()},
    )


def read_at(b: Builder, x: Value, updates: int, before: bool) -> Value:
    """Of entries for all updates those of the first of each step, before which it is read, or of the last."""
    if updates == 1 or STEP not in x.axes:
        return x
    return b.slice(x, STEP, 0 if before else updates - 1, x.size(STEP), updates)
