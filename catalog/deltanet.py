"""DeltaNet: a fast weight memory that replaces what a key held before."""

from __future__ import annotations

from torch import Tensor, nn

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.model import language_model
from catalog.parts import ShortConvolution, heads, l2norm, share
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2406.06484", 2024


@mx.recurrence(paper=PAPER, year=YEAR)
def delta_rule(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", beta: "b t h") -> "b t h v":
    """S_t = (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ,   y_t = S_tᵀ q_t"""
    S = S - beta * mx.outer(k, k @ S) + beta * mx.outer(k, v)
    return S, q @ S


class DeltaNet(MixerLayer):
    """q, k, v: projection, convolution, SiLU; q and k of unit length; β = σ(W x); norm of each head."""

    def __init__(self, d_model: int, *, n_head: int = 16, d_conv: int = 4, norm_eps: float = 1e-5) -> None:
        super().__init__(d_model)
        self.n_head = n_head
        self.q_proj = Linear(d_model, d_model, bias=False)
        self.k_proj = Linear(d_model, d_model, bias=False)
        self.v_proj = Linear(d_model, d_model, bias=False)
        self.b_proj = Linear(d_model, n_head, bias=False)
        self.q_conv1d = ShortConvolution(d_model, d_conv, name="q_conv1d", bias=False, silu=True)
        self.k_conv1d = ShortConvolution(d_model, d_conv, name="k_conv1d", bias=False, silu=True)
        self.v_conv1d = ShortConvolution(d_model, d_conv, name="v_conv1d", bias=False, silu=True)
        size = share(d_model, n_head, "d_model among n_head")
        self.o_norm = nn.RMSNorm(size, eps=norm_eps)
        self.o_proj = Linear(d_model, d_model, bias=False)
        self.scale = size**-0.5

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        q = l2norm(heads(self.q_conv1d(self.q_proj(x), run), self.n_head)) * self.scale
        k = l2norm(heads(self.k_conv1d(self.k_proj(x), run), self.n_head))
        v = heads(self.v_conv1d(self.v_proj(x), run), self.n_head)
        y = run(delta_rule, q=q, k=k, v=v, beta=self.b_proj(x).sigmoid())
        return self.o_proj(self.o_norm(y).flatten(2))


def deltanet_model(d_model: int = 2048, n_layer: int = 24, vocab: int = 32000, **layer: object) -> nn.Module:
    """The paper's language model of 1.3 B parameters."""
    return language_model(DeltaNet, d_model, n_layer, vocab, layer=layer, feed_forward=4, name="attn")


ENTRY = Entry(
    name="deltanet",
    title="DeltaNet",
    paper=PAPER,
    year=YEAR,
    mixers={delta_rule.name: delta_rule},
    layer=DeltaNet,
    model=deltanet_model,
    facts={
        "origin": "the delta rule for fast weights is arXiv 2102.11174",
    },
    counts=(
        Count("layer", {"d_model": 2048}, 16_834_688),
        Count("model", {"d_model": 2048, "n_layer": 24}, 1_365_677_056),
    ),
    small={"d_model": 32, "n_head": 2},
)
