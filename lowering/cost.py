"""The price of a program on a device: operations, bytes, launches, memory and predicted time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import log2, prod
from typing import assert_never

from lowering import program as p
from lowering.fused import chained, fixed, transforms
from lowering.parts import KEY
from lowering.profile import Profile, on_curve
from lowering.program import Program, Value
from lowering.stretch import HELD
from mixer_ir.nodes.expr import TIME, Axes

SPECIAL = frozenset(
    {
        "exp",
        "log",
        "log1p",
        "expm1",
        "sqrt",
        "sigmoid",
        "softplus",
        "tanh",
        "sin",
        "cos",
        "erf",
        "pow",
        "mod",
        "floordiv",
    }
)
NEAR = 1.5
"""how much faster entries are that stay in a cache; the rates are those of arrays that do not"""
APART = 16.0
"""how much longer a byte takes that is gathered: each matrix of a batch is, whose entries do not lie side by side"""
LARGE = 1 << 25
"""bytes of an array that a C library never puts where another has been"""
SPELLED = 40
"""small operations in a region that is spelled as a whole, besides those of its body"""
BLOCKED = 4.0
"""how often a triangular system's arrays are gone through: it is solved by blocks of rows"""
BYTES_PER_REAL = {"bool": 0.25, "int": 2.0, "real": 1.0, "complex": 2.0}
"""the size of a number in units of a real one (single precision)"""


@dataclass(frozen=True)
class Cost:
    """What one run takes.

    operations  floating-point operations       bytes     read and written
    launches    operations that compute         seconds   predicted time
    held        the most bytes alive at once, inputs and outputs among them
    """

    operations: float = 0.0
    bytes: float = 0.0
    launches: float = 0.0
    seconds: float = 0.0
    held: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.operations + other.operations,
            self.bytes + other.bytes,
            self.launches + other.launches,
            self.seconds + other.seconds,
            max(self.held, other.held),
        )

    def times(self, n: int) -> Cost:
        """n runs, one after the other."""
        return Cost(self.operations * n, self.bytes * n, self.launches * n, self.seconds * n, self.held)


def cost(program: Program, profile: Profile) -> Cost:
    """The cost of one run of `program`; loops count their bodies as often as they turn."""
    total = Cost()
    live, inner = _liveness(program, profile)
    inside = chained(program, profile.longest) if profile.longest else {}
    if inside:
        total += _chains_cost(program, inside, profile)
    for value in program.order:
        if value not in inside and not (inside and fixed(value)):
            total += operation_cost(value, profile) + Cost(seconds=_fresh(value, profile))
    return Cost(total.operations, total.bytes, total.launches, total.seconds, max(live, inner))


def _chains_cost(program: Program, inside: Mapping[Value, int], profile: Profile) -> Cost:
    """Chains of transforms in tiles: only their ends go through memory, and of long ones each product once."""
    products = [v for v in inside if transforms(v)]
    cut = [v for v in products if inside[v] > profile.tile]
    read = {a for v in inside for a in v.args if a not in inside and not fixed(a)}
    used = {a for v in program.order if v not in inside for a in v.args}
    ends = {v for v in inside if v in used or v in program.outputs}
    moved = sum(_bytes(v, profile) for v in (*read, *ends, *cut))
    flops = sum(_contract(v, profile).operations for v in products)
    launches = 4 if cut else 2
    seconds = launches * profile.operation + moved / profile.copy + flops / profile.tensor
    return Cost(flops, moved, launches, seconds)


def _fresh(value: Value, profile: Profile) -> float:
    """Seconds that the system takes to hand out the memory of a large result."""
    size = 0.0 if isinstance(value.op, p.Input) or is_view(value) else _bytes(value, profile)
    return size / profile.fresh if size >= LARGE else 0.0


def _liveness(program: Program, profile: Profile) -> tuple[float, float]:
    """(the most bytes alive at once, the most while some loop's body runs)."""
    last = {a: i for i, v in enumerate(program.order) for a in v.args}
    kept = {*program.outputs, *program.inputs}
    alive = sum(_bytes(v, profile) for v in program.inputs)
    most = inside = alive
    for i, v in enumerate(program.order):
        if isinstance(v.op, p.Scan | p.Region):
            body = _part_cost(v.op, profile).held
            out = sum(_bytes(o, profile) * _turns(v.op, j) for j, o in enumerate(v.op.body.outputs))
            inside = max(inside, alive + body + out)
            alive += out
        elif not isinstance(v.op, p.Input) and not is_view(v):
            alive += _bytes(v, profile)
        most = max(most, alive)
        for a in dict.fromkeys(v.args):
            if last[a] == i and a not in kept and not is_view(a) and not isinstance(a.op, p.Scan | p.Region):
                alive -= _bytes(a, profile)
    return most, inside


