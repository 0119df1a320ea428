"""From a block of values to text: the order of its steps, which of them share a loop nest, and where results lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backends.native.fusing import Fusion, Fusions, is_sum
from backends.native.index import Index, Variable
from backends.native.loops import LOOPS, copied, entrywise
from backends.native.memory import Arena, Store, strides_of
from backends.native.reader import Given, Where
from backends.native.scope import Scope
from backends.native.spelling import TYPES
from lowering import program as p
from lowering.program import Program, Value

ALIGNED_WITH = (p.Map, p.Order, p.Cast, p.Detach)
"""operations that read their arguments where their result stands"""


@dataclass
class Step:
    """Values computed together: those of one nest, or one loop, sum or routine. `copies`: (value, where to)."""

    values: list[Value]
    copies: list[tuple[Value, Store]] = field(default_factory=list)
    reads: set[Value] = field(default_factory=set)


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
        self._count = 0

    def fresh(self, prefix: str = "x") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def size(self, kind: str) -> int:
        return {"bool": 1, "int": 8, "real": self.width, "complex": 2 * self.width}[kind]

    def scope(self) -> Scope:
        return Scope(self.where, self.fresh, self.share, self.first, self.sizes)

    def place(self, v: Value) -> tuple[Store, int]:
        """A new array for v, and its place in the arena."""
        count = 1
        for n in v.shape:
            count *= n
        at = self.arena.take(count * self.size(v.kind))
        name, c = self.fresh("a"), TYPES[v.kind]
        self.lines.append(f"{c} *{name} = ({c} *)({self.arena.name} + {at});")
        return Store(name, v.kind, strides_of(v.sizes)), at

    # ------------------------------------------------------------------ one block

    def block(self, program: Program, results: Sequence[tuple[Value, Store]]) -> None:
        """All that `results` need, each written to its array."""
        fusion = self.fusions.of(program)
        mine = [v for v in program.order if v in fusion.stored]
        targets: dict[Value, Store] = {}
        copies = []
        for v, store in results:
            direct = v in fusion.stored and v not in targets and not _from_carry(v)
            if direct:
                targets[v] = store
            else:
                copies.append((v, store))
        steps = list(self._steps(program, mine, fusion, copies))
        last = {v: i for i, step in enumerate(steps) for v in step.reads if v not in step.values}
        places: dict[int, list[int]] = {}
        for i, step in enumerate(steps):
            for v, at in self._emit(step, targets, last):
                places.setdefault(last.get(v, i), []).append(at)
            for at in places.pop(i, ()):
                self.arena.give(at)

    def _steps(
        self, program: Program, mine: list[Value], fusion: Fusion, copies: list[tuple[Value, Store]]
    ) -> Iterator[Step]:
        """The values in an order that lets as many as possible share a nest."""
        needs = {v: self._stored_under(v.args, fusion) for v in mine}
        left = dict.fromkeys(v for v in mine if not isinstance(v.op, p.Pick))
        done: set[Value] = set()
        picks: dict[Value, list[Value]] = {}
        for v in mine:
            if isinstance(v.op, p.Pick):
                picks.setdefault(v.args[0], []).append(v)
        while left:
            first = next(v for v in left if needs[v] <= done)
            step = Step([first], reads=set(needs[first]))
            del left[first]
            if is_entrywise(first):
                axes = set(first.sizes.items())
                found = True
                while found:
                    found = False
                    for v in list(left):
                        if not is_entrywise(v) or set(v.sizes.items()) != axes:
                            continue
                        if needs[v] <= done | set(step.values) and self._in_line(v, step.values, fusion):
                            step.values.append(v)
                            step.reads |= needs[v]
                            del left[v]
                            found = True
            step.values += picks.get(first, [])
            done.update(step.values)
            yield step
        for v, store in copies:
            yield Step([], [(v, store)], self._stored_under([v], fusion))

    def _stored_under(self, values: Iterable[Value], fusion: Fusion) -> set[Value]:
        """The stored values of this block that these are computed from, through what is not stored."""
        found: set[Value] = set()
        seen: set[Value] = set()
        stack = list(values)
        while stack:
            v = stack.pop()
            if v in fusion.stored and not isinstance(v.op, p.Scan):
                found.add(v)
            elif v not in seen:
                seen.add(v)
                if isinstance(v.op, p.Scan):
                    found.add(v)
                else:
                    stack.extend(v.args)
        return found

    def _in_line(self, v: Value, members: list[Value], fusion: Fusion) -> bool:
        """Whether v reads each of the members only at the place where it stands itself."""
        inside = set(members)
        stack = [v]
        first = True
        while stack:
            x = stack.pop()
            if x in fusion.stored and not first:
                continue
            first = False
            if isinstance(x.op, ALIGNED_WITH):
                stack.extend(x.args)
            elif self._stored_under(x.args, fusion) & inside:
                return False
        return True

    # ------------------------------------------------------------------ one step

    def _emit(self, step: Step, targets: Mapping[Value, Store], last: Mapping[Value, int]) -> list[tuple[Value, int]]:
        """The step's text; gives the places that it took, each with the value that holds it."""
        for v, store in step.copies:
            self.lines += copied(self.scope(), v, store)
        if not step.values:
            return []
        first = step.values[0]
        if isinstance(first.op, p.Scan):
            return self._scan(first, first.op, step.values[1:], targets)
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
            self.lines += entrywise(self.scope(), stores)
        else:
            store = stores[first]
            assert store is not None
            self.lines += LOOPS[type(first.op)](self.scope(), first, store)
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
            else:
                self.where[x] = Given(a, op.axis, index) if i < op.carries + op.steps else Given(a)
        self.lines.append(f"for (long {turn} = 0; {turn} < {op.length}; {turn}++) {{")
        self.block(op.body, results)
        for now, then in pairs:
            self.lines.append(f"{{ void *swap = {now.pointer}; {now.pointer} = {then.pointer}; {then.pointer} = swap; }}")
        self.lines.append("}")
        for i, (now, _) in enumerate(pairs):
            if i in picked:
                self.where[picked[i]] = now
                taken += [(picked[i], held[2 * i]), (picked[i], held[2 * i + 1])]
            else:
                taken += [(whole, held[2 * i]), (whole, held[2 * i + 1])]
        return [*taken, *((whole, at) for at in held[2 * op.carries :])]


def is_entrywise(v: Value) -> bool:
    """Whether v is computed entry by entry in a nest over its axes."""
    return not is_sum(v) and not isinstance(v.op, p.Scan | p.Pick)


def _from_carry(v: Value) -> bool:
    """Whether v is the last carry of a loop, which ends in one of two arrays."""
    whole = v.args[0].op if isinstance(v.op, p.Pick) else None
    return isinstance(v.op, p.Pick) and isinstance(whole, p.Scan) and v.op.index < whole.carries
