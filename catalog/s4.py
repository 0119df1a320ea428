"""S4: a state space model whose matrix is diagonal plus low rank, discretised by the bilinear rule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.hippo import legs_normal_form
from catalog.linear import Linear
from catalog.parts import complex_of, log_uniform
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2111.00396", 2021


@mx.recurrence(paper=PAPER, year=YEAR)
def s4(x: mx.State("n"), u: "b t d", dt: "d", A: "n", P: "n", B: "n", C: "d n", D: "d") -> "b t d":
    """x_t = Ā x_{t−1} + B̄ u_t,   y_t = Re(Cᵀ x_t) + D u_t,   for the state matrix diag(A) − P P*

    Ā = (I − Δ/2 (A − P P*))⁻¹ (I + Δ/2 (A − P P*)) and B̄ = (I − Δ/2 (A − P P*))⁻¹ Δ B. The inverse of a diagonal plus a
    rank-one matrix is one too: with E = (1 − Δ/2 A)⁻¹ it is diag(E) − (Δ/2) E P P* E / (1 + Δ/2 P* E P).
    """
    E = 1 / (1 - dt / 2 * A)
    left, right = E * P, mx.conj(P) * E
    weight = dt / 2 / (1 + dt / 2 * mx.sum(right * P, over="n"))
    drive = dt * (E * B - weight * mx.sum(right * B, over="n") * left)
    x = (2 * E - 1) * x - 2 * weight * left * (right @ x) + drive * u
    return x, mx.real(C @ x) + D * u


class S4Kernel(nn.Module):
    """HiPPO-LegS in normal-plus-low-rank form; half of each conjugate pair is stored."""

    def __init__(self, d_model: int, d_state: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        A, P, B = legs_normal_form(d_state)
        self.C = nn.Parameter(torch.randn(1, d_model, d_state // 2, 2) * math.sqrt(0.5))
        self.inv_dt = nn.Parameter(log_uniform((d_model, 1), dt_min, dt_max).log())
        B = torch.complex(B.real, B.imag.clamp(-2, 2))
        self.B = nn.Parameter(torch.view_as_real(B)[None, None].contiguous())
        self.P = nn.Parameter(torch.view_as_real(P)[None, None].contiguous())
        self.A_real = nn.Parameter(torch.log(-A.real)[None])
        self.A_imag = nn.Parameter(-A.imag[None])

    def signals(self) -> dict[str, Any]:
        A = complex_of(-torch.exp(self.A_real[0]), -self.A_imag[0])
        B, P, C = (complex_of(*part.unbind(-1)).squeeze(0) for part in (self.B, self.P, self.C))
        both = {"A": A, "P": P[0], "B": B[0], "C": C}
        pairs = {name: torch.cat((part, part.conj().resolve_conj()), dim=-1) for name, part in both.items()}
        return {"dt": torch.exp(self.inv_dt[:, 0]), **pairs}


class S4(MixerLayer):
    """State space model, skip, GELU, and a linear map to twice the width with a gated linear unit."""

    def __init__(self, d_model: int, *, d_state: int = 64, dt_min: float = 1e-3, dt_max: float = 1e-1) -> None:
        super().__init__(d_model)
        self.D = nn.Parameter(torch.randn(1, d_model))
        self.kernel = S4Kernel(d_model, d_state, dt_min, dt_max)
        self.output_linear = nn.Sequential(Linear(d_model, 2 * d_model), nn.GLU(dim=-1))

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        return self.output_linear(F.gelu(run(s4, u=x, D=self.D[0], **self.kernel.signals()).to(x.dtype)))


ENTRY = Entry(
    name="s4",
    title="S4 (diagonal plus low rank)",
    paper=PAPER,
    year=YEAR,
    mixers={s4.name: s4},
    layer=S4,
    facts={
        "C": "published checkpoints hold C̃ = (I − Ā^L)ᵀ C of their kernel length L; here C is the read-out itself",
        "directions": "causal; the bidirectional configurations of the long range arena add a second kernel",
    },
    counts=(Count("layer", {"d_model": 128}, 41_664),),
    small={"d_model": 6, "d_state": 8},
)
