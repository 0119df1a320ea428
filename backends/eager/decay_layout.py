"""How the arrays of a region `decay` lie while it is spelled in PyTorch: (batch, steps, keys), one array a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from backends.eager.setting import Setting, op_of, view
from lowering import program as p
from lowering.decay import SOURCE, STEP
from lowering.parts import KEY
from lowering.program import Value
from mixer_ir.nodes.functions import WIDTH

Place: TypeAlias = frozenset[tuple[str, int]]
"""a position along axes that not every row and column has"""
EMPTY: Place = frozenset()


def merged(one: Place, other: Place) -> Place | None:
    """Both positions, if they agree on the axes that both have."""
    both = one | other
    return both if len(dict(both)) == len(both) else None


@dataclass(frozen=True)
class Layout:
    """batch   the axes that all rows and columns have, made one      length   steps, filled up to a power of two"""

    batch: tuple[str, ...]
    sizes: Mapping[str, int]
    length: int
    dtype: torch.dtype

    @classmethod
    def of(cls, inputs: Sequence[Value], setting: Setting) -> Layout:
        """The layout for the inputs of a region; the cotangents among them have the axes of the others."""
        named = {op_of(v, p.Input).name: v for v in inputs}
        vectors = [v for name, v in named.items() if name.startswith(("row:", "column:"))]
        batch = tuple(a for a in vectors[0].axes if a not in (STEP, KEY) and all(a in v.axes for v in vectors))
        kind = max((v.kind for v in inputs), key=WIDTH.__getitem__)
        sizes = {a: n for v in vectors for a, n in v.sizes.items()}
        return cls(batch, sizes, sizes[STEP], setting.dtype(kind))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.sizes[a] for a in self.batch)

    @property
    def size(self) -> int:
        """The steps with what fills them up."""
        return 1 << (self.length - 1).bit_length()

    def own(self, v: Value) -> tuple[str, ...]:
        """The axes of v that not every row and column has."""
        return tuple(a for a in v.axes if a not in (*self.batch, STEP, SOURCE, KEY))

    def places(self, v: Value) -> list[Place]:
        """The positions along v's own axes."""
        own = self.own(v)
        return [frozenset(zip(own, at, strict=True)) for at in product(*(range(self.sizes[a]) for a in own))]

    def read(self, v: Value, x: Tensor, last: tuple[str, ...], fill: float = 0.0) -> dict[Place, Tensor]:
        """An argument as (batch, *last) for each position along its own axes, with `fill` after the last step."""
        own = self.own(v)
        as_ = view(v.axes, (*own, *self.batch, *last))
        full = tuple(self.sizes[KEY] if a == KEY else self.length for a in last)
        x = (x if as_ is None else as_(x)).expand(*(self.sizes[a] for a in own), *self.shape, *full)
        missing = [0 if a == KEY else self.size - self.length for a in last]
        if any(missing):
            x = torch.constant_pad_nd(x, [n for more in reversed(missing) for n in (0, more)], fill)
        x = x.reshape(-1, prod(self.shape), *x.shape[x.dim() - len(last) :])
        return dict(zip(self.places(v), x.unbind(0), strict=True))

    def write(self, v: Value, parts: Mapping[Place, Tensor], last: tuple[str, ...]) -> Tensor:
        """A result as the program has it, from (batch, *last) for each position; alike along the axes that it lacks."""
        own = self.own(v)
        x = torch.stack([parts[at] for at in self.places(v)]) if own else parts[EMPTY].unsqueeze(0)
        if self.size != self.length:
            x = x[(slice(None), slice(None), *(slice(0, None if a == KEY else self.length) for a in last))]
        x = x.reshape(*(self.sizes[a] for a in own), *self.shape, *x.shape[2:])
        left = (*own, *self.batch, *last)
        x = x[tuple(slice(None) if a in v.axes else 0 for a in left)]
        left = tuple(a for a in left if a in v.axes)
        x = x.permute([left.index(a) for a in v.axes])
        return x.real if v.kind == "real" and x.is_complex() else x

    def vectors(
        self, inputs: Mapping[str, Value], given: Mapping[str, Tensor], of: str
    ) -> dict[tuple[str, Place], Tensor]:
        """The rows or the columns among the inputs."""
        found = {n: self.read(v, given[n].to(self.dtype), (STEP, KEY)) for n, v in inputs.items() if n.startswith(of)}
        return {(name, place): x for name, parts in found.items() for place, x in parts.items()}
