"""One loop nest as text: loops, statements at the depth at which all that they read is known, and sums across loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from backends.native.index import Index, Variable
from backends.native.spelling import TYPES
from lowering.program import Value
from mixer_ir.nodes.functions import Kind

PARALLEL = 1 << 18
"""operations below which a nest is not shared out among threads"""


@dataclass(frozen=True, slots=True)
class Term:
    """A number in the emitted text and the loop variables that it hangs on."""

    text: str
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Loop:
    """`free` loops may run in any order and at once; `until` is a text that bounds one that stops early."""

    variable: Variable
    free: bool
    start: str = "0"
    stop: str = ""

    @property
    def head(self) -> str:
        i = self.variable.text
        return f"for (long {i} = {self.start}; {i} < {self.stop or self.variable.size}; {i}++)"


@dataclass
class Nest:
    """Loops from the outside in; `before[d]` and `after[d]` stand inside d loops, around the next one."""

    loops: list[Loop]
    before: list[list[str]] = field(init=False)
    after: list[list[str]] = field(init=False)
    sums: list[tuple[str, str]] = field(default_factory=list)
    """(operator, variable) of sums over the innermost loop"""
    calls: bool = False
    """whether the innermost statement is a routine of its own"""

    def __post_init__(self) -> None:
        self.before = [[] for _ in range(len(self.loops) + 1)]
        self.after = [[] for _ in range(len(self.loops) + 1)]

    def depth(self, needs: Iterable[str]) -> int:
        """How many loops stand around what hangs on these variables."""
        names = [loop.variable.text for loop in self.loops]
        return max((names.index(n) + 1 for n in needs), default=0)

    def define(self, kind: Kind, text: str, needs: frozenset[str], name: str) -> Term:
        """A constant at the depth where all that it hangs on is known."""
        self.before[self.depth(needs)].append(f"const {TYPES[kind]} {name} = {text};")
        return Term(name, needs)

    @property
    def inside(self) -> list[str]:
        """The statements in the innermost loop."""
        return self.before[-1]

    def text(self, share: bool, *, simd: bool = True, weight: int = 1) -> list[str]:
        """The nest; with `share`, its outer loops are shared out among threads if there is enough to do.

        weight   operations of a statement
        """
        lines = list(self.before[0])
        total = max(len(self.inside), 1) * weight
        for loop in self.loops:
            total *= loop.variable.size
        outer = self._shared() if share and total >= PARALLEL else 0
        simd = simd and bool(self.loops) and (self.loops[-1].free or bool(self.sums)) and not self.loops[-1].stop
        last = len(self.loops) - 1
        for d, loop in enumerate(self.loops):
            words = []
            if d == 0 and outer:
                words.append("parallel for" + (f" collapse({outer})" if outer > 1 else "") + " num_threads(threads)")
            if d == last and simd and (d > 0 or not outer):
                words.append("simd" + "".join(f" reduction({o}:{name})" for o, name in self.sums))
            elif d == last and simd:
                words[-1] = words[-1].replace("parallel for", "parallel for simd")
            lines += [f"#pragma omp {word}" for word in words]
            lines.append(f"{loop.head} {{")
            lines += self.before[d + 1]
        for d in range(last, -1, -1):
            lines += [*self.after[d + 1], "}"]
        return [*lines, *self.after[0]]

    def _shared(self) -> int:
        """How many outer loops can be shared out as one."""
        n = 0
        most = len(self.loops) if len(self.loops) == 1 and not self.sums else len(self.loops) - (not self.calls)
        while n < most and self.loops[n].free and (n == 0 or not (self.before[n] or self.after[n])):
            n += 1
        return n


@dataclass(frozen=True)
class Axes:
    """Where a nest stands: the index along every axis of its loops, the loops of each axis, and how they are cut."""

    at: Mapping[str, Index]
    loops: Mapping[str, tuple[Variable, ...]]
    cuts: Mapping[str, tuple[int, ...]]

    def with_ends(self, values: Iterable[Value]) -> Axes:
        """The same place for values with more axes of one entry."""
        more = {a: Index() for v in values for a, n in v.sizes.items() if n == 1 and a not in self.at}
        return Axes({**self.at, **more}, self.loops, self.cuts)

    def cut(self, text: str, inner: int) -> dict[str, tuple[int, ...]]:
        """The cuts with one loop run as two."""
        for axis, variables in self.loops.items():
            for v in variables:
                if v.text == text:
                    sizes = tuple(w.size for w in variables)
                    j = variables.index(v)
                    return {**self.cuts, axis: (*sizes[:j], v.size // inner, inner, *sizes[j + 1 :])}
        raise AssertionError(f"no loop {text}")


def axes(sizes: Mapping[str, int], cuts: Mapping[str, tuple[int, ...]], first: Mapping[str, Index]) -> Axes:
    """Loop variables for axes of these sizes.

    cuts    for an axis the sizes of the loops that it runs as, the outermost first
    first   where an axis does not start at 0
    """
    at, loops = {}, {}
    for i, (axis, n) in enumerate(sizes.items()):
        clean = "".join(c if c.isalnum() else "_" for c in axis)
        variables = []
        total = Index()
        for j, m in enumerate(cuts.get(axis, (n,))):
            name = f"i{i}{'abcdefgh'[j]}_{clean}"
            v = Variable(name, m, frozenset((name,)))
            total = total * m + Index.of(v)
            if m != 1:  # of no entries too: its loop does not turn
                variables.append(v)
        at[axis] = total + first[axis] if axis in first else total
        loops[axis] = tuple(variables)
    return Axes(at, loops, cuts)
