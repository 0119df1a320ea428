"""One kernel: its roots (values that it stores), the grid, the text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from backends.triton.evaluate import Buffer, Evaluator
from backends.triton.functions import HELPERS, needed
from backends.triton.tile import Index, constant, scalar, word
from lowering.program import Value


@dataclass(frozen=True, slots=True)
class Setting:
    """What a kernel computes in: the precision as Triton calls it, and how products of matrices take their factors."""

    real: str = "tl.float32"
    dot: str = "ieee"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's text with what it reads and writes.

    grid   programs by axis: their product is launched     warps   of each program
    """

    name: str
    source: str
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    grid: tuple[tuple[str, int], ...]
    warps: int

    @property
    def programs(self) -> int:
        n = 1
        for _, count in self.grid:
            n *= count
        return n


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
        """The program's places, from its number: the last axis runs fastest."""
        names = list(self.counts)
        if not names:
            return []
        lines = ["i_p = tl.program_id(0).to(tl.int64)"]
        left = "i_p"
        for i, a in reversed(list(enumerate(names))):
            n = self.counts[a]
            lines.append(f"i_{word(a)} = {left}" + (f" % {n}" if i else ""))
            left = f"i_p // {math.prod(self.counts[x] for x in names[i:])}"
        return lines


def assembled(name: str, e: Evaluator, grid: Grid, writes: Sequence[Buffer], title: str, warps: int) -> Kernel:
    """The whole text: helpers, header, places, body."""
    body = e.w.body()
    dims = dict.fromkeys(re.findall(r"\bo_(\w+?)_(\d+)\b", body))
    short = {(d, n): f"o_{d}" if sum(d == x for x, _ in dims) == 1 else f"o_{d}_{n}" for d, n in dims}
    for (d, n), text in short.items():
        body = re.sub(rf"\bo_{d}_{n}\b", text, body)
    ranges = [f"{text} = tl.arange(0, {n})" for (_, n), text in short.items()]
    words = set(re.findall(r"\b_\w+", body))
    reads = tuple(e.buffers[v] for v in e.loaded if f"p_{e.buffers[v].name}" in body)
    pointers = [f"p_{b.name}" for b in (*reads, *writes)]
    notes = [f"    {p}  ({_axes(b.value)})" for p, b in zip(pointers, (*reads, *writes), strict=True)]
    lines = [f"    {x}" for x in (*grid.lines(), *ranges)]
    head = "\n".join(["@triton.jit", f"def {name}({', '.join(pointers)}):", f'    """{title}', "", *notes, '    """'])
    text = "\n".join(["import triton", "import triton.language as tl", needed(words & set(HELPERS), e.inverses)])
    source = "\n".join([text, head, *lines, body, ""])
    return Kernel(name, source, reads, tuple(writes), tuple(grid.counts.items()), warps)


def _axes(v: Value) -> str:
    return " ".join(f"{a}:{n}" for a, n in v.sizes.items()) or "one number"
