"""What no result needs is dropped, loops included: unread carries, steps and results of scans."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value


@dataclass(frozen=True)
class _Trimmed:
    """A scan with fewer carries, steps and results."""

    op: p.Scan
    args: tuple[int, ...]
    """which arguments are left"""
    picks: dict[int, int]
    """the index of a result before -> after"""


def prune(program: Program) -> Program:
    """The same results from less; inputs stay, also those that are not read any more."""
    picked: dict[Value, set[int]] = defaultdict(set)
    needed = set(program.outputs)
    trimmed: dict[Value, _Trimmed] = {}
    for v in reversed(program.order):
        if v not in needed:
            continue
        args = v.args
        if isinstance(v.op, p.Pick):
            picked[args[0]].add(v.op.index)
        elif isinstance(v.op, p.Scan):
            trimmed[v] = _trim(v.op, picked[v])
            args = tuple(args[i] for i in trimmed[v].args)
        needed.update(args)
    b = Builder()
    done: dict[Value, Value] = {}
    for v in program.order:
        if v not in needed:
            continue
        if isinstance(v.op, p.Input):
            done[v] = v
        elif v in trimmed:
            done[v] = b.again(v, [done[v.args[i]] for i in trimmed[v].args], op=trimmed[v].op)
        elif isinstance(v.op, p.Pick) and v.args[0] in trimmed:
            done[v] = b.again(v, [done[v.args[0]]], op=p.Pick(trimmed[v.args[0]].picks[v.op.index]))
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _trim(op: p.Scan, picked: set[int]) -> _Trimmed:
    """A carry stays if its last value is picked or a step reads it for something that stays."""
    kept = set(picked)
    while True:
        results = tuple(sorted(kept))
        body = prune(
            Program(
                inputs=op.body.inputs,
                outputs=tuple(op.body.outputs[i] for i in results),
                names=tuple(op.body.names[i] for i in results),
            )
        )
        read = set(body.order)
        more = {i for i in range(op.carries) if op.body.inputs[i] in read} - kept
        if not more:
            break
        kept |= more
    carries = [i for i in range(op.carries) if i in kept]
    steps = [i for i in range(op.carries, op.carries + op.steps) if op.body.inputs[i] in read]
    rest = [i for i in range(op.carries + op.steps, len(op.body.inputs)) if op.body.inputs[i] in read]
    args = (*carries, *steps, *rest)
    body = Program(inputs=tuple(op.body.inputs[i] for i in args), outputs=body.outputs, names=body.names)
    new = p.Scan(op.axis, op.length, body, len(carries), len(steps), op.reverse)
    return _Trimmed(op=new, args=args, picks={i: n for n, i in enumerate(results)})
