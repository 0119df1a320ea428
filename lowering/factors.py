"""Steps that are products of updates, S ← F_n(… F_1(S)): a process of n times as many steps, of one update each.

Along `_u` lies what each update of a step has. A chunk's rows and columns are its updates one after the other, so that
a product of two Householder matrices is a delta rule on twice as many steps, of which every second one is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from lowering.build import Builder
from lowering.parts import UPDATE, Parts, gather, scaled
from lowering.program import Value
from mixer_ir.nodes.expr import TIME, Axes, Expr, without
from mixer_ir.nodes.process import Process, Read


@dataclass(frozen=True, slots=True)
class Updates:
    """The updates of a process' steps, side by side.

    of      the value of an expression
    """

    b: Builder
    process: Process
    of: Callable[[Expr], Value]
    steps: int

    @property
    def count(self) -> int:
        return len(self.process.factors)

    def parts(self, reads: Sequence[Read], sizes: Mapping[str, int], initial: Value | None) -> Parts:
        """What `lower_process` starts from."""
        b, p = self.b, self.process
        A = p.factors[0].transition
        assert A.along is not None
        keys = (A.along, *A.beside)
        pairs = [pair for f in p.factors for pair in f.transition.low_rank]
        written = [scaled(b, self.of(x), keys) for x, _ in pairs]
        read = [scaled(b, self.of(y), keys) for _, y in pairs]
        scale = b.mul(*(self.side_by_side([scale for _, scale in side]) for side in (written, read)))
        directions = [x for x, _ in written]
        log, factor = self.decays()
        return gather(
            b,
            over=p.over,
            state=p.axes,
            sizes=sizes,
            inputs=self.inputs(directions, keys),
            queries=[(self.of(r.query), r.before) for r in reads],
            log=log,
            factor=factor,
            low_rank=[(self.side_by_side(directions), b.mul(scale, self.side_by_side([y for y, _ in read])))],
            along=A.along,
            beside=A.beside,
            reset=None if p.reset is None else self.side_by_side([self.of(p.reset), *[None] * (self.count - 1)], False),
            initial=initial,
            updates=self.count,
        )

    def decays(self) -> tuple[Value | None, Value | None]:
        """The updates' log-decays; or their factors, where one of them is no exponential."""
        given = [f.transition for f in self.process.factors]
        if all(A.log is None and A.factor is None for A in given):
            return None, None
        if all(A.factor is None for A in given):
            return self.side_by_side([None if A.log is None else self.of(A.log) for A in given], 0.0), None
        each = [
            self.of(A.factor) if A.factor is not None else None if A.log is None else self.b.map("exp", self.of(A.log))
            for A in given
        ]
        return None, self.side_by_side(each, 1.0)

    def inputs(self, written: Sequence[Value], keys: Axes) -> list[tuple[Value, Value]]:
        """What updates write along their transitions' own directions is one input; of the others each has its place."""
        b, p = self.b, self.process
        values = without(p.axes, keys)
        given = []
        for f in p.factors:
            pairs = [(*scaled(b, self.of(k), keys), self.of(v)) for k, v in f.inputs]
            given.append([(key, b.mul(scale, v)) for key, scale, v in pairs])
        own: list[Value | None] = []
        others = []
        for pairs_of, direction in zip(given, written, strict=True):
            along = [v for key, v in pairs_of if key is direction]
            own.append(b.add(*along) if along else None)
            others.append([pair for pair in pairs_of if pair[0] is not direction])
        made = []
        if any(v is not None for v in own):
            made.append((self.side_by_side(written), self.scaled(own, values)))
        for row in zip_longest(*others):
            columns = [None if pair is None else pair[0] for pair in row]
            made.append((self.side_by_side(columns), self.scaled([None if x is None else x[1] for x in row], values)))
        return made

    def scaled(self, each: Sequence[Value | None], axes: Axes) -> Value:
        """Values side by side, apart from what multiplies them and has no axis of `axes`."""
        pairs = [(None, None) if x is None else scaled(self.b, x, axes) for x in each]
        return self.b.mul(self.side_by_side([scale for _, scale in pairs]), self.side_by_side([x for x, _ in pairs]))

    def side_by_side(self, each: Sequence[Value | None], missing: float | bool = 0.0) -> Value:
        """One array along `_u` of the updates' values; `missing` where one has none."""
        b = self.b
        parts = [b.const(missing) if x is None else x for x in each]
        if all(x is parts[0] for x in parts) and TIME not in parts[0].axes:
            return parts[0]
        sizes = {**b.joint(parts), TIME: self.steps}
        return b.concat([b.expand(b.expand(x, sizes), {UPDATE: 1}) for x in parts], UPDATE)
