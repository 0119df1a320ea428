"""PyTorch spellings of what runs a body: scans and regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backends.eager_setting import Setting, op_of
from backends.plan import Call, Run
from lowering import program as p
from lowering.program import Value


def scan(v: Value, setting: Setting, body: Run) -> Call:
    """A loop. The results of the steps are written where they end up, so that no more than one step is ever held."""
    op = op_of(v, p.Scan)
    first, last = op.carries, op.carries + op.steps
    at = [a.axes.index(op.axis) for a in v.args[first:last]]
    shapes = [(op.length, *out.shape) for out in op.body.outputs[first:]]
    dtypes = [setting.dtype(out.kind) for out in op.body.outputs[first:]]

    def per_step(args: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        columns = [x.unbind(i) for x, i in zip(args[first:last], at, strict=True)]
        rows: list[tuple[Tensor, ...]] = list(zip(*columns, strict=True)) if columns else [()] * op.length
        return rows[::-1] if op.reverse else rows

    def loop(*args: Tensor) -> list[Tensor]:
        carries: Sequence[Tensor] = args[:first]
        constants = args[last:]
        stacks = [torch.empty(shape, dtype=d, device=setting.device) for shape, d in zip(shapes, dtypes, strict=True)]
        places = list(zip(*(stack.unbind(0) for stack in stacks), strict=True)) if stacks else [()] * op.length
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
    return lambda *args: body(args)


LOOPS: dict[type, Callable[[Value, Setting, Run], Call]] = {p.Scan: scan, p.Region: region}
