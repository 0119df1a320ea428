"""Triangular systems as products with (I − L)⁻¹, which is computed and stored once for all systems of one L.

A kernel that solves a system has the inverse in hand anyway (backends/triton/sums.py). Put in memory, it is no larger
than one tile a segment, serves systems of Lᵀ as well, which the adjoint brings, and leaves what it is multiplied with
to be computed where it is read. Systems inside a loop become products there: no step waits for an inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from backends.triton.lifting import liftable, lifted
from backends.triton.products import LEAST
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value


def inverted(program: Program, most: int) -> Program:
    """The program with systems of at most so many rows as products with an inverse, where there are many of one L."""
    b = Builder()
    done: dict[Value, Value] = {}
    results: dict[Value, list[Value]] = {}
    for v in program.order:
        if isinstance(v.op, p.Input):
            done[v] = v
        elif isinstance(v.op, p.Solve) and _eligible(v, most):
            lower, right = (done[a] for a in v.args)
            system = System.of(v.op, lower)
            done[v] = b.order(system.solved(b, system.inverse(b), right), v.axes)
        elif isinstance(v.op, p.Scan):
            with b.named(v.label):
                results[v] = _loop(b, v.op, [done[a] for a in v.args], most)
        elif isinstance(v.op, p.Pick) and v.args[0] in results:
            done[v] = results[v.args[0]][v.op.index]
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _small(v: Value, most: int) -> bool:
    return isinstance(v.op, p.Solve) and v.kind == "real" and v.size(v.op.row) <= most


def _eligible(v: Value, most: int) -> bool:
    if not _small(v, most):
        return False
    lower, right = v.args
    return prod(n for a, n in right.sizes.items() if a not in lower.axes) >= LEAST


@dataclass(frozen=True)
class System:
    """A triangular system by what its L is called first: the inverse of Lᵀ is the same one, read the other way.

    named   the axes of `lower` as the system calls them     row, col   of `lower`
    """

    op: p.Solve
    lower: Value
    named: dict[str, str]
    row: str
    col: str

    @classmethod
    def of(cls, op: p.Solve, lower: Value) -> System:
        named = {a: a for a in lower.axes}
        while isinstance(lower.op, p.Rename):
            old, new = lower.op.old, lower.op.new
            named = {(old if a == new else a): name for a, name in named.items()}
            lower = lower.args[0]
        first = {name: a for a, name in named.items()}
        row, col = (op.col, op.row) if op.upper else (op.row, op.col)
        return cls(op, lower, named, first[row], first[col])

    @property
    def side(self) -> str:
        """What the inverse calls its columns."""
        return f"{self.col}'"

    def inverse(self, b: Builder, lower: Value | None = None) -> Value:
        """(I − L)⁻¹, of another L with further axes if that is given."""
        lower = lower or self.lower
        batch = tuple(a for a in lower.axes if a not in (self.row, self.col))
        with b.named("inverse: (I − L)⁻¹, by substitution in blocks of 16 rows, which are then merged"):
            eye = b.map("eq", b.iota(self.row, lower.size(self.row)), b.iota(self.side, lower.size(self.col)))
            eye = b.expand(b.where(eye, 1.0, 0.0), {a: lower.size(a) for a in batch})
            return b.solve(lower, b.order(eye, (*batch, self.row, self.side)), self.row, self.col)

    def solved(self, b: Builder, inverse: Value, right: Value) -> Value:
        """The inverse, by the system's names, times r."""
        named = {self.side if a == self.col else a: new for a, new in self.named.items()}
        changed = [a for a in inverse.axes if named[a] != a]
        for a in changed:
            inverse = b.rename(inverse, a, f"{a}*")
        for a in changed:
            inverse = b.rename(inverse, f"{a}*", named[a])
        with b.named("solved: (I − L)⁻¹ times what stands on the rows"):
            return b.contract(inverse, b.rename(right, self.op.row, self.op.col), (self.op.col,))


def _loop(b: Builder, op: p.Scan, args: Sequence[Value], most: int) -> list[Value]:
    """The loop, with the inverses of each L that hangs on no state, for all steps at once before it.

    A system in a loop, of however few columns, takes kernels.
    """
    inner = Builder()
    body, last = op.body, op.carries + op.steps
    known = dict(zip(body.inputs[op.carries :], args[op.carries :], strict=True))
    done: dict[Value, Value] = {x: x for x in body.inputs}
    given: dict[tuple[Value, str, str], tuple[Value, Value]] = {}
    for v in body.order:
        if v in done:
            continue
        system = System.of(v.op, v.args[0]) if _small(v, most) and isinstance(v.op, p.Solve) else None
        if system is None or not liftable(system.lower, known):
            done[v] = inner.again(v, [done[a] for a in v.args])
            continue
        key = system.lower, system.row, system.col
        if key not in given:
            outside = system.inverse(b, lifted(b, system.lower, known, {}))
            sizes = {a: n for a, n in outside.sizes.items() if a in system.lower.axes or a == system.side}
            given[key] = inner.input(f"inverse{len(given)}", tuple(sizes), tuple(sizes.values())), outside
        done[v] = inner.order(system.solved(inner, given[key][0], done[v.args[1]]), v.axes)
    made = tuple(done[y] for y in body.outputs)
    new = Program(inputs=body.inputs, outputs=made, names=body.names)
    read = set(new.order)
    steps = [(x, a) for x, a in zip(body.inputs[op.carries : last], args[op.carries : last], strict=True) if x in read]
    steps += [pair for pair in given.values() if op.axis in pair[1].axes]
    fixed = [(x, a) for x, a in zip(body.inputs[last:], args[last:], strict=True) if x in read]
    fixed += [pair for pair in given.values() if op.axis not in pair[1].axes]
    new = Program(
        inputs=(*body.inputs[: op.carries], *(x for x, _ in (*steps, *fixed))), outputs=made, names=body.names
    )
    scan = p.Scan(op.axis, op.length, new, op.carries, len(steps), op.reverse)
    return b.picks(scan, (*args[: op.carries], *(a for _, a in (*steps, *fixed))))


def is_eye(v: Value) -> bool:
    """Whether v is the identity as it is written above."""
    while isinstance(v.op, p.Expand | p.Order):
        v = v.args[0]
    if not isinstance(v.op, p.Map) or v.op.fn != "where":
        return False
    same, one, zero = v.args
    numbers = [x.op.value for x in (one, zero) if isinstance(x.op, p.Constant)]
    between = isinstance(same.op, p.Map) and same.op.fn == "eq" and all(isinstance(x.op, p.Iota) for x in same.args)
    return between and numbers == [1.0, 0.0]
