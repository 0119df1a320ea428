"""Block matrices whose blocks are polynomials in symbols that do not commute: equality is decided, no size is needed.

A symbol stands for a whole block of unknown size. `Symbol(resolves=L)` is R = (1 − L)⁻¹, which obeys L R = R L = R − 1;
rewriting with it ends (words get shorter) and every overlap meets again (L R L = R − 1 − L both ways), so that two
polynomials are equal exactly if their reduced terms are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Symbol:
    """A block; with `resolves` = L, the block (1 − L)⁻¹."""

    name: str
    resolves: Symbol | None = None

    def __str__(self) -> str:
        return self.name


Word: TypeAlias = tuple[Symbol, ...]


class Polynomial:
    """Σ c · word, always reduced; the empty word is the identity."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Word, int]) -> None:
        self.terms: dict[Word, int] = {w: c for w, c in terms.items() if c}

    @classmethod
    def of(cls, symbol: Symbol) -> Polynomial:
        return cls({(symbol,): 1})

    def __add__(self, other: Polynomial) -> Polynomial:
        return Polynomial(_gathered([*self.terms.items(), *other.terms.items()]))

    def __neg__(self) -> Polynomial:
        return Polynomial({w: -c for w, c in self.terms.items()})

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + -other

    def __matmul__(self, other: Polynomial) -> Polynomial:
        pairs = ((u, a, v, b) for u, a in self.terms.items() for v, b in other.terms.items())
        return Polynomial(_gathered((w, a * b * c) for u, a, v, b in pairs for w, c in _joined(u, v).items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        words = sorted(self.terms.items(), key=lambda item: (len(item[0]), [s.name for s in item[0]]))
        text = " ".join(f"{'−' if c < 0 else '+'} {_written(w, abs(c))}" for w, c in words)
        return text.removeprefix("+ ")

    __repr__ = __str__


ZERO = Polynomial({})
ONE = Polynomial({(): 1})


def _written(word: Word, count: int) -> str:
    body = " ".join(s.name for s in word) or "1"
    return body if count == 1 else f"{count} {body}"


def _gathered(terms: Iterable[tuple[Word, int]]) -> dict[Word, int]:
    total: dict[Word, int] = {}
    for word, c in terms:
        total[word] = total.get(word, 0) + c
    return total


def _joined(left: Word, right: Word) -> dict[Word, int]:
    """left · right, reduced: only the seam can hold L R or R L, for both words are reduced already."""
    if left and right:
        a, b = left[-1], right[0]
        if a.resolves == b or b.resolves == a:
            keep = a if a.resolves == b else b
            with_it = _joined((*left[:-1], keep), right[1:])
            without = _joined(left[:-1], right[1:])
            return _gathered([*with_it.items(), *((w, -c) for w, c in without.items())])
    return {left + right: 1}


@dataclass(frozen=True)
class Blocks:
    """A matrix of blocks; rows and columns are whole segments."""

    rows: tuple[tuple[Polynomial, ...], ...]

    @classmethod
    def one(cls, block: Polynomial) -> Blocks:
        return cls(((block,),))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.rows[0])

    def __add__(self, other: Blocks) -> Blocks:
        return Blocks(
            tuple(tuple(a + b for a, b in zip(r, s, strict=True)) for r, s in zip(self.rows, other.rows, strict=True))
        )

    def __neg__(self) -> Blocks:
        return Blocks(tuple(tuple(-a for a in r) for r in self.rows))

    def __sub__(self, other: Blocks) -> Blocks:
        return self + -other

    def __matmul__(self, other: Blocks) -> Blocks:
        columns = list(zip(*other.rows, strict=True))
        return Blocks(tuple(tuple(_dot(row, column) for column in columns) for row in self.rows))

    def zero(self) -> bool:
        return all(not block.terms for row in self.rows for block in row)

    def __str__(self) -> str:
        return "[" + "; ".join(",  ".join(str(b) for b in row) for row in self.rows) + "]"


def _dot(row: Iterable[Polynomial], column: Iterable[Polynomial]) -> Polynomial:
    total = ZERO
    for a, b in zip(row, column, strict=True):
        total = total + a @ b
    return total


def identity(n: int) -> Blocks:
    return Blocks(tuple(tuple(ONE if i == j else ZERO for j in range(n)) for i in range(n)))


def resolve(lower: Blocks) -> Blocks:
    """(I − L)⁻¹ for a block lower triangular L whose diagonal blocks are one symbol each, or zero.

    By forward substitution: the block (i, j) is R_i (δ_ij + Σ_{j ≤ k < i} L_ik · (k, j)).
    """
    n = len(lower.rows)
    if any(lower.rows[i][j].terms for i in range(n) for j in range(i + 1, n)):
        raise ValueError(f"{lower} is not lower triangular")
    inverse = [[ZERO] * n for _ in range(n)]
    for i in range(n):
        own = _resolved(lower.rows[i][i])
        for j in range(i + 1):
            known = ONE if i == j else ZERO
            for k in range(j, i):
                known = known + lower.rows[i][k] @ inverse[k][j]
            inverse[i][j] = own @ known
    return Blocks(tuple(tuple(row) for row in inverse))


def _resolved(block: Polynomial) -> Polynomial:
    if not block.terms:
        return ONE
    ((word, count),) = block.terms.items()
    if count != 1 or len(word) != 1:
        raise ValueError(f"(1 − {block})⁻¹ is not a symbol")
    return Polynomial.of(Symbol(f"(1−{word[0].name})⁻¹", resolves=word[0]))
