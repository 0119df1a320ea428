"""PyTorch spellings of what goes along an axis step by step: scans, affine scans; and of regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backends.eager_setting import Setting, op_of, view
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


def affine_scan(v: Value, setting: Setting) -> Call:
    """h_i = a_i h_{i−1} + x_i, one step after the other for all entries at once."""
    op, (a, x) = op_of(v, p.AffineScan), v.args
    at = v.axes.index(op.axis)
    rest = (*v.axes[:at], *v.axes[at + 1 :])
    shape = tuple(v.size(axis) for axis in rest)
    n = v.size(op.axis)
    as_a = _dropped(a, op.axis, rest)
    as_x = _dropped(x, op.axis, rest)
    dtype = setting.dtype(v.kind)
    steps = range(n - 1, -1, -1) if op.reverse else range(n)

    def scanned(factor: Tensor, term: Tensor) -> Tensor:
        factors = as_a(factor).unbind(0)
        terms = as_x(term).unbind(0)
        h = terms[steps[0]].expand(shape)
        if setting.recorded:
            made = {steps[0]: h}
            for i in steps[1:]:
                made[i] = h = torch.addcmul(terms[i], factors[i], h)
            return torch.stack([made[i] for i in range(n)], dim=at)
        stack = torch.empty((n, *shape), dtype=dtype, device=setting.device)
        places = stack.unbind(0)
        places[steps[0]].copy_(h)
        for i in steps[1:]:
            h = torch.addcmul(terms[i], factors[i], h, out=places[i])
        return stack.movedim(0, at)

    return scanned


def _dropped(x: Value, axis: str, rest: tuple[str, ...]) -> Callable[[Tensor], Tensor]:
    """`axis` first, then the axes of `rest`, of size 1 where x lacks one."""
    as_ = view(x.axes, (axis, *rest))
    return (lambda z: z) if as_ is None else as_


def region(v: Value, setting: Setting, body: Run) -> Call:
    return lambda *args: body(args)


LOOPS: dict[type, Callable[[Value, Setting, Run], Call]] = {p.Scan: scan, p.Region: region}
