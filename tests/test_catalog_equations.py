"""Every declaration of the catalog says its paper's equation: the definition against a plain loop, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import catalog
import mixer_ir as mx
from mixer_ir import Mixer
from mixer_ir.definition.oracle import evaluate

MIXERS: dict[str, Mixer] = {name: m for entry in catalog.ENTRIES.values() for name, m in entry.mixers.items()}
SIZES = {"b": 2, "t": 7, "s": 5, "h": 3, "g": 2, "k": 4, "v": 3, "n": 4, "p": 3, "d": 3, "r": 2, "c": 5, "l": 3}
T = SIZES["t"]

unit = torch.sigmoid


def negative(x: Tensor) -> Tensor:
    return -F.softplus(x)


def direction(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def mode(x: Tensor) -> Tensor:
    return torch.complex(negative(x), 3 * x)


def spectral(x: Tensor) -> Tensor:
    return torch.complex(x, x.roll(1, 0))


# What a signal is drawn as, where a normal number will not do.
LAWS: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "retention": {"gamma": unit},
    "gated_linear_attention": {"g": negative},
    "selective_scan": {"dt": F.softplus, "A": negative},
    "state_space_dual": {"dt": F.softplus, "A": negative},
    "delta_rule": {"k": direction, "beta": unit},
    "gated_delta": {"k": direction, "beta": unit, "g": negative},
    "kimi_delta": {"k": direction, "beta": unit, "g": negative},
    "rwkv7": {"kappa": direction, "a": unit, "w": negative},
    "s4d": {"dt": unit, "A": mode, "B": spectral, "C": spectral},
    "s4": {"dt": unit, "A": mode, "P": spectral, "B": spectral, "C": spectral},
    "s5": {"dt": unit, "A": mode, "B": spectral, "C": spectral},
    "lru": {"nu": F.softplus, "B": spectral, "C": spectral},
    "damped_ema": {"alpha": unit, "delta": unit},
    "two_way_ema": {"alpha": unit, "delta": unit, "alphar": unit, "deltar": unit},
    "hydra": {"dt": F.softplus, "dtr": F.softplus, "A": negative},
    "vq_attention": {"z": lambda x: (x.abs() * 4).long() % SIZES["c"]},
    "rg_lru": {"r": unit, "i": unit, "start": lambda x: x > 1.5},
}


def draw(mixer: Mixer, seed: int = 0) -> dict[str, Tensor]:
    """Signals in float64, of the kind that the mixer's equation wants."""
    g = torch.Generator().manual_seed(seed)
    laws = LAWS.get(mixer.name, {})
    plain = {
        n: torch.randn([SIZES[a] for a in axes], generator=g, dtype=torch.float64) for n, axes in mixer.signals.items()
    }
    return {n: laws.get(n, lambda x: x)(x) for n, x in plain.items()}


