"""Programs as differentiable functions of torch tensors: the derivative is the derived adjoint program, run likewise.

A derivative of a derivative is the adjoint of the adjoint, so double backward works at any depth, and so do
torch.func.grad, vjp, jacrev and vmap. Forward mode (jvp, jacfwd) is refused with a GradientError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from backends import eager
from backends.plan import given
from lowering.adjoint import adjoint
from lowering.program import Program
from mixer_ir.errors import GradientError

Prepare = Callable[[Program], Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]


class Differentiable:
    """A prepared program that autograd can follow; its adjoints are derived when a backward pass first asks for them.

    Only the cotangents are computed that the backward pass needs, from those that it has. What is kept from the
    forward pass is its inputs.
    """

    def __init__(self, program: Program, prepare: Prepare = eager.prepare) -> None:
        self.program = program
        self._prepare = prepare
        self._run = prepare(program)
        self._back: dict[tuple[tuple[str, ...], tuple[str, ...]], Differentiable] = {}

    def __call__(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = given(self.program, arrays)
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in inputs):
            return self.run(inputs)
        return dict(zip(self.program.names, _Run.apply(self, *inputs), strict=True))  # type: ignore[no-untyped-call]

    def run(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        """Results by name, unknown to autograd."""
        return self._run(dict(zip(self.program.input_names, inputs, strict=True)))

    def back(self, wrt: tuple[str, ...], outputs: tuple[str, ...]) -> Differentiable:
        """The adjoint for these inputs and results."""
        if (wrt, outputs) not in self._back:
            self._back[wrt, outputs] = Differentiable(adjoint(self.program, wrt, outputs), self._prepare)
        return self._back[wrt, outputs]


def differentiable(program: Program, prepare: Prepare = eager.prepare) -> Differentiable:
    """`program` as a function from tensors by input name to tensors by output name, differentiable in every one that
    holds real or complex numbers. `prepare` is that of the backend that runs the program and its adjoints."""
    return Differentiable(program, prepare)


class _Run(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(owner: Differentiable, *inputs: Tensor) -> tuple[Tensor, ...]:
        taken = {id(x) for x in inputs}  # autograd wants a view where a result is an input as it came
        return tuple(y.view_as(y) if id(y) in taken else y for y in owner.run(list(inputs)).values())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.owner, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(x for x in output if not (x.is_floating_point() or x.is_complex())))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        owner: Differentiable = ctx.owner
        names = owner.program.input_names
        wrt = tuple(name for name, need in zip(names, ctx.needs_input_grad[1:], strict=True) if need)
        have = {n: g for n, g in zip(owner.program.names, grads, strict=True) if g is not None}
        if not have:
            return (None,) * (1 + len(names))
        arrays = dict(zip(names, ctx.saved_tensors, strict=True))
        results = owner.back(wrt, tuple(have))({**arrays, **{f"d:{n}": g for n, g in have.items()}})
        return (None, *(_like(results[f"d:{n}"], arrays[n]) if n in wrt else None for n in names))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise GradientError(
            "forward-mode derivatives (jvp, jacfwd) are not derived; use backward, torch.func.vjp or jacrev"
        )


def _like(cotangent: Tensor, x: Tensor) -> Tensor:
    """In the dtype of x, which may be lower than what is computed in, or real where the program has it complex."""
    if cotangent.is_complex() and not x.is_complex():
        cotangent = cotangent.real
    return cotangent.to(x.dtype)
