"""Mamba: the selective scan, a diagonal state space model whose step, input and read-out depend on the input."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.model import language_model, shrink_outputs
from catalog.parts import ShortConvolution, step_bias
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2312.00752", 2023


@mx.recurrence(paper=PAPER, year=YEAR)
def selective_scan(h: mx.State("n"), x: "b t d", dt: "b t d", A: "d n", B: "b t n", C: "b t n", D: "d") -> "b t d":
    """h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_t,   y_t = C_tᵀ h_t + D x_t, for each channel"""
    h = mx.exp(dt * A) * h + dt * B * x
    return h, C @ h + D * x


@mx.mixer
def gated_scan(x: "b t d", z: "b t d", dt: "b t d", A_log: "d n", B: "b t n", C: "b t n", D: "d") -> "b t d":
    """The selective scan with Δ = softplus(dt) and A = −e^{A_log}, times SiLU(z)"""
    M = selective_scan.M(dt=mx.softplus(dt), A=-mx.exp(A_log), B=B, C=C, D=D)
    return (M @ x) * mx.silu(z)


class Mamba(MixerLayer):
    """The Mamba block: in_proj → (x, z); x: convolution, SiLU, selective scan; out_proj(y · SiLU(z))."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        bias: bool = False,
        conv_bias: bool = True,
    ) -> None:
        super().__init__(d_model)
        inner, rank = expand * d_model, dt_rank or math.ceil(d_model / 16)
        self.sizes = [rank, d_state, d_state]
        self.in_proj = Linear(d_model, 2 * inner, bias=bias)
        self.conv1d = ShortConvolution(inner, d_conv, name="conv1d", bias=conv_bias, silu=True)
        self.x_proj = Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, d_state + 1.0)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = Linear(inner, d_model, bias=bias)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        self.dt_proj.bias = nn.Parameter(step_bias(inner, dt_min, dt_max))

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = self.conv1d(x, run)
        dt, B, C = self.x_proj(x).split(self.sizes, dim=-1)
        y = run(gated_scan, x=x, z=z, dt=self.dt_proj(dt), A_log=self.A_log, B=B, C=C, D=self.D)
        return self.out_proj(y)


def mamba_model(d_model: int = 768, n_layer: int = 24, vocab: int = 50280, **layer: object) -> nn.Module:
    """The paper's language models: mamba-130m by default; 370m is 1024 × 48, 790m 1536 × 48, 1.4b 2048 × 48."""
    return shrink_outputs(language_model(Mamba, d_model, n_layer, vocab, layer=layer, tied=True))


ENTRY = Entry(
    name="mamba",
    title="Mamba (selective scan)",
    paper=PAPER,
    year=YEAR,
    mixers={selective_scan.name: selective_scan},
    layer=Mamba,
    model=mamba_model,
    facts={
        "discretisation": "B̄ = Δ B as in the authors' code; equation 4 of the paper has the exact zero-order hold",
    },
    counts=(
        Count("layer", {"d_model": 768}, 3_770_880),
        Count("model", {"d_model": 768, "n_layer": 24}, 129_135_360),
        Count("model", {"d_model": 1024, "n_layer": 48}, 371_516_416),
        Count("model", {"d_model": 1536, "n_layer": 48}, 793_204_224),
        Count("model", {"d_model": 2048, "n_layer": 48}, 1_372_178_432),
        Count("model", {"d_model": 2560, "n_layer": 64}, 2_768_345_600),
    ),
    small={"d_model": 24, "d_state": 4},
)
