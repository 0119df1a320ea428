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

from lowering.build import Builder, program
from lowering.parts import KEY, RANK, ROW, Parts
from lowering.program import Value
from lowering.segment import READER, WRITER, Column, Row, inputs, queries

STEP, SOURCE, CHUNK, SOURCE_RANK = "_i", "_s", "_c", "_p"
"""Step inside a segment as a row and as a column, the segments, the pairs of a low rank as columns."""
BLOCK, HALF = "_n", "_h"


@dataclass(frozen=True, slots=True)
class Span:
    """The product of consecutive transitions: exp(value), value, or a matrix (`_l`, `_k`).

    A value without the axis `_n` (blocks) is the same for all blocks of its size.
    """

    value: Value
    rule: Literal["log", "factor", "dense"]

    def factor(self, b: Builder) -> Value:
        """The diagonal (or scalar) itself."""
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
        if self.rule == "dense":
            return b.contract(b.rename(x, KEY, ROW), self.value, (ROW,))
        return b.mul(x, self.factor(b))

    def leave(self, b: Builder, y: Value) -> Value:
        """Φ y for columns y."""
        if self.rule == "dense":
            return b.rename(b.contract(self.value, y, (KEY,)), ROW, KEY)
        return b.mul(y, self.factor(b))

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


def products(
    b: Builder,
    step: Span,
    length: int,
    rows: Mapping[Row, Value],
    columns: Mapping[Column, Value],
    pairs: Sequence[tuple[Row, Column]],
) -> Tree:
    """The tree of logarithms as a region `decay` of the program, which a backend may spell otherwise.

    Its inputs are `step`, `row:<name>` (or `row:<name>:before`) and `column:<name>`; its results `entering <row>`,
    `leaving <column>`, `whole` and `scores <row> <column>`, where a row and a column are named as among the inputs.
    """
    inner = Builder()
    row_names = {row: f"row:{row.name}" + (":before" if row.before else "") for row in rows}
    column_names = {column: f"column:{column.name}" for column in columns}
    args = {"step": step.value}
    args |= {row_names[row]: x for row, x in rows.items()} | {column_names[col]: y for col, y in columns.items()}
    given = {name: inner.input(name, x.axes, x.shape, x.kind) for name, x in args.items()}
    grown = tree(
        inner,
        replace(step, value=given["step"]),
        length,
        {row: given[name] for row, name in row_names.items()},
        {column: given[name] for column, name in column_names.items()},
        pairs,
    )
    made = {f"entering {row_names[row]}": x for row, x in grown.entering.items()}
    made |= {f"leaving {column_names[column]}": y for column, y in grown.leaving.items()}
    made["whole"] = grown.whole.value
    known = {pair: s for pair, s in grown.scores.items() if s is not None}
    made |= {f"scores {row_names[row]} {column_names[column]}": s for (row, column), s in known.items()}
    results = dict(zip(made, b.region("decay", program(made, list(given.values())), list(args.values())), strict=True))
    return Tree(
        entering={row: results[f"entering {name}"] for row, name in row_names.items()},
        leaving={column: results[f"leaving {name}"] for column, name in column_names.items()},
        whole=replace(step, value=results["whole"]),
        scores={
            pair: results[f"scores {row_names[pair[0]]} {column_names[pair[1]]}"] if pair in known else None
            for pair in pairs
        },
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


def scalars(b: Builder, step: Span, length: int) -> Tree:
    """The same of one number a step, for the row and the column of ones: each product is cumulated by itself.

    Scores[t, s] = Π_{s < l ≤ t} α_l, the factors after s being cumulated over t, or their logarithms summed; those of
    a row that reads before its step are one row late.
    """
    fn, one = ("sum", 0.0) if step.rule == "log" else ("prod", 1.0)
    value = b.expand(step.value, {STEP: length})
    row, source = b.iota(STEP, length), b.iota(SOURCE, length)

    def product(x: Value, **options: bool) -> Value:
        return replace(step, value=b.cumulate(fn, x, STEP, **options)).factor(b)

    between = product(b.where(b.map("lt", source, row), value, one))
    late = b.where(b.map("le", source, row), between, 0.0)
    leaving = b.rename(product(value, reverse=True, exclusive=True), STEP, SOURCE)
    whole = b.at(b.cumulate(fn, value, STEP), STEP, length - 1)
    return Tree(
        entering={Row("", before): product(value, exclusive=before) for before in (False, True)},
        leaving={Column(""): leaving},
        whole=replace(step, value=whole),
        scores={(Row("", before), Column("")): b.delay(late, STEP, int(before)) for before in (False, True)},
    )


class Blocks:
    """The blocks of the segment formula as arrays, for all segments of one length at once.

    parts    arrays along `_c` (segments; absent where all are alike) and `_i` (steps), rows and columns by name:
    Entering (… `_i` `_k`), Scores (… `_i` `_s`), Leaving (… `_s` `_k`); rows of a low rank also have `_r`, its
    columns `_p`. A block that is zero is None; a Whole that is the identity is None.
    """

    def __init__(self, b: Builder, parts: Parts) -> None:
        self.b, self.parts, self.length = b, parts, parts.steps
        self.rows = dict(
            zip(queries(tuple(q.before for q in parts.queries)), (q.vector for q in parts.queries), strict=True)
        )
        names = inputs(len(parts.inputs))
        self.columns = dict(zip(names, (k for k, _ in parts.inputs), strict=True))
        self.values = dict(zip(names, (v for _, v in parts.inputs), strict=True))
        if parts.low_rank:
            a, reader = parts.low_rank
            self.rows[READER] = reader
            if parts.shared is None:
                self.columns[WRITER] = b.rename(a, RANK, SOURCE_RANK)
        self.pairs = [(row, col) for row in self.rows for col in self.columns]
        self._tree = self._grown()

    def _grown(self) -> Tree | None:
        """The products; those of a scalar decay stand by themselves, and without any decay there are none."""
        b, parts = self.b, self.parts
        if parts.dense is not None:
            step = Span(parts.dense, "dense")
        elif parts.decay is not None:
            step = Span(parts.decay, "log" if parts.logs else "factor")
        else:
            return None
        if not self.scalar:
            named = products if step.rule == "log" else tree
            return named(b, step, self.length, self.rows, self.columns, self.pairs)
        return scalars(b, step, self.length)

    @property
    def scalar(self) -> bool:
        return self.parts.decay is not None and KEY not in self.parts.decay.axes

    def entering(self, row: Row) -> Value:
        x = self.b.expand(self.rows[row], {STEP: self.length})
        if self._tree is None:
            return x
        return self.b.mul(x, self._tree.entering[Row("", row.before)]) if self.scalar else self._tree.entering[row]

    def leaving(self, column: Column) -> Value:
        y = self.b.rename(self.b.expand(self.columns[column], {STEP: self.length}), STEP, SOURCE)
        if self._tree is None:
            return y
        return self.b.mul(y, self._tree.leaving[Column("")]) if self.scalar else self._tree.leaving[column]

    def scores(self, row: Row, column: Column) -> Value | None:
        """L_xy; None if there are no steps before a row."""
        b = self.b
        if row.before and self.length == 1:
            return None
        if self._tree is not None and not self.scalar:
            return self._tree.scores[row, column]
        x, y = b.expand(self.rows[row], {STEP: self.length}), b.expand(self.columns[column], {STEP: self.length})
        plain = b.contract(x, b.rename(y, STEP, SOURCE), (KEY,))
        if self._tree is not None:
            decayed = self._tree.scores[Row("", row.before), Column("")]
            assert decayed is not None
            return b.mul(plain, decayed)
        compare = "lt" if row.before else "le"
        seen = b.map(compare, b.iota(SOURCE, self.length), b.iota(STEP, self.length))
        return b.where(seen, plain, 0.0)

    @property
    def whole(self) -> Span | None:
        return None if self._tree is None else self._tree.whole

    def given(self, column: Column) -> Value:
        return self.b.expand(self.values[column], {STEP: self.length})
