"""Named arrays of numbers: PyTorch in float64 and complex128, the slow and plain way, with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import torch
from torch import Tensor

from mixer_ir.definition.named import Array
from mixer_ir.nodes.expr import Axes, Number, union, without
from mixer_ir.nodes.functions import FUNCTIONS


@dataclass(frozen=True)
class Tensors(Array):
    """A tensor whose dimensions have names."""

    data: Tensor

    @classmethod
    def of(cls, axes: Axes, x: Tensor) -> Self:
        """x in double precision, on the CPU; integers and truth values as they are."""
        x = x.cpu()
        if x.is_complex():
            return cls(tuple(axes), x.to(torch.complex128))
        if x.is_floating_point():
            return cls(tuple(axes), x.to(torch.float64))
        return cls(tuple(axes), x if x.dtype == torch.bool else x.to(torch.int64))

    @classmethod
    def number(cls, value: Number) -> Self:
        dtype = {float: torch.float64, complex: torch.complex128}.get(type(value))
        return cls((), torch.tensor(value, dtype=dtype))

    @classmethod
    def places(cls, axis: str, n: int) -> Self:
        return cls((axis,), torch.arange(n))

    @classmethod
    def computed(cls, fn: str, data: Sequence[Tensor]) -> Tensor:
        if FUNCTIONS[fn].result == "float":
            data = [x if x.is_floating_point() or x.is_complex() else x.to(torch.float64) for x in data]
        return TORCH[fn](*data)

    @classmethod
    def stacked(cls, data: Sequence[Tensor]) -> Tensor:
        dtype = reduce(torch.promote_types, (x.dtype for x in data))
        return torch.stack([x.to(dtype) for x in data], -1)

    @staticmethod
    def repeated(data: Tensor, shape: Sequence[int]) -> Tensor:
        return data.expand(list(shape))

    def permuted(self, order: Sequence[int]) -> Tensor:
        return self.data.permute(list(order))

    def flip(self, *axes: str) -> Self:
        return type(self)(self.axes, self.data.flip([self.axes.index(a) for a in axes if a in self.axes]))

    def folded(self, fn: str, over: Axes) -> Self:
        dims = [self.axes.index(a) for a in over if a in self.axes]
        return type(self)(without(self.axes, over), FOLDS[fn](self.data, dim=dims)) if dims else self

    def picked(self, axis: str, index: Self) -> Self:
        chosen, rest = index.data.to(torch.int64), without(self.axes, (axis,))
        if not set(rest) & set(index.axes):
            return type(self)((*rest, *index.axes), self.aligned((*rest, axis))[..., chosen])
        rows, axes = self.named(axis, "_row"), union(index.axes, rest)
        sizes = {**rows.sizes, **index.sizes}
        at = index.to(axes, sizes).unsqueeze(-1).to(torch.int64)
        return type(self)(axes, torch.gather(rows.to((*axes, "_row"), sizes), -1, at).squeeze(-1))

    def peak(self, axis: str) -> Self:
        """The largest score, so that no exponential is above one; finite where all are −∞."""
        return type(self)(without(self.axes, (axis,)), self.folded("max", (axis,)).data.detach().clamp(min=-1e300))

    def root(self, n: int) -> Self:
        return type(self)(self.axes, torch.exp(self.data.to(torch.complex128) * (2j * math.pi / n)))

    def detached(self) -> Self:
        return type(self)(self.axes, self.data.detach())


def _where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    dtype = torch.promote_types(yes.dtype, no.dtype)
    return torch.where(condition.to(torch.bool), yes.to(dtype), no.to(dtype))


def _numeric(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`fn` with truth values read as 0 and 1."""
    return lambda *xs: fn(*(x.to(torch.int64) if x.dtype == torch.bool else x for x in xs))


def _softplus(x: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(x)) if x.is_complex() else torch.logaddexp(x, torch.zeros_like(x))


def _complex(x: Tensor, y: Tensor) -> Tensor:
    return torch.complex(x.to(torch.float64), y.to(torch.float64))


FOLDS: dict[str, Callable[..., Tensor]] = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}
TORCH: dict[str, Callable[..., Tensor]] = {
    "add": _numeric(torch.add),
    "sub": _numeric(torch.sub),
    "mul": _numeric(torch.mul),
    "div": torch.div,
    "pow": _numeric(torch.pow),
    "neg": _numeric(torch.neg),
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "sqrt": torch.sqrt,
    "abs": _numeric(torch.abs),
    "sign": _numeric(torch.sgn),
    "sigmoid": torch.sigmoid,
    "softplus": _softplus,
    "tanh": torch.tanh,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "min": _numeric(torch.minimum),
    "max": _numeric(torch.maximum),
    "where": _where,
    "lt": torch.lt,
    "le": torch.le,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "real": lambda x: x.real if x.is_complex() else x,
    "imag": lambda x: x.imag if x.is_complex() else torch.zeros_like(x),
    "conj": torch.conj_physical,
    "complex": _complex,
    "mod": _numeric(torch.remainder),
    "floordiv": _numeric(lambda x, y: torch.div(x, y, rounding_mode="floor")),
}
