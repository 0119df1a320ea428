"""Mixers that are in no catalog, each against a loop of its own: values, gradients, streams, packing, matrix, text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import mixer_ir as mx

SIZES = {"b": 2, "h": 2, "k": 3, "v": 2, "d": 3, "n": 3, "m": 3, "r": 2, "s": 5, "j": 3, "c": 6, "l": 4}
LENGTH, CUT = 9, 5
CUTS = (0, 3, 4, LENGTH)
"""the packed pieces"""


@dataclass(frozen=True)
class Case:
    mixer: mx.Mixer
    loop: Callable[..., Tensor]
    draw: Mapping[str, Callable[[Tensor], Tensor]]
    packs: bool
    filters: tuple[str, ...]
    proved: bool


CASES: list[Case] = []


def by(loop: Callable[..., Tensor], *, packs: bool = True, filters: str = "", proved: bool = True, **draw):
    """A mixer declared below, defined by `loop`.

    draw      what makes signals of normal numbers suit (a decay negative, say)
    packs     whether `loop` on each piece alone is what a packed call must give
    filters   signals over t that are the same for every piece
    """

    def keep(mixer: mx.Mixer) -> mx.Mixer:
        CASES.append(Case(mixer, loop, draw, packs, tuple(filters.split()), proved))
        return mixer

    return keep


def negative(x: Tensor) -> Tensor:
    return -x.abs()


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]


def read(q: Tensor, S: Tensor) -> Tensor:
    return torch.einsum("...k,...kv->...v", q.to(S.dtype), S)


def scan(step: Callable[..., tuple], *start: Tensor, over: tuple[Tensor, ...]) -> Tensor:
    """The outputs of `step(*states, *signals at t)`, stacked along the second axis."""
    states, found = start, []
    for t in range(over[0].shape[1]):
        *states, y = step(*states, *(x[:, t] for x in over))
        found.append(y)
    return torch.stack(found, 1)


def memory(k: Tensor, v: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(*k[:, 0].shape, v.shape[-1], dtype=dtype)


def over_state(x: Tensor) -> Tensor:
    return x[..., None, None]


# ------------------------------------------------------------------------------------------ recurrences


def loop_of_rotating(q, k, v, a, th):
    def step(S, q, k, v, a, th):
        S = torch.complex(a, th).exp()[..., None] * S + outer(k, v)
        return S, read(q, S).real

    return scan(step, memory(k, v, torch.complex128), over=(q, k, v, a, th))


@by(loop_of_rotating, a=negative)
@mx.recurrence
def rotating(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", a: "b t h k", th: "b t h k"):
    """a complex state that every step turns by an angle of its own"""
    S = mx.exp(mx.complex(a, th)) * S + mx.outer(k, v)
    return S, mx.real(q @ S)


def loop_of_three_mirrors(q, k, l, m, v, b, g):
    def step(S, q, k, l, m, v, b, g):
        S = over_state(g.exp()) * S
        for u in (k, l, m):
            S = S - over_state(b) * outer(u, read(u, S))
        S = S + outer(m, v)
        return S, read(q, S)

    return scan(step, memory(k, v), over=(q, k, l, m, v, b, g))


@by(loop_of_three_mirrors, k=unit, l=unit, m=unit, b=lambda x: 2 * torch.sigmoid(x), g=negative)
@mx.recurrence
def three_mirrors(S: mx.State("k v"), q: "b t k", k: "b t k", l: "b t k", m: "b t k", v: "b t v", b: "b t", g: "b t"):
    """a product of three Householder matrices"""
    S = mx.exp(g) * S
    for u in (k, l, m):
        S = S - b * mx.outer(u, u @ S)
    S = S + mx.outer(m, v)
    return S, q @ S


def loop_of_value_gated_delta(q, k, v, g, beta):
    def step(S, q, k, v, g, beta):
        S = g.exp()[..., None, :] * (S - over_state(beta) * outer(k, read(k, S))) + over_state(beta) * outer(k, v)
        return S, read(q, S)

    return scan(step, memory(k, v), over=(q, k, v, g, beta))


@by(loop_of_value_gated_delta, g=negative, beta=torch.sigmoid, k=unit)
@mx.recurrence
def value_gated_delta(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h v", beta: "b t h"):
    """a delta rule that forgets by value channel"""
    S = mx.exp(g) * (S - beta * mx.outer(k, k @ S)) + beta * mx.outer(k, v)
    return S, q @ S


def loop_of_gated_slots(q, k, v, f):
    def step(A, B, q, k, v, f):
        d = torch.sigmoid(f)
        A = A * d[..., None, :] + outer(k, 1 - d)
        B = B * d[..., None] + outer(1 - d, v)
        return A, B, read(torch.softmax(read(q, A), -1), B)

    return scan(step, memory(k, f), memory(f, v), over=(q, k, v, f))


@by(loop_of_gated_slots)
@mx.recurrence
def gated_slots(A: mx.State("k m"), B: mx.State("m v"), q: "b t k", k: "b t k", v: "b t v", f: "b t m"):
    """two passes over gated slots"""
    d = mx.sigmoid(f)
    A = d * A + mx.outer(k, 1 - d)
    B = d * B + mx.outer(1 - d, v)
    return A, B, mx.softmax(q @ A, axis="m") @ B


def loop_of_weighted_past(k, v, w, u):
    def step(a, n, k, v):
        e = (u + k).exp()
        return w.exp() * a + k.exp() * v, w.exp() * n + k.exp(), (a + e * v) / (n + e)

    return scan(step, torch.zeros_like(v[:, 0]), torch.zeros_like(v[:, 0]), over=(k, v))


@by(loop_of_weighted_past, w=negative)
@mx.recurrence
def weighted_past(a: mx.State("d"), n: mx.State("d"), k: "b t d", v: "b t d", w: "d", u: "d"):
    """RWKV-4: a normalised average with a bonus for the current token"""
    e = mx.exp(u + k)
    y = (a + e * v) / (n + e)
    return mx.exp(w) * a + mx.exp(k) * v, mx.exp(w) * n + mx.exp(k), y


def loop_of_routed_memories(q, k, v, g, z, w):
    def step(S, q, k, v, g, z, w):
        on = F.one_hot(z, w.shape[-1])[..., None, None] > 0
        S = torch.where(on, g.exp()[:, None, None, None] * S + outer(k, v)[:, None], S)
        return S, torch.einsum("bm,bk,bmkv->bv", w, q, S)

    start = torch.zeros(len(q), w.shape[-1], k.shape[-1], v.shape[-1], dtype=torch.float64)
    return scan(step, start, over=(q, k, v, g, z, w))


@by(loop_of_routed_memories, g=negative, z=lambda x: (x > 0).long())
@mx.recurrence
def routed_memories(S: mx.State("m k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t", z: "b t", w: "b t m"):
    """a mixture of memories, of which each step writes into one"""
    on = mx.one_hot(z, axis="m")
    S = mx.where(on > 0.5, mx.exp(g) * S + mx.outer(k, v), S)
    return S, mx.contract(mx.outer(w, q), S, over="m k")


def loop_of_liquid(A, G, B, C, u):
    found, S = [], torch.zeros(*u[:, 0].shape, A.shape[0], dtype=torch.float64)
    for t in range(u.shape[1]):
        x = u[:, t, :, None]
        S = (S @ A.T + x * (S @ G.T)) / (t + 1) + B * x
        found.append((C * S).sum(-1))
    return torch.stack(found, 1)


@by(loop_of_liquid, A=lambda x: 0.3 * x, G=lambda x: 0.2 * x)
@mx.recurrence
def liquid(S: mx.State("n"), A: "m n", G: "m n", B: "n", C: "d n", u: "b t d") -> "b t d":
    """a dense transition that moves with the input and with the position"""
    S = mx.rename((A + u * G) @ S, m="n") / (mx.index("t") + 1) + B * u
    return S, C @ S


def loop_of_two_taps(C, B, x, dt, l, A, th):
    def step(S, before, C, B, x, dt, l):
        a, l, dt = (x[..., None, None] for x in ((torch.complex(A, th) * dt).exp(), torch.sigmoid(l), dt))
        now = outer(B, x).to(S.dtype)
        S = a * S + (1 - l) * dt * a * before + l * dt * now
        return S, now, read(C, S).real

    start = memory(B, x, torch.complex128)
    return scan(step, start, start, over=(C, B, x, dt, l))


@by(loop_of_two_taps, A=negative, dt=torch.sigmoid)
@mx.recurrence
def two_taps(S: mx.State("n v"), C: "b t h n", B: "b t h n", x: "b t h v", dt: "b t h", l: "b t h", A: "h", th: "h"):
    """Mamba-3: a rotation, and an input of two steps"""
    a, g = mx.exp(mx.complex(A, th) * dt), mx.sigmoid(l)
    S = a * S + (1 - g) * dt * a * mx.outer(mx.delay(B), mx.delay(x)) + g * dt * mx.outer(B, x)
    return S, mx.real(C @ S)


def loop_of_gated_unit(x, r, u, W):
    def step(h, x, r, u):
        z, n = torch.sigmoid(u + h), torch.tanh(x + torch.sigmoid(r) * (h @ W.T))
        h = (1 - z) * n + z * h
        return h, h

    return scan(step, torch.zeros_like(x[:, 0]), over=(x, r, u))


@by(loop_of_gated_unit, proved=False)
@mx.recurrence
def gated_unit(h: mx.State("d"), x: "b t d", r: "b t d", u: "b t d", W: "n d"):
    """a GRU, which is not affine"""
    z = mx.sigmoid(u + h)
    n = mx.tanh(x + mx.sigmoid(r) * mx.rename(W @ h, n="d"))
    h = (1 - z) * n + z * h
    return h, h


def loop_of_momentum(q, k, v, g, beta):
    def step(M, S, q, k, v, g, beta):
        M = 0.9 * M + over_state(beta) * outer(k, v - read(k, S))
        S = over_state(g.exp()) * S + M
        return M, S, read(q, S)

    return scan(step, memory(k, v), memory(k, v), over=(q, k, v, g, beta))


@by(loop_of_momentum, g=negative, beta=torch.sigmoid, k=unit, proved=False)
@mx.recurrence
def momentum(M: mx.State("k v"), S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t", beta: "b t"):
    """a delta rule with momentum: two states that feed each other"""
    M = 0.9 * M + beta * mx.outer(k, v - k @ S)
    S = mx.exp(g) * S + M
    return M, S, q @ S


def loop_of_second_memory(q, k, v, g):
    def step(S, P, q, k, v, g):
        S = g.exp()[..., None] * S + outer(k, v)
        P = 0.5 * P + outer(k, F.silu(read(q, S)))
        return S, P, read(q, P)

    return scan(step, memory(k, v), memory(k, v), over=(q, k, v, g))


@by(lambda q, k, v, g: loop_of_second_memory(*(x.movedim(2, 1) for x in (q, k, v, g))).movedim(1, 2), g=negative)
@mx.recurrence
def second_memory(
    S: mx.State("k v"), P: mx.State("k v"), q: "b h t k", k: "b h t k", v: "b h t v", g: "b h t k"
) -> "b h t v":
    """a memory of what another one answers; heads first"""
    S = mx.exp(g) * S + mx.outer(k, v)
    P = 0.5 * P + mx.outer(k, mx.silu(q @ S))
    return S, P, q @ P


@by(lambda x, a: scan(lambda s, x, a: (a * s + x,) * 2, torch.zeros(()), over=(x[None], a[None]))[0])
@mx.recurrence
def bare(s: mx.State(""), x: "t", a: "t"):
    """one number, with factors of any sign, without a batch"""
    s = a * s + x
    return s, s


# ------------------------------------------------------------------------------------------ matrices


def scores(q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("bthk,bshk->bhts", q, k)


def lags(rows: int, columns: int | None = None) -> Tensor:
    return torch.arange(rows)[:, None] - torch.arange(columns or rows)


def attend(x: Tensor, kept: Tensor, v: Tensor) -> Tensor:
    """softmax over what is kept, row by row."""
    rows = []
    for t in range(x.shape[2]):
        w = torch.softmax(x[:, :, t][..., kept[t]], -1)
        rows.append(torch.einsum("bhs,bshv->bhv", w, v[:, kept[t]]))
    return torch.stack(rows, 1)


def loop_of_forgetting(q, k, v, f):
    c = F.logsigmoid(f).cumsum(1).movedim(1, 2)
    return attend(scores(q, k) + c[..., :, None] - c[..., None, :], lags(q.shape[1]) >= 0, v)


@by(loop_of_forgetting)
@mx.mixer
def forgetting(q: "b t h k", k: "b t h k", v: "b t h v", f: "b t h"):
    c = mx.cumsum(-mx.softplus(-f))
    return mx.softmax(mx.causal(mx.lowrank(q, k) + mx.dense(c - mx.source(c)))) @ v


def loop_of_window_and_sink(q, k, v, slope):
    lag = lags(q.shape[1])
    near = (lag >= 0) & ((lag < 3) | (torch.arange(q.shape[1]) < 1))
    return attend(scores(q, k) - slope.abs()[:, None, None] * lag, near, v)


@by(loop_of_window_and_sink)
@mx.mixer
def window_and_sink(q: "b t h k", k: "b t h k", v: "b t h v", slope: "h"):
    """a window, the first token, and a penalty that grows with the distance"""
    t, s = mx.index("t"), mx.source(mx.index("t"))
    M = mx.lowrank(q, k) - mx.abs(slope) * mx.dense(t - s)
    return mx.softmax(mx.mask(mx.causal(M), (t - s < 3) | (s < 1))) @ v


def loop_of_bucketed(q, k, v, table):
    lag = lags(q.shape[1], k.shape[1])
    return attend(scores(q, k) + table[lag.clamp(-2, 3) + 2].movedim(-1, 0), lag > -100, v)


@by(loop_of_bucketed, packs=False)
@mx.mixer
def bucketed(q: "b t h k", k: "b s h k", v: "b s h v", table: "c h"):
    """cross attention with a table of biases by distance"""
    bucket = mx.clamp(mx.index("t") - mx.index("s"), -2, 3) + 2
    return mx.softmax(mx.lowrank(q, k) + mx.dense(mx.take(table, bucket, axis="c"))) @ v


def delta_matrix(q, k, w, beta):
    """(b h t s) by unit inputs, one column after the other"""
    T, columns = q.shape[1], []
    for s in range(T):
        S, column = torch.zeros_like(q[:, 0]), []
        for t in range(T):
            S = S - (beta[:, t] * (w[:, t] * S).sum(-1))[..., None] * w[:, t] + (k[:, t] if t == s else 0)
            column.append((q[:, t] * S).sum(-1))
        columns.append(torch.stack(column, -1))
    return torch.stack(columns, -1)


@by(
    lambda q, k, v, w, beta: attend(delta_matrix(q, k, w, beta), lags(q.shape[1]) >= 0, v),
    w=unit,
    beta=torch.sigmoid,
)
@mx.mixer
def along_paths(q: "b t h k", k: "b t h k", v: "b t h v", w: "b t h k", beta: "b t h"):
    """softmax of what a product of Householder matrices leaves of every key"""
    return mx.softmax(mx.causal(mx.semiseparable(q, mx.transition(1.0, [(-beta * w, w)]), k))) @ v


@mx.recurrence
def delta(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", w: "b t h k", beta: "b t h"):
    S = S - beta * mx.outer(w, w @ S) + mx.outer(k, v)
    return S, q @ S


def loop_of_both_ways(q, k, v, w, beta):
    M = delta_matrix(q, k, w, beta)
    turned = delta_matrix(*(x.flip(1) for x in (q, k, w, beta))).flip(2, 3)
    low = F.pad(M[:, :, :-1], (0, 0, 1, 0))
    high = F.pad(turned[:, :, 1:], (0, 0, 0, 1))
    return torch.einsum("bhts,bshv->bthv", low + high + M.mT, v)


@by(loop_of_both_ways, w=unit, beta=torch.sigmoid)
@mx.mixer
def both_ways(q: "b t h k", k: "b t h k", v: "b t h v", w: "b t h k", beta: "b t h"):
    """a delta rule from the left, one from the right, and a transposed one"""
    M = delta.M(q=q, k=k, w=w, beta=beta)
    return (mx.shift(M) + mx.flip(mx.shift(M)) + M.T) @ v


def loop_of_taylor(q, k, v):
    A = (1 + scores(q, k) + scores(q, k) ** 2 / 2).tril()
    return torch.einsum("bhts,bshv->bthv", A / A.sum(-1, keepdim=True), v)


@by(loop_of_taylor)
@mx.mixer
def taylor(q: "b t h k", k: "b t h k", v: "b t h v"):
    """Based: the second Taylor polynomial of exp, which a state of size 1 + k + k² holds"""
    A = mx.lowrank(q, k)
    return mx.normalize(mx.causal(mx.lowrank(1.0, 1.0, over="") + A + 0.5 * A * A)) @ v


def loop_of_cosine(q, k, v):
    a = torch.arange(q.shape[1]).double() * math.pi / (2 * q.shape[1])
    A = (scores(q.exp(), k.exp()) * torch.cos(a[:, None] - a)).tril()
    return torch.einsum("bhts,bshv->bthv", A / A.sum(-1, keepdim=True), v)


@by(loop_of_cosine, packs=False)
@mx.mixer
def cosine(q: "b t h k", k: "b t h k", v: "b t h v"):
    """cosFormer: weights that fall with the distance as a cosine does, of low rank"""
    a = math.pi / 2 * (mx.index("t") / mx.size("t"))
    q, k = mx.exp(q), mx.exp(k)
    M = mx.lowrank(q * mx.cos(a), k * mx.cos(a)) + mx.lowrank(q * mx.sin(a), k * mx.sin(a))
    return mx.normalize(mx.causal(M)) @ v


def loop_of_fenwick(q, k, v, w):
    M = []
    for t in range(q.shape[1]):
        level = [(s ^ t).bit_length() for s in range(t + 1)]
        row = [w[:, t, :, n] if n < w.shape[-1] else torch.zeros_like(w[:, t, :, 0]) for n in level]
        M.append(F.pad(torch.stack(row, -1), (0, q.shape[1] - t - 1)))
    return torch.einsum("bhts,bshv->bthv", scores(q, k) * torch.stack(M, 2), v)


@by(loop_of_fenwick, packs=False)
@mx.mixer
def fenwick(q: "b t h k", k: "b t h k", v: "b t h v", w: "b t h l"):
    """log-linear attention: a pair's weight is chosen by the highest bit in which t and s differ"""
    t, s, l = mx.index("t"), mx.source(mx.index("t")), mx.index("l")
    here = mx.where(mx.equal(t // 2**l, s // 2**l), 1.0, 0.0)
    below = mx.where(mx.equal(2 * t // 2**l, 2 * s // 2**l) & (l > 0), 1.0, 0.0)
    return mx.causal(mx.lowrank(q, k) * mx.dense(mx.sum(w * (here - below), "l"))) @ v


def loop_of_circulating(h, x):
    T = x.shape[1]
    rows = [sum(F.silu(h[:, (t - s) % T]) * x[:, s] for s in range(T)) for t in range(T)]
    return torch.fft.fft(torch.stack(rows, 1), dim=1).real


@by(loop_of_circulating, packs=False)
@mx.mixer
def circulating(h: "b t d", x: "b t d"):
    """Orchid, then FNet: a circulant made of the data, and the real part of a Fourier transform"""
    return mx.real(mx.dft() @ (mx.circulant(mx.silu(h)) @ x))


def convolved(h: Tensor, x: Tensor) -> Tensor:
    rows = [sum(h[j] * x[:, t - j] for j in range(min(t + 1, len(h)))) for t in range(x.shape[1])]
    return torch.stack(rows, 1)


def loop_of_order_three(w, re, im, C, g, v, x, y, z):
    lam = torch.complex(re, im)
    h = torch.stack([(C * (lam * t).exp()).sum(-1).real for t in range(len(g))])
    return z * convolved(h, y * convolved(g, x * convolved(w, v)))


@by(loop_of_order_three, filters="g", re=negative)
@mx.mixer
def order_three(w: "j d", re: "d n", im: "d n", C: "d n", g: "t d", v: "b t d", x: "b t d", y: "b t d", z: "b t d"):
    """Hyena of order 3: a short filter, a free one, and one of complex exponentials, with gates between"""
    h = mx.real(mx.sum(C * mx.exp(mx.index("t") * mx.complex(re, im)), "n"))
    u = y * (mx.toeplitz(g) @ (x * (mx.toeplitz(w, lags="j") @ v)))
    return z * (mx.toeplitz(h) @ u)


def loop_of_inside(q, k, v, w, beta, codes, c):
    u = torch.einsum("bhts,bshv->bthv", delta_matrix(q, k, w, beta), v)
    near = lags(q.shape[1])
    return u + attend(scores(q, codes[c]), near >= 0, torch.tanh(u)) - attend(scores(q, k), near.abs() < 2, v)


@by(loop_of_inside, w=unit, beta=torch.sigmoid, c=lambda x: (2 * x.abs()).long() % 6)
@mx.mixer
def inside(q: "b t h k", k: "b t h k", v: "b t h v", w: "b t h k", beta: "b t h", codes: "c k", c: "b t h"):
    """attention over codebook entries, of what a delta rule gives, less a window to both sides"""
    u = delta(q=q, k=k, v=v, w=w, beta=beta)
    A = mx.softmax(mx.causal(mx.lowrank(q, mx.take(codes, c, axis="c"))))
    return u + A @ mx.tanh(u) - mx.softmax(mx.band(mx.lowrank(q, k), 2, after=1)) @ v


# ------------------------------------------------------------------------------------------ what holds of all


def drawn(case: Case, length: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(length)
    found = {}
    for name, axes in case.mixer.signals.items():
        x = torch.randn([length if a == "t" else SIZES[a] for a in axes], generator=g, dtype=torch.float64)
        x = case.draw.get(name, lambda x: x)(x)
        found[name] = x.to(dtype) if x.is_floating_point() else x
    return found


def between(case: Case, signals: Mapping[str, Tensor], low: int, high: int, *, whole: tuple[str, ...] = ()):
    """The signals from `low` on and before `high`; those named `whole` from their beginning."""
    found = {}
    for n, x in signals.items():
        axes = case.mixer.signals[n]
        found[n] = x.narrow(axes.index("t"), 0 if n in whole else low, high - low) if "t" in axes else x
    return found


def with_gradients(call: Callable[..., Tensor], signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The result, and the gradients of a loss that weighs all of its entries differently."""
    leaves = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in signals.items()}
    y = call(**leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    wanted = [n for n, x in leaves.items() if x.requires_grad]
    torch.autograd.backward((weights * y).sum())
    gradients = {n: leaves[n].grad for n in wanted}
    return {"result": y.detach()} | {
        f"gradient in {n}": torch.zeros_like(leaves[n]) if g is None else g for n, g in gradients.items()
    }


def assert_same(got: Mapping[str, Tensor], want: Mapping[str, Tensor], of: str) -> None:
    for n, x in want.items():
        off, size = float((got[n] - x).abs().max()), float(x.abs().max())
        assert off <= 1e-9 * max(size, 1e-3), f"{of}: {n} is off by {off:.1e} of {size:.1e}"


all_cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.mixer.name)


@all_cases
def test_every_form_is_the_loop(case: Case) -> None:
    for length in (1, LENGTH):
        signals = drawn(case, length)
        want = with_gradients(case.loop, signals)
        for form in ("auto", *case.mixer.forms()):
            chunk = {"chunk": 4} if form in ("chunked", "flash") else {}
            f = mx.compile(case.mixer, form=form, **chunk)
            assert_same(with_gradients(f, signals), want, f"{form}, t = {length}")


@all_cases
def test_streams_and_pieces_are_the_loop(case: Case) -> None:
    f, signals = mx.compile(case.mixer), drawn(case, LENGTH)
    at, want = case.mixer.returns.index("t"), case.loop(**signals)
    if case.mixer.traits.streamable:
        y, state = f.prefill(**between(case, signals, 0, CUT))
        found = [y]
        for t in range(CUT, LENGTH):
            one = between(case, signals, t, t + 1)
            y, state = f.step(state, **{n: x.squeeze(a.index("t")) if "t" in (a := case.mixer.signals[n]) else x
                                        for n, x in one.items()})  # fmt: skip
            found.append(y.unsqueeze(at))
        assert_same({"result": torch.cat(found, at)}, {"result": want}, "prefill and steps")
    if case.packs:
        first = torch.zeros(LENGTH, dtype=torch.bool)
        first[list(CUTS[:-1])] = True
        reset = first if "b" not in case.mixer.returns else first.expand(SIZES["b"], LENGTH)
        pieces = [
            case.loop(**between(case, signals, low, high, whole=case.filters)) for low, high in itertools.pairwise(CUTS)
        ]
        assert_same({"result": f(**signals, reset=reset)}, {"result": torch.cat(pieces, at)}, "packed")


@all_cases
def test_matrix_text_and_precision(case: Case) -> None:
    mixer, signals = case.mixer, drawn(case, 4)
    again = mx.loads(mx.dumps(mixer))
    assert again.expr is mixer.expr and str(again) == str(mixer)
    f, want = mx.compile(again), case.loop(**signals)
    assert mixer.name in str(f.explain(**signals)) and str(mixer.traits)
    for dtype, off in ((torch.float32, 1e-4), (torch.bfloat16, 0.15)):
        y = f(**{n: x.to(dtype) if x.is_floating_point() else x for n, x in signals.items()})
        assert y.dtype == dtype
        assert float((y.double() - want).abs().max()) <= off * float(want.abs().max()), dtype
    if mixer.value is not None:
        M, axes = f.matrix(**signals), [a for a in mixer.returns if a in mixer.matrix_expr.axes]
        v = signals[mixer.value].to(M.dtype)
        column = ["s" if a == "t" else a for a in mixer.signals[mixer.value]]
        y = torch.einsum(f"{''.join(axes)}ts,{''.join(column)}->{''.join(mixer.returns)}", M, v)
        assert_same({"result": y}, {"result": want}, "matrix")


def test_what_is_linear_has_a_matrix() -> None:
    without = {case.mixer.name for case in CASES if case.mixer.value is None}
    assert without == {"gated_unit", "momentum", "second_memory", "liquid", "inside"}


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.mixer.signals.get("q") and len(c.mixer.signals) < 7], ids=lambda c: c.mixer.name
)
def test_what_is_affine_is_proved(case: Case) -> None:
    proof = mx.prove(case.mixer)
    assert proof.ok == case.proved, str(proof)
