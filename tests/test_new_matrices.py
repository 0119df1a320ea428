"""Matrix mixers that are in no catalog, each against a loop of its own: forms, streams, packing, text, proof."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

import mixer_ir as mx
from tests.beside_a_loop import (
    Cases,
    forms_are_the_loop,
    matrix_text_and_precision_hold,
    negative,
    streams_and_pieces_are_the_loop,
    unit,
    what_is_affine_is_proved,
)

CASES = Cases()
by = CASES.by


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


test_every_form_is_the_loop = CASES.each(forms_are_the_loop)
test_streams_and_pieces_are_the_loop = CASES.each(streams_and_pieces_are_the_loop)
test_matrix_text_and_precision = CASES.each(matrix_text_and_precision_hold)
test_what_is_affine_is_proved = CASES.each(
    what_is_affine_is_proved, of=lambda c: c.mixer.signals.get("q") and len(c.mixer.signals) < 7
)


def test_what_is_linear_has_a_matrix() -> None:
    without = {case.mixer.name for case in CASES if case.mixer.value is None}
    assert without == {"inside"}
