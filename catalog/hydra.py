"""Hydra: a quasiseparable matrix, Mamba-2 read in both directions with its own diagonal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.parts import GatedRMSNorm, ShortConvolution, heads, share, step_bias
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2407.09941", 2024


@mx.mixer(paper=PAPER, year=YEAR)
def hydra(
    x: "b t h p",
    dt: "b t h",
    B: "b t n",
    C: "b t n",
    dtr: "b t h",
    Br: "b t n",
    Cr: "b t n",
    A: "h",
    D: "b t h",
) -> "b t h p":
    """y = (shift(SS(C, e^{ΔA}, ΔB)) + flip(shift(SS(C′, e^{Δ′A}, Δ′B′))) + diag(D)) x"""
    forward = mx.semiseparable(C, mx.exp(dt * A), dt * B)
    backward = mx.semiseparable(Cr, mx.exp(dtr * A), dtr * Br)
    return (mx.shift(forward) + mx.flip(mx.shift(backward)) + mx.diagonal(D)) @ x


class Hydra(MixerLayer):
    """The Hydra block: in_proj → (z, x and both B, C, both Δ); centred convolution; gate after the norm."""

    def __init__(
        self, d_model: int, *, d_state: int = 64, d_conv: int = 7, expand: int = 2, head_dim: int = 64
    ) -> None:
        super().__init__(d_model)
        inner = expand * d_model
        n_head = share(inner, head_dim, "expand · d_model by head_dim")
        channels = inner + 4 * d_state
        self.sizes, self.parts = [inner, channels, 2 * n_head], [inner, *[d_state] * 4]
        self.in_proj = Linear(d_model, inner + channels + 2 * n_head, bias=False)
        self.conv1d = ShortConvolution(channels, d_conv, name="conv1d", centred=True, silu=True)
        self.dt_bias = nn.Parameter(step_bias(n_head))
        self.A_log = nn.Parameter(torch.zeros(n_head))
        self.D = nn.Parameter(torch.ones(n_head))
        self.fc_D = Linear(inner, n_head, bias=False)
        self.norm = GatedRMSNorm(inner, norm_first=True)
        self.out_proj = Linear(inner, d_model, bias=False)

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        z, xBC, dts = self.in_proj(x).split(self.sizes, dim=-1)
        x, B, C, Br, Cr = self.conv1d(xBC, run).split(self.parts, dim=-1)
        dt, dtr = F.softplus(heads(dts, 2) + self.dt_bias).unbind(2)
        y = run(
            hydra,
            x=heads(x, dt.shape[-1]),
            dt=dt,
            B=B,
            C=C,
            dtr=dtr,
            Br=Br,
            Cr=Cr,
            A=-torch.exp(self.A_log),
            D=self.fc_D(x) + self.D,
        )
        return self.out_proj(self.norm(y.flatten(2), z))


ENTRY = Entry(
    name="hydra",
    title="Hydra (quasiseparable)",
    paper=PAPER,
    year=YEAR,
    mixers={hydra.name: hydra},
    layer=Hydra,
    facts={
        "decay": "both directions share A and the bias of Δ; A starts at −1 for every head",
    },
    counts=(Count("layer", {"d_model": 768}, 3_825_224),),
    small={"d_model": 16, "d_state": 4, "head_dim": 8},
)
