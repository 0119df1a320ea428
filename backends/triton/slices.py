"""Slices taken early: of the factors of a sum instead of the sum, so that states are read at the steps that enter it.

slice(Σ_k pad(x) y)      becomes      Σ_k slice(pad(x)) slice(y)      and a slice of what is padded a slice of x
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value


def early(program: Program) -> Program:
    """The program with sums along other axes than that of an affine scan sliced before they are taken."""
    b = Builder()
    axes = {v.op.axis for v in program.order if isinstance(v.op, p.AffineScan)}
    readers = Counter(a for v in program.order for a in dict.fromkeys(v.args)) + Counter(program.outputs)
    done: dict[Value, Value] = {v: v for v in program.inputs}
    for v in program.order:
        if v in done:
            continue
        op, summed = v.op, bool(v.args) and isinstance(v.args[0].op, p.Contract | p.Reduce)
        if isinstance(op, p.Slice) and op.step == 1 and op.axis in axes and summed and readers[v.args[0]] == 1:
            done[v] = b.order(_sliced(b, v.args[0], op, done), v.axes)
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _sliced(b: Builder, x: Value, of: p.Slice, done: Mapping[Value, Value]) -> Value:
    """The slice of x, of what is made of that for x: of its arguments where it is computed along other axes."""
    if of.axis not in x.axes:
        return done[x]
    match x.op:
        case p.Contract() | p.Reduce():
            return b.again(x, [_sliced(b, a, of, done) for a in x.args], {of.axis: of.stop - of.start})
        case p.Slice(axis=of.axis, start=first, step=1):
            return _sliced(b, x.args[0], p.Slice(of.axis, of.start + first, of.stop + first, 1), done)
        case p.Pad(axis=of.axis, before=n) if n <= of.start and of.stop - n <= x.args[0].size(of.axis):
            return _sliced(b, x.args[0], p.Slice(of.axis, of.start - n, of.stop - n, 1), done)
    return b.slice(done[x], of.axis, of.start, of.stop)
