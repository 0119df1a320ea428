"""A program as C text: one function of the addresses of its inputs and outputs, an arena and a number of threads.

Equal programs give equal text. Regions are opened, conversions are written out, and outputs are arrays of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from backends.native.block import Emitter
from backends.native.complexes import parted
from backends.native.fusing import is_decay, is_product, product_axes, product_sizes
from backends.native.memory import Store, strides_of
from backends.native.orienting import oriented
from backends.native.outlining import outlined
from backends.native.sharing import LARGE, shared
from backends.native.sinking import sunk
from backends.native.spelling import TYPES
from backends.uniform import uniform
from lowering import program as p
from lowering.build import Builder
from lowering.halves import halved
from lowering.program import Program, Value

HEAD = """#include "program.h"
#define OWN(thread) (arena + {arena} + (long)(thread) * {apart})
"""
RUN = "void run(void **arrays, char *arena, int threads) {"


@dataclass(frozen=True)
class Emitted:
    """The text, and the bytes of the arena that it works in: for all threads together, and for each one more."""

    text: str
    arena: int
    apart: int


def emit(program: Program, width: int, narrow: Sequence[str] = ()) -> Emitted:
    """The text of a program that computes with real numbers of `width` bytes.

    narrow   for each input, then each output: the format (bfloat16, float16) of what takes two bytes there, or ""
    """
    narrow = narrow or ("",) * (len(program.inputs) + len(program.outputs))
    plain = shared(uniform(turned(oriented(uniform(sunk(halved(parted(converted(opened(program), narrow)))))))))
    emitter = Emitter(width)
    stores = []
    for i, v in enumerate((*plain.inputs, *plain.outputs)):
        name, c = f"{'in' if i < len(plain.inputs) else 'out'}{i}", TYPES[v.kind]
        emitter.lines.append(f"{'uint16_t' if narrow[i] else c} *{name} = arrays[{i}];")
        stores.append(Store(name, v.kind, strides_of(v.sizes), narrow=narrow[i]))
    n = len(plain.inputs)
    emitter.where.update(zip(plain.inputs, stores[:n], strict=True))
    emitter.block(plain, list(zip(plain.outputs, stores[n:], strict=True)))
    head = HEAD.format(arena=emitter.arena.peak, apart=emitter.apart)
    functions, rest = outlined(emitter.lines)
    written = [line for f in (*functions, [RUN, *rest, "}"]) for line in (f[0], *indented(f[1:-1]), "}", "")]
    return Emitted("\n".join([head, *written]), emitter.arena.peak, emitter.apart)


def turned(program: Program) -> Program:
    """The program with the factor first in large products whose rows come first in what the program leaves.

    Rows and columns lie in this order, so that what is computed step by step lies step by step.
    """
    b = Builder()
    done: dict[Value, Value] = {}
    places = {a: i for i, a in enumerate(program.outputs[0].axes)} if program.outputs else {}
    for v in program.order:
        args = [done[a] for a in v.args]
        if is_product(v) and prod(product_sizes(v)) >= LARGE:
            _, rows, columns, _ = product_axes(v)
            first, second = (min(places.get(a, len(places)) for a in axes) for axes in (rows, columns))
            if second < first:
                args.reverse()
        done[v] = v if args == list(v.args) else b.again(v, args)
    outputs = tuple(done[v] for v in program.outputs)
    return Program(inputs=program.inputs, outputs=outputs, names=program.names)


def indented(lines: list[str]) -> list[str]:
    """Four spaces for every brace that is open."""
    done, depth = [], 1
    for line in lines:
        if line.startswith("}"):
            depth -= 1
        done.append(line if line.startswith("#") else "    " * depth + line)
        if line.endswith("{"):
            depth += 1
    return done


def converted(program: Program, narrow: Sequence[str]) -> Program:
    """The program with what takes two bytes widened entry by entry where it is read, and narrowed where it ends."""
    if not any(narrow):
        return program
    b = Builder()
    n = len(program.inputs)
    done = {v: _as_real(v) if form else v for v, form in zip(program.inputs, narrow[:n], strict=True)}
    for v in program.order:
        if v not in done:
            done[v] = b.again(v, [done[a] for a in v.args])
    outputs = [_as_real(done[v]) if form else done[v] for v, form in zip(program.outputs, narrow[n:], strict=True)]
    return Program(inputs=program.inputs, outputs=tuple(outputs), names=program.names)


def _as_real(v: Value) -> Value:
    """v, as a value of its own: only this is read from, or written to, what takes two bytes."""
    return Value(p.Cast("real"), (v,), v.axes, v.shape, "real")


def opened(program: Program) -> Program:
    """The program with its regions spelled out but for those that are a routine, in the bodies of its loops too, and
    transforms of what they take."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    results: dict[Value, list[Value]] = {}
    for v in program.order:
        op = v.op
        if isinstance(op, p.Input):
            done[v] = v
        elif isinstance(op, p.Region) and not is_decay(v):
            body = opened(op.body)
            results[v] = b.inline(body, dict(zip(body.input_names, (done[a] for a in v.args), strict=True)))
        elif isinstance(op, p.Pick) and v.args[0] in results:
            done[v] = results[v.args[0]][op.index]
        elif isinstance(op, p.Scan):
            done[v] = b.again(v, [done[a] for a in v.args], op=replace(op, body=opened(op.body)))
        elif isinstance(op, p.Transform):
            done[v] = b.again(v, [b.cast(done[v.args[0]], "real" if op.which == "rfft" else "complex")])
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)
