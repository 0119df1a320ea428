"""Gated linear attention: a decay for every key channel, computed from the input."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.model import language_model
from catalog.parts import heads, share
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2312.06635", 2023


@mx.recurrence(paper=PAPER, year=YEAR)
def gated_linear_attention(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h k") -> "b t h v":
    """S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ,   y_t = S_tᵀ q_t"""
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


class GatedLinearAttention(MixerLayer):
    """GLA: log decay = log σ(low-rank map of x) / 16, norm of each head, SiLU gate."""

    def __init__(
        self,
        d_model: int,
        *,
        n_head: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1,
        gate_rank: int = 16,
        gate_normalizer: float = 16,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(d_model)
        self.n_head, self.gate_normalizer = n_head, gate_normalizer
        keys, values = int(d_model * expand_k), int(d_model * expand_v)
        self.q_proj = Linear(d_model, keys, bias=False)
        self.k_proj = Linear(d_model, keys, bias=False)
        self.v_proj = Linear(d_model, values, bias=False)
        self.g_proj = Linear(d_model, values, bias=False)
        self.gk_proj = nn.Sequential(Linear(d_model, gate_rank, bias=False), Linear(gate_rank, keys))
        self.o_proj = Linear(values, d_model, bias=False)
        self.g_norm_swish_gate = nn.RMSNorm(share(values, n_head, "d_model · expand_v among n_head"), eps=norm_eps)
        self.scale = share(keys, n_head, "d_model · expand_k among n_head") ** -0.5

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        q, k, v = (heads(project(x), self.n_head) for project in (self.q_proj, self.k_proj, self.v_proj))
        g = heads(F.logsigmoid(self.gk_proj(x)) / self.gate_normalizer, self.n_head)
        y = run(gated_linear_attention, q=q * self.scale, k=k, v=v, g=g)
        return self.o_proj(self.g_norm_swish_gate(y).flatten(2) * F.silu(self.g_proj(x)))


def gla_model(d_model: int = 2048, n_layer: int = 24, vocab: int = 32000, **layer: object) -> nn.Module:
    """The paper's language model of 1.3 B parameters."""
    return language_model(GatedLinearAttention, d_model, n_layer, vocab, layer=layer, feed_forward=4, name="attn")


ENTRY = Entry(
    name="gla",
    title="Gated linear attention (GLA)",
    paper=PAPER,
    year=YEAR,
    mixers={gated_linear_attention.name: gated_linear_attention},
    layer=GatedLinearAttention,
    model=gla_model,
    facts={
        "scale": "queries are multiplied by K^−½ in the layer",
    },
    counts=(
        Count("layer", {"d_model": 2048}, 16_827_904),
        Count("model", {"d_model": 2048, "n_layer": 24}, 1_365_514_240),
        Count("model", {"d_model": 1024, "n_layer": 24}, 374_475_776),
    ),
    small={"d_model": 32, "n_head": 2},
)
