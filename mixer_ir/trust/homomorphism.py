"""The segment formula is a homomorphism: shown in symbols for whole blocks, so for every length and every chunking.

The formula that lowering interprets with arrays (lowering/segment.py) is interpreted here with block symbols:

1. on one step it is the update;
2. on two segments laid end to end it is the one after the other;
3. the empty segment changes nothing, and laying end to end is associative.

By induction over steps, the formula of any length equals the loop, however the length is cut into segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from lowering import segment as s
from mixer_ir.trust.block_algebra import ONE, ZERO, Blocks, Polynomial, Symbol, identity, resolve

Table: TypeAlias = Mapping[object, Blocks]
"""what the block symbols Entering(row), Scores(row, column), Leaving(column), Whole(), Given(column) stand for"""
SMALL = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Claim:
    """One equation, its two sides worked out; `ok` if they are the same polynomials."""

    law: str
    statement: str
    left: Blocks
    right: Blocks

    @property
    def ok(self) -> bool:
        return (self.left - self.right).zero()

    @property
    def difference(self) -> str:
        return str(self.left - self.right)


@dataclass(frozen=True)
class Shape:
    """What a process needs of the formula: whether each read is before the step, its input pairs, a low-rank part.

    shared   the input whose key is the low rank's a as well, if any
    """

    before: tuple[bool, ...]
    pairs: int
    low_rank: bool
    shared: int | None = None
    rows: tuple[s.Row, ...] = field(init=False)
    columns: tuple[s.Column, ...] = field(init=False)

    def __post_init__(self) -> None:
        reader = (s.READER,) if self.low_rank else ()
        object.__setattr__(self, "rows", (*s.queries(self.before), *reader))
        object.__setattr__(self, "columns", tuple(dict.fromkeys((*s.inputs(self.pairs), *self.writer))))

    @property
    def writer(self) -> tuple[s.Column, ...]:
        """The column that the low-rank part writes along."""
        if not self.low_rank:
            return ()
        return (s.WRITER,) if self.shared is None else (s.inputs(self.pairs)[self.shared],)

    @property
    def formula(self) -> s.Segment:
        return s.segment(before=self.before, pairs=self.pairs, low_rank=self.low_rank, shared=self.shared)

    def values(self) -> tuple[s.Column, ...]:
        return s.inputs(self.pairs)


def claims(shape: Shape) -> Iterator[Claim]:
    """Every law of the formula of this shape."""
    yield from one_step(shape)
    yield from inverse_of_joined(shape)
    yield from end_to_end(shape)
    yield from monoid(shape)


# ---------------------------------------------------------------------------------- the laws


def one_step(shape: Shape) -> Iterator[Claim]:
    """The formula at length 1 is S₁ = (Φ + a bᵀ) S₀ + Σ k vᵀ, read by qᵀS₁ or qᵀS₀."""
    state, reads, _ = evaluated(shape, step(shape), one(_symbol("S₀")))
    S, phi = _symbol("S₀"), _symbol("Φ")
    after = phi @ S
    for writer in shape.writer:
        after = after + _symbol(writer.name) @ _symbol("bᵀ") @ S
    for column in shape.values():
        after = after + _symbol(column.name) @ _symbol(f"v{column.name[1:]}ᵀ")
    low = "".join(f" + {writer.name} bᵀ" for writer in shape.writer)
    yield Claim("one step is the update", f"S₁ = (Φ{low}) S₀ + Σ k vᵀ", state, one(after))
    for row, read in zip(s.queries(shape.before), reads, strict=True):
        at = S if row.before else after
        which = "S₀" if row.before else "S₁"
        yield Claim("one step is read as declared", f"y = {row.name}ᵀ {which}", read, one(_symbol(f"{row.name}ᵀ") @ at))


def inverse_of_joined(shape: Shape) -> Iterator[Claim]:
    """(I − L)⁻¹ of the block triangular L of two segments is the block triangular matrix that `resolve` writes."""
    for writer in shape.writer:
        L = join(segment(shape, 1), segment(shape, 2))[s.Scores(s.READER, writer)]
        R = resolve(L)
        eye = identity(2)
        yield Claim("the inverse of a block triangular matrix", "(I − L) (I − L)⁻¹ = I", (eye - L) @ R, eye)
        yield Claim("the inverse of a block triangular matrix", "(I − L)⁻¹ (I − L) = I", R @ (eye - L), eye)


def end_to_end(shape: Shape) -> Iterator[Claim]:
    """F(1 · 2)(S₀) = F(1)(S₀), then F(2)(F(1)(S₀))."""
    first, second = segment(shape, 1), segment(shape, 2)
    S0 = one(_symbol("S₀"))
    state, reads, inner = evaluated(shape, join(first, second), S0)
    state1, reads1, inner1 = evaluated(shape, first, S0)
    state2, reads2, inner2 = evaluated(shape, second, state1)
    law = "two segments end to end are one"
    if inner is not None and inner1 is not None and inner2 is not None:
        yield Claim(law, "W(1·2) = [W(1); W(2)]", inner, _stacked(inner1, inner2))
    for row, whole, y1, y2 in zip(s.queries(shape.before), reads, reads1, reads2, strict=True):
        yield Claim(law, f"Y_{row.name}(1·2) = [Y_{row.name}(1); Y_{row.name}(2)]", whole, _stacked(y1, y2))
    yield Claim(law, "S(1·2) = S(2) after S(1)", state, state2)


def monoid(shape: Shape) -> Iterator[Claim]:
    """Segments are a monoid: an empty one changes nothing, and bracketing does not matter."""
    whole = segment(shape, 1)[s.Whole()]
    yield Claim("the empty segment is neutral", "1 Φ = Φ = Φ 1", one(ONE) @ whole, whole @ one(ONE))
    one_two_three = [segment(shape, i) for i in (1, 2, 3)]
    left = join(join(one_two_three[0], one_two_three[1]), one_two_three[2])
    right = join(one_two_three[0], join(one_two_three[1], one_two_three[2]))
    for block, made in left.items():
        yield Claim("laying end to end is associative", f"{_named(block)}: (1·2)·3 = 1·(2·3)", made, right[block])


# ---------------------------------------------------------------------------------- what blocks stand for


def step(shape: Shape) -> Table:
    """The blocks of a single step, by their definitions in lowering/segment.py with Φ(1←0) = Φ, Φ(0←0) = 1."""
    phi = _symbol("Φ")
    table: dict[object, Blocks] = {s.Whole(): one(phi)}
    for row in shape.rows:
        x = _symbol(f"{row.name}ᵀ")
        table[s.Entering(row)] = one(x if row.before else x @ phi)
        for column in shape.columns:
            table[s.Scores(row, column)] = one(ZERO if row.before else x @ _symbol(column.name))
    for column in shape.columns:
        table[s.Leaving(column)] = one(_symbol(column.name))
        table[s.Given(column)] = one(_symbol(f"v{column.name[1:]}ᵀ"))
    return table


def segment(shape: Shape, i: int) -> Table:
    """A segment of unknown length: every block a symbol."""
    n = str(i).translate(SMALL)
    table: dict[object, Blocks] = {s.Whole(): one(_symbol(f"Φ{n}"))}
    for row in shape.rows:
        table[s.Entering(row)] = one(_symbol(f"X̃{row.name}{n}"))
        for column in shape.columns:
            table[s.Scores(row, column)] = one(_symbol(f"L{row.name}{column.name}{n}"))
    for column in shape.columns:
        table[s.Leaving(column)] = one(_symbol(f"Ỹ{column.name}{n}"))
        table[s.Given(column)] = one(_symbol(f"V{column.name}{n}"))
    return table


def join(first: Table, second: Table) -> Table:
    """The blocks of two segments laid end to end, because Φ(t←s) = Φ(t←m) Φ(m←s) for every m between.

    Entering [X̃₁; X̃₂ Φ₁]   Scores [L₁ 0; X̃₂ Ỹ₁ L₂]   Leaving [Φ₂ Ỹ₁, Ỹ₂]   Whole Φ₂ Φ₁   Given [V₁; V₂]
    """
    table: dict[object, Blocks] = {}
    for block, made in first.items():
        other = second[block]
        match block:
            case s.Whole():
                table[block] = other @ made
            case s.Entering():
                table[block] = _stacked(made, other @ first[s.Whole()])
            case s.Leaving():
                table[block] = _beside(second[s.Whole()] @ made, other)
            case s.Scores(row=row, column=column):
                cross = second[s.Entering(row)] @ first[s.Leaving(column)]
                table[block] = _stacked(_beside(made, _zeros(made, other)), _beside(cross, other))
            case _:
                table[block] = _stacked(made, other)
    return table


def evaluated(shape: Shape, table: Table, incoming: Blocks) -> tuple[Blocks, list[Blocks], Blocks | None]:
    """The formula with these blocks: the outgoing state, the reads, the auxiliary input."""
    formula = shape.formula
    inner = None if formula.auxiliary is None else _term(formula.auxiliary, table, incoming)
    return _term(formula.state, table, incoming), [_term(y, table, incoming) for y in formula.reads], inner


def _term(term: s.Term, table: Table, incoming: Blocks) -> Blocks:
    match term:
        case s.Incoming():
            return incoming
        case s.Given():
            return table[term]
        case s.Dot(block=block, of=of):
            return _block(block, table) @ _term(of, table, incoming)
        case s.Plus(terms=terms):
            total = _term(terms[0], table, incoming)
            for t in terms[1:]:
                total = total + _term(t, table, incoming)
            return total
    assert_never(term)


def _block(block: s.Block, table: Table) -> Blocks:
    if isinstance(block, s.Resolve):
        return resolve(table[s.Scores(block.row, block.column)])
    return table[block]


# ---------------------------------------------------------------------------------- small words


def one(block: Polynomial) -> Blocks:
    return Blocks.one(block)


def _symbol(name: str) -> Polynomial:
    return Polynomial.of(Symbol(name))


def _named(block: object) -> str:
    match block:
        case s.Entering(row=row):
            return f"X̃{row.name}"
        case s.Scores(row=row, column=column):
            return f"L{row.name}{column.name}"
        case s.Leaving(column=column):
            return f"Ỹ{column.name}"
        case s.Given(column=column):
            return f"V{column.name}"
    return "Φ"


def _stacked(above: Blocks, below: Blocks) -> Blocks:
    return Blocks((*above.rows, *below.rows))


def _beside(left: Blocks, right: Blocks) -> Blocks:
    return Blocks(tuple((*r, *q) for r, q in zip(left.rows, right.rows, strict=True)))


def _zeros(like_rows: Blocks, like_columns: Blocks) -> Blocks:
    columns = like_columns.shape[1]
    return Blocks(tuple((ZERO,) * columns for _ in like_rows.rows))
