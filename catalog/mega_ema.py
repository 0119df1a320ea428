"""MEGA's multi-dimensional damped exponential moving average, causal or reading both ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2209.10655", 2022


@mx.recurrence(paper=PAPER, year=YEAR)
def damped_ema(
    h: mx.State("n"), x: "b t d", alpha: "d n", delta: "d n", beta: "d n", eta: "d n", omega: "d"
) -> "b t d":
    """h_t = α ⊙ (β x_t) + (1 − α ⊙ δ) ⊙ h_{t−1},   y_t = ηᵀ h_t + ω x_t, for each channel"""
    h = alpha * beta * x + (1 - alpha * delta) * h
    return h, eta @ h + omega * x


@mx.mixer(paper=PAPER, year=YEAR)
def two_way_ema(
    x: "b t d",
    alpha: "d n",
    delta: "d n",
    beta: "d n",
    eta: "d n",
    alphar: "d n",
    deltar: "d n",
    betar: "d n",
    etar: "d n",
    omega: "d",
) -> "b t d":
    """y = (EMA + flip(EMA′) + ω) x: lag 0 counts in both directions"""
    forward = mx.semiseparable(eta, 1 - alpha * delta, alpha * beta)
    backward = mx.semiseparable(etar, 1 - alphar * deltar, alphar * betar)
    return (forward + mx.flip(backward) + omega * mx.identity()) @ x


class MultiHeadEMA(MixerLayer):
    """SiLU(EMA(x) + ω x) with n dimensions of average for each channel."""

    def __init__(self, d_model: int, *, n_dim: int = 16, bidirectional: bool = False) -> None:
        super().__init__(d_model)
        self.bidirectional = bidirectional
        rows = 2 * d_model if bidirectional else d_model
        signs = 1 - 2 * (torch.arange(n_dim) % 2)[None, :, None]
        self.delta = nn.Parameter(0.2 * torch.randn(rows, n_dim, 1))
        self.alpha = nn.Parameter(0.2 * torch.randn(rows, n_dim, 1))
        self.beta = nn.Parameter(0.02 * torch.randn(rows, n_dim, 1) + signs)
        self.gamma = nn.Parameter(torch.randn(rows, n_dim))
        self.omega = nn.Parameter(torch.randn(d_model))
        self.scale = n_dim**-0.5

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        weights = {
            "alpha": torch.sigmoid(self.delta[..., 0]),
            "delta": torch.sigmoid(self.alpha[..., 0]),
            "beta": self.beta[..., 0],
            "eta": self.gamma * self.scale,
        }
        if not self.bidirectional:
            return F.silu(run(damped_ema, x=x, omega=self.omega, **weights))
        both = {name: part.chunk(2) for name, part in weights.items()}
        ahead = {name: part[0] for name, part in both.items()}
        back = {f"{name}r": part[1] for name, part in both.items()}
        return F.silu(run(two_way_ema, x=x, omega=self.omega, **ahead, **back))


ENTRY = Entry(
    name="mega_ema",
    title="MEGA's damped moving average",
    paper=PAPER,
    year=YEAR,
    mixers={m.name: m for m in (damped_ema, two_way_ema)},
    layer=MultiHeadEMA,
    facts={
        "names": "the code's delta is the paper's α before its sigmoid, its alpha the δ, its gamma the η √n",
        "layer": "the moving average alone; MEGA's gated attention follows it in the paper",
    },
    counts=(Count("layer", {"d_model": 160}, 10_400),),
    small={"d_model": 8, "n_dim": 4},
)
