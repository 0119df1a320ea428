"""Programs as differentiable functions of torch tensors: the derivative is the derived adjoint program, run likewise.

A derivative of a derivative is the adjoint of the adjoint, so double backward works at any depth, and so do
torch.func.grad, vjp, jacrev and vmap. Forward mode (jvp, jacfwd) is refused with a GradientError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from backends import eager, ops
from backends.plan import given
from backends.results import results
from lowering.adjoint import adjoint
from lowering.digest import digest
from lowering.program import Program
from mixer_ir.errors import GradientError

Prepare = Callable[[Program], Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]


@runtime_checkable
class Derived(Protocol):
    """A way to prepare a program that prepares its adjoints in a way of their own."""

    def __call__(self, program: Program) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]: ...

    def back(self, wrt: tuple[str, ...], outputs: tuple[str, ...]) -> Prepare:
        """The way of the adjoint for these inputs and results."""
        ...


@runtime_checkable
class Straight(Protocol):
    """A prepared program that may take its inputs in order, with nothing checked."""

    def __call__(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def straight(self, dtypes: tuple[torch.dtype, ...]) -> Callable[[Sequence[Tensor]], list[Tensor]] | None:
        """What takes tensors of the planned shapes and these dtypes; None while there is none."""
        ...


class Differentiable:
    """A prepared program that autograd can follow; its adjoints are derived when a backward pass first asks for them.

    Only the cotangents are computed that the backward pass needs, from those that it has. What is kept from the
    forward pass is its inputs. Results come in the dtypes that backends/results.py says.

    prepare  that of the backend              name    says for a graph which backend that is
    alone    the precision without floats     opaque  it takes memory, not tensors: vmap runs it once for each entry
    """

    def __init__(
        self,
        program: Program,
        prepare: Prepare = eager.prepare,
        *,
        name: str = "eager",
        alone: torch.dtype | None = None,
        opaque: bool = False,
    ) -> None:
        self.program = program
        self.way = prepare
        self._run = prepare(program)
        self._name, self._alone = name, alone
        self._function = _Opaque if opaque else _Run
        self._back: dict[tuple[tuple[str, ...], tuple[str, ...]], Differentiable] = {}
        self._results: dict[tuple[torch.dtype, ...], list[torch.dtype]] = {}

    def __call__(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = given(self.program, arrays)
        if ops.observed(inputs):
            made: Sequence[Tensor] = ops.call(self, inputs)
        elif self._followed(inputs):
            made = self._function.apply(self, *inputs)  # type: ignore[no-untyped-call]
        else:
            made = self.values(inputs)
        return dict(zip(self.program.names, made, strict=True))

    def _followed(self, inputs: Sequence[Tensor]) -> bool:
        """Whether autograd has to know of the call; so have transforms, where they cannot look inside."""
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            return True
        inside = forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None
        return inside and self._function is _Opaque

    @cached_property
    def key(self) -> str:
        """What a graph calls this program."""
        return f"{digest(self.program)} {self._name} {self._alone}"

    def values(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Results in order, unknown to autograd."""
        made = self._run(dict(zip(self.program.input_names, inputs, strict=True)))
        return [made[n].to(dtype) for n, dtype in zip(self.program.names, self.dtypes(inputs), strict=True)]

    def straight(self, dtypes: tuple[torch.dtype, ...]) -> Callable[[Sequence[Tensor]], list[Tensor]] | None:
        """What takes plain tensors in order, of the planned shapes and these dtypes; None where there is no such thing.

        Nobody follows what it does, and results come in the dtypes that it gives them.
        """
        return self._run.straight(dtypes) if isinstance(self._run, Straight) else None

    def dtypes(self, inputs: Sequence[Tensor]) -> list[torch.dtype]:
        """In which the results come."""
        key = tuple(x.dtype for x in inputs)
        if key not in self._results:
            self._results[key] = results(self.program, key, self._alone or torch.get_default_dtype())
        return list(self._results[key])

    def back(self, wrt: tuple[str, ...], outputs: tuple[str, ...]) -> Differentiable:
        """The adjoint for these inputs and results."""
        if (wrt, outputs) not in self._back:
            made = Differentiable(
                adjoint(self.program, wrt, outputs),
                self.way.back(wrt, outputs) if isinstance(self.way, Derived) else self.way,
                name=self._name,
                alone=self._alone,
                opaque=self._function is _Opaque,
            )
            made.__dict__["key"] = ops.adjoint_key(self.key, wrt, outputs)
            self._back[wrt, outputs] = made
        return self._back[wrt, outputs]


differentiable = Differentiable


class _Run(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(owner: Differentiable, *inputs: Tensor) -> tuple[Tensor, ...]:
        taken = {id(x) for x in inputs}  # autograd wants a view where a result is an input as it came
        return tuple(y.view_as(y) if id(y) in taken else y for y in owner.values(inputs))

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
        made = owner.back(wrt, tuple(have))({**arrays, **{f"d:{n}": g for n, g in have.items()}})
        return (None, *(ops.like(made[f"d:{n}"], arrays[n]) if n in wrt else None for n in names))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise GradientError(
            "forward-mode derivatives (jvp, jacfwd) are not derived; use backward, torch.func.vjp or jacrev"
        )


class _Opaque(_Run):
    generate_vmap_rule = False

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], owner: Differentiable, *inputs: Tensor) -> Any:
        """Every entry of the batch by itself, results stacked."""
        rows = []
        for i in range(info.batch_size):
            here = [x if d is None else x.select(d, i) for x, d in zip(inputs, in_dims[1:], strict=True)]
            rows.append(_Opaque.apply(owner, *here))  # type: ignore[no-untyped-call]
        made = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        return made, (0,) * len(made)
