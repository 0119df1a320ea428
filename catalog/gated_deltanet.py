"""Gated DeltaNet: the delta rule on a memory that also decays, one gate for each head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.model import language_model
from catalog.parts import GatedRMSNorm, ShortConvolution, heads, l2norm, share, step_bias
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2412.06464", 2024


@mx.recurrence(paper=PAPER, year=YEAR)
def gated_delta(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h", beta: "b t h") -> "b t h v":
    """S_t = e^{g_t} (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ,   y_t = S_tᵀ q_t"""
    S = mx.exp(g) * (S - beta * mx.outer(k, k @ S)) + beta * mx.outer(k, v)
    return S, q @ S


class GatedDeltaNet(MixerLayer):
    """q, k, v as in DeltaNet; g = −exp(A_log) softplus(W x + dt_bias); norm of each head with a SiLU gate.

    With n_value_head > n_head, each key head serves n_value_head / n_head consecutive value heads.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_head: int = 6,
        head_dim: int = 256,
        expand_v: float = 2,
        n_value_head: int | None = None,
        d_conv: int = 4,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(d_model)
        self.n_head, self.value_heads = n_head, n_value_head or n_head
        self.serves = share(self.value_heads, n_head, "n_value_head among n_head")
        keys, size = n_head * head_dim, int(head_dim * expand_v)
        values = self.value_heads * size
        self.q_proj = Linear(d_model, keys, bias=False)
        self.k_proj = Linear(d_model, keys, bias=False)
        self.v_proj = Linear(d_model, values, bias=False)
        self.a_proj = Linear(d_model, self.value_heads, bias=False)
        self.b_proj = Linear(d_model, self.value_heads, bias=False)
        self.g_proj = Linear(d_model, values, bias=False)
        self.A_log = nn.Parameter(torch.log(torch.empty(self.value_heads).uniform_(1e-2, 16)))
        self.dt_bias = nn.Parameter(step_bias(self.value_heads))
        self.q_conv1d = ShortConvolution(keys, d_conv, name="q_conv1d", bias=False, silu=True)
        self.k_conv1d = ShortConvolution(keys, d_conv, name="k_conv1d", bias=False, silu=True)
        self.v_conv1d = ShortConvolution(values, d_conv, name="v_conv1d", bias=False, silu=True)
        self.o_norm = GatedRMSNorm(size, eps=norm_eps, norm_first=True)
        self.o_proj = Linear(values, d_model, bias=False)
        self.scale = head_dim**-0.5

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        q = l2norm(heads(self.q_conv1d(self.q_proj(x), run), self.n_head)) * self.scale
        k = l2norm(heads(self.k_conv1d(self.k_proj(x), run), self.n_head))
        v = heads(self.v_conv1d(self.v_proj(x), run), self.value_heads)
        serves = self.serves
        if serves > 1:
            q, k = q.repeat_interleave(serves, dim=2), k.repeat_interleave(serves, dim=2)
        g = -torch.exp(self.A_log) * F.softplus(self.a_proj(x) + self.dt_bias)
        y = run(gated_delta, q=q, k=k, v=v, g=g, beta=self.b_proj(x).sigmoid())
        return self.o_proj(self.o_norm(y, heads(self.g_proj(x), self.value_heads)).flatten(2))


def gated_deltanet_model(d_model: int = 2048, n_layer: int = 21, vocab: int = 32000, **layer: object) -> nn.Module:
    """The language model of 1.3 B parameters of flash-linear-attention's default configuration."""
    return language_model(GatedDeltaNet, d_model, n_layer, vocab, layer=layer, feed_forward=4, name="attn")


ENTRY = Entry(
    name="gated_deltanet",
    title="Gated DeltaNet",
    paper=PAPER,
    year=YEAR,
    mixers={gated_delta.name: gated_delta},
    layer=GatedDeltaNet,
    model=gated_deltanet_model,
    facts={
        "order": "the decay acts before the delta rule reads the memory",
        "A_log": "drawn from log U(0.01, 16): the published U(0, 16) can give log 0",
    },
    counts=(
        Count("layer", {"d_model": 2048}, 25_215_500),
        Count("model", {"d_model": 2048, "n_layer": 21}, 1_387_348_732),
    ),
    small={"d_model": 32, "n_head": 2, "head_dim": 8, "n_value_head": 4},
)
