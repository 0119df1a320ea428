"""Mixers that are in no catalog against the definition: every form, streams, packed pieces, traits, text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import mixer_ir as mx

MIXERS: list[mx.Mixer] = []


def keep(mixer: mx.Mixer) -> mx.Mixer:
    MIXERS.append(mixer)
    return mixer


# ------------------------------------------------------------------------------------------ states that feed each other


@keep
@mx.recurrence
def mutual_momentum(
    M: mx.State("k v"), S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", a: "b t h", b: "b t h"
):
    """two states that feed each other, with gates of one number"""
    new = mx.sigmoid(a) * M + 0.1 * S + mx.outer(k, v)
    return new, mx.sigmoid(b) * S + 0.1 * M, q @ new


@keep
@mx.recurrence
def titans(M: mx.State("k v"), S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", a: "b t k", e: "b t", r: "b t"):
    """a memory that forgets by channel and learns by a delta rule with momentum"""
    k = mx.l2norm(k, "k")
    S = mx.sigmoid(e) * S - mx.sigmoid(r) * mx.outer(k, k @ M - v)
    M = mx.sigmoid(a) * M + S
    return M, S, q @ M


@keep
@mx.recurrence
def oscillator(x: mx.State("n"), z: mx.State("n"), A: "n", dt: "b t", B: "n d", C: "d n", u: "b t d"):
    """LinOSS: the position and the speed of forced oscillators, stepped in turns"""
    dt = mx.sigmoid(dt)
    z = z + dt * (mx.sum(B * u, "d") - mx.exp(A) * x)
    x = x + dt * z
    return x, z, C @ x


@keep
@mx.recurrence
def turning(x: mx.State("n v"), y: mx.State("n v"), th: "b t n", g: "b t", k: "b t n", v: "b t v", q: "b t n"):
    """a rotation by hand, of two real states instead of a complex one"""
    c, s, d = mx.cos(th), mx.sin(th), mx.sigmoid(g)
    return d * (c * x - s * y) + mx.outer(k, v), d * (s * x + c * y), q @ x + q @ y


@keep
@mx.recurrence
def three(x: mx.State("n"), y: mx.State("n"), z: mx.State("n"), a: "b t n", u: "b t d", c: "n d"):
    """three states, of which one sees another after its step"""
    x1 = mx.sigmoid(a) * x - 0.1 * y + u * c
    y1 = 0.5 * y + 0.2 * z - 0.1 * x1
    z1 = 0.3 * z + 0.2 * x
    return x1, y1, z1, mx.sum(z1 * y, "n")


# ------------------------------------------------------------------------------------------ transitions


@keep
@mx.recurrence
def markov(p: mx.State("n"), A: "b t n m", x: "b t n"):
    """a Markov chain whose matrix changes at every step"""
    p = mx.rename(mx.contract(p, mx.softmax(A, axis="m"), over="n"), m="n") + x
    return p, p


@keep
@mx.recurrence
def legendre(c: mx.State("n"), B: "n", u: "b t d"):
    """HiPPO: a dense transition computed from positions, with factors of its row and of its column"""
    n, m = mx.index("n"), mx.rename(mx.index("n"), n="m")
    A = -((2 * n + 1) ** 0.5) * (2 * m + 1) ** 0.5 * mx.where(n > m, 1.0, mx.where(mx.equal(n, m), 0.5, 0.0))
    c = c + 0.1 * mx.contract(A, mx.rename(c, n="m"), over="m") + B * u
    return c, mx.sum(c, "n")


@keep
@mx.recurrence
def joint_delta(S: mx.State("k l v"), q: "b t k", p: "b t l", k: "b t k", l: "b t l", v: "b t v"):
    """a delta rule along two axes at once"""
    kl = mx.l2norm(k, "k") * mx.l2norm(l, "l")
    S = S - 0.5 * mx.outer(kl, mx.contract(kl, S, over="k l") - v)
    return S, mx.contract(q * p, S, over="k l")


@keep
@mx.recurrence
def bonus(S: mx.State("k v"), r: "b t h k", k: "b t h k", v: "b t h v", w: "b t h k", u: "h k"):
    """RWKV-6: read before the step, with a bonus for the current token"""
    y = r @ (S + mx.outer(u * k, v))
    return mx.exp(-mx.exp(w)) * S + mx.outer(k, v), y


@keep
@mx.recurrence
def slots(K: mx.State("m k"), V: mx.State("m v"), Z: mx.State("m"), q: "b t k", k: "b t k", v: "b t v", s: "b t m"):
    """ABC: keys and values written into slots, and attention over the slots"""
    e = mx.exp(s)
    Z, K, V = Z + e, K + mx.outer(e, k), V + mx.outer(e, v)
    p = mx.softmax((q @ K) / Z, axis="m")
    return K, V, Z, (p / Z) @ V


# ------------------------------------------------------------------------------------------ matrices


@keep
@mx.mixer
def turned(q: "b t k", k: "b t k", v: "b t v", g: "b t"):
    """flips and transposes of one matrix, in every order"""
    M = mx.semiseparable(q, mx.sigmoid(g), k)
    return (mx.flip(M).T + mx.flip(M.T) + mx.flip(mx.flip(M)) + M.T.T) @ v


@keep
@mx.mixer
def filters(h: "t", g: "t", v: "b t v"):
    """products of convolutions that look both ways and around the end"""
    M = mx.toeplitz(h, anti=g)
    return (M.T @ mx.flip(M) @ mx.circulant(h).T @ mx.flip(mx.circulant(g))) @ v


@keep
@mx.mixer
def low_by_high(C: "b t n", B: "b t n", a: "b t", D: "b t m", E: "b t m", c: "b t m", x: "b t d"):
    """a product of semiseparable matrices of both directions"""
    return (mx.semiseparable(C, mx.sigmoid(a), B) @ mx.semiseparable(D, mx.sigmoid(c), E).T) @ x


@keep
@mx.mixer
def grouped(q: "b t g h k", k: "b t g k", v: "b t g v"):
    """grouped queries: an axis of heads that keys and values lack"""
    return mx.softmax(mx.causal(mx.lowrank(q, k))) @ v


@keep
@mx.mixer
def banded_weights(q: "b t k", k: "b t k", v: "b t v"):
    """a window on weights that were normalised over the whole past"""
    M = mx.normalize(mx.causal(mx.lowrank(mx.exp(q), mx.exp(k))))
    return (mx.band(M, 3) + mx.band(mx.softmax(mx.causal(mx.lowrank(q, k))), 2)) @ v


@keep
@mx.mixer
def short_filter(w: "d j", x: "b t d"):
    return (mx.flip(mx.toeplitz(w, lags="j")) + mx.toeplitz(w, anti=w, lags="j")) @ x


@keep
@mx.mixer
def across(q: "b t h k", k: "b s h k", v: "b s h v"):
    """cross attention that sees keys up to its own position"""
    return (mx.softmax(mx.causal(mx.lowrank(q, k))) + mx.band(mx.lowrank(q, k), 2, after=1)) @ v


# ------------------------------------------------------------------------------------------ laws


all_mixers = pytest.mark.parametrize("mixer", MIXERS, ids=lambda m: m.name)
F64 = (torch.float64,)


@all_mixers
def test_every_form_is_the_definition(mixer: mx.Mixer) -> None:
    report = mx.verify(mixer, lengths=(5,), chunks=(2,), dtypes=F64, backends=("eager",))
    assert report.ok, str(report)
    again = mx.loads(mx.dumps(mixer))
    assert again.expr is mixer.expr and mixer.name in str(mx.compile(mixer).explain(t=16))


@pytest.mark.parametrize("mixer", [m for m in MIXERS if m is not across], ids=lambda m: m.name)
def test_packed_pieces_are_apart(mixer: mx.Mixer) -> None:
    packed = mixer.with_reset()
    forms = [f for f in ("chunked", "direct", "flash", "dense") if f in packed.forms()][:1]
    report = mx.verify(packed, lengths=(6,), chunks=(4,), forms=forms, dtypes=F64, backends=("eager",))
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("mixer", "name"),
    [(mutual_momentum, "M+S"), (oscillator, "x+z"), (three, "x+y+z")],
    ids=["two", "in_turns", "three"],
)
def test_states_that_feed_each_other_are_proved_together(mixer: mx.Mixer, name: str) -> None:
    assert mx.prove(mixer).ok
    assert {"recurrent", "chunked", "scan"} <= set(mixer.forms())
    signals = {n: torch.randn([2] * len(a)) for n, a in mixer.signals.items()}
    _, state = mx.compile(mixer).prefill(**signals)
    assert list(state) == [name] and len(name.split("+")) in state[name].shape


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda M: 1 + M, ["the number 1 is none", "mx.identity()"]),
        (lambda M: M - 2.5, ["the number 2.5 is none", "mx.lowrank(1.0, 1.0, over='')"]),
    ],
)
def test_a_number_beside_a_matrix_is_refused(declare: Callable[[mx.Matrix], mx.Matrix], words: list[str]) -> None:
    with pytest.raises(mx.DeclarationError) as caught:

        @mx.mixer
        def mixed(q: "b t k", v: "b t v"):
            return declare(mx.lowrank(q, q)) @ v

    assert all(word in str(caught.value) for word in words)


def test_a_convolution_asked_for_on_packed_pieces_says_what_to_do() -> None:
    f = mx.compile(filters, form="fft")
    with pytest.raises(mx.FormError, match=r"packed with reset=.*form='auto'.*one of dense"):
        f(h=torch.randn(4), g=torch.randn(4), v=torch.randn(2, 4, 3), reset=torch.zeros(2, 4, dtype=torch.bool))


def test_a_grid_of_other_places_than_steps_is_named() -> None:
    @mx.mixer
    def laid_out(l: "i j l", r: "l i k", x: "b t d"):
        return mx.monarch(l, r) @ x

    with pytest.raises(mx.AxisError, match=r"t = 7 steps out on a grid i × j of 2 · 3 places"):
        mx.compile(laid_out)(l=torch.randn(2, 3, 3), r=torch.randn(3, 2, 2), x=torch.randn(1, 7, 2))
    assert "t = 1024" in str(mx.compile(laid_out).explain())
