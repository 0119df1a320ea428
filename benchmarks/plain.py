"""Mixers as one writes them by hand in PyTorch: time loops, and convolutions by torch.fft."""

from __future__ import annotations

import torch
from torch import Tensor


def gated_linear(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Gated linear attention, a time loop."""
    b, t, h, n = k.shape
    S, out = k.new_zeros(b, h, n, v.shape[-1]), []
    for i in range(t):
        S = g[:, i].exp()[..., None] * S + k[:, i, :, :, None] * v[:, i, :, None, :]
        out.append((q[:, i, :, None] @ S)[:, :, 0])
    return torch.stack(out, 1)


def gated_delta(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """The gated delta rule, a time loop."""
    b, t, h, n = k.shape
    S, out = k.new_zeros(b, h, n, v.shape[-1]), []
    for i in range(t):
        S = g[:, i].exp()[..., None, None] * S
        u = beta[:, i, :, None] * (v[:, i] - (k[:, i, :, None] @ S)[:, :, 0])
        S = S + k[:, i, :, :, None] * u[:, :, None]
        out.append((q[:, i, :, None] @ S)[:, :, 0])
    return torch.stack(out, 1)


def selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Mamba's scan, a time loop; what does not depend on the state is computed before it."""
    h, out = x.new_zeros(x.shape[0], *A.shape), []
    factor, drive = torch.exp(dt[..., None] * A), (dt * x)[..., None] * B[:, :, None]
    for t in range(x.shape[1]):
        h = factor[:, t] * h + drive[:, t]
        out.append((h @ C[:, t, :, None])[..., 0])
    return torch.stack(out, 1) + D * x


def loop(factor: Tensor, drive: Tensor) -> Tensor:
    """x_t = factor x_{t−1} + drive_t over drive (b t n)."""
    x, out = torch.zeros_like(drive[:, 0]), []
    for t in range(drive.shape[1]):
        x = factor * x + drive[:, t]
        out.append(x)
    return torch.stack(out, 1)


def s5(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    drive = torch.expm1(dt * A) / A * (u.to(B.dtype) @ B.T)
    return 2 * (loop(torch.exp(dt * A), drive) @ C.T).real + D * u


def lru(u: Tensor, nu: Tensor, theta: Tensor, gamma: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    factor = torch.exp(torch.complex(-nu, theta))
    return (loop(factor, gamma * (u.to(B.dtype) @ B.T)) @ C.T).real + D * u


def convolved(h: Tensor, x: Tensor) -> Tensor:
    """Causal convolution of x (b t d) with lags h (t d)."""
    n = 2 * x.shape[1]
    return torch.fft.irfft(torch.fft.rfft(h, n, 0) * torch.fft.rfft(x, n, 1), n, 1)[:, : x.shape[1]]


def long_convolution(u: Tensor, h: Tensor, D: Tensor) -> Tensor:
    return convolved(h, u) + D * u


def s4d(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The authors' minimal S4D: the kernel as a Vandermonde product, then the convolution."""
    step = dt[:, None] * A
    weight = C * B * torch.expm1(step) / A
    powers = torch.exp(step[..., None] * torch.arange(u.shape[1]))
    return convolved(2 * torch.einsum("dn,dnt->td", weight, powers).real, u) + D * u


def damped_ema(x: Tensor, alpha: Tensor, delta: Tensor, beta: Tensor, eta: Tensor, omega: Tensor) -> Tensor:
    """MEGA's moving average: the kernel as a Vandermonde product, then the convolution."""
    powers = torch.exp(torch.log(1 - alpha * delta)[..., None] * torch.arange(x.shape[1]))
    return convolved(torch.einsum("dn,dnt->td", alpha * beta * eta, powers), x) + omega * x
