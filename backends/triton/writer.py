"""Writing a kernel's body: named lines in nested loops, each as far out as what it reads allows."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from math import prod

from backends.triton.relief import relieved
from backends.triton.schedule import Line, Loop, copied, names_in, pressure, reordered, scheduled
from backends.triton.text import christen, steps, written
from backends.triton.tile import Dim, Tile, joint
from mixer_ir.nodes.functions import Kind

WIDE = 112
PREFIX = {"real": "b", "int": "n", "bool": "m"}
"""of the names of blocks in registers, by kind: numbers, whole numbers, masks"""


class Writer:
    """The lines of one kernel.

    real   the precision that it computes in, as text       dot   how products of matrices take their arguments
    copies   threads that hold an entry of such an argument
    repeats  whether parts of a tile are written wherever they are read, as if they took no registers
    piped    whether what is loaded to be a factor of products alone stays in shared memory
    turned   name of a product of matrices -> (the product as it was made, how its dimensions were turned, with {})
    """

    def __init__(self, real: str, dot: str, copies: int = 0, repeats: bool = True) -> None:
        self.real, self.dot, self.copies, self.repeats = real, dot, copies, repeats
        self.stack: list[list[Line | Loop]] = [[]]
        self.helpers: dict[str, str] = {}
        self.used: dict[str, int] = {}
        self.turned: dict[str, tuple[str, str]] = {}
        self.noun = self.step = ""
        self.piped = False

    @contextmanager
    def about(self, noun: str, step: str = "") -> Iterator[None]:
        """Lines written meanwhile hold what `noun` says, as part of a step of the derivation."""
        before = self.noun, self.step
        self.noun, self.step = noun, step
        try:
            yield
        finally:
            self.noun, self.step = before

    @property
    def depth(self) -> int:
        return len(self.stack) - 1

    def name(self, hint: str) -> str:
        hint = name = re.sub(r"\W+", "_", hint)
        while name in self.used:
            self.used[hint] += 1
            name = f"{hint}{self.used[hint]}"
        self.used[name] = 1
        return name

    def let(
        self,
        hint: str,
        text: str,
        dims: tuple[Dim, ...],
        *,
        depth: int,
        kind: Kind = "real",
        light: bool = False,
        clean: frozenset[Dim] = frozenset(),
        working: int = 0,
        parts: int = 1,
    ) -> Tile:
        """A new name for `text`, of one tile or as many as it has parts."""
        name = self.name(hint)
        noun = f"{PREFIX[kind]}_{word}" if (word := re.sub(r"\W+", "_", self.noun)) else ""
        size = 0 if kind == "bool" else parts * self._size(dims)  # comparisons are made again where they are read
        line = Line(name, text, _shape(dims), light, size, kind == "bool", noun, self.step, working)
        self.stack[depth].append(line)
        return Tile(name, dims, kind, depth, clean=clean)

    def added(self, x: Tile, y: Tile) -> Tile | None:
        """x + y of two products turned alike, added before that: so one product goes on from the sums of the other."""
        if x.text not in self.turned or y.text not in self.turned or x.dims != y.dims:
            return None
        (left, turn), (right, other) = self.turned[x.text], self.turned[y.text]
        if turn != other:
            return None
        made = self.let("b_dot", f"{left} + {right}", (), depth=max(x.depth, y.depth))
        return self.turn(made.text, turn, x.dims, depth=made.depth)

    def turn(self, name: str, turn: str, dims: tuple[Dim, ...], *, depth: int) -> Tile:
        """A product of matrices with its dimensions in order."""
        made = self.let("b_dot", turn.format(name), dims, depth=depth, light=True)
        self.turned[made.text] = name, turn
        return made

    def _size(self, dims: tuple[Dim, ...]) -> int:
        return prod(d.size for d in dims) * (2 if self.real == "tl.float64" else 1)

    def map(self, form: str, *tiles: Tile, kind: Kind = "real", hint: str = "x") -> Tile:
        """`form` filled with tiles that broadcast."""
        dims = joint(*tiles)
        text = form.format(*(_closed(t.over(dims)) for t in tiles))
        return self.let(hint, text, dims, depth=max((t.depth for t in tiles), default=0), kind=kind, light=True)

    def do(self, text: str) -> None:
        """A statement inside the innermost loop."""
        self.stack[-1].append(Line("", text, step=self.step))

    def assign(self, name: str, text: str, dims: tuple[Dim, ...], *, outside: bool = False) -> None:
        """A statement that gives a name another tile, inside the innermost loop or just before it."""
        word = re.sub(r"\W+", "_", self.noun)
        noun = f"{'acc' if name.startswith('acc') else 'b'}_{word}" if word else ""
        line = Line("", f"{name} = {text}", size=self._size(dims), noun=noun, step=self.step)
        self.stack[-2 if outside else -1].append(line)

    @contextmanager
    def loop(self, head: str) -> Iterator[None]:
        lines: list[Line | Loop] = []
        self.stack.append(lines)
        yield
        self.stack.pop()
        self.stack[-1].append(Loop(head, lines))

    def body(self, enough: int = 0, stored: Collection[str] = ()) -> tuple[str, list[str], int]:
        """All lines, indented by four, the steps that they take, and the most registers that they hold at once.

        enough   registers that need no better order     stored   arrays after which what they store is named
        """
        lines = self.stack[0]
        if self.repeats:
            _part(lines)
        if self.piped:
            _piped(lines)
        single = copied(lines)
        _fold(lines)
        scheduled(lines)
        held = pressure(lines)
        if enough < held <= 4 * enough:
            lines = min((lines, *_orders(lines, single)), key=pressure)
            held = pressure(lines)
        if enough < held <= 4 * enough:
            lines = relieved(lines, enough)
            held = pressure(lines)
        christen(lines, stored)
        return "\n".join(written(lines)), steps(lines), held


FACTOR = r"(?:tl\.permute\()?\b{}\b(?:, \[[\d, ]+\]\))?\.to\(tl\.(?:bfloat16|float16)\)"


def _piped(lines: list[Line | Loop]) -> None:
    """What is only a narrow factor of products takes half of the registers, and none if it is loaded to be one."""
    found = [x for x, _ in _walk(lines)]
    for x in found:
        if isinstance(x, Line) and x.name and x.size:
            readers = [y.text if isinstance(y, Line) else y.head for y in found if y is not x]
            readers = [text for text in readers if x.name in names_in(text)]
            factors = [len(re.findall(FACTOR.format(x.name), text)) * ("tl.dot(" in text) for text in readers]
            if factors == [names_in(text).count(x.name) for text in readers]:
                x.size = 0 if x.text.startswith("tl.load(") else x.size // 2


def _orders(folded: list[Line | Loop], single: list[Line | Loop]) -> Iterator[list[Line | Loop]]:
    """Other orders of a body's lines; of `single` ones, where a sum's first terms are added before its last are there.

    A line of several operations waits for all that it reads, so those are put in order first and folded afterwards.
    """
    other = copied(folded)
    reordered(other)
    yield other
    _fold(single, small=True)
    scheduled(single)
    other = copied(single)
    reordered(other)
    for lines in (single, other):
        _fold(lines, next_=True)
        yield lines


def _shape(dims: Sequence[Dim]) -> str:
    return f"({' '.join(d.name for d in dims)})" if dims else ""


@lru_cache(maxsize=1 << 14)
def _closed(text: str) -> str:
    """The text, in parentheses if it is a sum or the like."""
    simple = re.fullmatch(r"-?[\w.]+(\[[^\]]*\])?", text) or re.fullmatch(r"[\w.]+\([^()]*\)", text)
    return text if simple or _wrapped(text) else f"({text})"


def _wrapped(text: str) -> bool:
    """Whether one pair of parentheses (perhaps a call's) holds the whole text."""
    opened = re.match(r"[\w.]*\(", text)
    if not opened or not text.endswith(")"):
        return False
    level = 0
    for i, c in enumerate(text):
        level += (c == "(") - (c == ")")
        if level == 0 and c == ")" and i < len(text) - 1:
            return False
    return True


def _walk(lines: list[Line | Loop], path: tuple[int, ...] = ()) -> Iterator[tuple[Line | Loop, tuple[int, ...]]]:
    for x in lines:
        yield x, path
        if isinstance(x, Loop):
            yield from _walk(x.lines, (*path, id(x)))


CHOSEN = re.compile(r"tl\.where\((\w+), (\w+|tl\.permute\(\w+, \[1, 0\]\)), 0\.0\)")


def _part(lines: list[Line | Loop]) -> None:
    """Parts of a tile, the rest of it 0, are written wherever they are read: it is held anyway, they need not be."""
    masks = {x.name for x, _ in _walk(lines) if isinstance(x, Line) and x.mask}
    parts: dict[str, str] = {}
    for x, _ in _walk(lines):
        if not isinstance(x, Line):
            continue
        for n in {*names_in(x.text)} & parts.keys():
            x.text = re.sub(rf"\b{n}\b(?!\[)", lambda _, t=parts[n]: t, x.text)  # type: ignore[misc]
        if x.light and x.name and (found := CHOSEN.fullmatch(x.text)) and found[1] in masks:
            parts[x.name] = x.text


def _fold(lines: list[Line | Loop], *, small: bool = False, next_: bool = False) -> None:
    """Light lines that are read once, in the same loop, go where they are read; lines that nothing reads go away.

    small   only masks and single numbers do     next_   only lines just before the one that reads them
    """
    while True:
        found = list(_walk(lines))
        made = {x.name for x, _ in found if isinstance(x, Line) and x.name}
        reads: dict[str, list[tuple[Line | Loop, tuple[int, ...]]]] = {}
        for at in found:
            for word in names_in(at[0].text if isinstance(at[0], Line) else at[0].head):
                if word in made:
                    reads.setdefault(word, []).append(at)
        after = {id(x): y for (x, _), (y, _) in pairwise(found)} if next_ else {}
        gone: set[int] = set()
        touched: set[int] = set()
        for x, path in found:
            if not isinstance(x, Line) or not x.name or id(x) in touched:
                continue
            readers = reads.get(x.name, ())
            if not readers:
                gone.add(id(x))
            elif (
                len(readers) == 1 and x.light and isinstance(readers[0][0], Line) and (readers[0][1] == path or x.mask)
            ):
                reader = readers[0][0]
                if (small and x.size > 1 and not x.mask) or (next_ and after[id(x)] is not reader):
                    continue
                if id(reader) in touched or len(reader.text) >= WIDE + len(x.name):
                    continue
                text = _tile(x.name).sub(lambda _, t=x.text: _closed(t), reader.text)  # type: ignore[misc]
                if x.name not in names_in(text) and len(text) < WIDE:
                    reader.text = text
                    touched |= {id(reader)}
                    gone.add(id(x))
        if not gone:
            return
        _drop(lines, gone)


@lru_cache(maxsize=1 << 14)
def _tile(name: str) -> re.Pattern[str]:
    """A name where it stands for a tile as it is."""
    return re.compile(rf"\b{name}\b(?!\[)")


def _drop(lines: list[Line | Loop], gone: set[int]) -> None:
    lines[:] = [x for x in lines if id(x) not in gone]
    for x in lines:
        if isinstance(x, Loop):
            _drop(x.lines, gone)
