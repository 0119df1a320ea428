"""Rotary positions: pairs of coordinates turned by an angle that grows with time."""

from __future__ import annotations

import torch
from torch import Tensor

import mixer_ir as mx


def turn(x: mx.Expr, angle: mx.Expr) -> mx.Expr:
    """(x_0 cos a − x_1 sin a, x_1 cos a + x_0 sin a): each pair along the axis r turned by the angle a."""
    first, second = mx.take(x, 0, axis="r"), mx.take(x, 1, axis="r")
    across = mx.where(mx.equal(mx.index("r"), 0), -second, first)
    return mx.cos(angle) * x + mx.sin(angle) * across


def frequencies(size: int, base: float = 10000.0) -> Tensor:
    """θ_i = base^(−i / size)."""
    return base ** (-torch.arange(size, dtype=torch.float32) / size)


def halves(x: Tensor) -> Tensor:
    """[… 2k] as [… r k]: the pairs are (x_i, x_{i+k}), as in Llama."""
    return x.unflatten(-1, (2, -1))


def neighbours(x: Tensor) -> Tensor:
    """[… 2k] as [… r k]: the pairs are (x_{2i}, x_{2i+1}), as in RetNet."""
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2)
