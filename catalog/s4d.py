"""S4D: a diagonal state space model for each channel, discretised by zero-order hold."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.parts import complex_of, log_uniform, share
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2206.11893", 2022


@mx.recurrence(paper=PAPER, year=YEAR)
def s4d(x: mx.State("n"), u: "b t d", dt: "d", A: "d n", B: "d n", C: "d n", D: "d") -> "b t d":
    """x_t = e^{ΔA} x_{t−1} + ((e^{ΔA} − 1) / A) B u_t,   y_t = 2 Re(Cᵀ x_t) + D u_t

    A, B and C are complex, and hold one of each conjugate pair.
    """
    x = mx.exp(dt * A) * x + mx.expm1(dt * A) / A * B * u
    return x, 2 * mx.real(C @ x) + D * u


class S4DKernel(nn.Module):
    """The parameters of the authors' minimal S4D: A = −½ + iπn, B = 1, C complex normal, Δ log-uniform."""

    def __init__(self, d_model: int, d_state: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        modes = share(d_state, 2, "d_state by conjugate pairs")
        self.C = nn.Parameter(torch.randn(d_model, modes, 2) * math.sqrt(0.5))
        self.log_dt = nn.Parameter(log_uniform((d_model,), dt_min, dt_max).log())
        self.log_A_real = nn.Parameter(torch.full((d_model, modes), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(modes, dtype=torch.float32).repeat(d_model, 1))

    def signals(self) -> dict[str, Any]:
        A = complex_of(-torch.exp(self.log_A_real), self.A_imag)
        return {"dt": torch.exp(self.log_dt), "A": A, "B": torch.ones_like(A), "C": complex_of(*self.C.unbind(-1))}


class S4D(MixerLayer):
    """State space model, skip, GELU, and a linear map to twice the width with a gated linear unit."""

    def __init__(self, d_model: int, *, d_state: int = 64, dt_min: float = 1e-3, dt_max: float = 1e-1) -> None:
        super().__init__(d_model)
        self.D = nn.Parameter(torch.randn(d_model))
        self.kernel = S4DKernel(d_model, d_state, dt_min, dt_max)
        self.output_linear = nn.Sequential(nn.Conv1d(d_model, 2 * d_model, 1), nn.GLU(dim=1))

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        y = F.gelu(run(s4d, u=x, D=self.D, **self.kernel.signals()).to(x.dtype))
        return self.output_linear(y.transpose(1, 2)).transpose(1, 2)


ENTRY = Entry(
    name="s4d",
    title="S4D (diagonal state spaces)",
    paper=PAPER,
    year=YEAR,
    mixers={s4d.name: s4d},
    layer=S4D,
    facts={
        "modes": "d_state counts real states: d_state / 2 complex modes are stored, and 2 Re stands for the other half",
    },
    counts=(Count("layer", {"d_model": 128}, 49_664),),
    small={"d_model": 12, "d_state": 8},
)
