"""The operator `mixer_ir::run`: any prepared program as one node of a graph, for torch.compile, export and the like.

A program goes by its key: its digest with what prepares it, then a step for each derivative taken, so that another
process which loads a compiled graph finds the same program under the same key, and derives the same adjoints. Shapes
and dtypes of the results are known without running it; its derivative is the operator with the adjoint's key. Like
any operator that says nothing else, it computes under autocast in the dtypes that its inputs have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from lowering.program import Program
from mixer_ir.errors import BackendError

STEP = " back "
"""in a key, before the inputs and the results that an adjoint is for"""


class Owner(Protocol):
    """What runs a program and its adjoints."""

    program: Program

    @property
    def key(self) -> str:
        """What a graph calls it."""
        ...

    def values(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The results in order."""
        ...

    def dtypes(self, inputs: Sequence[Tensor]) -> list[torch.dtype]:
        """In which the results come."""
        ...

    def back(self, wrt: tuple[str, ...], outputs: tuple[str, ...]) -> Owner:
        """The adjoint for these inputs and results."""
        ...


OWNERS: dict[str, Owner] = {}


def observed(inputs: Sequence[Tensor]) -> bool:
    """Whether something looks on that has to see one operator: tensors of another type, or a mode of dispatch."""
    return torch._C._len_torch_dispatch_stack() > 0 or any(type(x) not in (Tensor, Parameter) for x in inputs)


def call(owner: Owner, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The operator on a program."""
    OWNERS.setdefault(owner.key, owner)
    made: list[Tensor] = torch.ops.mixer_ir.run(owner.key, list(inputs))
    return made


def adjoint_key(key: str, wrt: Sequence[str], outputs: Sequence[str]) -> str:
    """The key of an adjoint."""
    return f"{key}{STEP}{json.dumps([list(wrt), list(outputs)])}"


def owner_of(key: str) -> Owner:
    """The program of a key; adjoints are derived anew where this process has not seen them."""
    if key not in OWNERS:
        first, _, last = key.rpartition(STEP)
        if not first:
            raise BackendError(
                "a graph runs a mixer's program that this process does not know: compile the mixer first"
            )
        wrt, outputs = json.loads(last)
        OWNERS[key] = owner_of(first).back(tuple(wrt), tuple(outputs))
    return OWNERS[key]


@torch.library.custom_op("mixer_ir::run", mutates_args=())
def run(key: str, inputs: list[Tensor]) -> list[Tensor]:
    """The results of a program, each packed in the order of its axes, in memory of its own."""
    made: list[Tensor] = []
    for x in owner_of(key).values(inputs):
        x = x.contiguous()
        made.append(x.clone() if any(x is y for y in (*made, *inputs)) else x)
    return made


@run.register_fake
def _(key: str, inputs: list[Tensor]) -> list[Tensor]:
    owner = owner_of(key)
    device = next((x.device for x in inputs if x.dim()), torch.device("cpu"))
    return [
        torch.empty(v.shape, dtype=dtype, device=device)
        for v, dtype in zip(owner.program.outputs, owner.dtypes(inputs), strict=True)
    ]


def _keep(ctx: Any, inputs: tuple[str, list[Tensor]], output: list[Tensor]) -> None:
    ctx.key, tensors = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _derive(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[None, list[Tensor | None]]:
    owner = owner_of(ctx.key)
    names, inputs = owner.program.input_names, ctx.saved_tensors
    wrt = tuple(n for n, need in zip(names, ctx.needs_input_grad[1], strict=True) if need)
    have = {n: g for n, g in zip(owner.program.names, grads, strict=True) if g is not None}
    if not have:
        return None, [None] * len(names)
    back = owner.back(wrt, tuple(have))
    given = {**dict(zip(names, inputs, strict=True)), **{f"d:{n}": g for n, g in have.items()}}
    made = dict(zip(back.program.names, call(back, [given[n] for n in back.program.input_names]), strict=True))
    return None, [like(made[f"d:{n}"], x) if n in wrt else None for n, x in zip(names, inputs, strict=True)]


def like(cotangent: Tensor, x: Tensor) -> Tensor:
    """In the dtype of x, which may be real where the program has it complex."""
    if cotangent.is_complex() and not x.is_complex():
        cotangent = cotangent.real
    return cotangent.to(x.dtype)


run.register_autograd(_derive, setup_context=_keep)
