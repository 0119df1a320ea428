"""A plan's steps made fewer: kernels of one grid that do not wait for each other are one, and others side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from backends.triton.beside import loops_along, side_by_side
from backends.triton.evaluate import Buffer, Cut, computed
from backends.triton.kernel import Kernel, Setting, fitting
from backends.triton.roots import Mismatch
from backends.triton.steps import Launch, Learnt, Step, reads, writes
from lowering import program as p
from lowering.program import Value

LITTLE = 16
"""how many times smaller than what it reads a sum is that the kernel takes that stores what is summed"""


@dataclass(frozen=True)
class Joining:
    """How kernels of a plan become one.

    plain   (name, values of one grid) -> the kernel that stores them, for a setting
    """

    buffers: Mapping[Value, Buffer]
    learnt: Learnt
    plain: Callable[[str, Sequence[Buffer]], Callable[[Setting], Kernel]]

    def joined(self, steps: Sequence[Step]) -> list[Step]:
        """The steps, each after those that it reads, made fewer.

        Kernels are joined level by level; a level is one more than those of what is read. Where kernels of very many
        products spilled, it is a later one if others compute the same products there, and small sums are taken early.
        """
        if self.learnt.halved:
            steps = self.ended(steps)
        levels = _levels(steps)
        groups: dict[int, list[Step]] = {}
        for s, depth in zip(steps, self.later(steps, levels) if self.learnt.halved else levels, strict=True):
            groups.setdefault(depth, []).append(s)
        return [s for depth in sorted(groups) for s in side_by_side(self.together(groups[depth]), self.learnt.alone)]

    def ended(self, steps: Sequence[Step]) -> list[Step]:
        """Small sums of what a kernel stores are taken by it, while it has the tile."""
        made: list[Step] = []
        for s in steps:
            i = self.end_of(s, made) if isinstance(s, Launch) else None
            one = self.one(made[i], s) if isinstance(s, Launch) and i is not None else None
            if i is not None and one is not None and one.kernel.fits:
                made[i] = one
            else:
                made.append(s)
        return made

    def end_of(self, s: Launch, steps: Sequence[Step]) -> int | None:
        """The number of the step whose kernel can take a small sum too: the last one that it waits for."""
        read = {b.value for b in s.kernel.reads}
        makers = [i for i, x in enumerate(steps) if not read.isdisjoint(b.value for b in writes(x))]
        if not makers or self.multiplied(s) or not self.joins(s):
            return None
        first = steps[makers[-1]]
        taken = sum(prod(b.value.shape) for b in writes(first) if b.value in read)
        little = LITTLE * sum(prod(b.value.shape) for b in s.kernel.writes) <= taken
        return makers[-1] if little and isinstance(first, Launch) and self.multiplied(first) else None

    def later(self, steps: Sequence[Step], levels: Sequence[int]) -> list[int]:
        """The levels at which steps are made: later ones where others compute the same products."""
        made = [*levels]
        sums = [self.multiplied(s) for s in steps]
        for i, s in reversed([*enumerate(steps)]):
            stored = {b.value for b in writes(s)}
            waiting = (made[j] - 1 for j, x in enumerate(steps) if not stored.isdisjoint(reads(x)))
            shared = {
                n: max((len(sums[i] & sums[j]) for j, m in enumerate(made) if j != i and m == n), default=0)
                for n in range(levels[i], min(waiting, default=max(made)) + 1)
            }
            if any(shared.values()):
                made[i] = max(shared, key=lambda n: (shared[n], n))
        return made

    def multiplied(self, s: Step) -> set[Value]:
        """The products that a kernel computes which may be one with others."""
        if not isinstance(s, Launch) or not self.joins(s):
            return set()
        made = {x for b in s.kernel.writes for a in b.value.args for x in computed(a, self.buffers)}
        return {x for x in made | {b.value for b in s.kernel.writes} if isinstance(x.op, p.Contract)}

    def together(self, group: Sequence[Step]) -> list[Step]:
        """Kernels that store results of one grid are one, as long as its tiles fit into registers."""
        made: list[Step] = []
        for s in group:
            if isinstance(s, Launch) and self.joins(s):
                for i, other in enumerate(made):
                    if (one := self.one(other, s)) is not None:
                        made[i] = one
                        break
                else:
                    made.append(s)
            else:
                made.append(s)
        return made

    def joins(self, s: Launch) -> bool:
        """Whether a kernel may be one with others."""
        return not any(loops_along(b) or b.value in self.learnt.single for b in s.kernel.writes)

    def one(self, first: Step, second: Launch) -> Launch | None:
        if not isinstance(first, Launch) or not self.joins(first):
            return None
        stored = [*first.kernel.writes, *second.kernel.writes]
        options = list(dict.fromkeys((first.kernel.setting, second.kernel.setting)))
        try:
            kernel = fitting(self.plain(first.kernel.name, stored), options)
        except (Cut, Mismatch):
            return None
        joins = (kernel.fits or not second.kernel.fits) and kernel.text.count("tl.dot(") < self.learnt.most
        return Launch(kernel) if joins else None


def _levels(steps: Sequence[Step]) -> list[int]:
    """One more than those of what is read."""
    level: dict[Value, int] = {}
    made = []
    for s in steps:
        made.append(1 + max((level.get(x, 0) for x in reads(s)), default=0))
        level |= {b.value: made[-1] for b in writes(s)}
    return made
