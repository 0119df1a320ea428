"""Tiles and indices: pieces of text of a kernel, with the dimensions that they vary over and what is known of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from threading import Lock
from weakref import WeakValueDictionary

from mixer_ir.nodes.functions import Kind

ANYWHERE = 1 << 62


@dataclass(frozen=True, slots=True, order=True)
class Dim:
    """One dimension of tiles: entries 0 … size − 1, a power of two.

    Tiles have their dimensions in order of name, but for rows, which come first: factors of a product whose rows these
    are, and the product, then lie as the device's instruction takes and gives them.
    """

    behind: bool = field(init=False, repr=False)
    name: str
    size: int
    rows: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "behind", not self.rows)


@dataclass(frozen=True, slots=True)
class Tile:
    """A value in registers (no dimension: one number).

    depth   how many loops it stands in          clean   dimensions whose entries beyond an axis' size are zero
    symmetric   it is its own transpose
    """

    text: str
    dims: tuple[Dim, ...] = ()
    kind: Kind = "real"
    depth: int = 0
    literal: bool = False
    clean: frozenset[Dim] = frozenset()
    symmetric: bool = False

    def over(self, dims: tuple[Dim, ...]) -> str:
        """The text, shaped so that it broadcasts over `dims`."""
        if self.dims == dims or not self.dims:
            return self.text
        text = self.text if self.text.isidentifier() else f"({self.text})"
        return f"{text}[{', '.join(':' if d in self.dims else 'None' for d in dims)}]"


def joint(*tiles: Tile) -> tuple[Dim, ...]:
    """The dimensions of all tiles, in order."""
    return tuple(sorted({d for t in tiles for d in t.dims}))


@dataclass(frozen=True, slots=True)
class Index:
    """Where along an axis the entries of a tile lie: `text` (whole numbers), between low and high.

    plain   the dimension whose entries it counts, from 0
    parts   (outer, inner, n) where it is outer · n + inner; entries with inner ≥ n are void
    moved   it varies inside the tile, but neither counts entries nor blocks of them: what is computed from a whole
            axis is then read from memory
    origin  (ix, n) where it is ix + n
    of      (ix, n, inner) where it is ix // n, or with `inner` ix % n
    known   its form and its dimensions, once they have been asked for
    """

    tile: Tile
    low: int
    high: int
    plain: Dim | None = None
    parts: tuple[Index, Index, int] | None = None
    moved: bool = False
    origin: tuple[Index, int] | None = None
    of: tuple[Index, int, bool] | None = None
    known: tuple[Form, tuple[Dim, ...]] | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def text(self) -> str:
        return self.tile.text

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.tile.dims

    def inside(self, size: int) -> bool:
        """Whether it is known to lie on an axis of this size."""
        return not list(self.conditions(size))

    def conditions(self, size: int) -> Iterator[tuple[Tile, str]]:
        """What makes an entry lie on an axis of this size: tiles of numbers and what they are compared with."""
        if self.parts is not None:
            outer, inner, n = self.parts
            yield from inner.conditions(n)
            high = outer.high * n + min(inner.high, n - 1)
            if not list(inner.conditions(n)) and size % n == 0:
                yield from outer.conditions(size // n)
                return
        else:
            high = self.high
        if self.low < 0:
            yield self.tile, ">= 0"
        if high >= size:
            yield self.tile, f"< {size}"


def word(axis: str) -> str:
    """An axis as part of a name: lowering's own (`_k`) are capitals; the steps of columns, `_s`, are J, beside I; the
    steps between two matrices, `_`, are MID.
    """
    if axis.startswith("_"):
        axis = axis[1:].upper() or "MID"
        axis = "J" + axis[1:] if axis.startswith("S") else axis
    return re.sub(r"\W", lambda found: f"_{ord(found[0]):x}_", axis.replace("'", "_"))


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Form:
    """What indices say but for the names of their dimensions: one object for all that say the same.

    says   the forms that it is made of, with the numbers of its dimensions in the order in which they are met
    """

    says: tuple[object, ...]


FORMS: WeakValueDictionary[tuple[object, ...], Form] = WeakValueDictionary()
MAKING = Lock()
"""forms by what they say, and what keeps two threads from making one twice"""


def place_of(ix: Index, slots: dict[Dim, int]) -> tuple[object, ...]:
    """What ix says but for the names of its dimensions, which `slots` numbers as they are met."""
    form, dims = ix.known or form_of(ix)
    return form, *[slots.setdefault(d, len(slots)) for d in dims]


def form_of(ix: Index) -> tuple[Form, tuple[Dim, ...]]:
    """The form of an index, and its dimensions as they are met in it."""
    if ix.known is not None:
        return ix.known
    slots: dict[Dim, int] = {}
    says: tuple[object, ...]
    if ix.plain is not None:
        slots[ix.plain] = 0
        says = "plain", ix.plain.size
    elif ix.parts is not None:
        outer, inner, n = ix.parts
        says = "joined", place_of(outer, slots), place_of(inner, slots), n
    elif ix.origin is not None:
        says = "shifted", place_of(ix.origin[0], slots), ix.origin[1]
    elif ix.of is not None:
        says = "part", place_of(ix.of[0], slots), ix.of[1:]
    else:
        says = ix.text, tuple(slots.setdefault(d, len(slots)) for d in ix.dims), tuple(d.size for d in ix.dims)
    with MAKING:
        form = FORMS.setdefault(says, Form(says))
    known = form, tuple(slots)
    object.__setattr__(ix, "known", known)
    return known


def constant(i: int) -> Index:
    return Index(Tile(str(i), (), "int", 0, True), i, i)


def scalar(text: str, count: int, depth: int = 0) -> Index:
    """A program's place along an axis, or a loop's variable."""
    return Index(Tile(text, (), "int", depth), 0, count - 1)


def counting(dim: Dim) -> Index:
    """0 … size − 1 along a dimension."""
    return Index(Tile(f"o_{dim.name}_{dim.size}", (dim,), "int"), 0, dim.size - 1, plain=dim)


def joined(outer: Index, inner: Index, n: int) -> Index:
    """outer · n + inner."""
    if outer.low == outer.high == 0:
        return inner
    if outer.tile.literal and inner.tile.literal and 0 <= inner.low < n:
        return constant(outer.low * n + inner.low)
    if outer.of is not None and outer.of[1:] == (n, False) and inner.of == (outer.of[0], n, True):
        return outer.of[0]  # (ix // n) · n + ix % n
    dims = joint(outer.tile, inner.tile)
    scaled = factor(outer.tile.over(dims)) + (f" * {n}" if n != 1 else "")
    text = scaled if inner.text == "0" else f"{scaled} + {inner.tile.over(dims)}"
    tile = Tile(text, dims, "int", max(outer.tile.depth, inner.tile.depth))
    low, high = outer.low * n + inner.low, outer.high * n + inner.high
    return Index(tile, low, high, parts=(outer, inner, n), moved=outer.moved or inner.moved)


@lru_cache(maxsize=1 << 14)
def factor(text: str) -> str:
    """The text as a factor: in parentheses unless it is a name (perhaps reshaped) or has them."""
    closed = text.startswith("(") and text.endswith(")") and _balanced(text[1:-1])
    return text if closed or re.fullmatch(r"\w+(\[[^\]]*\])?", text) else f"({text})"


def _balanced(text: str) -> bool:
    level = 0
    for c in text:
        level += (c == "(") - (c == ")")
        if level < 0:
            return False
    return level == 0


def shifted(ix: Index, by: int) -> Index:
    """ix + by; whole blocks stay blocks."""
    if by == 0:
        return ix
    if ix.origin is not None:
        return shifted(ix.origin[0], ix.origin[1] + by)
    if ix.parts is not None and by % ix.parts[2] == 0:
        outer, inner, n = ix.parts
        return joined(shifted(outer, by // n), inner, n)
    if ix.parts is not None and ix.parts[1].tile.literal:
        outer, inner, n = ix.parts
        blocks, rest = divmod(inner.low + by, n)
        return _scattered(joined(shifted(outer, blocks), constant(rest), n))
    if ix.tile.literal:
        return constant(ix.low + by)
    text = f"{ix.text} {'+' if by > 0 else '-'} {abs(by)}"
    return Index(_like(ix, text), ix.low + by, ix.high + by, moved=bool(ix.dims) or ix.moved, origin=(ix, by))


def strided(ix: Index, step: int, start: int) -> Index:
    """ix · step + start."""
    if step == 1:
        return shifted(ix, start)
    if ix.tile.literal:
        return constant(ix.low * step + start)
    if 0 <= start < step:
        return _scattered(joined(ix, constant(start), step))
    text = f"{factor(ix.text)} * {step} + {start}"
    return Index(_like(ix, text), ix.low * step + start, ix.high * step + start, moved=bool(ix.dims) or ix.moved)


def _scattered(ix: Index) -> Index:
    """ix, which neither counts entries nor blocks of them."""
    return replace(ix, tile=_like(ix, ix.text), moved=bool(ix.dims) or ix.moved)


def reversed_(ix: Index, n: int) -> Index:
    """n − 1 − ix."""
    if ix.tile.literal:
        return constant(n - 1 - ix.low)
    text = f"{n - 1} - {factor(ix.text)}"
    return Index(_like(ix, text), n - 1 - ix.high, n - 1 - ix.low, moved=bool(ix.dims) or ix.moved)


def quotient(ix: Index, n: int, size: int) -> tuple[Index, Index]:
    """(ix // n, ix % n) for ix ≥ 0 on an axis of outer size `size`."""
    if n == 1:
        return ix, constant(0)
    if ix.parts is not None and ix.parts[2] == n:
        return ix.parts[0], ix.parts[1]
    if (
        ix.parts is not None
        and ix.parts[2] % n == 0
        and (inner := ix.parts[1]).parts is not None
        and inner.parts[2] == n
    ):
        return joined(ix.parts[0], inner.parts[0], ix.parts[2] // n), inner.parts[1]
    if ix.tile.literal:
        return constant(ix.low // n), constant(ix.low % n)
    if size == 1:
        return constant(0), ix
    text = factor(ix.text)
    outer = Index(_like(ix, f"{text} // {n}"), ix.low // n, ix.high // n, moved=ix.moved, of=(ix, n, False))
    inner = Index(_like(ix, f"{text} % {n}"), 0, n - 1, moved=ix.moved, of=(ix, n, True))
    return outer, inner


def half(ix: Index) -> tuple[Dim, int] | None:
    """(dimension, m) if ix says in which half of its block of 2m an entry of a dimension is."""
    if ix.of is None or ix.of[2]:
        return None
    whole, m, _ = ix.of
    if whole.plain is not None and whole.plain.size == 2 * m:
        return whole.plain, m
    inside = whole.of
    if inside is not None and inside[2] and inside[1] == 2 * m and inside[0].plain is not None:
        return inside[0].plain, m
    return None


def _like(ix: Index, text: str) -> Tile:
    return Tile(f"({text})", ix.dims, "int", ix.tile.depth)
