"""PyTorch spellings of what runs a body: scans and regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backends.eager.decay import decay
from backends.eager.decay_back import decay_back
from backends.eager.setting import Setting, View, op_of
from backends.plan import Call, Run
from lowering import program as p
from lowering.program import Program, Value


def body_of(op: p.Scan | p.Region, setting: Setting) -> Program:
    """What is run: of a loop, the results of a step as they are before axes are merged, if they are then written."""
    body = op.body
    if isinstance(op, p.Region) or setting.recorded:
        return body
    written = tuple(_unmerged(out)[0] for out in body.outputs[op.carries :])
    return Program(inputs=body.inputs, outputs=(*body.outputs[: op.carries], *written), names=body.names)


def _unmerged(out: Value) -> tuple[Value, View]:
    """What `out` is but for merging and ordering its axes, and its place seen with the axes of that."""
    op = out.op
    if not isinstance(op, p.Merge | p.Order | p.Rename):
        return out, lambda place: place
    x = out.args[0]
    whole, further = _unmerged(x)
    if isinstance(op, p.Merge):
        i, sizes = out.axes.index(op.axis), (x.size(op.outer), x.size(op.inner))
        return whole, lambda place: further(place.view(*place.shape[:i], *sizes, *place.shape[i + 1 :]))
    if isinstance(op, p.Order):
        permutation = [out.axes.index(a) for a in x.axes]
        return whole, lambda place: further(place.permute(permutation))
    return whole, further


def scan(v: Value, setting: Setting, body: Run) -> Call:
    """A loop. The results of the steps are written where they end up, so that no more than one step is ever held."""
    op = op_of(v, p.Scan)
    first, last = op.carries, op.carries + op.steps
    at = [a.axes.index(op.axis) for a in v.args[first:last]]
    shapes = [(op.length, *out.shape) for out in op.body.outputs[first:]]
    dtypes = [setting.dtype(out.kind) for out in op.body.outputs[first:]]
    apart = [_unmerged(out)[1] for out in op.body.outputs[first:]]

    def per_step(args: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        columns = [x.unbind(i) for x, i in zip(args[first:last], at, strict=True)]
        rows: list[tuple[Tensor, ...]] = list(zip(*columns, strict=True)) if columns else [()] * op.length
        return rows[::-1] if op.reverse else rows

    def loop(*args: Tensor) -> list[Tensor]:
        carries: Sequence[Tensor] = args[:first]
        constants = args[last:]
        stacks = [torch.empty(shape, dtype=d, device=setting.device) for shape, d in zip(shapes, dtypes, strict=True)]
        columns = [[as_(x) for x in stack.unbind(0)] for stack, as_ in zip(stacks, apart, strict=True)]
        places: list[tuple[Tensor, ...]] = list(zip(*columns, strict=True)) if stacks else [()] * op.length
        for row, place in zip(per_step(args), places[::-1] if op.reverse else places, strict=True):
            made = body((*carries, *row, *constants))
            carries = made[:first]
            for here, x in zip(place, made[first:], strict=True):
                here.copy_(x)
        return [*carries, *stacks]

    def recorded(*args: Tensor) -> list[Tensor]:
        carries: Sequence[Tensor] = args[:first]
        results: list[list[Tensor]] = []
        for row in per_step(args):
            made = body((*carries, *row, *args[last:]))
            carries = made[:first]
            results.append(made[first:])
        columns = zip(*(results[::-1] if op.reverse else results), strict=True)
        return [*carries, *(torch.stack(column) for column in columns)]

    return recorded if setting.recorded else loop


def region(v: Value, setting: Setting, body: Run) -> Call:
    """The body, or what is written for the region's label; where autograd looks on, always the body."""
    spell = None if setting.recorded else REGIONS.get(op_of(v, p.Region).label)
    return (lambda *args: body(args)) if spell is None else spell(v, setting)


REGIONS: dict[str, Callable[[Value, Setting], Call]] = {"decay": decay, "decay back": decay_back}
LOOPS: dict[type, Callable[[Value, Setting, Run], Call]] = {p.Scan: scan, p.Region: region}
