"""A program as C text: one function of the addresses of its inputs and outputs, an arena and a number of threads.

Equal programs give equal text. Regions are opened, conversions are written out, and outputs are arrays of the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from backends.native.block import Emitter
from backends.native.memory import Store, strides_of
from backends.native.sharing import shared
from backends.native.spelling import TYPES
from backends.uniform import uniform
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

HEAD = """#include "program.h"
#define OWN(thread) (arena + {arena} + (long)(thread) * {apart})

void run(void **arrays, char *arena, int threads) {{"""


@dataclass(frozen=True)
class Emitted:
    """The text, and the bytes of the arena that it works in: for all threads together, and for each one more."""

    text: str
    arena: int
    apart: int


def emit(program: Program, width: int) -> Emitted:
    """The text of a program that computes with real numbers of `width` bytes."""
    plain = shared(uniform(opened(program)))
    emitter = Emitter(width)
    stores = []
    for i, v in enumerate((*plain.inputs, *plain.outputs)):
        name, c = f"{'in' if i < len(plain.inputs) else 'out'}{i}", TYPES[v.kind]
        emitter.lines.append(f"{c} *{name} = arrays[{i}];")
        stores.append(Store(name, v.kind, strides_of(v.sizes)))
    n = len(plain.inputs)
    emitter.where.update(zip(plain.inputs, stores[:n], strict=True))
    emitter.block(plain, list(zip(plain.outputs, stores[n:], strict=True)))
    head = HEAD.format(arena=emitter.arena.peak, apart=emitter.apart)
    return Emitted("\n".join([head, *indented(emitter.lines), "}", ""]), emitter.arena.peak, emitter.apart)


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


def opened(program: Program) -> Program:
    """The program with its regions spelled out, in the bodies of its loops too, and transforms of what they take."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    results: dict[Value, list[Value]] = {}
    for v in program.order:
        op = v.op
        if isinstance(op, p.Input):
            done[v] = v
        elif isinstance(op, p.Region):
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
