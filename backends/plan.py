"""Running a program: every operation spelled once, then called in order, each value dropped after its last use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from lowering.program import Input, Pick, Program, Value
from mixer_ir.errors import BackendError

Array: TypeAlias = Any
Call: TypeAlias = Callable[..., Array]
Run: TypeAlias = Callable[..., list[Array]]
"""from the arrays of the inputs, and perhaps those that results are written into, to the results"""
Spelling: TypeAlias = Callable[[Value], Call]


def plan(
    program: Program,
    spell: Spelling,
    known: Mapping[Value, Array] | None = None,
    into: Mapping[Value, Value | int] | None = None,
) -> Run:
    """A function from the arrays of `program.inputs`, in order, to those of `program.outputs`.

    spell   gives for a value the function that computes it from the arrays of its arguments
    known   values that are computed already: the same in every call
    into    what some values are written into, handed to their functions after the arguments: another value's array,
            or that place among those given with the call

    It is written as straight Python, one line a value, since a loop over steps costs as much as a small operation.
    """
    known, into = known or {}, into or {}
    order = _picked_at_once([v for v in program.order if v not in known and not isinstance(v.op, Input)])
    name = {v: f"v{i}" for i, v in enumerate(dict.fromkeys((*program.inputs, *known, *order)))}
    last: dict[Value, int] = {a: i for i, v in enumerate(order) for a in v.args}
    kept = {*program.outputs, *known}
    names: dict[str, Any] = {name[v]: x for v, x in known.items()}
    lines = [f"def run(inputs, places=()):\n [{', '.join(name[v] for v in program.inputs)}] = inputs"]
    for i, v in enumerate(order):
        names[f"f{i}"] = spell(v)
        written = [f"places[{x}]" if isinstance(x, int) else name[x] for x in (into.get(v),) if x is not None]
        lines.append(f" {name[v]} = f{i}({', '.join([*(name[a] for a in v.args), *written])})")
        if dead := [name[a] for a in dict.fromkeys(v.args) if last[a] == i and a not in kept]:
            lines.append(f" del {', '.join(dead)}")
    lines.append(f" return [{', '.join(name[v] for v in program.outputs)}]")
    exec("\n".join(lines), names)
    run: Run = names["run"]
    return run


def _picked_at_once(order: list[Value]) -> list[Value]:
    """The same values with every result of a loop picked right after it, so that none keeps the others alive."""
    picks: dict[Value, list[Value]] = {}
    for v in order:
        if isinstance(v.op, Pick):
            picks.setdefault(v.args[0], []).append(v)
    return [x for v in order if not isinstance(v.op, Pick) for x in (v, *picks.get(v, ()))]


def given(program: Program, arrays: Mapping[str, Array]) -> list[Array]:
    """The arrays of the program's inputs in order; an error names those that are missing."""
    missing = [name for name in program.input_names if name not in arrays]
    if missing:
        have = ", ".join(arrays) or "nothing"
        raise BackendError(f"the program reads {', '.join(missing)}, which was not given (given: {have})")
    return [arrays[name] for name in program.input_names]


def check_shape(value: Value, shape: Sequence[int]) -> None:
    """An error that names the input, the axes it was planned for and the shape it came in."""
    if tuple(shape) != value.shape and isinstance(value.op, Input):
        axes = " ".join(f"{a}:{n}" for a, n in value.sizes.items())
        raise BackendError(f"{value.op.name} was planned as ({axes}), but has shape {tuple(shape)}")