def _turns(op: p.Scan | p.Region, j: int) -> int:
    return op.length if isinstance(op, p.Scan) and j >= op.carries else 1


def is_view(value: Value) -> bool:
    """Whether the operation only looks at its argument differently."""
    match value.op:
        case p.Order(packed=packed):
            return not packed
        case p.Expand() | p.Slice() | p.Rename() | p.Split() | p.Detach() | p.Pick() | p.Constant():
            return True
    return False


def _entries(value: Value) -> float:
    return float(prod(value.shape))


def _bytes(value: Value, profile: Profile) -> float:
    return _entries(value) * BYTES_PER_REAL[value.kind] * profile.width


def _moved(value: Value, profile: Profile) -> float:
    return _bytes(value, profile) + sum(_bytes(a, profile) for a in value.args)


def operation_cost(value: Value, profile: Profile) -> Cost:
    """The cost of one operation of a program."""
    op, n = value.op, _entries(value)
    wide = 4.0 if value.kind == "complex" else 1.0
    moved = _moved(value, profile)
    match op:
        case p.Input() | p.Constant() | p.Pick():
            return Cost()
        case p.Order(packed=True) if profile.view > 0:
            return Cost(0, moved, 1, profile.operation + moved / profile.copy)
        case p.Expand() | p.Order() | p.Slice() | p.Rename() | p.Split() | p.Detach():
            return Cost(seconds=profile.view)
        case p.Pad() if profile.filled:
            return Cost()
        case p.Cast() if profile.turn is not None:  # a kernel casts what it has in registers
            return Cost()
        case p.Merge() | p.Pad() | p.Concat() | p.Flip() | p.Iota() | p.Cast():
            return Cost(0, moved, 1, profile.operation + moved / profile.copy)
        case p.Map(fn=fn):
            near = NEAR if n <= HELD and (profile.held or HELD) <= HELD else 1.0
            rate = profile.special if fn in SPECIAL else profile.entrywise * near
            padded = n * wide / profile.padded * any(_is_padded(a) for a in value.args)
            return Cost(n * wide, moved, 1, profile.operation + n * wide / rate + padded)
        case p.Contract():
            return _contract(value, profile)
        case p.Reduce():
            read = _entries(value.args[0])
            return Cost(read * wide, moved, 1, profile.operation + read * wide / profile.reduce)
        case p.Cumulate(axis=axis):
            turns = value.size(axis) * profile.cumulate_step
            return Cost(n * wide, moved, 1, profile.operation + turns + n * wide / profile.cumulate)
        case p.AffineScan():
            return Cost(2 * n * wide, moved, 1, profile.operation + _affine(value, op, profile))
        case p.Solve(row=row):
            size = value.size(row)
            each = prod(m for a, m in value.sizes.items() if a in value.args[0].axes and a != row)
            flops = n * size * wide
            seconds = each * profile.solve_each + flops / profile.solve + BLOCKED * moved / profile.copy
            return Cost(flops, moved, 1, profile.operation + seconds)
        case p.Transform(n=length):
            work = n * log2(max(length, 2))
            return Cost(5 * work, moved, 1, profile.operation + work / profile.fft)
        case p.Take() | p.Put():
            return Cost(n, moved, 1, profile.operation + 2 * moved / profile.copy)
        case p.Scan(length=length):
            per_step = _part_cost(op, profile) + Cost(seconds=profile.step)
            return per_step.times(length)
        case p.Region():
            return _part_cost(op, profile)
    assert_never(op)


def _part_cost(op: p.Scan | p.Region, profile: Profile) -> Cost:
    """The cost of one run of a loop's or a region's body."""
    if isinstance(op, p.Region) and op.label in profile.spelled:
        return spelled_cost(op.body, profile)
    return body_cost(op.body, profile.turn or profile if isinstance(op, p.Scan) else profile)


@lru_cache(maxsize=512)
def body_cost(body: Program, profile: Profile) -> Cost:
    """The cost of a loop's or a region's body; bodies are shared, so each is priced once."""
    return cost(body, profile)


@lru_cache(maxsize=512)
def spelled_cost(body: Program, profile: Profile) -> Cost:
    """The cost of a region that a backend spells as a whole: nothing is moved on the way, results are written once.

    Functions of more entries than come in are part of writing the results.
    """
    most = max((_entries(v) for v in body.inputs), default=0.0)
    total = Cost()
    for v in body.order:
        if isinstance(v.op, p.Contract | p.Reduce) or (isinstance(v.op, p.Map | p.Cumulate) and _entries(v) <= most):
            total += operation_cost(v, profile)
        elif isinstance(v.op, p.Map | p.Cumulate):
            total += Cost(seconds=profile.operation, launches=1)
    written = sum(_bytes(v, profile) for v in body.outputs)
    live, _ = _liveness(body, profile)
    return total + Cost(0, written, SPELLED, SPELLED * profile.operation + 4 * written / profile.copy, live)


