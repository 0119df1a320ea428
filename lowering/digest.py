"""A program's digest: the same in every process for programs of the same text, whatever objects they are made of."""

from __future__ import annotations

from dataclasses import fields
from hashlib import sha256
from types import FunctionType
from typing import Any

from lowering.program import Program, Value


def digest(program: Program) -> str:
    """64 hexadecimal digits; programs with equal ones compute the same from inputs of the same names."""
    return sha256(written(program).encode()).hexdigest()


def written(program: Program) -> str:
    """A line for each input, value and output."""
    number = {v: i for i, v in enumerate(dict.fromkeys((*program.inputs, *program.order)))}
    lines = [f"{v.op!r} {number[v]}" for v in program.inputs]
    for v, i in number.items():
        axes = " ".join(f"{a}:{n}" for a, n in v.sizes.items())
        lines.append(f"{i} = {_operation(v)} {[number[a] for a in v.args]} {v.kind} ({axes}) {v.label}".rstrip())
    lines += [f"{name} {number[v]}" for name, v in zip(program.names, program.outputs, strict=True)]
    return "\n".join(lines)


def _operation(v: Value) -> str:
    parts = ", ".join(_part(getattr(v.op, f.name)) for f in fields(v.op))
    return f"{type(v.op).__name__}({parts})"


def _part(x: Any) -> str:
    if isinstance(x, Program):
        return f"[\n{written(x)}\n]"
    return f"{x.__module__}.{x.__qualname__}" if isinstance(x, FunctionType) else repr(x)
