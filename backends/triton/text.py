"""A kernel's text for readers: names after what they hold, a comment above each step, no line too long.

Nothing of this changes what is compiled: the syntax tree is the same but for names. What looks at a kernel's code, and
not at its looks, asks for `plain`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from textwrap import fill

from backends.triton.schedule import Line, Loop, assigned, every, names_in

WIDTH = 110
"""characters of a line, where it can be cut"""
NAME = re.compile(r"(?<![.\w])[A-Za-z_]\w*")


@lru_cache(maxsize=1 << 10)
def plain(source: str) -> str:
    """The code of a module: each statement on a line of its own, without comments and docstrings."""
    tree = ast.parse(source)
    for x in ast.walk(tree):
        if isinstance(x, ast.FunctionDef) and ast.get_docstring(x, clean=False) is not None:
            x.body = x.body[1:] or [ast.Pass()]
    return ast.unparse(tree).replace("'", '"')


# ---------------------------------------------------------------------------------------------------------- names


def christen(lines: Sequence[Line | Loop], stored: Collection[str] = ()) -> None:
    """Every name after the value that it holds: that of an array, of a step's result, of an operation.

    A number makes it the only one. What is stored in an array of `stored` takes its name.
    """
    wanted = dict(_wanted(lines))
    for x in every(lines):
        found = re.match(r"tl\.store\(p_(\w+).*?, (\w+)(, mask=.*)?\)$", x.text)
        if found and found[1] in stored and found[2] in wanted and not wanted[found[2]].startswith(("m_", "n_")):
            wanted[found[2]] = f"b_{found[1]}"
    used = {n for text in (*(x.text for x in every(lines)), *_heads(lines)) for n in names_in(text)} - wanted.keys()
    given: dict[str, str] = {}
    for name, base in wanted.items():
        made, i = base, 1
        while made in used:
            i += 1
            made = f"{base}{i}"
        used.add(made)
        given[name] = made
    _rewrite(lines, given)


def _wanted(lines: Sequence[Line | Loop]) -> Iterator[tuple[str, str]]:
    """(name, what it should be called) in the order of the text; names of the first line that assigns them."""
    seen: set[str] = set()
    for x in every(lines):
        for name in [x.name] if x.name else assigned([x]):
            if name not in seen and x.noun:
                yield name, x.noun
            seen.add(name)


def _heads(lines: Sequence[Line | Loop]) -> Iterator[str]:
    for x in lines:
        if isinstance(x, Loop):
            yield x.head
            yield from _heads(x.lines)


def _rewrite(lines: Sequence[Line | Loop], names: Mapping[str, str]) -> None:
    def other(text: str) -> str:
        return NAME.sub(lambda found: names.get(found[0], found[0]), text)

    for x in lines:
        if isinstance(x, Loop):
            x.head = other(x.head)
            _rewrite(x.lines, names)
        else:
            x.name, x.text = names.get(x.name, x.name), other(x.text)


# ------------------------------------------------------------------------------------------------------- comments


def written(lines: Sequence[Line | Loop], level: int = 1, above: str = "") -> Iterator[str]:
    """The lines as text, with a comment wherever another step of the derivation begins."""
    space = "    " * level
    now = above
    for i, (x, step) in enumerate(zip(lines, _steps(lines), strict=True)):
        if step and step != now:
            if i:
                yield ""
            yield from _comment(step, level)
            now = step
        if isinstance(x, Loop):
            yield f"{space}{x.head}:"
            yield from written(x.lines, level + 1, now) if x.lines else iter([f"{space}    pass"])
            now = now if _told(x) <= {now} else ""
        else:
            yield f"{space}{f'{x.name} = {x.text}' if x.name else x.text}" + (f"  # {x.note}" if x.note else "")


def _comment(text: str, level: int) -> list[str]:
    space = "    " * level + "# "
    return fill(text, WIDTH, initial_indent=space, subsequent_indent=space).split("\n")


def steps(lines: Sequence[Line | Loop]) -> list[str]:
    """What the lines do, step by step, those that differ in sizes alone as one."""
    found: dict[str, str] = {}
    for x in every(lines):
        if x.step:
            alike = re.sub(r"\d+", "…", x.step)
            found[alike] = alike if found.get(alike, x.step) != x.step else x.step
    return list(found.values())


def _steps(lines: Sequence[Line | Loop]) -> list[str]:
    """The step of each line; one that has none is part of the next one's, a statement of the one's before."""
    found = [_own(x) for x in lines]
    for i, x in enumerate(lines):
        if not found[i] and i and found[i - 1] and isinstance(x, Line) and not x.name:
            found[i] = found[i - 1]
    for i in reversed(range(len(lines) - 1)):
        if not found[i] and isinstance(lines[i], Line):
            found[i] = found[i + 1]
    return found


def _own(x: Line | Loop) -> str:
    """The step of a line, or of a loop that is part of one; places and masks are part of what reads them."""
    if isinstance(x, Loop):
        return next(iter(told)) if len(told := _told(x)) == 1 else ""
    return "" if x.noun.startswith(("m_", "n_")) else x.step


def _told(x: Loop) -> set[str]:
    """The steps that a loop's lines belong to."""
    return {y.step for y in every(x.lines) if y.step}


