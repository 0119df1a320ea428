"""Mamba-2: state space duality, a scalar decay for each head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.model import language_model, shrink_outputs
from catalog.parts import GatedRMSNorm, ShortConvolution, heads, share, step_bias
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2405.21060", 2024


@mx.recurrence(paper=PAPER, year=YEAR)
def state_space_dual(
    S: mx.State("n p"), x: "b t g h p", dt: "b t g h", A: "g h", B: "b t g n", C: "b t g n", D: "g h"
) -> "b t g h p":
    """S_t = exp(Δ_t A) S_{t−1} + B_t (Δ_t x_t)ᵀ,   y_t = C_tᵀ S_t + D x_t;  the heads h of a group g share B and C"""
    S = mx.exp(dt * A) * S + mx.outer(B, dt * x)
    return S, C @ S + D * x


class Mamba2(MixerLayer):
    """The Mamba-2 block: in_proj → (z, x B C, Δ); convolution and SiLU over (x B C); SSD; gated norm; out_proj."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        n_group: int = 1,
        norm_eps: float = 1e-5,
        bias: bool = False,
        conv_bias: bool = True,
    ) -> None:
        super().__init__(d_model)
        inner = expand * d_model
        n_head, self.n_group = share(inner, head_dim, "expand · d_model by head_dim"), n_group
        share(n_head, n_group, "heads among n_group")
        channels = inner + 2 * n_group * d_state
        self.sizes, self.parts = [inner, channels, n_head], [inner, n_group * d_state, n_group * d_state]
        self.in_proj = Linear(d_model, inner + channels + n_head, bias=bias)
        self.conv1d = ShortConvolution(channels, d_conv, name="conv1d", bias=conv_bias, silu=True)
        self.dt_bias = nn.Parameter(step_bias(n_head))
        self.A_log = nn.Parameter(torch.log(torch.empty(n_head).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(n_head))
        self.norm = GatedRMSNorm(inner, eps=norm_eps, groups=n_group)
        self.out_proj = Linear(inner, d_model, bias=bias)

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        z, xBC, dt = self.in_proj(x).split(self.sizes, dim=-1)
        x, B, C = self.conv1d(xBC, run).split(self.parts, dim=-1)
        dt = heads(F.softplus(dt + self.dt_bias), self.n_group)
        x = x.unflatten(-1, (*dt.shape[2:], -1))
        A, D = heads(-torch.exp(self.A_log), self.n_group), heads(self.D, self.n_group)
        y = run(state_space_dual, x=x, dt=dt, A=A, B=heads(B, self.n_group), C=heads(C, self.n_group), D=D)
        return self.out_proj(self.norm(y.flatten(2), z))


def mamba2_model(d_model: int = 768, n_layer: int = 24, vocab: int = 50288, **layer: object) -> nn.Module:
    """The paper's language models: mamba2-130m by default; 370m is 1024 × 48, 780m 1536 × 48, 1.3b 2048 × 48."""
    return shrink_outputs(language_model(Mamba2, d_model, n_layer, vocab, layer=layer, tied=True))


ENTRY = Entry(
    name="mamba2",
    title="Mamba-2 (state space duality)",
    paper=PAPER,
    year=YEAR,
    mixers={state_space_dual.name: state_space_dual},
    layer=Mamba2,
    model=mamba2_model,
    facts={
        "norm": "the gate comes before the norm, in groups of inner width / n_group",
    },
    counts=(
        Count("layer", {"d_model": 768}, 3_764_552),
        Count("model", {"d_model": 768, "n_layer": 24}, 128_989_632),
        Count("model", {"d_model": 1024, "n_layer": 48}, 368_346_624),
        Count("model", {"d_model": 1536, "n_layer": 48}, 780_161_280),
        Count("model", {"d_model": 2048, "n_layer": 48}, 1_343_757_312),
        Count("model", {"d_model": 2560, "n_layer": 64}, 2_702_599_680),
    ),
    small={"d_model": 32, "d_state": 8, "head_dim": 16, "n_group": 2},
)
