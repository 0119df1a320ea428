"""S5: one diagonal state space model with many inputs and outputs, and a step size for each mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.hippo import legs_blocks
from catalog.linear import Linear
from catalog.parts import complex_of, log_uniform
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2208.04933", 2022


@mx.recurrence(paper=PAPER, year=YEAR)
def s5(x: mx.State("n"), u: "b t d", dt: "n", A: "n", B: "n d", C: "d n", D: "d") -> "b t d":
    """x_t = e^{ΔA} x_{t−1} + ((e^{ΔA} − 1) / A) (B u_t),   y_t = 2 Re(C x_t) + D u_t;  half of each conjugate pair"""
    x = mx.exp(dt * A) * x + mx.expm1(dt * A) / A * mx.contract(B, u, over="d")
    return x, 2 * mx.real(C @ x) + D * u


class S5(MixerLayer):
    """The state space model and half a gated linear unit: z = GELU(y), z · σ(W z)."""

    def __init__(
        self, d_model: int, *, d_state: int = 64, blocks: int = 1, dt_min: float = 1e-3, dt_max: float = 1e-1
    ) -> None:
        super().__init__(d_model)
        A, inverse = legs_blocks(d_state, blocks)
        B = torch.randn(d_state, d_model) / math.sqrt(d_model)
        C = torch.randn(d_model, d_state) / math.sqrt(d_state)
        self.Lambda_re, self.Lambda_im = nn.Parameter(A.real.clone()), nn.Parameter(A.imag.clone())
        self.B = nn.Parameter(torch.view_as_real(inverse @ B.to(A.dtype)).clone())
        self.C = nn.Parameter(torch.view_as_real(C.to(A.dtype) @ inverse.conj().T).clone())
        self.D = nn.Parameter(torch.randn(d_model))
        self.log_step = nn.Parameter(log_uniform((d_state // 2, 1), dt_min, dt_max).log())
        self.out2 = Linear(d_model, d_model)

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        A = complex_of(self.Lambda_re, self.Lambda_im)
        B, C = complex_of(*self.B.unbind(-1)), complex_of(*self.C.unbind(-1))
        y = F.gelu(run(s5, u=x, dt=torch.exp(self.log_step[:, 0]), A=A, B=B, C=C, D=self.D).to(x.dtype))
        return y * self.out2(y).sigmoid()


ENTRY = Entry(
    name="s5",
    title="S5",
    paper=PAPER,
    year=YEAR,
    mixers={s5.name: s5},
    layer=S5,
    facts={
        "resets": "a reset drops the state before the step, as in arXiv 2303.03982: pass reset to the layer",
        "directions": "causal; the published long range arena runs also read the sequence backward",
    },
    counts=(Count("layer", {"d_model": 96, "d_state": 128, "blocks": 16}, 34_176),),
    small={"d_model": 10, "d_state": 8, "blocks": 2},
)
