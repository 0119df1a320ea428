"""Programs made plain before they are planned: arguments in the kind and the order of axes that the result has.

After this, whoever spells an operation meets arguments of one kind, and needs no transposing to work entry by entry;
a conversion that several operations need is done once.
"""

from __future__ import annotations

from dataclasses import replace

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value
from mixer_ir.functions import WIDTH, Kind


def uniform(program: Program) -> Program:
    """The same program with casts and orders written out."""
    b = Builder()
    done: dict[Value, Value] = {}
    for v in program.order:
        if isinstance(v.op, p.Input):
            done[v] = v
            continue
        args = [done[a] for a in v.args]
        args = [b.cast(a, kind) for a, kind in zip(args, argument_kinds(v), strict=True)]
        if isinstance(v.op, p.Map):
            args = [b.order(a, tuple(axis for axis in v.axes if axis in a.axes)) for a in args]
        op = replace(v.op, body=uniform(v.op.body)) if isinstance(v.op, p.Scan | p.Region) else v.op
        done[v] = b.again(v, args, op=op)
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def argument_kinds(v: Value) -> list[Kind]:
    """As what kinds of numbers an operation takes its arguments."""
    kinds = [a.kind for a in v.args]
    if isinstance(v.op, p.Map):
        return _map_kinds(v.op.fn, kinds, v.kind)
    if isinstance(v.op, p.Contract | p.Reduce | p.Cumulate | p.AffineScan | p.Solve):
        return [v.kind] * len(kinds)
    return kinds


def _map_kinds(fn: str, kinds: list[Kind], result: Kind) -> list[Kind]:
    """The widest of the arguments and the result; conditions are truth values, parts of complex numbers real."""
    if fn in ("and", "or", "not"):
        return ["bool"] * len(kinds)
    if fn == "where":
        return ["bool", result, result]
    if fn == "complex":
        return ["real", "real"]
    widest = max(kinds, key=WIDTH.__getitem__)
    if result != "bool" and fn not in ("real", "imag", "abs"):
        widest = max(widest, result, key=WIDTH.__getitem__)
    return [widest] * len(kinds)
