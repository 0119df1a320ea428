"""The segment formula: what a stretch of sequence does to the state and what is read in it, as data.

A process S_t = (Φ_t + a_t b_tᵀ) S_{t−1} + k_t v_tᵀ has at each step a transition Φ_t that is easy to multiply up
(diagonal, or one dense matrix) and a low-rank rest. For a segment of steps 1 … C entered with the state S₀, write
Φ(t←s) = Φ_t … Φ_{s+1}, and call w_t = b_tᵀ S_{t−1} the auxiliary input: then a_t w_tᵀ drives the state as k_t v_tᵀ
does, and unrolling Φ alone gives

    S_t = Φ(t←0) S₀ + Σ_{s≤t} Φ(t←s) (a_s w_sᵀ + k_s v_sᵀ).

Read it with b at t−1, and with q at t. With the rows x_t stacked over t and the columns y_s over s, let

    Entering(x)    X̃ = rows  x_tᵀ Φ(t'←0)                      t' = t, or t−1 for a row that reads before its step
    Scores(x, y)   L_xy[t, s] = x_tᵀ Φ(t'←s) y_s  for s ≤ t', else 0
    Leaving(y)     Ỹ = columns  Φ(C←s) y_s
    Whole          Φ(C←0)
    Resolve(b, a)  (I − L_ba)⁻¹, which exists: L_ba is strictly lower triangular, since b reads before its step

Then  W = B̃ S₀ + L_ba W + L_bk V  is solved for W, and

    W  = Resolve(b, a) (B̃ S₀ + L_bk V)
    Y  = Q̃ S₀ + L_qa W + L_qk V
    S₁ = Whole S₀ + Ã W + K̃ V.

It holds for every C ≥ 1: C = 1 is the recurrence itself, and two formulas laid end to end give the formula of the
joined segment, because Φ(t←s) = Φ(t←m) Φ(m←s) makes the cross blocks products, L_xy[2, 1] = X̃₂ Ỹ₁. So the terms
below are interpreted twice: as arrays (lowering/chunked.py), and as symbols that do not commute (the proof).
With several input pairs, `k` and `v` are numbered and their terms added. Where a = k, as when a state forgets along
the key that it writes, both drive one column, by X = W + V: since W = B̃ S₀ + L_ba X, it is solved for at once,

    X  = Resolve(b, k) (B̃ S₀ + V),    Y = Q̃ S₀ + L_qk X,    S₁ = Whole S₀ + K̃ X.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Row:
    """Vectors that read the state: at t, or at t−1 with `before`."""

    name: str
    before: bool


@dataclass(frozen=True, slots=True)
class Column:
    """Vectors along which the state is driven."""

    name: str


@dataclass(frozen=True, slots=True)
class Entering:
    """X̃: each row carried back to the segment's entry (C × K)."""

    row: Row


@dataclass(frozen=True, slots=True)
class Scores:
    """L_xy: each row against each column at or before it (C × C)."""

    row: Row
    column: Column


@dataclass(frozen=True, slots=True)
class Leaving:
    """Ỹ: each column carried on to the segment's exit (K × C)."""

    column: Column


@dataclass(frozen=True, slots=True)
class Whole:
    """Φ(C←0), from entry to exit (K × K)."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """(I − L_ba)⁻¹ (C × C)."""

    row: Row
    column: Column


@dataclass(frozen=True, slots=True)
class Incoming:
    """S₀, the state on entry (K × V)."""


@dataclass(frozen=True, slots=True)
class Given:
    """V: the values that come with a column (C × V)."""

    column: Column


@dataclass(frozen=True, slots=True)
class Dot:
    """A block applied to what follows it."""

    block: Block
    of: Term


@dataclass(frozen=True, slots=True)
class Plus:
    """The sum of the terms."""

    terms: tuple[Term, ...]


Block: TypeAlias = Entering | Scores | Leaving | Whole | Resolve
Term: TypeAlias = Incoming | Given | Dot | Plus


@dataclass(frozen=True, slots=True)
class Segment:
    """The formula: the auxiliary input W or X (None without a low-rank part), each read Y, the outgoing state S₁."""

    auxiliary: Term | None
    reads: tuple[Term, ...]
    state: Term


READER = Row("b", before=True)
WRITER = Column("a")


def queries(before: tuple[bool, ...]) -> tuple[Row, ...]:
    """The rows of the reads."""
    return tuple(Row(f"q{i}", early) for i, early in enumerate(before))


def inputs(count: int) -> tuple[Column, ...]:
    """The columns of the input pairs."""
    return tuple(Column(f"k{i}") for i in range(count))


def segment(*, before: tuple[bool, ...], pairs: int, low_rank: bool, shared: int | None = None) -> Segment:
    """The formula for reads with the given `before` flags, `pairs` inputs, and perhaps a low-rank part.

    shared   the input whose key is the low rank's a as well: a w_tᵀ + k v_tᵀ = k (w + v)ᵀ, one column for both
    """
    columns = inputs(pairs)
    writer = WRITER if shared is None else columns[shared]
    given: dict[Column, tuple[Term, ...]] = {k: (Given(k),) for k in columns}

    def driven(row: Row, values: dict[Column, tuple[Term, ...]]) -> tuple[Term, ...]:
        return tuple(Dot(Scores(row, k), Plus(v)) for k, v in values.items())

    auxiliary: Term | None = None
    if low_rank:
        others = {k: v for k, v in given.items() if k != writer}
        entering = Dot(Entering(READER), Incoming())
        auxiliary = Dot(Resolve(READER, writer), Plus((entering, *given.get(writer, ()), *driven(READER, others))))
    every = given if auxiliary is None else {**given, writer: (auxiliary,)}

    def read(row: Row) -> Term:
        return Plus((Dot(Entering(row), Incoming()), *driven(row, every)))

    kept = tuple(Dot(Leaving(k), Plus(v)) for k, v in every.items())
    state = Plus((Dot(Whole(), Incoming()), *kept))
    return Segment(auxiliary=auxiliary, reads=tuple(read(row) for row in queries(before)), state=state)
