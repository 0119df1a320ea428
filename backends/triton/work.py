"""What one program of a kernel does, counted in Triton's intermediate text: bytes, products, exponentials, the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

BITS = re.compile(r"[a-z]+(\d+)")
TENSOR = re.compile(r"tensor<((?:\d+x)+)([^<>,]*(?:<[^<>]*>)?)[^<>]*>")
SPECIAL = re.compile(r"= (?:math\.(\w+)|arith\.(divf|remf)|tt\.(precise_\w+))\b")
COMBINE = "how a sum or a scan takes two entries"
CHEAP = {"absf", "fma", "absi"}
"""functions of the dialect `math` that are one instruction"""
MORE = {"exp": 4}
"""simple operations beside the special one: e^x multiplies, compares and corrects twice, 2^x does not"""


@dataclass
class Level:
    """The work of one loop's body (or of what stands outside loops) in one program, all turns together.

    programs  the numbers, from the first to before the last, of those that do it: kernels may stand side by side
    turns     of the loop             loaded, stored   bytes
    products  operations of matrix products by how they are taken: bf16, fp16, tf32, fp32 or fp64
    special   exponentials, divisions and the like     simple   other operations on entries
    """

    programs: tuple[int, int]
    turns: float = 1.0
    loaded: float = 0.0
    stored: float = 0.0
    products: dict[str, float] = field(default_factory=dict)
    special: float = 0.0
    simple: float = 0.0

    @property
    def count(self) -> int:
        return max(0, self.programs[1] - self.programs[0])


@dataclass(frozen=True)
class Work:
    """The work of `programs` programs; `known` is False if a loop turns as often as data say: it counts once."""

    levels: tuple[Level, ...]
    programs: int
    known: bool = True

    @property
    def loaded(self) -> float:
        """Of all programs, as the other sums."""
        return sum(x.count * x.loaded for x in self.levels)

    @property
    def stored(self) -> float:
        return sum(x.count * x.stored for x in self.levels)

    @property
    def special(self) -> float:
        return sum(x.count * x.special for x in self.levels)

    @property
    def simple(self) -> float:
        return sum(x.count * x.simple for x in self.levels)

    @property
    def products(self) -> dict[str, float]:
        made: dict[str, float] = {}
        for x in self.levels:
            for how, n in x.products.items():
                made[how] = made.get(how, 0.0) + x.count * n
        return made


def work(text: str, programs: int = 1) -> Work:
    """The work in Triton's intermediate text (the stage `ttir`), where types have shapes and loops have bounds."""
    names = {n: int(x) for n, x in re.findall(r"(%\w+) = arith\.constant (-?\d+) : i\d+", text)}
    numbers = set(re.findall(r"(%\w+) = tt\.get_program_id x ", text))
    numbers |= {n for n, of in re.findall(r"(%\w+) = arith\.extsi (%\w+) : i32 to i64", text) if of in numbers}
    below = {
        n: names[limit]
        for n, of, limit in re.findall(r"(%\w+) = arith\.cmpi slt, (%\w+), (%\w+) :", text)
        if of in numbers and limit in names
    }
    places = Places.of(programs)
    levels = [Level((0, programs))]
    opened: list[tuple[Level | None, str]] = []  # what each brace at the end of a line opened, and on which condition
    known = True
    for line in map(str.strip, text.splitlines()):
        _, test = opened.pop() if line.startswith("}") and opened else (None, "")
        here = next((x for x, _ in reversed(opened) if x is not None), levels[0])
        places.read(line)
        if (None, COMBINE) not in opened:
            _count(here, line)
        if (loop := re.search(r"scf\.for .* = (%\w+) to (%\w+) step (%\w+)", line)) is not None:
            counted = places.turns(loop[1], loop[2], loop[3], here.programs)
            known = known and counted is not None
            turns = 1.0 if counted is None else counted
            opened.append((_opened(levels, here, turns=turns), ""))
        elif (branch := re.search(r"scf\.if (%\w+)", line)) is not None:
            opened.append((_opened(levels, here, until=below.get(branch[1])), branch[1]))
        elif line.startswith("} else {"):
            opened.append((_opened(levels, here, start=below.get(test)), ""))
        elif line.endswith("({"):
            opened.append((None, COMBINE))
        elif re.search(r"\{( loc\(.*\))?$", line):
            known = known and "scf.while" not in line
            opened.append((None, ""))
    return Work(tuple(levels), programs, known)


SAMPLE = 512
"""programs for which the numbers of turns are worked out; their mean is taken"""
WHOLE: Mapping[str, Callable[[int, int], int]] = {
    "addi": lambda x, y: x + y, "subi": lambda x, y: x - y, "muli": lambda x, y: x * y,
    "divsi": lambda x, y: int(x / y) if y else 0, "remsi": lambda x, y: int(math.fmod(x, y)) if y else 0,
    "maxsi": max, "minsi": min,
}  # fmt: skip
NUMBER = re.compile(r"(%[\w-]+) = (?:arith|tt)\.(\w+) (.*?) : i(?:32|64)\b")