# ------------------------------------------------------------------------------------------------------ long lines


def tidy(text: str) -> str:
    """The lines of statements, those that are too long or full of parentheses written anew."""
    made = []
    for line in text.split("\n"):
        code, mark, note = line.partition("  # ")
        bare = code.lstrip()
        if bare.startswith(("#", "for ", "if ", "elif ", "else", "pass")) or not (len(line) > WIDTH or "((" in bare):
            made.append(line)
            continue
        space = len(code) - len(bare)
        code = ast.unparse(ast.parse(bare)).replace("'", '"')
        name, _, value = code.partition(" = ")
        if name.isidentifier() and len(_parts(value)) > 1 and space + len(code + mark + note) > WIDTH:
            code = f"{name} = ({value})"
        made.append(wrapped(code, space, mark + note))
    return "\n".join(made)


def wrapped(code: str, space: int = 0, last: str = "") -> str:
    """Code after `space` blanks (and before `last`), on as many lines as it takes."""
    pad = " " * space
    if len(pad) + len(code) + len(last) <= WIDTH:
        return f"{pad}{code}{last}"
    if (found := _widest(code)) is None:
        return f"{pad}{code}{last}"
    start, stop = found
    head, inside, tail = code[: start + 1], code[start + 1 : stop], code[stop:]
    parts = [inside] if len(inside) + space + 4 <= WIDTH else _parts(inside)
    if len(parts) == 1 and len(inside) + space + 4 > WIDTH:
        body = wrapped(inside, space + 4)
        return f"{pad}{head}\n{body}\n{pad}{tail}{last}"
    return "\n".join([pad + head, *_filled(list(_commas(parts)), space + 4), pad + tail + last])


def _widest(code: str) -> tuple[int, int] | None:
    """The pair of brackets, of those inside no other, that holds the most; None if none holds much."""
    best, level, start = None, 0, 0
    for i, c in enumerate(code):
        if c in "([{":
            start = i if not level else start
            level += 1
        elif c in ")]}":
            level -= 1
            if not level and (best is None or i - start > best[1] - best[0]):
                best = start, i
    return best if best is not None and best[1] - best[0] > 20 else None


def _parts(code: str) -> list[str]:
    """Arguments, or the terms of a sum where there is but one: cut where no bracket is open."""
    for mark in (", ", " + ", " - ", " * "):
        cuts, level = [0], 0
        for i, c in enumerate(code):
            level += (c in "([{") - (c in ")]}")
            if not level and code.startswith(mark, i):
                cuts.append(i)
        if len(cuts) > 1:
            return [code[i:j].strip() for i, j in pairwise([*cuts, len(code)])]
    return [code]


def _commas(parts: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each part without the comma that it begins with, and whether one follows it."""
    for i, x in enumerate(parts):
        yield x.removeprefix(", ").removeprefix(",").lstrip(), i + 1 < len(parts) and parts[i + 1].startswith(",")


def _filled(parts: Sequence[tuple[str, bool]], space: int) -> Iterator[str]:
    """The parts, as many on a line as there is room for."""
    line = ""
    for x, comma in parts:
        x = f"{x}," if comma else x
        if line and space + len(line) + 1 + len(x) <= WIDTH:
            line += f" {x}"
            continue
        if line:
            yield from _cut(line, space)
        line = x
    yield from _cut(line, space)


def _cut(line: str, space: int) -> Iterator[str]:
    """A line inside brackets: a sum between its terms, anything else inside its brackets."""
    last = "," * line.endswith(",")
    code = line.removesuffix(",")
    terms = _parts(code) if space + len(line) > WIDTH else [code]
    if len(terms) == 1:
        yield wrapped(code, space, last)
        return
    *front, end = terms
    yield from _filled([*((x, False) for x in front), (end, bool(last))], space)


def headed(source: str, about: str) -> str:
    """A kernel's text with some lines about it at the head of each docstring."""
    lines = about.replace("\\", "\\\\").replace('"""', "'''").splitlines()
    head = "\n".join(f"    {x}".rstrip() for x in lines).lstrip()
    return re.sub(r'(\n    """)(?=\S)', lambda found: f"{found[1]}{head}\n\n    ", source)


def signature(start: str, names: Sequence[str], end: str = "") -> str:
    """`start`(names)`end` on as many lines as it takes."""
    line = f"{start}({', '.join(names)}){end}"
    space = len(line) - len(line.lstrip())
    return line if len(line) <= WIDTH else wrapped(line.lstrip()[: -len(end) or None], space, end)
