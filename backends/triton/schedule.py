"""The order of a kernel's lines, and the registers that it takes: each value is computed just before it is read.

A line is pure unless it is a statement, or reads a name that a statement assigns: such lines keep their order, and the
others move down to their first reader. Of what a reader needs, that which takes most registers on the way comes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache

from backends.triton.functions import TILES


@dataclass
class Line:
    """`name = text`, of a tile or a statement; one that is `light` may be written where it is read instead.

    size   registers that the tile takes in all threads together     mask   of truth values, cheap to compute again
    noun   what the name is to be in the end     step   of the derivation that it belongs to
    working   registers that it takes while it works
    """

    name: str
    text: str
    note: str = ""
    light: bool = False
    size: int = 0
    mask: bool = False
    noun: str = ""
    step: str = ""
    working: int = 0


@dataclass
class Loop:
    """for `head`: lines."""

    head: str
    lines: list[Line | Loop] = field(default_factory=list)


def copied(lines: Iterable[Line | Loop]) -> list[Line | Loop]:
    """The lines, to be changed by themselves."""
    return [Loop(x.head, copied(x.lines)) if isinstance(x, Loop) else copy(x) for x in lines]


@lru_cache(maxsize=1 << 16)
def names_in(text: str) -> tuple[str, ...]:
    """The names that a text reads, each as often as it does."""
    return tuple(re.findall(r"\b[A-Za-z_]\w*", text))


def assigned(lines: Iterable[Line | Loop]) -> Iterator[str]:
    """The names that statements assign."""
    for x in lines:
        if isinstance(x, Loop):
            yield from assigned(x.lines)
        elif not x.name and (found := re.match(r"([\w, ]+) = ", x.text)):
            yield from found[1].split(", ")


def read(x: Line | Loop) -> set[str]:
    """The names that a line reads; of a loop, those that it takes from outside (and some of its own)."""
    if isinstance(x, Line):
        return set(names_in(x.text))
    return set(names_in(x.head)).union(*(read(y) for y in x.lines))


def scheduled(lines: list[Line | Loop]) -> None:
    """The lines of a block and of its loops in a better order."""
    changed = set(assigned(lines))
    _scheduled(lines, changed)


def _scheduled(lines: list[Line | Loop], changed: set[str]) -> None:
    reads = [read(x) for x in lines]
    pure = {x.name: i for i, x in enumerate(lines) if isinstance(x, Line) and x.name and not reads[i] & changed}
    need: dict[str, int] = {}

    def weight(name: str) -> int:
        """The registers held at once on the way to a value, if nothing is shared."""
        if name not in need:
            line = lines[pure[name]]
            assert isinstance(line, Line)
            inner = sorted((n for n in reads[pure[name]] if n in pure), key=lambda n: (-weight(n), pure[n]))
            held = most = 0
            for n in inner:
                most = max(most, held + weight(n))
                x = lines[pure[n]]
                assert isinstance(x, Line)
                held += x.size
            need[name] = max(most, held + line.size)
        return need[name]

    made: list[Line | Loop] = []
    done: set[str] = set()

    def place(i: int) -> None:
        for n in sorted((n for n in reads[i] if n in pure and n not in done), key=lambda n: (-weight(n), pure[n])):
            if n not in done:
                done.add(n)
                place(pure[n])
        made.append(lines[i])

    for i, x in enumerate(lines):
        if isinstance(x, Line) and x.name in pure:
            continue
        if isinstance(x, Loop):
            _scheduled(x.lines, changed)
        place(i)
    lines[:] = made


AHEAD = 24
"""lines that the order looks ahead"""


def reordered(lines: list[Line | Loop]) -> None:
    """The lines in an order made from the end: of what may come last, that which leaves the fewest registers held."""
    _reordered(lines, set(assigned(lines)))


def _reordered(lines: list[Line | Loop], changed: set[str]) -> None:
    for x in lines:
        if isinstance(x, Loop):
            _reordered(x.lines, changed)
    made = {x.name: i for i, x in enumerate(lines) if isinstance(x, Line) and x.name}
    size = [x.size if isinstance(x, Line) else 0 for x in lines]
    values: list[list[int]] = []  # what a line reads, of some size
    before: list[list[int]] = []  # what stands before it
    last = -1
    for i, x in enumerate(lines):
        names = read(x)
        before.append(sorted(made[n] for n in names if n in made and made[n] != i))
        values.append([j for j in before[i] if size[j]])
        if isinstance(x, Loop) or not x.name or names & changed:
            if last >= 0 and last not in before[i]:
                before[i].append(last)
            last = i
    touches = [
        _bits([i, *of]) for i, of in enumerate(values)
    ]  # what `change` looks at, and what a line's place changes
    waits = [0] * len(lines)
    for i in range(len(lines)):
        for j in before[i]:
            waits[j] += 1
    ready = {i for i in range(len(lines)) if not waits[i]}
    live: set[int] = set()
    order: list[int] = []

    def change(i: int, held: set[int]) -> int:
        now = -size[i] if i in held else 0
        for j in values[i]:
            if j not in held:
                now += size[j]
        return now

    def ahead(i: int) -> tuple[int, int]:
        """The fewest registers, of those held before, after this line and some of those that may then come.

        Also the lines that this hangs on.
        """
        held, left, todo = set(live), dict[int, int](), [i]
        now, least, seen = 0, 1 << 60, touches[i]
        for _ in range(AHEAD):
            if not todo:
                break
            i = min(todo, key=lambda j: change(j, held)) if len(todo) > 1 else todo[0]
            todo.remove(i)
            now += change(i, held)
            least = min(least, now)
            held.discard(i)
            held.update(values[i])
            for j in before[i]:
                left[j] = left.get(j, waits[j]) - 1
                seen |= 1 << j
                if not left[j]:
                    todo.append(j)
                    seen |= touches[j]
        return least, seen

    known: dict[int, tuple[int, int]] = {}  # what `ahead` gave, until something that it hangs on changes
    while ready:
        if len(ready) > 1:
            known |= {i: ahead(i) for i in ready if i not in known}
        best = min(ready, key=lambda i: (known[i][0], -i)) if len(ready) > 1 else next(iter(ready))
        ready.remove(best)
        order.append(best)
        live.discard(best)
        live.update(values[best])
        for j in before[best]:
            waits[j] -= 1
            if not waits[j]:
                ready.add(j)
        changed_now = touches[best] | _bits(before[best])
        known = {i: x for i, x in known.items() if i != best and not x[1] & changed_now}
    lines[:] = [lines[i] for i in reversed(order)]


def _bits(of: Iterable[int]) -> int:
    """A set of small numbers as one."""
    return sum(1 << i for i in {*of})


def pressure(lines: list[Line | Loop]) -> int:
    """The most registers that tiles take at once, all threads together."""
    return largest(lines)[0]


def largest(lines: list[Line | Loop]) -> tuple[int, list[Line | Loop], int]:
    """(The most registers that tiles take at once, the block and the number of the line where they do)."""
    sizes = {x.name: x.size for x in every(lines) if x.name}
    sizes |= {name: x.size for x in every(lines) if x.size and not x.name for name in assigned([x])}
    return _largest(lines, sizes, set())


def every(lines: Iterable[Line | Loop]) -> Iterator[Line]:
    """The lines of a block and of its loops."""
    for x in lines:
        if isinstance(x, Loop):
            yield from every(x.lines)
        else:
            yield x


@lru_cache(maxsize=1 << 16)
def _working(text: str) -> int:
    """Tiles that a line's functions hold while they work."""
    return max((tiles for name, tiles in TILES.items() if name in text), default=0)


def _largest(lines: list[Line | Loop], sizes: dict[str, int], after: set[str]) -> tuple[int, list[Line | Loop], int]:
    """`after`: names that are read later."""
    live, most = set(after), (0, lines, 0)
    held = sum(sizes[n] for n in live)
    for i, x in reversed(list(enumerate(lines))):
        names = read(x) & sizes.keys()
        if isinstance(x, Loop):
            inside = {y.name for y in every(x.lines)}
            names -= inside
            held += sum(sizes[n] for n in names - live)
            live |= names
            most = max(most, _largest(x.lines, sizes, live), key=lambda found: found[0])
            continue
        held += sum(sizes[n] for n in names - live)
        own = x.name in live
        now = held + (0 if own else x.size) + _working(x.text) * x.size + x.working
        if now > most[0]:
            most = now, lines, i
        live |= names
        if own and x.name not in names:
            held -= sizes[x.name]
            live.discard(x.name)
    return most