def attend(weights: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bh...ts,bshv->bth...v", weights, v)


def lower(x: Tensor) -> Tensor:
    return torch.ones(x.shape[-2:], dtype=torch.bool).tril()


def turned(x: Tensor, theta: Tensor) -> Tensor:
    z = torch.complex(x[..., 0, :], x[..., 1, :])
    angle = torch.arange(x.shape[1], dtype=theta.dtype)[:, None] * theta
    z = z * torch.exp(1j * angle).reshape(1, T, *[1] * (z.dim() - 3), -1)
    return torch.stack((z.real, z.imag), dim=-2)


def rotary_attention(q: Tensor, k: Tensor, v: Tensor, theta: Tensor) -> Tensor:
    q, k = turned(q, theta).flatten(-2), turned(k, theta).flatten(-2)
    return softmax_attention(q, k, v)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bthgk,bshk->bhgts", q, k) / q.shape[-1] ** 0.5
    return attend(scores.masked_fill(~lower(scores), -torch.inf).softmax(-1), v)


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend((torch.einsum("bthgk,bshk->bhgts", q, k) / q.shape[-1] ** 0.5).softmax(-1), v)


cross_attention = full_attention


def full_linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bthk,bshk->bhts", F.elu(q) + 1, F.elu(k) + 1)
    return attend(scores / (scores.sum(-1, keepdim=True) + 1e-6), v)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    S, z, out = 0, 0, []
    for t in range(T):
        S = S + k[:, t, :, :, None] * v[:, t, :, None, :]
        z = z + k[:, t]
        out.append((q[:, t, :, None] @ S)[:, :, 0] / ((q[:, t] * z).sum(-1, keepdim=True) + 1e-6))
    return torch.stack(out, 1)


def retention(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, theta: Tensor) -> Tensor:
    q, k = turned(q, theta).flatten(-2), turned(k, theta).flatten(-2)
    return memory(q, lambda S, t: gamma[:, None, None] * S + write(k, v, t), v)


def write(k: Tensor, v: Tensor, t: int) -> Tensor:
    return k[:, t, :, :, None] * v[:, t, :, None, :]


def memory(q: Tensor, update: Callable[[Tensor, int], Tensor], v: Tensor) -> Tensor:
    """y_t = S_tᵀ q_t for S (b h k v)."""
    S, out = torch.zeros(q.shape[0], q.shape[2], q.shape[-1], v.shape[-1], dtype=v.dtype), []
    for t in range(T):
        S = update(S, t)
        out.append((q[:, t, :, None] @ S)[:, :, 0])
    return torch.stack(out, 1)


def gated_linear_attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return memory(q, lambda S, t: g[:, t, :, :, None].exp() * S + write(k, v, t), v)


def erased(S: Tensor, k: Tensor, beta: Tensor, t: int) -> Tensor:
    """(I − β k kᵀ) S"""
    eye = torch.eye(k.shape[-1], dtype=k.dtype)
    return (eye - beta[:, t, :, None, None] * k[:, t, :, :, None] * k[:, t, :, None, :]) @ S


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    return memory(q, lambda S, t: erased(S, k, beta, t) + write(k, beta[..., None] * v, t), v)


def gated_delta(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    def update(S: Tensor, t: int) -> Tensor:
        return g[:, t, :, None, None].exp() * erased(S, k, beta, t) + write(k, beta[..., None] * v, t)

    return memory(q, update, v)


def kimi_delta(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    def update(S: Tensor, t: int) -> Tensor:
        return erased(g[:, t, :, :, None].exp() * S, k, beta, t) + write(k, beta[..., None] * v, t)

    return memory(q, update, v)


def rwkv7(r: Tensor, w: Tensor, k: Tensor, v: Tensor, kappa: Tensor, a: Tensor) -> Tensor:
    """The paper's own layout: S (b h v k), S_t = S_{t−1} (diag(w) − κᵀ (a ⊙ κ)) + vᵀ k, y_t = S_t r_t."""
    S, out = torch.zeros(v.shape[0], v.shape[2], v.shape[-1], k.shape[-1], dtype=v.dtype), []
    for t in range(T):
        change = torch.diag_embed(w[:, t].exp()) - kappa[:, t, :, :, None] * (a * kappa)[:, t, :, None, :]
        S = S @ change + v[:, t, :, :, None] * k[:, t, :, None, :]
        out.append((S @ r[:, t, :, :, None])[..., 0])
    return torch.stack(out, 1)


def mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    C, n, out = 0, 0, []
    for t in range(T):
        keep, enter = f[:, t].sigmoid()[..., None], i[:, t].exp()[..., None]
        C = keep[..., None] * C + enter[..., None] * write(k, v, t)
        n = keep * n + enter * k[:, t]
        scale = (q[:, t] * n).sum(-1, keepdim=True).abs().clamp(min=1)
        out.append((q[:, t, :, None] @ C)[:, :, 0] / scale)
    return torch.stack(out, 1)


def selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    h, out = 0, []
    for t in range(T):
        step = dt[:, t, :, None]
        h = torch.exp(step * A) * h + step * B[:, t, None] * x[:, t, :, None]
        out.append((h * C[:, t, None]).sum(-1) + D * x[:, t])
    return torch.stack(out, 1)


def state_space_dual(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    heads = SIZES["h"]
    flat = lambda y: y.flatten(2, 3)  # noqa: E731
    B, C = (y[:, :, :, None].expand(-1, -1, -1, heads, -1).flatten(2, 3) for y in (B, C))
    x_, dt_, A_, D_ = flat(x), flat(dt), A.flatten(), D.flatten()

    def update(S: Tensor, t: int) -> Tensor:
        return torch.exp(dt_[:, t] * A_)[..., None, None] * S + write(B, dt_[..., None] * x_, t)

    return (memory(C, update, x_) + D_[:, None] * x_).unflatten(2, x.shape[2:4])


def diagonal_ssm(a: Tensor, b: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    """x_t = a x_{t−1} + b_t, y_t = read(x_t)"""
    x, out = 0, []
    for t in range(T):
        x = a * x + b[:, t]
        out.append(read(x))
    return torch.stack(out, 1)


def s4d(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    a = torch.exp(dt[:, None] * A)
    b = (a - 1) / A * B * u[..., None]
    return diagonal_ssm(a, b, lambda x: 2 * (x * C).sum(-1).real) + D * u


def s4(u: Tensor, dt: Tensor, A: Tensor, P: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    eye, state = torch.eye(A.shape[0], dtype=A.dtype), torch.diag(A) - P[:, None] * P.conj()
    y = torch.empty_like(u)
    for d in range(u.shape[2]):
        left = torch.linalg.inv(eye - dt[d] / 2 * state)
        a, b = left @ (eye + dt[d] / 2 * state), left @ B * dt[d]
        x = torch.zeros(u.shape[0], A.shape[0], dtype=A.dtype)
        for t in range(T):
            x = x @ a.T + u[:, t, d, None] * b
            y[:, t, d] = (x @ C[d]).real + D[d] * u[:, t, d]
    return y


def s5(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    a = torch.exp(dt * A)
    return diagonal_ssm(a, (a - 1) / A * (u.to(B.dtype) @ B.T), lambda x: 2 * (x @ C.T).real) + D * u


def lru(u: Tensor, nu: Tensor, theta: Tensor, gamma: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    a = torch.exp(torch.complex(-nu, theta))
    return diagonal_ssm(a, gamma * (u.to(B.dtype) @ B.T), lambda x: (x @ C.T).real) + D * u


def long_convolution(u: Tensor, h: Tensor, D: Tensor) -> Tensor:
    past = [sum(h[t - s] * u[:, s] for s in range(t + 1)) for t in range(T)]
    return torch.stack(past, 1) + D * u


def hyena(q: Tensor, k: Tensor, v: Tensor, h: Tensor, D: Tensor) -> Tensor:
    return q * long_convolution(k * v, h, D)


def hydra(
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, dtr: Tensor, Br: Tensor, Cr: Tensor, A: Tensor, D: Tensor
) -> Tensor:
    """The authors' code: both scans from one function, the second on everything reversed, both moved by one step."""

    def scan(x: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> Tensor:
        group = lambda y: y[:, :, None]  # noqa: E731
        y = state_space_dual(group(x), group(dt), A[None], group(B), group(C), torch.zeros(1, len(A), dtype=x.dtype))
        return F.pad(y[:, :-1, 0], (0, 0, 0, 0, 1, 0))

    back = scan(*(y.flip(1) for y in (x, dtr, Br, Cr))).flip(1)
    return scan(x, dt, B, C) + back + D[..., None] * x


def key_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(1, 2)
    return scores.masked_fill(~lower(scores), -torch.inf).softmax(-1) @ v


def vq_attention(q: Tensor, codebook: Tensor, z: Tensor, v: Tensor) -> Tensor:
    return key_attention(q, codebook[z], v)


def damped_ema(x: Tensor, alpha: Tensor, delta: Tensor, beta: Tensor, eta: Tensor, omega: Tensor) -> Tensor:
    return diagonal_ssm(1 - alpha * delta, alpha * beta * x[..., None], lambda h: (h * eta).sum(-1)) + omega * x


def two_way_ema(x: Tensor, *weights: Tensor) -> Tensor:
    """The authors' kernels: powers of q, convolved forward and backward, lag 0 in both."""
    forward, backward, omega = weights[:4], weights[4:8], weights[8]
    none = torch.zeros_like(omega)
    return damped_ema(x, *forward, none) + damped_ema(x.flip(1), *backward, none).flip(1) + omega * x


def rg_lru(x: Tensor, r: Tensor, i: Tensor, Lambda: Tensor, start: Tensor) -> Tensor:
    h, out = 0, []
    for t in range(T):
        a = torch.exp(-8 * F.softplus(Lambda) * r[:, t])
        scale = torch.where(start[:, t, None], 1, torch.sqrt(1 - a**2))
        h = a * h + scale * i[:, t] * x[:, t]
        out.append(h)
    return torch.stack(out, 1)


@pytest.mark.parametrize("name", MIXERS)
def test_declaration_is_the_papers_equation(name: str) -> None:
    mixer = MIXERS[name]
    signals = draw(mixer)
    ours = evaluate(mixer.body, signals, mixer.signals, mixer.returns)
    theirs = globals()[name](*signals.values())
    assert ours.shape == theirs.shape
    scale = theirs.abs().max()
    assert scale > 1e-3
    assert (ours - theirs).abs().max() <= 1e-12 * max(1.0, scale), (ours - theirs).abs().max()


@pytest.mark.parametrize("name", MIXERS)
def test_every_form_is_the_declaration(name: str) -> None:
    """Values and gradients of all legal forms against the definition."""
    mixer = MIXERS[name]
    signals = {n: x.requires_grad_(x.is_floating_point() or x.is_complex()) for n, x in draw(mixer).items()}
    wanted = evaluate(mixer.body, signals, mixer.signals, mixer.returns)
    weight = torch.randn(wanted.shape, dtype=wanted.dtype, generator=torch.Generator().manual_seed(1))
    through = [x for x in signals.values() if x.requires_grad]
    slopes = torch.autograd.grad((wanted * weight).sum(), through)
    for form in mixer.forms():
        y = mx.compile(mixer, form=form)(**signals)
        assert (y - wanted).abs().max() <= 1e-12 * max(1.0, wanted.abs().max().item()), form
        for ours, theirs in zip(torch.autograd.grad((y * weight).sum(), through), slopes, strict=True):
            assert (ours - theirs).abs().max() <= 1e-11 * max(1.0, theirs.abs().max().item()), form


@pytest.mark.parametrize("form", ["recurrent", "chunked", "parallel", "scan"])
def test_mlstm_is_in_range_at_any_gate(form: str) -> None:
    """Input gates of ±1,000 and forget gates of −1,000 in float32: finite, and gradients too."""
    mixer = MIXERS["mlstm"]
    signals = draw(mixer)
    f = mx.compile(mixer, form=form)
    for i, forget in ((1000.0, 0.0), (-1000.0, 0.0), (0.0, -1000.0), (1000.0, -1000.0), (-1000.0, -1000.0)):
        given = {n: x.float().requires_grad_() for n, x in signals.items()}
        y = f(**given | {"i": i + given["i"], "f": forget + given["f"]})
        slopes = torch.autograd.grad(y.square().sum(), list(given.values()))
        assert y.isfinite().all()
        assert all(slope.isfinite().all() for slope in slopes)


def test_mlstm_keeps_its_digits_where_gates_have_summed_up() -> None:
    """Forget gates of N(0, 5²) over 4,096 steps sum to −8,000; float32 agrees with float64, gradients too."""
    mixer, g = MIXERS["mlstm"], torch.Generator().manual_seed(0)
    sizes = {"b": 1, "t": 4096, "h": 1, "k": 4, "v": 4}
    draws = {n: torch.randn([sizes[a] for a in axes], generator=g).double() for n, axes in mixer.signals.items()}
    found = []
    for dtype in (torch.float64, torch.float32):
        x = {n: (v * (5 if n in "if" else 1)).to(dtype).requires_grad_() for n, v in draws.items()}
        y = mx.compile(mixer, form="chunked", backend="eager")(**x)
        found.append([y, *torch.autograd.grad((y * draws["v"].to(dtype)).sum(), list(x.values()))])
    for exact, rounded in zip(*found, strict=True):
        assert (exact - rounded).abs().max() < 3e-4 * exact.abs().max()
