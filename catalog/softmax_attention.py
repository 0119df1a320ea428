"""Softmax attention: causal or full, with rotary positions and grouped queries."""

from __future__ import annotations

from torch import Tensor

import mixer_ir as mx
from catalog.entry import Entry
from catalog.linear import Linear
from catalog.parts import heads, share
from catalog.rotary import frequencies, halves, turn
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 1706.03762", 2017


@mx.mixer(paper=PAPER, year=YEAR)
def softmax_attention(q: "b t h g k", k: "b t h k", v: "b t h v") -> "b t h g v":
    """y = softmax(causal(q kᵀ / √K)) v;  g counts the queries that share a key (grouped queries)"""
    return mx.softmax(mx.causal(mx.lowrank(q * mx.size("k") ** -0.5, k))) @ v


@mx.mixer(paper=PAPER, year=YEAR)
def full_attention(q: "b t h g k", k: "b t h k", v: "b t h v") -> "b t h g v":
    """y = softmax(q kᵀ / √K) v over the whole sequence"""
    return mx.softmax(mx.lowrank(q * mx.size("k") ** -0.5, k)) @ v


@mx.mixer(paper=PAPER, year=YEAR)
def cross_attention(q: "b t h g k", k: "b s h k", v: "b s h v") -> "b t h g v":
    """y = softmax(q kᵀ / √K) v over the keys s of another sequence"""
    return mx.softmax(mx.lowrank(q * mx.size("k") ** -0.5, k)) @ v


@mx.mixer(paper="arXiv 2104.09864", year=2021)
def rotary_attention(q: "b t h g r k", k: "b t h r k", v: "b t h v", theta: "k") -> "b t h g v":
    """y = softmax(causal((R_t q_t) · (R_s k_s) / √(2K))) v;  R_t turns each pair (r) by the angle t θ"""
    position = mx.index("t") * theta
    q = turn(q, position) * (2 * mx.size("k")) ** -0.5
    return mx.softmax(mx.causal(mx.lowrank(q, turn(k, position), over="r k"))) @ v


class SoftmaxAttention(MixerLayer):
    """Multi-head attention: n_head heads of queries, n_kv_head of keys and values."""

    theta: Tensor

    def __init__(
        self,
        d_model: int,
        *,
        n_head: int = 8,
        n_kv_head: int | None = None,
        causal: bool = True,
        rotary: bool = True,
        rotary_base: float = 10000.0,
        bias: bool = False,
    ) -> None:
        super().__init__(d_model)
        self.kv_heads, self.causal, self.rotary = n_kv_head or n_head, causal, rotary and causal
        head = share(d_model, n_head, "d_model among n_head")
        self.q_proj = Linear(d_model, d_model, bias=bias)
        self.k_proj = Linear(d_model, head * self.kv_heads, bias=bias)
        self.v_proj = Linear(d_model, head * self.kv_heads, bias=bias)
        self.o_proj = Linear(d_model, d_model, bias=bias)
        self.groups = share(n_head, self.kv_heads, "n_head among n_kv_head")
        pairs = share(head, 2, "the coordinates of a head by pairs") if self.rotary else 0
        self.register_buffer("theta", frequencies(pairs, rotary_base), persistent=False)

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        q = self.q_proj(x).unflatten(-1, (self.kv_heads, self.groups, -1))
        k, v = heads(self.k_proj(x), self.kv_heads), heads(self.v_proj(x), self.kv_heads)
        if self.rotary:
            y = run(rotary_attention, q=halves(q), k=halves(k), v=v, theta=self.theta.to(x.dtype))
        else:
            y = run(softmax_attention if self.causal else full_attention, q=q, k=k, v=v)
        return self.o_proj(y.flatten(2))


ENTRY = Entry(
    name="softmax_attention",
    title="Softmax attention",
    paper=PAPER,
    year=YEAR,
    mixers={m.name: m for m in (softmax_attention, rotary_attention, full_attention, cross_attention)},
    layer=SoftmaxAttention,
    facts={"rotary": "arXiv 2104.09864, halves of a head form the pairs", "grouped queries": "arXiv 2305.13245"},
    small={"d_model": 32, "n_head": 4, "n_kv_head": 2},
)
