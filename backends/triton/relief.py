"""Tiles that are loaded again instead of held: where a kernel holds the most, nothing lies idle that memory has.

A tile that is read early and late is held in between. Where registers do not suffice, what was loaded before the line
that holds the most, and is read only behind it, is loaded behind it: a load that nothing reads before just moves, else
it is done twice. The second says how long the cache is to keep it, without which a compiler makes one load of both.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count

from backends.triton.schedule import Line, Loop, assigned, copied, every, largest, pressure, read

POLICIES = ("evict_last", "evict_first")
"""of the second load and of the third"""
STEPS = 32
"""loads that are moved or done again at most"""
SHARE = 64
"""of the registers, what is worth it"""


def relieved(lines: list[Line | Loop], enough: int) -> list[Line | Loop]:
    """The lines with loads moved or done again until no more than `enough` registers are held, or nothing helps."""
    made = copied(lines)
    stored = {n for x in every(made) for n in re.findall(r"tl\.store\((p_\w+)", x.text)}
    for _ in range(STEPS):
        most, block, i = largest(made)
        if most <= enough or not _step(block, i, stored, enough // SHARE, {x.name for x in every(made)}):
            break
    return made if pressure(made) < pressure(lines) else lines


def _step(block: list[Line | Loop], i: int, stored: set[str], least: int, taken: set[str]) -> bool:
    """The largest tile that lies idle at line i of a block, of `least` entries or more, is loaded behind it.

    taken   names that are assigned somewhere
    """
    reads = [read(x) for x in block]
    found = []
    for d, x in enumerate(block[:i]):
        if not isinstance(x, Line) or x.size < least or not x.text.startswith("tl.load(") or x.name in reads[i]:
            continue
        changed = set(assigned(block[d + 1 :]))
        if reads[d] & (changed | stored) or "evict_first" in x.text:
            continue
        if later := [j for j in range(i + 1, len(block)) if x.name in reads[j]]:
            found.append((x.size, later[0], d))
    if not found:
        return False
    _, first, d = max(found)
    x = block[d]
    assert isinstance(x, Line)
    if any(x.name in reads[j] for j in range(d + 1, i)):
        noun = f"{x.noun.removesuffix('_again')}_again" if x.noun else ""
        name = next(n for i in count(1) if (n := f"{x.name.partition('_again')[0]}_again{i}") not in taken)
        again = replace(x, name=name, text=_again(x.text), noun=noun)
        for y in block[first:]:
            _rename(y, x.name, again.name)
        block.insert(first, again)
    else:
        block.insert(first, x)
        del block[d]
    return True


def _again(text: str) -> str:
    """The load, with the next policy."""
    policy = POLICIES["evict_last" in text]
    text = text.replace(', eviction_policy="evict_last"', "")
    level = 0
    for i, c in enumerate(text):
        level += (c == "(") - (c == ")")
        if c == ")" and not level:
            return f'{text[:i]}, eviction_policy="{policy}"{text[i:]}'
    raise AssertionError(text)


def _rename(x: Line | Loop, old: str, new: str) -> None:
    if isinstance(x, Loop):
        x.head = re.sub(rf"\b{old}\b", new, x.head)
        for y in x.lines:
            _rename(y, old, new)
    else:
        x.text = re.sub(rf"\b{old}\b", new, x.text)
