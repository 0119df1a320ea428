"""PyTorch spellings of what runs a body: scans and regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from backends import pages
from backends.eager.decay import decay
from backends.eager.decay_back import decay_back
from backends.eager.decay_numbers import decay_numbers
from backends.eager.setting import Setting, View, op_of
from backends.eager.writing import Place
from backends.plan import Call, Run
from lowering import program as p
from lowering.program import Program, Value

Planned: TypeAlias = Callable[[Program, Mapping[Value, Place]], Run]
"""the run of a body, some of whose values are written into places given with the call"""


def _bare(out: Value) -> tuple[Value, View, bool]:
    """What `out` is but for merging and ordering its axes; its place seen with the axes of that, and if it is plain."""
    op = out.op
    if not isinstance(op, p.Merge | p.Order | p.Rename):
        return out, lambda place: place, True
    x = out.args[0]
    whole, further, plain = _bare(x)
    if isinstance(op, p.Merge):
        i, sizes = out.axes.index(op.axis), (x.size(op.outer), x.size(op.inner))
        return whole, lambda place: further(place.view(*place.shape[:i], *sizes, *place.shape[i + 1 :])), plain
    if isinstance(op, p.Order):
        permutation = [out.axes.index(a) for a in x.axes]
        return whole, lambda place: further(place.permute(permutation)), False
    return whole, further, plain


def scan(v: Value, setting: Setting, planned: Planned) -> Call:
    """A loop. What a step results in is written where it ends up, so that no more than one step is ever held.

    Where a result is what a carry was when the step was entered, every step writes the carry where the next has it.
    """
    op = op_of(v, p.Scan)
    if setting.recorded:
        return _recorded(v, planned(op.body, {}))
    first, last, results = op.carries, op.carries + op.steps, op.body.outputs[op.carries :]
    columns_of = _columns(v)
    bare = [_bare(out) for out in results]
    entering = {i: j for i in range(first) for j, (x, _, _) in enumerate(bare) if x is op.body.inputs[i]}
    own = [j for j in range(len(results)) if j not in entering.values()]
    outputs = (*op.body.outputs[:first], *(whole for whole, _, _ in bare))
    wanted = (*entering, *(first + j for j in own))
    places: dict[Value, Place] = {}
    for index, i in enumerate(wanted):
        places.setdefault(outputs[i], Place(index, i < first or bare[i - first][2]))
    run = planned(Program(inputs=op.body.inputs, outputs=outputs, names=op.body.names), places)
    shapes = [(op.length + (j not in own), *out.shape) for j, out in enumerate(results)]
    dtypes = [setting.dtype(out.kind) for out in results]

    def loop(*args: Tensor) -> list[Tensor]:
        carries, constants = list(args[:first]), args[last:]
        stacks = [pages.empty(shape, d, setting.device) for shape, d in zip(shapes, dtypes, strict=True)]
        columns: list[Sequence[Tensor]] = []
        for i, j in entering.items():
            start, *after = stacks[j].unbind(0)[:: -1 if op.reverse else 1]
            carries[i] = start.copy_(carries[i])
            columns.append(after[::-1] if op.reverse else after)
            stacks[j] = stacks[j][1:] if op.reverse else stacks[j][:-1]
        columns += [[bare[j][1](x) for x in stacks[j].unbind(0)] for j in own]
        for row, there in zip(columns_of(args[first:last]), _rows(columns, op), strict=True):
            made = run((*carries, *row, *constants), there)
            carries = made[:first]
            for i, place in zip(wanted, there, strict=True):
                if made[i] is not place:
                    place.copy_(made[i])
        for i in entering:
            carries[i] = carries[i].clone()
        return [*carries, *stacks]

    return loop


def _recorded(v: Value, body: Run) -> Call:
    """The loop as autograd can follow it."""
    op = op_of(v, p.Scan)
    first, last = op.carries, op.carries + op.steps
    rows_of = _columns(v)

    def recorded(*args: Tensor) -> list[Tensor]:
        carries: Sequence[Tensor] = args[:first]
        results: list[list[Tensor]] = []
        for row in rows_of(args[first:last]):
            made = body((*carries, *row, *args[last:]))
            carries = made[:first]
            results.append(made[first:])
        columns = zip(*(results[::-1] if op.reverse else results), strict=True)
        return [*carries, *(torch.stack(column) for column in columns)]

    return recorded


def _columns(v: Value) -> Callable[[Sequence[Tensor]], list[tuple[Tensor, ...]]]:
    """From the arrays that are given per step, what each step is given, in the order in which steps are done."""
    op = op_of(v, p.Scan)
    at = [a.axes.index(op.axis) for a in v.args[op.carries : op.carries + op.steps]]
    return lambda arrays: _rows([x.unbind(i) for x, i in zip(arrays, at, strict=True)], op)


def _rows(columns: Sequence[Sequence[Tensor]], op: p.Scan) -> list[tuple[Tensor, ...]]:
    rows: list[tuple[Tensor, ...]] = list(zip(*columns, strict=True)) if columns else [()] * op.length
    return rows[::-1] if op.reverse else rows


def region(v: Value, setting: Setting, planned: Planned) -> Call:
    """The body, or what is written for the region's label; where autograd looks on, always the body."""
    op = op_of(v, p.Region)
    spell = None if setting.recorded else REGIONS.get(op.label)
    if spell is not None:
        return spell(v, setting)
    run = planned(op.body, {})
    return lambda *args: run(args)


REGIONS: dict[str, Callable[[Value, Setting], Call]] = {
    "decay": decay,
    "decay back": decay_back,
    "decay of numbers": decay_numbers,
}
LOOPS: dict[type, Callable[[Value, Setting, Planned], Call]] = {p.Scan: scan, p.Region: region}
