"""A long text in functions: what a compiler takes for one function grows faster than the function does.

The statements of a block that stand together become a function of their own, called with what they read of the text
around them: arrays, places in loops, numbers of threads. Where arrays are exchanged, and where threads are started,
stays as it is, and what is inside is looked at by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

LONG = 300
"""lines from which on a text is cut up"""
LINES = 80
"""lines of a function, about"""
NAME = re.compile(r"[A-Za-z_]\w*")
ARRAY = re.compile(r"(\w+) \*(\w+) = (.*);")
LOCAL = re.compile(r"(?:const )?(?:real|cplx|uint8_t|int64_t|long|int) (\w+)(?:\[[\w ]+\])*(?: =.*)?;")
LOOP = re.compile(r"for \(long (\w+) = ")
COLLAPSED = re.compile(r"#pragma omp for collapse\((\d+)\)")
OWN = "char *own = OWN(thread_number());"
STAYS = re.compile(r"#pragma omp (parallel num_threads|for )|void \*swap|char \*own")


@dataclass(frozen=True)
class Item:
    """One statement with what belongs to it, from its pragmas to its last brace; `several`: some of them as one."""

    lines: list[str]
    several: bool = False

    @property
    def names(self) -> frozenset[str]:
        return frozenset(NAME.findall("\n".join(self.lines)))

    @property
    def array(self) -> tuple[str, str] | None:
        """(type, name) if it says where an array lies."""
        found = ARRAY.fullmatch(self.lines[0]) if len(self.lines) == 1 else None
        return None if found is None else (found[1], found[2])

    @property
    def local(self) -> str | None:
        """The name of a number, or of a few, that statements after it work on."""
        found = LOCAL.fullmatch(self.lines[0]) if len(self.lines) == 1 else None
        return None if found is None else found[1]

    @property
    def stays(self) -> bool:
        return any(STAYS.search(line) for line in self.lines)


def outlined(lines: list[str]) -> tuple[list[list[str]], list[str]]:
    """(functions, what is left of the text); a short text as it is."""
    if len(lines) < LONG:
        return [], lines
    made = Outline([])
    return made.functions, made.block(lines, {"threads": "int", "arena": "char *"})


@dataclass
class Outline:
    """The functions made so far."""

    functions: list[list[str]]

    def block(self, lines: Sequence[str], known: Mapping[str, str]) -> list[str]:
        """The statements of a block, whose surroundings have these names, each with its type."""
        types = dict(known)
        left: list[str] = []
        group: list[Item] = []

        def close() -> None:
            if group:
                left.extend(self._function(group, types))
                group.clear()

        for item in grouped(items(lines)):
            if item.array is not None:
                c, name = item.array
                types[name] = f"{c} *"
                left += item.lines  # before the group, as it hangs on nothing that changes
            elif item.stays:
                close()
                left += item.lines if item.several else self._within(item.lines, types)
            else:
                if group and sum(len(i.lines) for i in group) + len(item.lines) > LINES:
                    close()
                group.append(item)
        close()
        return left

    def _within(self, lines: list[str], types: Mapping[str, str]) -> list[str]:
        """A statement that stays, with its own block cut up."""
        first = next((i for i, line in enumerate(lines) if line.endswith("{")), None)
        if first is None:
            return lines
        whole = COLLAPSED.search("\n".join(lines[:first]))
        depth = int(whole[1]) if whole else 1  # loops that threads share as one stay one
        head, inside, tail = lines[: first + depth], lines[first + depth : -depth], lines[-depth:]
        known = dict(types)
        for line in head:
            known.update(dict.fromkeys(LOOP.findall(line), "long"))
        if OWN in inside:
            known["own"] = "char *"
        return [*head, *self.block(inside, known), *tail]

    def _function(self, group: Sequence[Item], types: Mapping[str, str]) -> list[str]:
        """The call that stands for the statements."""
        used = frozenset().union(*(i.names for i in group))
        if "OWN" in used:
            used |= {"arena"}  # which that macro reads
        needed = [n for n in types if n in used]
        name = f"part{len(self.functions)}"
        arguments = ", ".join(f"{types[n]}{'' if types[n].endswith('*') else ' '}{n}" for n in needed)
        body = [line for item in group for line in item.lines]
        self.functions.append([f"OUTSIDE void {name}({arguments or 'void'}) {{", *body, "}"])
        return [f"{name}({', '.join(needed)});"]


def items(lines: Sequence[str]) -> Iterator[Item]:
    """The statements of a block."""
    held: list[str] = []
    depth = 0
    for line in lines:
        held.append(line)
        depth += line.endswith("{")
        depth -= line.startswith("}")
        if depth == 0 and not line.startswith("#"):
            yield Item(held)
            held = []
    assert not held, "a block ends in the midst of a statement"


def grouped(found: Iterator[Item]) -> Iterator[Item]:
    """The same, with numbers and all that works on them as one statement."""
    waiting = list(found)
    at = 0
    while at < len(waiting):
        end, names = at + 1, set[str]()
        item = waiting[at]
        while True:
            if item.local is not None:
                names.add(item.local)
            more = [j for j in range(end, len(waiting)) if names & waiting[j].names]
            if not more:
                break
            last = more[-1] + 1
            for other in waiting[end:last]:
                if other.local is not None:
                    names.add(other.local)
            end = last
        arrays = [i for i in waiting[at:end] if i.array is not None]
        if end - at == 1:
            yield item
        else:
            yield from arrays
            yield Item([line for i in waiting[at:end] if i.array is None for line in i.lines], several=True)
        at = end
