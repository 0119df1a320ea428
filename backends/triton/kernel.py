"""One kernel: its roots (values that it stores), the grid, the text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from textwrap import fill

from backends.triton.covers import covered
from backends.triton.evaluate import Buffer, Cut, Evaluator, hint
from backends.triton.functions import HELPERS, needed
from backends.triton.text import WIDTH, headed, signature, tidy
from backends.triton.tile import Index, constant, scalar, word
from backends.triton.writer import Writer


@dataclass(frozen=True, slots=True)
class Setting:
    """What a kernel computes in: the precision as Triton calls it, and how products of matrices take their factors.

    tile    the most entries of a result that a program computes     block   entries that a product sums without a loop
    limit   registers of a thread that tiles may take
    copies  threads that hold an entry of a product's factor while it works; 0 where these stay in shared memory
    folded  whether exponents take the factor of a power of 2 in what they are made of (backends/triton/powers.py)
    """

    real: str = "tl.float32"
    dot: str = "ieee"
    tile: int = 1 << 13
    block: int = 256
    limit: int = 145
    copies: int = 0
    folded: bool = True

    def writer(self) -> Writer:
        """What writes a kernel's lines. Where larger tiles have spilled, parts of tiles count as held.

        A compiler computes equal expressions once, and holds them from the first to the last.
        """
        return Writer(self.real, self.dot, self.copies, repeats=self.limit >= SPILLED)


SHAPES = (
    (1 << 13, 256),
    (1 << 13, 64),
    (1 << 13, 32),
    (1 << 12, 256),
    (1 << 12, 64),
    (1 << 12, 32),
    (1 << 11, 256),
    (1 << 11, 32),
    (1 << 10, 32),
)
"""(tile, block) to try, those that compute least twice first; a loop's carried tile is summed at once or not at all"""
NARROW, SPILLED = (1 << 10, 256), 125
"""one more, a narrow tile whose sums take no loop, below a limit that larger tiles have spilled at before it fell"""
SHORT = (1 << 10, 16)
"""the last, where it is asked for: sums in the shortest blocks that products take"""
AGAIN = 4
"""how many times the programs of a larger tile those of a smaller one may be; twice that below the limit `SPILLED`"""
WORTH = 0.25
"""where nothing fits, twice as many programs are to hold less by this power of two; unless it spilled"""
LIMITS = (145, 112, 80)
"""registers of a thread that tiles may take: the rest is for addresses and for what an instruction works on"""
LAST = 48
"""the lowest of them"""
STAGES = 2
"""how deep loads are pipelined: deeper costs shared memory that the tiles need"""


def shapes(setting: Setting, *, short: bool = False) -> list[Setting]:
    """The settings that a kernel may be written for, in the order of preference where registers suffice."""
    of = (*SHAPES[:-1], NARROW, SHAPES[-1]) if setting.limit < SPILLED else SHAPES
    of = (*of, SHORT) if short else of
    return [replace(setting, tile=tile, block=block) for tile, block in of]


def candidates(setting: Setting) -> list[Setting]:
    """What a program may be planned with, the default first: the next where compiled kernels spill registers."""
    return [setting, *(replace(setting, limit=limit) for limit in LIMITS if limit < setting.limit)]


def fitting(write: Callable[[Setting], Kernel], options: Sequence[Setting]) -> Kernel:
    """The kernel of the first setting whose tiles fit into registers; where none do, that which comes nearest.

    Programs of small tiles may compute the same again: there is none of many times the programs of larger ones.
    """
    made: list[Kernel] = []
    failed: list[Cut] = []
    for option in options:
        try:
            kernel = write(option)
        except Cut as cut:
            if cut.always:
                raise
            failed.append(cut)
            continue
        many = AGAIN if option.limit >= SPILLED else 2 * AGAIN
        if made and kernel.programs > many * min(k.programs for k in made):
            break
        for warps in (4, 8):
            if kernel.held <= option.limit * 32 * warps:
                return replace(kernel, text=_tidied(kernel.text), warps=warps, setting=option, fits=True)
        made.append(replace(kernel, warps=8, setting=option, fits=False))
    if not made:
        raise failed[0]
    least = min(k.programs for k in made)
    worth = WORTH if options[0].limit >= LIMITS[0] else 0.0
    best = min(made, key=lambda k: k.held * (k.programs / least) ** worth)
    return replace(best, text=_tidied(best.text))


