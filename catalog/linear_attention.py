"""Linear attention with the feature map elu(x) + 1 and its normaliser."""

from __future__ import annotations

from torch import Tensor

import mixer_ir as mx
from catalog.entry import Entry
from catalog.linear import Linear
from catalog.parts import heads, share
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2006.16236", 2020


@mx.mixer(paper=PAPER, year=YEAR)
def linear_attention(q: "b t h k", k: "b t h k", v: "b t h v") -> "b t h v":
    """y_t = φ(q_t)ᵀ Σ_{s ≤ t} φ(k_s) v_sᵀ / (φ(q_t)ᵀ Σ_{s ≤ t} φ(k_s) + ε),   φ(x) = elu(x) + 1"""
    return mx.normalize(mx.causal(mx.lowrank(mx.elu(q) + 1, mx.elu(k) + 1)), eps=1e-6) @ v


@mx.mixer(paper=PAPER, year=YEAR)
def full_linear_attention(q: "b t h k", k: "b t h k", v: "b t h v") -> "b t h v":
    """y_t = φ(q_t)ᵀ Σ_s φ(k_s) v_sᵀ / (φ(q_t)ᵀ Σ_s φ(k_s) + ε) over the whole sequence"""
    return mx.normalize(mx.lowrank(mx.elu(q) + 1, mx.elu(k) + 1), eps=1e-6) @ v


class LinearAttention(MixerLayer):
    """Multi-head linear attention with the projections (and biases) of the authors' AttentionLayer."""

    def __init__(self, d_model: int, *, n_head: int = 8, causal: bool = True, bias: bool = True) -> None:
        super().__init__(d_model)
        self.n_head, self.causal = n_head, causal
        share(d_model, n_head, "d_model among n_head")
        self.query_projection = Linear(d_model, d_model, bias=bias)
        self.key_projection = Linear(d_model, d_model, bias=bias)
        self.value_projection = Linear(d_model, d_model, bias=bias)
        self.out_projection = Linear(d_model, d_model, bias=bias)

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        q, k, v = (
            heads(project(x), self.n_head)
            for project in (self.query_projection, self.key_projection, self.value_projection)
        )
        y = run(linear_attention if self.causal else full_linear_attention, q=q, k=k, v=v)
        return self.out_projection(y.flatten(2))


ENTRY = Entry(
    name="linear_attention",
    title="Linear attention",
    paper=PAPER,
    year=YEAR,
    mixers={m.name: m for m in (linear_attention, full_linear_attention)},
    layer=LinearAttention,
    facts={"feature map": "elu(x) + 1", "eps": 1e-6},
    small={"d_model": 32, "n_head": 4},
)
