"""Running a program: every operation spelled once, then called in order, each value dropped after its last use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from lowering.program import Input, Program, Value
from mixer_ir.errors import BackendError

Array: TypeAlias = Any
Call: TypeAlias = Callable[..., Array]
Run: TypeAlias = Callable[[Sequence[Array]], list[Array]]
Spelling: TypeAlias = Callable[[Value], Call]


def plan(program: Program, spell: Spelling, known: Mapping[Value, Array] | None = None) -> Run:
    """A function from the arrays of `program.inputs`, in order, to those of `program.outputs`.

    spell   gives for a value the function that computes it from the arrays of its arguments
    known   values that are computed already: the same in every call
    """
    known = known or {}
    order = [v for v in program.order if v not in known]
    slot = {v: i for i, v in enumerate(dict.fromkeys((*program.inputs, *known, *order)))}
    last: dict[Value, int] = {a: i for i, v in enumerate(order) for a in v.args}
    kept = {*program.outputs, *known}
    steps: list[tuple[Call, int, tuple[int, ...], tuple[int, ...]]] = []
    for i, v in enumerate(order):
        if not isinstance(v.op, Input):
            dead = tuple(slot[a] for a in dict.fromkeys(v.args) if last[a] == i and a not in kept)
            steps.append((spell(v), slot[v], tuple(slot[a] for a in v.args), dead))
    first = [*(None for _ in program.inputs), *known.values(), *(None for _ in order)]
    count = len(program.inputs)
    results = tuple(slot[v] for v in program.outputs)

    def run(inputs: Sequence[Array]) -> list[Array]:
        arrays = first.copy()
        arrays[:count] = inputs
        for call, here, args, dead in steps:
            arrays[here] = call(*[arrays[a] for a in args])
            for a in dead:
                arrays[a] = None
        return [arrays[i] for i in results]

    return run


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
