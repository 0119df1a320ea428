"""RWKV-7: a delta rule whose removal key and replacement key differ, with a decay for every channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.parts import heads, share, token_shift
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2503.14456", 2025


@mx.recurrence(paper=PAPER, year=YEAR, name="rwkv7")
def rwkv7(
    S: mx.State("k v"),
    r: "b t h k",
    w: "b t h k",
    k: "b t h k",
    v: "b t h v",
    kappa: "b t h k",
    a: "b t h k",
) -> "b t h v":
    """S_t = (diag(e^{w_t}) − (a_t ⊙ κ_t) κ_tᵀ) S_{t−1} + k_t v_tᵀ,   y_t = S_tᵀ r_t"""
    S = mx.exp(w) * S - mx.outer(a * kappa, kappa @ S) + mx.outer(k, v)
    return S, r @ S


class TimeMix(MixerLayer):
    """RWKV-7's time mixing, layer `index` of `n_layer`.

    Layers after the first mix their values with those of the first layer where `v_first` [batch, time, d_model] is
    given.
    """

    w1: nn.Parameter
    w2: nn.Parameter
    a1: nn.Parameter
    a2: nn.Parameter
    g1: nn.Parameter
    g2: nn.Parameter
    v1: nn.Parameter
    v2: nn.Parameter

    def __init__(
        self,
        d_model: int,
        *,
        head_dim: int = 64,
        index: int = 0,
        n_layer: int = 12,
        ranks: tuple[int, int, int, int] = (64, 64, 32, 128),
    ) -> None:
        super().__init__(d_model)
        C, N = d_model, head_dim
        self.n_head, self.index = share(C, N, "d_model by head_dim"), index
        depth, rest = index / max(n_layer - 1, 1), 1 - index / n_layer
        place = torch.arange(C) / C
        linear = torch.arange(C) / (C - 1) - 0.5
        zigzag = (torch.arange(C) % N - (N - 1) / 2) / ((N - 1) / 2)
        zigzag = zigzag * zigzag.abs()
        for name, power in (("r", 0.2), ("w", 0.9), ("k", 0.7), ("v", 0.7), ("a", 0.9), ("g", 0.2)):
            setattr(self, f"x_{name}", nn.Parameter((1 - place ** (power * rest))[None, None]))
        decay = -6 + 6 * (torch.arange(C) / (C - 1)) ** (1 + depth**0.3)
        self.w0 = nn.Parameter((decay + 0.5 + 2.5 * zigzag)[None, None])
        self.a0 = nn.Parameter((-0.19 + 0.3 * zigzag + 0.4 * linear)[None, None])
        low_rank = zip(("w", "a", "v", "g"), ranks, strict=True)
        for name, rank in low_rank:
            if name != "v" or index > 0:
                setattr(self, f"{name}1", nn.Parameter(torch.zeros(C, rank)))
                setattr(self, f"{name}2", nn.Parameter(_orthogonal(rank, C)))
        if index > 0:
            self.v0 = nn.Parameter((0.73 - 0.4 * linear)[None, None])
        self.k_k = nn.Parameter((0.71 - 0.1 * linear)[None, None])
        self.k_a = nn.Parameter(torch.full((1, 1, C), 1.02))
        self.r_k = nn.Parameter(torch.full((self.n_head, N), -0.04))
        self.receptance = Linear(C, C, bias=False)
        self.key = Linear(C, C, bias=False)
        self.value = Linear(C, C, bias=False)
        self.output = Linear(C, C, bias=False)
        self.ln_x = nn.GroupNorm(self.n_head, C, eps=64e-5)
        for part, width in ((self.receptance, 0.5), (self.key, 0.05), (self.value, 0.5)):
            nn.init.uniform_(part.weight, -width / C**0.5, width / C**0.5)
        nn.init.zeros_(self.output.weight)

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        across = run(token_shift, x=x) - x
        xr, xw, xk, xv, xa, xg = (x + across * getattr(self, f"x_{name}") for name in "rwkvag")
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        w = -F.softplus(-(self.w0 + torch.tanh(xw @ self.w1) @ self.w2)) - 0.5
        a = torch.sigmoid(self.a0 + (xa @ self.a1) @ self.a2)
        g = torch.sigmoid(xg @ self.g1) @ self.g2
        if self.index > 0 and "v_first" in also:
            v = v + (also["v_first"] - v) * torch.sigmoid(self.v0 + (xv @ self.v1) @ self.v2)
        kappa = F.normalize(heads(k * self.k_k, self.n_head), dim=-1)
        k = k * (1 + (a - 1) * self.k_a)
        r, w, k, v, a = (heads(part, self.n_head) for part in (r, w, k, v, a))
        y = run(rwkv7, r=r, w=-torch.exp(w), k=k, v=v, kappa=kappa, a=a)
        y = self.ln_x(y.flatten(2).flatten(0, 1)).unflatten(0, x.shape[:2])
        bonus = (r * k * self.r_k).sum(-1, keepdim=True) * v
        return self.output((y + bonus.flatten(2)) * g)


def _orthogonal(rows: int, columns: int) -> Tensor:
    gain = 0.1 * max(1.0, rows / columns) ** 0.5
    return nn.init.orthogonal_(torch.empty(rows, columns), gain=gain)


ENTRY = Entry(
    name="rwkv7",
    title="RWKV-7 (Goose)",
    paper=PAPER,
    year=YEAR,
    mixers={rwkv7.name: rwkv7},
    layer=TimeMix,
    facts={
        "first layer": "the authors' checkpoints hold unused v0, v1, v2 in their first layer; here it has none",
        "model": "needs the first layer's values in all others and its own channel mixing: not in this catalog",
    },
    counts=(Count("layer", {"d_model": 768, "index": 1}, 2_812_416),),
    small={"d_model": 32, "head_dim": 8, "ranks": (8, 8, 4, 8)},
)
