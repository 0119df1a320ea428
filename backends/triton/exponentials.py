"""e^x − 1 with one added is e^x: one instruction instead of a series, and close to 0 no digit is lost by it.

where(m, y, e^x − 1) + 1      becomes      where(m, y + 1, e^x)      as for features of attention, elu(x) + 1

Where the difference is needed elsewhere too, it is computed in any case, and one is added to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value


def exponentials(program: Program) -> Program:
    """The program with exponentials in the place of what nothing but one is added to."""
    raised = _raised(program)
    if not raised:
        return program
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    for v in program.order:
        if v not in done:
            of = [x for x in v.args if x in raised] if _adds_one(v) else []
            with b.named(v.label):
                made = b.order(b.expand(_more(b, of[0], raised, done), v.sizes), v.axes) if of else None
            done[v] = made or b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _raised(program: Program) -> set[Value]:
    """Exponentials less one, and choices of some, of which nothing is made but what is one more."""
    readers: dict[Value, list[Value]] = {}
    found: set[Value] = set()
    for v in program.order:
        for a in dict.fromkeys(v.args):
            readers.setdefault(a, []).append(v)
        if isinstance(v.op, p.Map) and (v.op.fn == "expm1" or (v.op.fn == "where" and found & {*v.args[1:]})):
            found.add(v)
    for v in reversed(program.order):
        if v in found and (v in program.outputs or not all(_passes(v, r, found) for r in readers.get(v, ()))):
            found.discard(v)
    return found


def _passes(v: Value, reader: Value, found: set[Value]) -> bool:
    return _adds_one(reader) or (reader in found and v is not reader.args[0])


def _adds_one(v: Value) -> bool:
    return isinstance(v.op, p.Map) and v.op.fn == "add" and v.kind == "real" and any(map(_one, v.args))


def _one(v: Value) -> bool:
    while isinstance(v.op, p.Expand | p.Cast | p.Order):
        v = v.args[0]
    return isinstance(v.op, p.Constant) and v.op.value == 1


def _more(b: Builder, v: Value, raised: set[Value], done: Mapping[Value, Value]) -> Value:
    """v + 1."""
    if v not in raised:
        return b.add(done[v], 1.0)
    args: Sequence[Value] = v.args
    if len(args) == 1:
        return b.map("exp", done[args[0]])
    return b.where(done[args[0]], *(_more(b, x, raised, done) for x in args[1:]))
