"""Chunks put together late: what is computed of them, entry by entry, is computed chunk by chunk.

    f(merge(x), y)      becomes      merge(f(x, split(y)))

So what is computed of several reads of a loop's states, as a quotient, can be computed in the loop. Axes that are named
otherwise before they are merged are so after that too, as a loop's results are stored along the axes of its states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

ALONG = p.Map | p.Cast | p.Order | p.Expand | p.Contract | p.Reduce | p.Rename
"""what is computed for each place along an axis that it does not name"""


def late(program: Program) -> Program:
    """The program with chunks merged after what is computed of them."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    parted: dict[Value, _Parted] = {}
    for v in program.order:
        if v in done:
            continue
        of = max((parted[a] for a in v.args if a in parted), key=lambda x: len(x.names), default=None)
        if isinstance(v.op, p.Merge):
            parted[v] = _Parted.of(done[v.args[0]], v.op)
        elif of is not None and isinstance(v.op, p.Slice) and of.cuts(v.op):
            parted[v] = replace(of, kept=v.op.stop)
        elif of is not None and of.along(v):
            parted[v] = of.through(b, v, [(done[a], parted.get(a)) for a in v.args])
        done[v] = b.order(parted[v].whole(b), v.axes) if v in parted else b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


@dataclass(frozen=True)
class _Parted:
    """A value as chunks.

    x      the chunks     names   what axes are called then, (old, new)     merge   how they are put together in the end
    kept   the length that is left of them after that; 0: all
    """

    x: Value
    names: tuple[tuple[str, str], ...]
    merge: p.Merge
    kept: int = 0

    @classmethod
    def of(cls, x: Value, merge: p.Merge) -> _Parted:
        names: list[tuple[str, str]] = []
        while isinstance(x.op, p.Rename | p.Order):
            if isinstance(x.op, p.Rename):
                if {x.op.old, x.op.new} & {merge.outer, merge.inner}:
                    break
                names.insert(0, (x.op.old, x.op.new))
            x = x.args[0]
        return cls(x, tuple(names), merge)

    def named(self, b: Builder) -> Value:
        """The chunks under the names of the whole."""
        x = self.x
        for old, new in self.names:
            x = b.rename(x, old, new)
        return x

    def whole(self, b: Builder) -> Value:
        x = b.merge(self.named(b), self.merge.outer, self.merge.inner, self.merge.axis)
        return b.slice(x, self.merge.axis, 0, self.kept) if self.kept else x

    def cuts(self, op: p.Slice) -> bool:
        """Whether a slice leaves the beginning of the merged axis: the last chunk was filled up."""
        return op.axis == self.merge.axis and (op.start, op.step) == (0, 1) and not self.kept

    def split(self, b: Builder, x: Value) -> Value:
        """An array of the whole's length as chunks, filled up."""
        axis, outer, inner = self.merge.axis, self.merge.outer, self.merge.inner
        if axis not in x.axes:
            return x
        size = self.x.size(inner)
        missing = self.x.size(outer) * size - x.size(axis)
        x = b.pad(x, axis, 0, missing) if missing else x
        return b.split(x, axis, outer, inner, size)

    def along(self, v: Value) -> bool:
        """Whether v is computed for each place along the merged axis, and knows nothing by the names of its parts."""
        named = {getattr(v.op, name, None) for name in ("old", "new")} | {*getattr(v.op, "over", ())}
        own = {self.merge.outer, self.merge.inner, *(old for old, _ in self.names)}
        axes = named.union(*(x.axes for x in (v, *v.args)))
        return isinstance(v.op, ALONG) and self.merge.axis in {*v.axes} - named and axes.isdisjoint(own)

    def through(self, b: Builder, v: Value, args: list[tuple[Value, _Parted | None]]) -> _Parted:
        """v of arguments as they are, and as chunks."""
        merge, like = self.merge, (self.merge, self.kept, self.x.size(self.merge.inner))
        if isinstance(v.op, p.Rename):
            return replace(self, names=(*self.names, (v.op.old, v.op.new)))
        names = () if isinstance(v.op, p.Contract | p.Reduce) else self.names
        made = []
        for whole, parted in args:
            if parted is not None and like == (parted.merge, parted.kept, parted.x.size(parted.merge.inner)):
                x = parted.x if parted.names == names else parted.named(b)
            else:
                x = self.split(b, whole)
            for old, new in reversed(names):
                x = b.rename(x, new, old) if new in x.axes else x
            made.append(x)
        old_of = {new: (old,) for old, new in names} | {merge.axis: (merge.outer, merge.inner)}
        axes = tuple(x for a in v.axes for x in old_of.get(a, (a,)))
        sizes = {a: n for x in (*made, self.x) for a, n in x.sizes.items()}
        sizes |= {old: v.size(new) for old, new in names if new in v.axes}
        return replace(self, x=b.again(v, made, sizes, axes=axes), names=names)
