"""Recurrences that are in no catalog, each against a loop of its own: forms, streams, packing, text, proof."""

from __future__ import annotations

import torch
from torch.nn import functional as F

import mixer_ir as mx
from tests.beside_a_loop import (
    Cases,
    forms_are_the_loop,
    matrix_text_and_precision_hold,
    memory,
    negative,
    outer,
    over_state,
    read,
    scan,
    streams_and_pieces_are_the_loop,
    unit,
    what_is_affine_is_proved,
)

CASES = Cases()
by = CASES.by


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


@by(loop_of_momentum, g=negative, beta=torch.sigmoid, k=unit)
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


def loop_of_squares(q, k, v, g):
    def step(S, q, k, v, g):
        S = g.exp()[:, None, None, None] * S + torch.einsum("bk,bl,bv->bklv", k, k, v)
        return S, torch.einsum("bk,bl,bklv->bv", q, q, S)

    return scan(step, torch.zeros(len(q), 3, 3, v.shape[-1], dtype=torch.float64), over=(q, k, v, g))


@by(loop_of_squares, g=negative)
@mx.recurrence
def squares(S: mx.State("k l v"), q: "b t k", k: "b t k", v: "b t v", g: "b t"):
    """a memory of the products of features, along an axis l that no signal has"""
    S = mx.exp(g) * S + mx.outer(k * mx.rename(k, k="l"), v)
    return S, mx.contract(q * mx.rename(q, k="l"), S, over="k l")


@by(lambda x, a: scan(lambda s, x, a: (a * s + x,) * 2, torch.zeros(()), over=(x[None], a[None]))[0])
@mx.recurrence
def bare(s: mx.State(""), x: "t", a: "t"):
    """one number, with factors of any sign, without a batch"""
    s = a * s + x
    return s, s


test_every_form_is_the_loop = CASES.each(forms_are_the_loop)
test_streams_and_pieces_are_the_loop = CASES.each(streams_and_pieces_are_the_loop)
test_matrix_text_and_precision = CASES.each(matrix_text_and_precision_hold)
test_what_is_affine_is_proved = CASES.each(
    what_is_affine_is_proved, of=lambda c: c.mixer.signals.get("q") and len(c.mixer.signals) < 7
)


def test_what_is_linear_has_a_matrix() -> None:
    without = {case.mixer.name for case in CASES if case.mixer.value is None}
    assert without == {"gated_unit", "second_memory", "liquid"}