@lru_cache(maxsize=1 << 12)
def _tidied(text: str) -> str:
    """A kernel's text with its body's lines broken: of what is not taken nobody reads them."""
    head, mark, body = text.rpartition(f"{MARK}\n")
    return head + mark + tidy(body)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's text with what it reads and writes.

    text   of the kernel itself     helpers   the names of what it calls
    grid   programs by axis: their product is launched     warps   of each program
    held   registers that its tiles take at once, all threads together (an estimate); whether they fit
    parts  the kernels that stand side by side in it     stages   how deep its loads are pipelined
    """

    name: str
    text: str
    helpers: frozenset[str]
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    grid: tuple[tuple[str, int], ...]
    warps: int = 4
    held: int = 0
    setting: Setting = Setting()
    fits: bool = True
    parts: tuple[Kernel, ...] = ()
    stages: int = STAGES

    def crowded(self, share: float) -> bool:
        """Whether its tiles take more than `share` of the registers that they may take: the estimate is not exact."""
        return self.held > share * self.setting.limit * 32 * self.warps

    @property
    def source(self) -> str:
        """The text of a module: imports, helpers, the kernel."""
        return "\n".join(["import triton", "import triton.language as tl", needed(self.helpers), self.text])

    def shown(self, about: str) -> str:
        """The same with what the kernel is part of at the head of each docstring."""
        return "\n".join(
            ["import triton", "import triton.language as tl", needed(self.helpers), headed(self.text, about)]
        )

    @property
    def programs(self) -> int:
        n = 1
        for _, count in self.grid:
            n *= count
        return n


MARK = '    """'
"""the end of a docstring"""
PROGRAM = "i_p = tl.program_id(0).to(tl.int64)"


class Grid:
    """The axes along which programs are laid out: one number a program, taken apart."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def along(self, axis: str, count: int) -> Index:
        """The program's place along `axis`."""
        if count == 1:
            return constant(0)
        assert self.counts.setdefault(axis, count) == count
        return scalar(f"i_{word(axis)}", count)

    def lines(self) -> list[str]:
        """The program's places, from its number: the last axis runs fastest.

        The number is called i_p; the place along an axis p, which takes that name, is found last.
        """
        names = list(self.counts)
        if not names:
            return []
        places: dict[str, str] = {}
        left = "i_p"
        for i, a in reversed(list(enumerate(names))):
            places[f"i_{word(a)}"] = left + (f" % {self.counts[a]}" if i else "")
            left = f"i_p // {math.prod(self.counts[x] for x in names[i:])}"
        return [PROGRAM, *(f"{x} = {text}" for x, text in sorted(places.items(), key=lambda p: p[0] == "i_p"))]


def assembled(name: str, e: Evaluator, grid: Grid, writes: Sequence[Buffer], title: str) -> Kernel:
    """The whole text: helpers, header, places, body (`fitting` breaks its lines)."""
    for b in writes:
        covered(name, b, e.stored[b.name])
    results = [b.name for b in writes if not b.name.startswith(hint(b.value))]
    body, steps, held = e.w.body(e.enough, results)
    dims = dict.fromkeys(re.findall(r"\bo_(\w+?)_(\d+)\b", body))
    short = {(d, n): f"o_{d}" if sum(d == x for x, _ in dims) == 1 else f"o_{d}_{n}" for d, n in dims}
    for (d, n), text in short.items():
        body = re.sub(rf"\bo_{d}_{n}\b", text, body)
    ranges = [f"{text} = tl.arange(0, {n})" for (_, n), text in short.items()]
    words = set(re.findall(r"\b_\w+", body))
    reads = tuple(e.buffers[v] for v in e.loaded if f"p_{e.buffers[v].name}" in body)
    pointers = [f"p_{b.name}" for b in (*reads, *writes)]
    wide = max(map(len, pointers))
    notes = [f"        {p:{wide}}  ({_axes(b)})" for p, b in zip(pointers, (*reads, *writes), strict=True)]
    notes[len(reads) : len(reads)] = ["    Writes"]
    notes = ["    Reads", *notes] if reads else notes
    told = [fill(f"Steps: {'; '.join(steps)}.", WIDTH, initial_indent="    ", subsequent_indent=" " * 8), ""]
    title = title.replace("\n", "\n    ")
    lines = [f"    {x}" for x in (*grid.lines(), *ranges)]
    head = ["@triton.jit", signature(f"def {name}", pointers, ":"), f'    """{title}', ""]
    head += [*(told if len(steps) > 1 else ()), *notes, MARK]
    text = "\n".join([*head, *lines, "", body, ""])
    return Kernel(
        name, text, frozenset(words & HELPERS.keys()), reads, tuple(writes), tuple(grid.counts.items()), held=held
    )


def _axes(b: Buffer) -> str:
    return " ".join(f"{a}:{b.value.size(a)}" for a in b.axes) or "one number"
