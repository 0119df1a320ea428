"""Arrays with named axes: the oracle's arithmetic, on PyTorch in float64 and complex128, the slow and plain way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixer_ir.expr import Axes, Number, union, without
from mixer_ir.functions import FUNCTIONS


@dataclass(frozen=True)
class Array:
    """A tensor whose dimensions have names."""

    axes: Axes
    data: Tensor

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.axes, self.data.shape, strict=True))

    def to(self, axes: Axes, sizes: Mapping[str, int]) -> Tensor:
        """The tensor laid out as `axes`, which hold all of its own; axes that it lacks are repeated to `sizes`."""
        return self.aligned(axes).expand([self.sizes.get(a, sizes.get(a, 1)) for a in axes])

    def aligned(self, axes: Axes) -> Tensor:
        """The tensor laid out as `axes`, of size 1 along those that it lacks."""
        own = [self.axes.index(a) for a in axes if a in self.axes]
        if len(own) != len(self.axes):
            raise AssertionError(f"axes {self.axes} do not fit in {axes}")
        data = self.data.permute(own)
        for i, a in enumerate(axes):
            data = data if a in self.axes else data.unsqueeze(i)
        return data

    def at(self, axis: str, i: int) -> Array:
        """Entry i along `axis`; the array itself if it lacks that axis."""
        if axis not in self.axes:
            return self
        return Array(without(self.axes, (axis,)), self.data.select(self.axes.index(axis), i))

    def named(self, old: str, new: str) -> Array:
        """Axis `old` called `new`, if there is one."""
        return Array(tuple(new if a == old else a for a in self.axes), self.data)

    def flip(self, *axes: str) -> Array:
        return Array(self.axes, self.data.flip([self.axes.index(a) for a in axes if a in self.axes]))

    def sum(self, over: Axes) -> Array:
        dims = [self.axes.index(a) for a in over if a in self.axes]
        return Array(without(self.axes, over), self.data.sum(dims)) if dims else self


def exact(x: Tensor) -> Tensor:
    """x in double precision; integers and truth values as they are."""
    if x.is_complex():
        return x.to(torch.complex128)
    if x.is_floating_point():
        return x.to(torch.float64)
    return x if x.dtype == torch.bool else x.to(torch.int64)


def number(value: Number) -> Array:
    dtype = {float: torch.float64, complex: torch.complex128}.get(type(value))
    return Array((), torch.tensor(value, dtype=dtype))


def pointwise(fn: Callable[..., Tensor], *args: Array) -> Array:
    """`fn` entry by entry, arguments broadcast over the axes that they lack."""
    axes = union(*(a.axes for a in args))
    return Array(axes, fn(*(a.aligned(axes) for a in args)))


def apply(fn: str, *args: Any) -> Array:
    """A function of mixer_ir.functions by its name; numbers may stand for arrays."""
    arrays = [a if isinstance(a, Array) else number(a) for a in args]
    function = FUNCTIONS[fn]
    if function.meaning is not None:
        made = function.meaning(apply, *arrays)
        return made if isinstance(made, Array) else number(made)
    if function.result == "float":
        arrays = [a if _floats(a.data) else Array(a.axes, a.data.to(torch.float64)) for a in arrays]
    return pointwise(TORCH[fn], *arrays)


def mul(*factors: Array) -> Array:
    total = factors[0]
    for f in factors[1:]:
        total = apply("mul", total, f)
    return total


def contract(x: Array, y: Array, over: Axes) -> Array:
    """Σ_over x y; an axis of `over` that one side lacks is summed on the other."""
    return mul(x, y).sum(over)


def stack(parts: list[Array], axis: str) -> Array:
    """The parts along a new last axis; parts may lack some of the axes of others."""
    axes, sizes = union(*(p.axes for p in parts)), {a: n for p in parts for a, n in p.sizes.items()}
    data = [p.to(axes, sizes) for p in parts]
    dtype = data[0].dtype
    for d in data[1:]:
        dtype = torch.promote_types(dtype, d.dtype)
    return Array((*axes, axis), torch.stack([d.to(dtype) for d in data], -1))


def where(condition: Array, yes: Array, no: Array) -> Array:
    return apply("where", condition, yes, no)


def _floats(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


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
