"""What the eager backend settles before a call: precision, device, whether autograd records; and how axes line up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lowering.program import Value
from mixer_ir.nodes.functions import Kind

T = TypeVar("T")
View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """How a program is run."""

    real: torch.dtype
    device: torch.device
    recorded: bool
    """whether autograd follows the call: then nothing is written in place"""

    def dtype(self, kind: Kind) -> torch.dtype:
        """The dtype of numbers of a kind."""
        if kind == "real":
            return self.real
        if kind == "complex":
            return torch.complex128 if self.real == torch.float64 else torch.complex64
        return torch.bool if kind == "bool" else torch.int64


def op_of(v: Value, kind: type[T]) -> T:
    """v's operation, which the caller knows to be of this kind."""
    assert isinstance(v.op, kind)
    return v.op


def view(axes: tuple[str, ...], onto: tuple[str, ...]) -> View | None:
    """Brings `axes` into the order of `onto` with size 1 for those that lack; None if broadcasting does so itself."""
    permutation = [axes.index(a) for a in onto if a in axes]
    here = [a in axes for a in onto]
    first = here.index(True) if axes else len(onto)
    gaps = [i - first for i, there in enumerate(here) if not there and i > first]
    if permutation == list(range(len(axes))):
        return _unsqueezed(gaps) if gaps else None
    insert = _unsqueezed(gaps)
    return lambda x: insert(x.permute(permutation))


def _unsqueezed(gaps: list[int]) -> View:
    """Axes of size 1 put in at these places of the result, in ascending order."""
    if len(gaps) == 1:
        gap = gaps[0]
        return lambda x: x.unsqueeze(gap)

    def viewed(x: Tensor) -> Tensor:
        for gap in gaps:
            x = x.unsqueeze(gap)
        return x

    return viewed
