"""RetNet's multi-scale retention: rotated queries and keys with a fixed decay for each head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.model import language_model
from catalog.parts import heads, share
from catalog.rotary import neighbours, turn
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2307.08621", 2023


@mx.mixer(paper=PAPER, year=YEAR)
def retention(q: "b t h r k", k: "b t h r k", v: "b t h v", gamma: "h", theta: "k") -> "b t h v":
    """y_t = Σ_{s ≤ t} γ^{t−s} (R_t q_t) · (R_s k_s) v_s,   R_t turns each pair (r) by the angle t θ"""
    position = mx.index("t") * theta
    return mx.decay(mx.lowrank(turn(q, position), turn(k, position), over="r k"), gamma) @ v


class Retention(MixerLayer):
    """Multi-scale retention: γ_h = 1 − 2^{−5−h}, norm of each head, SiLU gate."""

    theta: Tensor
    gamma: Tensor

    def __init__(
        self, d_model: int, *, n_head: int = 8, expand_k: float = 1, expand_v: float = 2, norm_weight: bool = False
    ) -> None:
        super().__init__(d_model)
        self.n_head = n_head
        keys, values = int(d_model * expand_k), int(d_model * expand_v)
        self.q_proj = Linear(d_model, keys, bias=False)
        self.k_proj = Linear(d_model, keys, bias=False)
        self.v_proj = Linear(d_model, values, bias=False)
        self.g_proj = Linear(d_model, values, bias=False)
        self.out_proj = Linear(values, d_model, bias=False)
        head = share(keys, n_head, "d_model · expand_k among n_head")
        size = share(head, 2, "the coordinates of a head by pairs")
        self.group_norm = nn.RMSNorm(
            share(values, n_head, "d_model · expand_v among n_head"), eps=1e-5, elementwise_affine=norm_weight
        )
        self.scale = head**-0.5
        self.register_buffer("theta", 10000.0 ** -torch.linspace(0, 1, size), persistent=False)
        self.register_buffer("gamma", 1 - 2.0 ** (-5 - torch.arange(n_head)), persistent=False)
        for part in (self.q_proj, self.k_proj, self.v_proj, self.g_proj):
            nn.init.xavier_uniform_(part.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.out_proj.weight, gain=2**-1)

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        q = neighbours(heads(self.q_proj(x), self.n_head))
        k = neighbours(heads(self.k_proj(x), self.n_head)) * self.scale
        v = heads(self.v_proj(x), self.n_head)
        y = run(retention, q=q, k=k, v=v, gamma=self.gamma.to(x.dtype), theta=self.theta.to(x.dtype))
        return self.out_proj(F.silu(self.g_proj(x)) * self.group_norm(y).flatten(2))


def retnet_model(d_model: int = 2048, n_layer: int = 24, vocab: int = 32000, **layer: object) -> nn.Module:
    """The language model of 1.3 B parameters that flash-linear-attention trains under this name."""
    layer = {"n_head": 8, "norm_weight": True, **layer}
    return language_model(Retention, d_model, n_layer, vocab, layer=layer, feed_forward=2, name="attn")


ENTRY = Entry(
    name="retnet",
    title="RetNet",
    paper=PAPER,
    year=YEAR,
    mixers={retention.name: retention},
    layer=Retention,
    model=retnet_model,
    facts={
        "code": "the official code also divides rows by √Σ decay; the norm that follows undoes that exactly",
    },
    counts=(
        Count("layer", {"d_model": 2048, "norm_weight": True}, 33_554_944),
        Count("model", {"d_model": 2048, "n_layer": 24}, 1_351_727_104),
    ),
    small={"d_model": 32, "n_head": 2},
)
