"""RG-LRU: the real-gated linear recurrence of Griffin, one decay for every channel and step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Count, Entry
from catalog.linear import Linear
from catalog.parts import ShortConvolution, heads, share
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2402.19427", 2024


@mx.recurrence(paper=PAPER, year=YEAR)
def rg_lru(h: mx.State("d"), x: "b t d", r: "b t d", i: "b t d", Lambda: "d", start: "b t") -> "b t d":
    """h_t = a_t h_{t−1} + √(1 − a_t²) (i_t x_t),   a_t = exp(−8 softplus(Λ) r_t)

    Where `start` is true, at the first token of a sequence, i_t x_t enters whole.
    """
    log_a = -8 * mx.softplus(Lambda) * r
    scale = mx.where(start, 1, mx.sqrt(mx.maximum(-mx.expm1(2 * log_a), 1e-30)))
    h = mx.exp(log_a) * h + scale * i * x
    return h, h


class RGLRU(nn.Module):
    """Λ and the two gates, each a block-diagonal linear map."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        size = share(width, blocks, "width among blocks")
        square = torch.empty(width).uniform_(0.9**2, 0.999**2) + 1e-8
        self.recurrent_param = nn.Parameter(torch.log(torch.expm1(-0.5 * torch.log(square))))
        self.input_gate_weight = nn.Parameter(torch.randn(blocks, size, size) * size**-0.5)
        self.input_gate_bias = nn.Parameter(torch.zeros(blocks, size))
        self.recurrent_gate_weight = nn.Parameter(torch.randn(blocks, size, size) * size**-0.5)
        self.recurrent_gate_bias = nn.Parameter(torch.zeros(blocks, size))

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """r, i (b t d)."""
        x = heads(x, self.input_gate_bias.shape[0])
        r = torch.einsum("bthi,hij->bthj", x, self.recurrent_gate_weight) + self.recurrent_gate_bias
        i = torch.einsum("bthi,hij->bthj", x, self.input_gate_weight) + self.input_gate_bias
        return r.flatten(2).sigmoid(), i.flatten(2).sigmoid()


class RecurrentBlock(MixerLayer):
    """Griffin's recurrent block: linear_out(RG-LRU(convolution(linear_x)) · GELU(linear_y))."""

    def __init__(
        self,
        d_model: int,
        *,
        width: int | None = None,
        blocks: int = 10,
        d_conv: int = 4,
        n_layer: int = 26,
    ) -> None:
        super().__init__(d_model)
        width = width or d_model
        self.linear_y = Linear(d_model, width)
        self.linear_x = Linear(d_model, width)
        self.linear_out = Linear(width, d_model)
        self.conv_1d = ShortConvolution(width, d_conv, name="conv_1d")
        self.rg_lru = RGLRU(width, blocks)
        for part, variance in ((self.linear_y, 1), (self.linear_x, 1), (self.linear_out, 2 / n_layer)):
            nn.init.normal_(part.weight, std=math.sqrt(variance / part.in_features))
            nn.init.zeros_(part.bias)
        nn.init.normal_(self.conv_1d.weight, std=math.sqrt(0.01 / d_conv))
        self.conv_1d.bias = nn.Parameter(torch.zeros(width))

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        y = F.gelu(self.linear_y(x), approximate="tanh")
        x = self.conv_1d(self.linear_x(x), run)
        r, i = self.rg_lru.gates(x)
        first = torch.arange(x.shape[1], device=x.device) + run.position == 0
        start = first.expand(x.shape[:2]) if run.reset is None else first | run.reset
        h = run(rg_lru, x=x, r=r, i=i, Lambda=self.rg_lru.recurrent_param, start=start)
        return self.linear_out(h * y)


ENTRY = Entry(
    name="rg_lru",
    title="RG-LRU (Griffin, Hawk, RecurrentGemma)",
    paper=PAPER,
    year=YEAR,
    mixers={rg_lru.name: rg_lru},
    layer=RecurrentBlock,
    facts={
        "first token": "the authors' code lets the first token of a sequence enter with weight 1, not √(1 − a²)",
    },
    counts=(Count("layer", {"d_model": 2560}, 20_999_680),),
    small={"d_model": 16, "blocks": 4},
)
