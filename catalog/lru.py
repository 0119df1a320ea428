"""LRU: a complex diagonal linear recurrence, one state for all channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.parts import complex_of
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2303.06349", 2023


@mx.recurrence(paper=PAPER, year=YEAR)
def lru(x: mx.State("n"), u: "b t d", nu: "n", theta: "n", gamma: "n", B: "n d", C: "d n", D: "d") -> "b t d":
    """x_t = exp(−ν + iθ) x_{t−1} + γ (B u_t),   y_t = Re(C x_t) + D u_t"""
    x = mx.exp(mx.complex(-nu, theta)) * x + gamma * mx.contract(B, u, over="d")
    return x, mx.real(C @ x) + D * u


class LRU(MixerLayer):
    """The recurrence, GELU, and a gated linear unit of two linear maps."""

    def __init__(
        self, d_model: int, *, d_state: int = 256, r_min: float = 0.9, r_max: float = 0.999, phase: float = 2 * math.pi
    ) -> None:
        super().__init__(d_model)
        radius = torch.rand(d_state).clamp(min=1e-7) * (r_max**2 - r_min**2) + r_min**2
        self.nu_log = nn.Parameter(torch.log(-0.5 * torch.log(radius)))
        self.theta_log = nn.Parameter(torch.log(phase * torch.rand(d_state).clamp(min=1e-7)))
        self.gamma_log = nn.Parameter(0.5 * torch.log1p(-radius))
        self.B_re = nn.Parameter(torch.randn(d_state, d_model) / math.sqrt(2 * d_model))
        self.B_im = nn.Parameter(torch.randn(d_state, d_model) / math.sqrt(2 * d_model))
        self.C_re = nn.Parameter(torch.randn(d_model, d_state) / math.sqrt(d_state))
        self.C_im = nn.Parameter(torch.randn(d_model, d_state) / math.sqrt(d_state))
        self.D = nn.Parameter(torch.randn(d_model))
        self.out1 = Linear(d_model, d_model)
        self.out2 = Linear(d_model, d_model)

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        nu, theta, gamma = (torch.exp(part) for part in (self.nu_log, self.theta_log, self.gamma_log))
        B, C = complex_of(self.B_re, self.B_im), complex_of(self.C_re, self.C_im)
        y = F.gelu(run(lru, u=x, nu=nu, theta=theta, gamma=gamma, B=B, C=C, D=self.D).to(x.dtype))
        return self.out1(y) * self.out2(y).sigmoid()


ENTRY = Entry(
    name="lru",
    title="LRU (linear recurrent unit)",
    paper=PAPER,
    year=YEAR,
    mixers={lru.name: lru},
    layer=LRU,
    facts={
        "read-out": "no factor 2 and no conjugate pairs",
    },
    counts=(Count("layer", {"d_model": 512, "d_state": 384}, 1_313_408),),
    small={"d_model": 10, "d_state": 6},
)