STEPS, TOGETHER = (8, 64), 512
"""of a block of an affine scan: steps at least and at most, and steps times states of a channel"""


def _affine(value: Value, op: p.AffineScan, profile: Profile) -> float:
    """Seconds of an affine scan: along time in blocks, the longer the fewer states a channel has."""
    least, most = STEPS
    steps = value.size(op.axis)
    overhead = steps * profile.affine_step
    if profile.affine_turn is not None and op.axis == TIME:
        overhead = steps / min(max(TOGETHER / value.sizes.get(KEY, 1), least), most) * profile.affine_turn
    return overhead + _entries(value) * (profile.pair if value.kind == "complex" else 1.0) / profile.affine


def _is_padded(value: Value) -> bool:
    while is_view(value) and value.args:
        value = value.args[0]
    return isinstance(value.op, p.Pad)


def _contract(value: Value, profile: Profile) -> Cost:
    """As matrix products: axes of the left alone (m), of the right alone (n), summed (k), of both (batch)."""
    op, (x, y) = value.op, value.args
    over = op.over if isinstance(op, p.Contract) else ()
    k = prod(x.size(a) for a in over)
    m = prod(s for a, s in x.sizes.items() if a not in y.axes)
    n = prod(s for a, s in y.sizes.items() if a not in x.axes)
    flops = 2.0 * _entries(value) * k * (4 if value.kind == "complex" else 1)
    times = profile.complex if min(m, n) > 1 else profile.pair
    work = flops * (times / 4 if value.kind == "complex" else 1)
    moved = _moved(value, profile)
    if profile.turn is not None:  # a scan's states are read where they are carried
        moved -= sum(_bytes(a, profile) for a in value.args if isinstance(a.op, p.AffineScan))
    seconds = work / on_curve(profile.matmul, min(m, n, k)) + moved / profile.copy
    batch = tuple(a for a in value.axes if a in x.axes and a in y.axes)
    lying = _lying if profile.turn is None else _loaded
    scattered = [z for z in (x, y) if min(m, n) > 1 and _innermost(z, lying) in batch]
    each = profile.operation * profile.each * prod(value.size(a) for a in batch)
    apart = sum(each + APART * _bytes(z, profile) / profile.copy for z in scattered)
    return Cost(flops, moved, 1, profile.operation + seconds + apart)


def _innermost(value: Value, lying: Callable[[Value], Axes]) -> str | None:
    """The axis along which entries lie side by side."""
    sizes = value.sizes
    return next((a for a in reversed(lying(value)) if sizes.get(a, 0) > 1), None)


@lru_cache(maxsize=1 << 12)
def _loaded(value: Value) -> Axes:
    """The order in which an input lies that a value is, whatever its axes are called; () where it is computed."""
    op, axes = value.op, _loaded(value.args[0]) if value.args else ()
    match op:
        case p.Input():
            return value.axes
        case p.Rename(old=old, new=new):
            return tuple(new if a == old else a for a in axes)
        case p.Split(axis=axis, outer=outer, inner=inner):
            return tuple(x for a in axes for x in ((outer, inner) if a == axis else (a,)))
        case p.Order() | p.Detach() | p.Cast() | p.Slice() | p.Pad() | p.Expand():
            return axes
    return ()


@lru_cache(maxsize=1 << 12)
def _lying(value: Value) -> Axes:
    """The order of axes in which a value is left: a product of matrices as it comes, a function as what it is of."""
    op, args = value.op, value.args
    match op:
        case p.Contract(over=over):
            x, y = (a.axes for a in args)
            batch = [a for a in x if a in y and a not in over]
            return (*batch, *(a for a in x if a not in y), *(a for a in y if a not in x))
        case p.Map():
            full = [a for a in args if len(a.axes) == len(value.axes)]
            made = [a for a in full if isinstance(a.op, p.Contract | p.Solve | p.Pick)]
            data = [a for a in (full or args) if not _fixed(a)]
            return tuple(dict.fromkeys(axis for a in (*(made or data), *args) for axis in _lying(a)))
        case p.Pick(index=index) if isinstance(region := args[0].op, p.Region):
            return _lying(region.body.outputs[index])
        case p.Rename(old=old, new=new):
            return tuple(new if a == old else a for a in _lying(args[0]))
        case p.Order(packed=False) | p.Detach() | p.Cast() | p.Slice() | p.Pad() | p.Cumulate():
            return _lying(args[0])
    return value.axes


def _fixed(value: Value) -> bool:
    """Whether a value is a mask: made of positions and numbers."""
    return not isinstance(value.op, p.Input | p.Pick | p.Contract | p.Solve) and all(_fixed(a) for a in value.args)
