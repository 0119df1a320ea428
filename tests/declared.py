"""A handful of mixers that together use every kind of node; tests of the language run over all of them."""

from __future__ import annotations

import mixer_ir as mx

AXES = "b t h"  # axes may also be named by a variable


@mx.recurrence(paper="arXiv 2412.06464", year=2024)
def gated_delta(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: AXES, beta: "b t h"):
    """S_t = e^{g_t} (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ,   y_t = S_tᵀ q_t"""
    S = mx.exp(g) * (S - beta * mx.outer(k, k @ S)) + beta * mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def normalised(S: mx.State("k v"), n: mx.State("k"), q: "b t k", k: "b t k", v: "b t v", i: "b t", f: "b t") -> "b t v":
    S = mx.sigmoid(f) * S + mx.exp(i) * mx.outer(k, v)
    n = mx.sigmoid(f) * n + mx.exp(i) * k
    return S, n, (q @ S) / mx.maximum(mx.abs(q @ n), 1.0)


@mx.recurrence
def selective(S: mx.State("n"), u: "b t d", dt: "b t d", A: "d n", B: "b t n", C: "b t n", D: "d"):
    S = mx.exp(dt * A) * S + dt * B * u
    return S, C @ S + D * u


@mx.recurrence
def full(S: mx.State("n"), A: "m n", B: "m", C: "b t n", u: "b t h"):
    return (A @ S) + B * u, C @ S


@mx.recurrence
def gates(c: mx.State("n"), h: mx.State("n"), W: "m n", U: "m d", x: "b t d", f: "b t n"):
    z = mx.rename(U @ x + W @ h, m="n")
    c = mx.sigmoid(f) * c + mx.tanh(z)
    h = mx.sigmoid(z) * mx.tanh(c)
    return c, h, h


@mx.mixer
def quasiseparable(C: "b t n", B: "b t n", x: "b t h p", dt: "b t h", A: "h", Cr: "b t n", Br: "b t n", D: "h"):
    fwd = mx.semiseparable(C, mx.exp(A * dt), dt * B)
    bwd = mx.semiseparable(Cr, mx.exp(A * dt), dt * Br)
    return (mx.shift(fwd) + mx.flip(mx.shift(bwd)) + mx.diagonal(D)) @ x


@mx.mixer
def cross(q: "b t h k", k: "b s h k", v: "b s h v", keep: "b s"):
    return mx.softmax(mx.mask(mx.lowrank(q, k) / 2, keep > 0)) @ v


@mx.mixer
def window(q: "b t k", k: "b t k", v: "b t v", slope: ""):
    distance = mx.index("t") - mx.source(mx.index("t"))
    return mx.softmax(mx.band(mx.lowrank(q, k) - mx.dense(slope * distance), 3, after=1)) @ v


@mx.mixer
def convolutions(h: "d t", g: "d t", w: "d j", u: "b t d", z: "b t d"):
    y = mx.toeplitz(w, lags="j") @ u
    return mx.silu(z) * (mx.toeplitz(h, anti=g) @ mx.circulant(g) @ y)


@mx.mixer
def structures(x: "t k", y: "t k", v: "b t c", M: "t s", a: "t", lr: "t k"):
    leaf = mx.vandermonde(x, weight=y, over="k") + mx.cauchy(x + 3, y, over="k") + mx.dft() @ mx.dft(inverse=True)
    more = mx.decay(mx.causal(mx.dense(M)), mx.sigmoid(a)).T + mx.normalize(mx.exp(mx.lowrank(x, y)), eps=1.0, floor=1)
    delta = mx.transition(0.5, low_rank=[(lr, x), (y, lr)])
    return (leaf * more - mx.semiseparable(x, delta, y) / 3 + mx.identity()) @ v


@mx.mixer
def along_time(x: "b t c", z: "b t", table: "n c", code: "b t"):
    rows = mx.take(table, code, axis="n") + mx.one_hot(code, axis="n") @ table
    total = mx.cumsum(x * mx.softmax(rows, axis="c")) / (mx.index("t") + 1)
    return total + mx.delay(mx.l2norm(x, "c"), 2) + mx.detach(mx.cummax(z)) * mx.clamp(mx.cumprod(z), -1, 1)


@mx.mixer
def nested(q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h", beta: "b t h"):
    again = gated_delta.M(q=q, k=k, g=-0.1, beta=beta)
    return gated_delta(q=q, k=k, v=mx.silu(v), g=g, beta=beta) + (2 * again) @ v


@mx.mixer
def grid(left: "h i j l", right: "h l i k", v: "b t h", w: "b t h"):
    z = (1 - 2j) * mx.complex(mx.real(w), mx.where((w > 0) & ~mx.equal(w, 1.5), 1.0, 0.25))
    return mx.monarch(left, right) @ v + mx.real(mx.resets(mx.causal(mx.lowrank(w, v, over="")), w < 0) @ z)


ALL = (
    gated_delta, normalised, selective, full, gates, quasiseparable, cross, window, convolutions, structures,
    along_time, nested, grid,
)  # fmt: skip
