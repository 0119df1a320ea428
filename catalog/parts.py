"""Parts that layers share: the short convolution, norms and gates, the step sizes of state space models."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.streaming import Run


@mx.mixer
def short_convolution(x: "b t d", h: "l d", c: "d") -> "b t d":
    """y_t = Σ_l h_l x_{t−l} + c: a causal filter of a few lags for each channel"""
    return mx.toeplitz(h, lags="l") @ x + c


@mx.mixer
def activated_convolution(x: "b t d", h: "l d", c: "d") -> "b t d":
    """y_t = SiLU(Σ_l h_l x_{t−l} + c)"""
    return mx.silu(mx.toeplitz(h, lags="l") @ x + c)


@mx.mixer
def centred_convolution(x: "b t d", h: "l d", g: "l d", c: "d") -> "b t d":
    """y_t = Σ_{l ≥ 0} h_l x_{t−l} + Σ_{l > 0} g_l x_{t+l} + c: a filter that looks both ways"""
    return mx.toeplitz(h, anti=g, lags="l") @ x + c


@mx.mixer
def activated_centred_convolution(x: "b t d", h: "l d", g: "l d", c: "d") -> "b t d":
    """y_t = SiLU(Σ_{l ≥ 0} h_l x_{t−l} + Σ_{l > 0} g_l x_{t+l} + c)"""
    return mx.silu(mx.toeplitz(h, anti=g, lags="l") @ x + c)


@mx.mixer
def token_shift(x: "b t d") -> "b t d":
    """y_t = x_{t−1}, with x_{−1} = 0"""
    return mx.shift(mx.identity(), by=1) @ x


class ShortConvolution(nn.Module):
    """Depthwise convolution with the parameters of nn.Conv1d(channels, channels, width, groups=channels).

    `centred` pads both sides by width // 2 (an odd width); otherwise it is causal. With `silu`, SiLU of it.
    """

    def __init__(
        self,
        channels: int,
        width: int = 4,
        *,
        name: str,
        bias: bool = True,
        centred: bool = False,
        silu: bool = False,
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(channels, channels, width, groups=channels, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.name, self.centred, self.silu = name, centred, silu
        self.register_buffer("zero", None if bias else torch.zeros(channels), persistent=False)

    def forward(self, x: Tensor, run: Run) -> Tensor:
        w, c = self.weight[:, 0].t(), self.zero if self.bias is None else self.bias
        if not self.centred:
            return run(activated_convolution if self.silu else short_convolution, at=self.name, x=x, h=w.flip(0), c=c)
        middle, mixer = w.shape[0] // 2, activated_centred_convolution if self.silu else centred_convolution
        return run(mixer, at=self.name, x=x, h=w[: middle + 1].flip(0), g=w[middle:], c=c)


class GatedRMSNorm(nn.Module):
    """RMSNorm over groups of channels, gated: norm(y · SiLU(z)) · w, or norm(y) · w · SiLU(z) with `norm_first`."""

    def __init__(self, width: int, *, eps: float = 1e-5, groups: int = 1, norm_first: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.groups, self.norm_first = eps, groups, norm_first

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        if not self.norm_first:
            y = y * F.silu(gate)
        grouped = y.unflatten(-1, (self.groups, -1))
        y = F.rms_norm(grouped, grouped.shape[-1:], eps=self.eps).flatten(-2) * self.weight
        return y * F.silu(gate) if self.norm_first else y


def l2norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / √(Σ x² + eps) along the last axis."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + eps)


def heads(x: Tensor, count: int) -> Tensor:
    """[…, count · size] as […, count, size]."""
    return x.unflatten(-1, (count, -1))


def share(whole: int, parts: int, what: str) -> int:
    """whole / parts; an OptionError where that is no whole number."""
    if parts < 1 or whole % parts:
        raise mx.OptionError(f"{what}: {whole} cannot be shared equally by {parts}")
    return whole // parts


def at_least_single(x: Tensor) -> Tensor:
    """x in float32 where it is in a lower precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def complex_of(real: Tensor, imag: Tensor) -> Tensor:
    """real + i imag; there are no complex numbers of half precision, so these become complex64."""
    return torch.complex(at_least_single(real), at_least_single(imag))


def log_uniform(shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """exp of a uniform draw between log(low) and log(high)."""
    return torch.exp(torch.rand(shape) * (math.log(high) - math.log(low)) + math.log(low))


def step_bias(size: int, low: float = 1e-3, high: float = 1e-1, floor: float = 1e-4) -> Tensor:
    """A bias with softplus(bias) log-uniform in [low, high]."""
    dt = log_uniform((size,), low, high).clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))
