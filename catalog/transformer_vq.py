"""Transformer-VQ: softmax attention whose keys are codebook entries, hence linear in time by algebra."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Entry
from catalog.linear import Linear
from catalog.parts import at_least_single
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2309.16354", 2023


@mx.mixer(paper=PAPER, year=YEAR)
def vq_attention(q: "b t k", codebook: "c k", z: "b t", v: "b t v") -> "b t v":
    """y = softmax(causal(q codebook[z]ᵀ)) v;  z_t is the code of key t"""
    return mx.softmax(mx.causal(mx.lowrank(q, mx.take(codebook, z, axis="c")))) @ v


@mx.mixer(paper=PAPER, year=YEAR)
def key_attention(q: "b t k", k: "b t k", v: "b t v") -> "b t v":
    """y = softmax(causal(q kᵀ)) v: the same with keys of their own, through which gradients pass straight"""
    return mx.softmax(mx.causal(mx.lowrank(q, k))) @ v


class Codebook(nn.Module):
    """Codes as running means of the keys that fall to them."""

    c_sum: Tensor
    c_count: Tensor

    def __init__(self, size: int, width: int, momentum: float = 0.99) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("c_sum", torch.randn(size, width) / width)
        self.register_buffer("c_count", torch.ones(size))

    def codes(self) -> Tensor:
        return self.c_sum / self.c_count.clamp(min=0.01)[:, None]

    def nearest(self, k: Tensor) -> Tensor:
        """z (b t): the index of the code nearest to each key."""
        return torch.cdist(at_least_single(k.detach()), at_least_single(self.codes())).argmin(-1)

    @torch.no_grad()
    def follow(self, k: Tensor, z: Tensor) -> None:
        """One step of the running means towards the keys."""
        k, z = k.flatten(0, -2), z.flatten()
        counts = torch.zeros_like(self.c_count).index_add(0, z, torch.ones_like(z, dtype=k.dtype))
        self.c_sum.lerp_(torch.zeros_like(self.c_sum).index_add(0, z, k), 1 - self.momentum)
        self.c_count.lerp_(counts, 1 - self.momentum)


class VQAttention(MixerLayer):
    """The gated attention unit of Transformer-VQ: keys are quantised, y = W(attention(v) · SiLU(g)).

    While training, gradients pass straight through the quantisation to the keys, attention is quadratic, and the
    codebook follows the keys; `commitment` holds the loss ‖k − codebook[z]‖² of the last pass. In evaluation and
    decoding, the linear-time form is legal.
    """

    def __init__(self, d_model: int, *, d_k: int = 128, d_v: int | None = None, n_code: int = 512) -> None:
        super().__init__(d_model)
        d_v = d_v or 2 * d_model
        self.sizes, self.scale = [d_k, d_v, d_v], d_k**-0.25
        self.input_ln = nn.RMSNorm(d_model, eps=1e-6)
        self.q_proj = Linear(d_model, d_k, bias=False)
        self.kvg_proj = Linear(d_model, sum(self.sizes), bias=False)
        self.res_proj = Linear(d_v, d_model, bias=False)
        self.codebook = Codebook(n_code, d_k)
        self.commitment = torch.zeros(())

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        x = self.input_ln(x)
        k, v, g = self.kvg_proj(x).split(self.sizes, dim=-1)
        q, k = (F.layer_norm(part, part.shape[-1:], eps=1e-6) * self.scale for part in (self.q_proj(x), k))
        v, g = F.silu(v), F.silu(g)
        z, codes = self.codebook.nearest(k), self.codebook.codes()
        if self.training and run.phase == "whole":
            self.commitment = (k - codes[z]).square().mean()
            y = run(key_attention, q=q, k=k + (codes[z] - k).detach(), v=v)
            self.codebook.follow(k.detach(), z)
        else:
            y = run(vq_attention, q=q, codebook=codes, z=z, v=v)
        return self.res_proj(y * g)


ENTRY = Entry(
    name="transformer_vq",
    title="Transformer-VQ",
    paper=PAPER,
    year=YEAR,
    mixers={m.name: m for m in (vq_attention, key_attention)},
    layer=VQAttention,
    facts={
        "scale": "queries and keys are normalised and multiplied by K^−¼ each",
        "positions": "the paper adds relative position biases within the last two blocks; here there are none",
        "commitment": "the paper weighs the commitment loss with 1e-4 and the running means with 0.99",
    },
    small={"d_model": 16, "d_k": 8, "n_code": 6},
)
