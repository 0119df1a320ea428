"""Kimi delta attention: the gated delta rule with a decay for every key channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.model import language_model
from catalog.parts import ShortConvolution, heads, l2norm, step_bias
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2510.26692", 2025


@mx.recurrence(paper=PAPER, year=YEAR)
def kimi_delta(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h k", beta: "b t h") -> "b t h v":
    """S_t = (I − β_t k_t k_tᵀ) diag(e^{g_t}) S_{t−1} + β_t k_t v_tᵀ,   y_t = S_tᵀ q_t"""
    S = mx.exp(g) * S
    S = S - beta * mx.outer(k, k @ S) + beta * mx.outer(k, v)
    return S, q @ S


class KimiDeltaAttention(MixerLayer):
    """q, k, v as in DeltaNet; g = −exp(A_log) softplus(low-rank map of x + dt_bias); norm, then a sigmoid gate."""

    def __init__(
        self, d_model: int, *, n_head: int = 16, head_dim: int = 128, d_conv: int = 4, norm_eps: float = 1e-5
    ) -> None:
        super().__init__(d_model)
        self.n_head, width = n_head, n_head * head_dim
        self.q_proj = Linear(d_model, width, bias=False)
        self.k_proj = Linear(d_model, width, bias=False)
        self.v_proj = Linear(d_model, width, bias=False)
        self.f_proj = nn.Sequential(Linear(d_model, head_dim, bias=False), Linear(head_dim, width, bias=False))
        self.b_proj = Linear(d_model, n_head, bias=False)
        self.g_proj = nn.Sequential(Linear(d_model, head_dim, bias=False), Linear(head_dim, width))
        self.A_log = nn.Parameter(torch.log(torch.empty(n_head).uniform_(1, 16)))
        self.dt_bias = nn.Parameter(step_bias(width))
        self.q_conv1d = ShortConvolution(width, d_conv, name="q_conv1d", bias=False, silu=True)
        self.k_conv1d = ShortConvolution(width, d_conv, name="k_conv1d", bias=False, silu=True)
        self.v_conv1d = ShortConvolution(width, d_conv, name="v_conv1d", bias=False, silu=True)
        self.o_norm = nn.RMSNorm(head_dim, eps=norm_eps)
        self.o_proj = Linear(width, d_model, bias=False)
        self.scale = head_dim**-0.5

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        q = l2norm(heads(self.q_conv1d(self.q_proj(x), run), self.n_head)) * self.scale
        k = l2norm(heads(self.k_conv1d(self.k_proj(x), run), self.n_head))
        v = heads(self.v_conv1d(self.v_proj(x), run), self.n_head)
        g = -torch.exp(self.A_log)[:, None] * F.softplus(heads(self.f_proj(x) + self.dt_bias, self.n_head))
        y = run(kimi_delta, q=q, k=k, v=v, g=g, beta=self.b_proj(x).sigmoid())
        return self.o_proj((self.o_norm(y) * heads(self.g_proj(x), self.n_head).sigmoid()).flatten(2))


def kda_model(d_model: int = 2048, n_layer: int = 24, vocab: int = 32000, **layer: object) -> nn.Module:
    """The language model of 1.4 B parameters of flash-linear-attention's default configuration."""
    return language_model(KimiDeltaAttention, d_model, n_layer, vocab, layer=layer, feed_forward=4, name="attn")


ENTRY = Entry(
    name="kda",
    title="Kimi delta attention (KDA)",
    paper=PAPER,
    year=YEAR,
    mixers={kimi_delta.name: kimi_delta},
    layer=KimiDeltaAttention,
    model=kda_model,
    facts={
        "gate": "sigmoid, not SiLU; the decay acts before the erasure",
    },
    counts=(
        Count("layer", {"d_model": 2048}, 17_887_376),
        Count("model", {"d_model": 2048, "n_layer": 24}, 1_390_941_568),
    ),
    small={"d_model": 32, "n_head": 2, "head_dim": 8},
)