@dataclass
class Places:
    """Whole numbers that hang on a program's number alone, for some programs."""

    sample: list[int]
    known: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, programs: int) -> Places:
        """Spread evenly, and in step with nothing that a program's number is divided by."""
        few = programs <= SAMPLE
        return cls([*range(programs)] if few else [int(k * 0.6180339887498949 % 1 * programs) for k in range(SAMPLE)])

    def read(self, line: str) -> None:
        """One operation."""
        if (found := NUMBER.match(line)) is None:
            return
        name, op, rest = found.groups()
        args = [self.known.get(x.strip()) for x in rest.split(",")]
        if op == "get_program_id":
            self.known[name] = self.sample
        elif op == "constant":
            self.known[name] = [int(rest)] * len(self.sample)
        elif op in ("extsi", "trunci") and args[0] is not None:
            self.known[name] = args[0]
        elif op in WHOLE and len(args) == 2 and args[0] is not None and args[1] is not None:
            self.known[name] = [WHOLE[op](x, y) for x, y in zip(args[0], args[1], strict=True)]
        else:
            self.known.pop(name, None)

    def turns(self, first: str, last: str, step: str, programs: tuple[int, int]) -> float | None:
        """Those of a loop between such numbers, in the mean of the programs that run it."""
        bounds = [self.known.get(x) for x in (first, last, step)]
        if any(x is None for x in bounds):
            return None
        each = [
            max(0, -((low - high) // by))
            for p, low, high, by in zip(self.sample, *(x for x in bounds if x is not None), strict=True)
            if programs[0] <= p < programs[1]
        ]
        return sum(each) / len(each) if each else 0.0


def _opened(
    levels: list[Level], of: Level, turns: float = 1, start: int | None = None, until: int | None = None
) -> Level:
    """A loop or a branch inside another."""
    first, last = of.programs
    first = first if start is None else min(max(first, start), last)
    last = last if until is None else max(min(last, until), first)
    levels.append(Level((first, last), of.turns * turns))
    return levels[-1]


def _count(here: Level, line: str) -> None:
    """One operation."""
    n = here.turns
    if "= tt.load " in line or "= tt.descriptor_load" in line:
        here.loaded += n * _bytes(line)
    elif line.startswith(("tt.store", "tt.descriptor_store")):
        here.stored += n * _bytes(line)
    elif "= tt.dot " in line:
        how, operations = _product(line)
        here.products[how] = here.products.get(how, 0.0) + n * operations
    elif line.startswith("}) :"):  # a sum or a scan: its argument's type stands here
        here.simple += n * _entries(line)
    elif (found := SPECIAL.search(line)) is not None:
        cheap = found[1] in CHEAP
        here.simple += n * _entries(line) * (cheap + MORE.get(found[1], 0))
        here.special += n * _entries(line) * (not cheap)
    elif re.search(r"= (arith\.(?!constant)\w+|tt\.gather|tt\.cat|tt\.join|tt\.split)", line):
        here.simple += n * _entries(line)


def _shapes(line: str) -> list[tuple[list[int], str]]:
    """(sizes, kind of entry) of the tensors in a line."""
    return [([int(n) for n in sizes.split("x") if n], kind) for sizes, kind in TENSOR.findall(line)]


def _entries(line: str) -> int:
    """Of the largest tensor; single numbers are for free."""
    return max((math.prod(sizes) for sizes, _ in _shapes(line)), default=0)


def _bytes(line: str) -> float:
    found = [(math.prod(sizes), kind) for sizes, kind in _shapes(line) if "ptr" in kind or "descriptor" not in line]
    pointed = [x for x in found if "ptr" in x[1]] or found
    if not pointed:
        kind = re.search(r"!tt\.ptr<([^<>]*)>", line)
        return _width(kind[1]) if kind else 0.0
    entries, kind_ = pointed[0]
    return entries * _width(re.sub(r".*ptr<|>.*", "", kind_))


def _width(kind: str) -> float:
    found = BITS.search(kind)
    return max(1, int(found[1]) // 8) if found else 4.0


def _product(line: str) -> tuple[str, float]:
    (left, kind), _, (out, _) = _shapes(line)[-3:]
    precision = re.search(r"inputPrecision = (\w+)", line)
    how = {"bf16": "bf16", "f16": "fp16", "f64": "fp64"}.get(kind, "fp32")
    if how == "fp32" and precision is not None and precision[1] in ("tf32", "tf32x3"):
        how = "tf32"
    times = 3 if precision is not None and precision[1] == "tf32x3" and how == "tf32" else 1
    return how, 2.0 * math.prod(out) * left[-1] * times
