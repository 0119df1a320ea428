"""From a block of values to text: the order of its steps, which of them share a loop nest, and where results lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from backends.native.decays import decay, laid_out
from backends.native.entries import added, copied, entrywise, gathered
from backends.native.fusing import Fusions, is_product
from backends.native.index import Index, Variable
from backends.native.memory import Arena, Store, entries, strides_of
from backends.native.products import writes_to
from backends.native.reader import Given, Where, address, viewed
from backends.native.scope import Scope
from backends.native.sharing import Shared
from backends.native.spelling import TYPES
from backends.native.steps import Step, is_entrywise, steps
from backends.native.sums import LOOPS
from lowering import program as p
from lowering.program import Program, Value


class Emitter:
    """The text of one program."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[str] = []
        self.arena = Arena("arena")
        self.where: dict[Value, Where] = {}
        self.fusions = Fusions()
        self.share = True
        self.first: dict[str, Index] = {}
        self.sizes: dict[str, int] = {}
        self.lane: str | None = None
        self.apart = 0
        """bytes that every thread has for itself"""
        self._count = 0

    def fresh(self, prefix: str = "x") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def size(self, kind: str) -> int:
        return {"bool": 1, "int": 8, "real": self.width, "complex": 2 * self.width}[kind]

    def scope(self) -> Scope:
        return Scope(self.where, self.fresh, self.share, self.first, self.sizes, self.lane)

    def place(self, v: Value, sizes: Mapping[str, int] | None = None) -> tuple[Store, int]:
        """A new array for v, its axes in the order of `sizes` if that is given, and its place in the arena."""
        sizes = self.scope().extent(sizes or v.sizes)
        if self.lane in sizes and not is_product(v):
            sizes = {**{a: n for a, n in sizes.items() if a != self.lane}, self.lane: sizes[self.lane]}
        at = self.arena.take(entries(sizes) * self.size(v.kind))
        name, c = self.fresh("a"), TYPES[v.kind]
        self.lines.append(f"{c} *{name} = ({c} *)({self.arena.name} + {at});")
        origin = {a: i for a, i in self.first.items() if a in v.axes}
        return Store(name, v.kind, strides_of(sizes), origin=origin), at

    # ------------------------------------------------------------------ one block

    def block(self, program: Program, results: Sequence[tuple[Value, Store]]) -> None:
        """All that `results` need, each written to its array."""
        stored = self.fusions.of(program).stored
        targets: dict[Value, Store] = {}
        copies = []
        for v, store in results:
            source, place = _under(v, store, stored)
            fits = place is not None and source in stored and source not in targets and not _from_carry(source)
            if fits and place is not None and writes_to(source, place):
                targets[source] = place
            else:
                copies.append((v, store))
        made = steps(program, stored, copies, self.lane)
        last = {v: i for i, step in enumerate(made) for v in step.reads if v not in step.values}
        places: dict[int, list[int]] = {}
        for i, step in enumerate(made):
            for v, at in self._emit(step, targets, last):
                places.setdefault(last.get(v, i), []).append(at)
            for at in places.pop(i, ()):
                self.arena.give(at)

    # ------------------------------------------------------------------ one step

    def _emit(self, step: Step, targets: Mapping[Value, Store], last: Mapping[Value, int]) -> list[tuple[Value, int]]:
        """The step's text; gives the places that it took, each with the value that holds it."""
        if not step.values:
            for v, store in step.copies:
                self.lines += copied(self.scope(), v, store)
            return []
        first = step.values[0]
        if isinstance(first.op, p.Scan):
            return self._scan(first, first.op, step.values[1:], targets)
        if isinstance(first.op, Shared):
            return self._shared(first, first.op, step.values[1:], targets)
        if isinstance(first.op, p.Region):
            return self._region(first, first.op, step.values[1:], targets)
        taken = []
        stores: dict[Value, Store | None] = {}
        for v in step.values:
            if v in targets:
                stores[v] = targets[v]
            elif len(step.values) > 1 and v not in last:
                stores[v] = None
            else:
                stores[v], at = self.place(v)
                taken.append((v, at))
        if is_entrywise(first):
            self.lines += entrywise(self.scope(), stores, step.copies)
        else:
            result = stores[first]
            assert result is not None
            self.lines += LOOPS[type(first.op)](self.scope(), first, result)
        self.where.update({v: s for v, s in stores.items() if s is not None})
        return taken

    def _scan(
        self, whole: Value, op: p.Scan, picks: Sequence[Value], targets: Mapping[Value, Store]
    ) -> list[tuple[Value, int]]:
        """A loop: carries lie in two arrays that are exchanged after each step."""
        picked = {v.op.index: v for v in picks if isinstance(v.op, p.Pick)}
        inputs, outputs = op.body.inputs, op.body.outputs
        taken: list[tuple[Value, int]] = []
        held: list[int] = []
        results: list[tuple[Value, Store]] = []
        pairs: list[tuple[Store, Store]] = []
        for i, a in enumerate(whole.args[: op.carries]):
            (now, at_now), (then, at_then) = self.place(inputs[i]), self.place(inputs[i])
            held += [at_now, at_then]
            self.lines += copied(self.scope(), a, now, inputs[i].sizes)
            pairs.append((now, then))
            results.append((outputs[i], then))
        turn = self.fresh("t")
        index = Index.of(Variable(turn, op.length))
        if op.reverse:
            index = Index((), op.length - 1) - index
        for i in range(op.carries, len(outputs)):
            v = picked.get(i)
            stack: Store
            if v is None:
                sizes = {op.axis: op.length, **outputs[i].sizes}
                stack, at = self.place(Value(op, (), tuple(sizes), tuple(sizes.values()), outputs[i].kind))
                held.append(at)
            elif v in targets:
                stack = targets[v]
            else:
                stack, at = self.place(v)
                taken.append((v, at))
            if v is not None:
                self.where[v] = stack
            results.append((outputs[i], stack.at(op.axis, index)))
        for i, (a, x) in enumerate(zip(whole.args, inputs, strict=True)):
            if i < op.carries:
                self.where[x] = pairs[i][0]
            elif i < op.carries + op.steps:
                self.where[x] = Given(a, op.axis, index)
            else:
                self.where[x] = Given(a)
        self.lines.append(f"for (long {turn} = 0; {turn} < {op.length}; {turn}++) {{")
        self.block(op.body, results)
        for now, then in pairs:
            self.lines.append(
                f"{{ void *swap = {now.pointer}; {now.pointer} = {then.pointer}; {then.pointer} = swap; }}"
            )
        self.lines.append("}")
        for i, (now, _) in enumerate(pairs):
            if i in picked:
                self.where[picked[i]] = now
                taken += [(picked[i], held[2 * i]), (picked[i], held[2 * i + 1])]
            else:
                taken += [(whole, held[2 * i]), (whole, held[2 * i + 1])]
        return [*taken, *((whole, at) for at in held[2 * op.carries :])]

    def _region(
        self, whole: Value, op: p.Region, picks: Sequence[Value], targets: Mapping[Value, Store]
    ) -> list[tuple[Value, int]]:
        """A region that is one routine."""
        taken, results = [], {}
        for v in picks:
            assert isinstance(v.op, p.Pick)
            if v in targets:
                store = targets[v]
            else:
                store, at = self.place(v, laid_out(v))
                taken.append((v, at))
            self.where[v] = results[op.body.names[v.op.index]] = store
        self.lines += decay(self.scope(), whole, results)
        return taken

    def _side_by_side(self, body: Program, tiles: Sequence[tuple[str, int, int]]) -> None:
        """What is read again and again, copied to where the entries of the lane lie side by side."""
        reads = self.fusions.of(body).reads
        for x in body.inputs:
            apart = prod(n // tile for a, n, tile in tiles if a not in x.axes)  # each of these pieces would copy it
            often = reads.get(x, 0) >= 8 * apart * entries(x.sizes)
            if self.lane not in x.axes or not often or not viewed(x, self.where):
                continue
            probes = {a: Variable(a, n, whole=True) for a, n in x.sizes.items()}
            _, place = address(x, {a: Index.of(i) for a, i in probes.items()}, self.where)
            if dict(place.terms).get(probes[self.lane], 1) != 1:
                store, _ = self.place(x)
                self.lines += copied(self.scope(), x, store)
                self.where[x] = store

    def _shared(
        self, whole: Value, op: Shared, picks: Sequence[Value], targets: Mapping[Value, Store]
    ) -> list[tuple[Value, int]]:
        """A loop over the pieces of some axes, shared out among threads; each has an arena of its own."""
        taken, results, sums = [], [], []
        own = Arena("own")
        for v in picks:
            assert isinstance(v.op, p.Pick)
            y = op.body.outputs[v.op.index]
            if v in targets:
                self.where[v] = store = targets[v]
            else:
                store, at = self.place(v)
                self.where[v] = store
                taken.append((v, at))
            if op.parts[v.op.index]:
                place = own.take(entries(v.sizes) * self.size(v.kind))
                sums.append((v, y, store, place))
                count = entries(v.sizes) * self.size(v.kind)
                self.lines.append(f"for (long i = 0; i < threads; i++) memset(OWN(i) + {place}, 0, {count});")
            else:
                results.append((y, store))
        self.where.update({x: Given(a) for a, x in zip(whole.args, op.body.inputs, strict=True)})
        pieces = [Variable(self.fresh("p"), n // tile) for _, n, tile in op.tiles]
        self.lines += ["#pragma omp parallel num_threads(threads)", "{", "char *own = OWN(thread_number());"]
        self.lines.append(f"#pragma omp for collapse({len(pieces)}) schedule(static)")
        self.lines += [f"for (long {i.text} = 0; {i.text} < {i.size}; {i.text}++) {{" for i in pieces]
        outer = self.arena, self.share
        self.arena, self.share = own, False
        self.first = {a: Index.of(i) * tile for (a, _, tile), i in zip(op.tiles, pieces, strict=True)}
        self.sizes = {a: tile for a, _, tile in op.tiles}
        self.lane = next((a for a, _, tile in op.tiles if tile > 1), None)
        self._side_by_side(op.body, op.tiles)
        parts = []
        for v, y, _, place in sums:
            here, _ = self.place(y)
            results.append((y, here))
            parts.append((v, y, here, place))
        self.block(op.body, results)
        for v, y, here, place in parts:
            self.lines += added(self.scope(), y, here, _apart(v, "own", place))
        (self.arena, self.share), self.first, self.sizes, self.lane = outer, {}, {}, None
        self.lines += ["}"] * (len(pieces) + 1)
        self.apart = max(self.apart, own.peak)
        for v, _, store, place in sums:
            self.lines += gathered(self.scope(), v, store, _apart(v, "OWN(i)", place))
        return taken


def _apart(v: Value, arena: str, place: int) -> Store:
    """Where a thread adds up its part of v: in v's own order, however v itself is to lie."""
    return Store(f"(({TYPES[v.kind]} *)({arena} + {place}))", v.kind, strides_of(v.sizes))


def _under(v: Value, store: Store, stored: frozenset[Value]) -> tuple[Value, Store | None]:
    """What v only looks at differently, and where that lies when v lies in `store`; None if nowhere as one array."""
    while v not in stored:
        strides = dict(store.strides)
        match v.op:
            case p.Order() | p.Detach():
                pass
            case p.Rename(old=old, new=new) if new not in store.origin:
                strides[old] = strides.pop(new)
            case p.Merge(outer=outer, inner=inner, axis=axis) if axis not in store.origin:
                step = strides.pop(axis)
                strides[outer], strides[inner] = step * v.args[0].size(inner), step
            case _:
                return v, None
        v, store = v.args[0], replace(store, strides=strides)
    return v, store


def _from_carry(v: Value) -> bool:
    """Whether v is the last carry of a loop, which ends in one of two arrays."""
    whole = v.args[0].op if isinstance(v.op, p.Pick) else None
    return isinstance(v.op, p.Pick) and isinstance(whole, p.Scan) and v.op.index < whole.carries
