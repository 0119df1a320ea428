"""The dense form of a process: its mixing matrix written out, then multiplied with the values."""

from __future__ import annotations

from dataclasses import replace

from lowering import chunked
from lowering.build import Builder
from lowering.parts import VALUE, Options, Parts
from lowering.program import Value
from mixer_ir.nodes.expr import TIME

COLUMN = "_s"


def lower(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """y_t = Σ_s M[t, s] v_s for each input, and what the initial state gives."""
    undriven, _ = chunked.parallel(b, replace(parts, inputs=()), options)
    terms = [[y] for y in undriven] if parts.initial is not None else [[] for _ in parts.queries]
    for i, (_, v) in enumerate(parts.inputs):
        values = b.rename(b.expand(v, {TIME: parts.steps}), TIME, COLUMN)
        for made, M in zip(terms, mixing(b, parts, i, options), strict=True):
            made.append(b.contract(M, values, (COLUMN,)))
    _, state = chunked.lower(b, replace(parts, queries=()), options)
    return [b.add(*made) if made else b.const(0.0) for made in terms], state


def mixing(b: Builder, parts: Parts, i: int, options: Options) -> list[Value]:
    """M[t, s] of each read for the i-th input (… `t` `_s`): column s is what a unit value at s gives."""
    n = parts.steps
    unit = b.cast(b.map("eq", b.iota(TIME, n), b.iota(VALUE, n)), "real")
    frame = replace(parts.frame, values=(COLUMN,), sizes={**parts.frame.sizes, COLUMN: n})
    alone = replace(parts, inputs=((parts.inputs[i][0], unit),), initial=None, frame=frame)
    reads, _ = chunked.parallel(b, alone, options)
    return [b.rename(y, VALUE, COLUMN) for y in reads]
