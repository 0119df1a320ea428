"""Contractions as products of matrices: (batch, rows, over) · (batch, over, columns), alone or added to something."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.plan import Call
from lowering import program as p
from lowering.program import Value

Group = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Product:
    """How a contraction is one (batched) product of matrices.

    left, right   bring the arguments into the shape of matrices
    shape         of the result as it comes: batch, rows, columns           flat   the same as matrices
    permutation   of the result's axes, if they are wanted in another order
    """

    left: Group
    right: Group
    batched: bool
    shape: tuple[int, ...]
    flat: tuple[int, ...]
    permutation: tuple[int, ...] | None

    @classmethod
    def of(cls, v: Value) -> Product | None:
        """None for what is no contraction, or one that no product of matrices does well."""
        if not isinstance(v.op, p.Contract) or v.kind in ("bool", "int"):
            return None
        over, (x, y) = v.op.over, v.args
        batch = tuple(a for a in x.axes if a in y.axes and a not in over)
        rows = tuple(a for a in x.axes if a not in y.axes)
        columns = tuple(a for a in y.axes if a not in x.axes)
        if not rows and not columns:
            return None
        made = (*batch, *rows, *columns)
        order = tuple(made.index(a) for a in v.axes)
        flat = tuple(math.prod(v.size(a) for a in group) for group in (batch, rows, columns))
        return cls(
            left=_grouped(x, (batch, rows, over)),
            right=_grouped(y, (batch, over, columns)),
            batched=bool(batch),
            shape=tuple(v.size(a) for a in made),
            flat=flat if batch else flat[1:],
            permutation=None if order == tuple(range(len(made))) else order,
        )

    def alone(self) -> Call:
        """x, y -> x · y"""
        left, right, shape, permutation = self.left, self.right, self.shape, self.permutation
        product = torch.bmm if self.batched else torch.mm
        if permutation is not None:
            return lambda x, y: product(left(x), right(y)).view(shape).permute(permutation)
        if self.flat == shape:
            return lambda x, y: product(left(x), right(y))
        return lambda x, y: product(left(x), right(y)).view(shape)

    def into(self) -> Call:
        """x, y, where it is written -> x · y"""
        left, right, flat = self.left, self.right, self.flat
        product: Callable[..., Tensor] = torch.bmm if self.batched else torch.mm

        def written(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
            product(left(x), right(y), out=out.view(flat))
            return out

        return written

    def added(self) -> Call:
        """z, (x, y), perhaps where it is written -> z + x · y"""
        left, right, shape, flat = self.left, self.right, self.shape, self.flat
        product: Callable[..., Tensor] = torch.baddbmm if self.batched else torch.addmm

        def added(z: Tensor, factors: tuple[Tensor, Tensor], out: Tensor | None = None) -> Tensor:
            x, y = left(factors[0]), right(factors[1])
            if out is None:
                return product(z.reshape(flat), x, y).view(shape)
            if z is not out:
                product(z.reshape(flat), x, y, out=out.view(flat))
                return out
            there = z.reshape(flat)  # a copy, if z does not lie in the order of its axes
            product(there, x, y, out=there)
            return z if there.data_ptr() == z.data_ptr() else there.view(shape)

        return added


def _grouped(x: Value, groups: tuple[tuple[str, ...], ...]) -> Group:
    """x with one axis a group (the first group may be absent)."""
    first, *rest = groups
    groups = (first, *rest) if first else tuple(rest)
    permutation = [x.axes.index(a) for group in groups for a in group]
    shape = tuple(math.prod(x.size(a) for a in group) for group in groups)
    ordered = permutation == list(range(len(x.axes)))
    if all(len(group) == 1 for group in groups):
        if ordered:
            return lambda z: z
        if len(permutation) == 2:
            return torch.t
        return lambda z: z.permute(permutation)
    if ordered:
        return lambda z: z.reshape(shape)
    return lambda z: z.permute(permutation).reshape(shape)
