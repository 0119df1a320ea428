"""Hyena: long convolutions, their filters written by a small network of time, between elementwise gates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.parts import ShortConvolution
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2302.10866", 2023


@mx.mixer(paper=PAPER, year=YEAR)
def hyena(q: "b t d", k: "b t d", v: "b t d", h: "t d", D: "d") -> "b t d":
    """y = diag(q) (T_h + D) diag(k) v,   (T_h v)_t = Σ_{s ≤ t} h_{t−s} v_s"""
    return mx.diagonal(q) @ (mx.toeplitz(h) + mx.diagonal(D)) @ mx.diagonal(k) @ v


@mx.mixer(paper="arXiv 2302.06646", year=2023)
def long_convolution(u: "b t d", h: "t d", D: "d") -> "b t d":
    """y_t = Σ_{s ≤ t} h_{t−s} u_s + D u_t: a filter as long as the sequence"""
    return (mx.toeplitz(h) + mx.diagonal(D)) @ u


class Sine(nn.Module):
    """sin(ω x) with trained frequencies ω."""

    def __init__(self, width: int, frequency: float) -> None:
        super().__init__()
        self.freq = nn.Parameter(torch.full((1, width), frequency))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.freq * x)


class ImplicitFilter(nn.Module):
    """h(t) = exp(−t |δ|) · network(positional features of t), for t = 0 … l_max − 1; `bias` is the skip D."""

    t: Tensor
    deltas: Tensor

    def __init__(self, width: int, d_model: int, *, features: int, hidden: int, l_max: int, frequency: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width))
        t = torch.linspace(0, 1, l_max)[:, None]
        bands = (features - 1) // 2
        angle = 2 * math.pi * torch.arange(l_max)[:, None] / l_max * torch.linspace(1e-4, bands - 1, bands)
        self.z = nn.Parameter(torch.cat((t, torch.cos(angle), -torch.sin(angle)), dim=-1)[None])
        sine = Sine(hidden, frequency)
        self.implicit_filter = nn.Sequential(
            Linear(features, hidden),
            sine,
            Linear(hidden, hidden),
            sine,
            Linear(hidden, hidden),
            sine,
            Linear(hidden, width, bias=False),
        )
        deltas = torch.linspace(math.log(1e-2) / 1.5, math.log(1e-2) / 0.3, d_model)
        self.register_buffer("t", t, persistent=False)
        self.register_buffer("deltas", deltas.repeat(width // d_model), persistent=False)

    def forward(self, start: int, length: int) -> Tensor:
        """Lags start … start + length − 1 of the filters, (t d)."""
        now = slice(start, start + length)
        if start + length > self.t.shape[0]:
            raise mx.AxisError(
                f"Hyena's filter has l_max = {self.t.shape[0]} lags, but lag {start + length - 1} is asked for"
            )
        return self.implicit_filter(self.z[0, now]) * torch.exp(-self.t[now] * self.deltas.abs())


class Hyena(MixerLayer):
    """The Hyena operator of order N: N + 1 projections, a short convolution, N − 1 long convolutions, N gates."""

    def __init__(
        self,
        d_model: int,
        *,
        order: int = 2,
        l_max: int = 2048,
        features: int = 33,
        hidden: int = 64,
        frequency: float = 14.0,
    ) -> None:
        super().__init__(d_model)
        self.order = order
        self.in_proj = Linear(d_model, (order + 1) * d_model)
        self.out_proj = Linear(d_model, d_model)
        self.short_filter = ShortConvolution((order + 1) * d_model, 3, name="short_filter")
        self.filter_fn = ImplicitFilter(
            (order - 1) * d_model, d_model, features=features, hidden=hidden, l_max=l_max, frequency=frequency
        )

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        *gates, v = self.short_filter(self.in_proj(x), run).chunk(self.order + 1, dim=-1)
        filters = self.filter_fn(run.position, x.shape[1]).chunk(self.order - 1, dim=-1)
        skips = self.filter_fn.bias.chunk(self.order - 1)
        for o in range(self.order - 2):
            v = run(long_convolution, at=f"long_{o}", u=v * gates[-1 - o], h=filters[o], D=skips[o])
        return self.out_proj(run(hyena, q=gates[0], k=gates[1], v=v, h=filters[-1], D=skips[-1]))


ENTRY = Entry(
    name="hyena",
    title="Hyena (long convolution)",
    paper=PAPER,
    year=YEAR,
    mixers={m.name: m for m in (hyena, long_convolution)},
    layer=Hyena,
    facts={
        "filter": "the network has three hidden layers of one shared sine; its input features z are trained too",
    },
    counts=(Count("layer", {"d_model": 864, "l_max": 2048}, 3_134_112),),
    small={"d_model": 8, "l_max": 32, "features": 5, "hidden": 8, "order": 3},
)
