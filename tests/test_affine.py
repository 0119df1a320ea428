"""The normal form of recurrences: the same outputs as the traced update, and a reason where there is none."""

from __future__ import annotations

import pytest
import torch

import mixer_ir as mx
from mixer_ir.definition.oracle import evaluate
from mixer_ir.nodes.expr import Size
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Read, Run
from mixer_ir.rules.affine import NotAffine, normal_form
from mixer_ir.rules.canonical import canonicalise

SIZES = {"b": 2, "t": 6, "h": 2, "k": 3, "v": 4, "n": 3, "m": 3, "d": 2, "r": 2, "j": 3}


@mx.recurrence
def gated_delta(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h", beta: "b t h"):
    S = mx.exp(g) * (S - beta * mx.outer(k, k @ S)) + beta * mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def delta_in_its_other_spelling(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", beta: "b t"):
    S = S + mx.outer(beta * k, v - k @ S)
    return S, q @ S


@mx.recurrence
def householders(S: mx.State("k v"), q: "b t k", k: "b t k", l: "b t k", v: "b t v", w: "b t v", g: "b t k"):
    S = mx.exp(g) * S
    S = S - mx.outer(k, k @ S) + mx.outer(k, v)
    S = S - mx.outer(l, l @ S) + mx.outer(l, w)
    return S, q @ S


@mx.recurrence
def read_before(S: mx.State("k v"), r: "b t k", k: "b t k", v: "b t v", w: "b t k", u: "k"):
    y = r @ (S + mx.outer(u * k, v))
    S = mx.exp(-mx.exp(w)) * S + mx.outer(k, v)
    return S, y


@mx.recurrence
def read_between(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", a: "b t k"):
    mid = a * S
    return mid + mx.outer(k, v), q @ mid


@mx.recurrence
def normalised(S: mx.State("k v"), n: mx.State("k"), q: "b t k", k: "b t k", v: "b t v", f: "b t", i: "b t"):
    S = mx.sigmoid(f) * S + mx.exp(i) * mx.outer(k, v)
    n = mx.sigmoid(f) * n + mx.exp(i) * k
    return S, n, (q @ S) / mx.maximum(mx.abs(q @ n), 1.0)


@mx.recurrence
def selective_scan(S: mx.State("d n"), x: "b t d", dt: "b t d", A: "d n", B: "b t n", C: "b t n", D: "d"):
    S = mx.exp(A * dt) * S + mx.outer(dt * x, B)
    return S, mx.contract(C, S, over="n") + D * x


@mx.recurrence
def state_is_output(h: mx.State("d"), x: "b t d", a: "b t d"):
    h = mx.sigmoid(a) * h + (1 - mx.sigmoid(a)) * x
    return h, h


@mx.recurrence
def complex_decay(x: mx.State("n"), u: "b t d", nu: "n", theta: "n", B: "n d", C: "d n"):
    decay = mx.exp(mx.complex(-mx.exp(nu), theta))
    x = decay * x + mx.contract(B, u, over="d")
    return x, mx.real(mx.contract(C, mx.exp(mx.complex(0.0, theta)) * x, over="n"))


@mx.recurrence
def dense_transition(x: mx.State("n"), u: "b t d", A: "m n", B: "n d", C: "d n"):
    x = mx.rename(A @ x, m="n") + mx.contract(B, u, over="d")
    return x, mx.contract(C, x, over="n")


@mx.recurrence
def dense_on_a_matrix_state(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", A: "j k", g: "b t k"):
    S = 0.3 * mx.rename(mx.contract(A, S, over="k"), j="k") + g * S + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def transposed_axes(S: mx.State("v k"), q: "b t k", k: "b t k", v: "b t v", beta: "b t"):
    S = S - beta * mx.outer(mx.contract(S, k, over="k"), k) + mx.outer(v, k)
    return S, mx.contract(S, q, over="k")


@mx.recurrence
def boundary_by_hand(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t", r: "b t"):
    S = mx.where(r > 0, 0, mx.exp(g) * S) + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def boundary_read_before(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t", r: "b t"):
    y = q @ S
    S = mx.where(r > 0, 0, mx.exp(g) * S) + mx.outer(k, v)
    return S, y


@mx.recurrence
def value_gates(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", a: "b t k", z: "b t v"):
    S = mx.sigmoid(a) * mx.sigmoid(z) * S + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def momentum(M: mx.State("k v"), S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", m: "b t", a: "b t"):
    M = mx.sigmoid(m) * M + mx.outer(k, v)
    S = mx.exp(-mx.softplus(a)) * S + M
    return M, S, q @ S


@mx.recurrence
def chain(P: mx.State("k v"), z: mx.State("v"), q: "b t k", k: "b t k", v: "b t v", w: "v"):
    P = 0.9 * P + mx.outer(k, v)
    z = 0.5 * z + mx.tanh(q @ P)
    return P, z, w * z


@mx.recurrence
def several_inputs(S: mx.State("k v"), q: "b t k", k: "b t k", l: "b t k", v: "b t v", w: "b t v"):
    S = 0.9 * S + 0.5 * (mx.outer(k, v) + mx.outer(l, w)) - mx.outer(k, w)
    return S, q @ S


@mx.recurrence
def inseparable_input(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v"):
    S = 0.9 * S + mx.tanh(k * v)
    return S, q @ S


@mx.recurrence
def two_passes(K: mx.State("m k"), V: mx.State("m v"), q: "b t k", k: "b t k", v: "b t v", w: "b t m"):
    K = mx.exp(-mx.softplus(w)) * K + mx.outer(1 - mx.exp(-mx.softplus(w)), k)
    V = mx.exp(-mx.softplus(w)) * V + mx.outer(1 - mx.exp(-mx.softplus(w)), v)
    p = mx.softmax(mx.contract(q, K, over="k"), axis="m")
    return K, V, mx.contract(p, V, over="m")


@mx.recurrence
def old_state_of_another(a: mx.State("k"), c: mx.State("k"), x: "b t k", g: "b t k"):
    return 0.5 * a + x, mx.sigmoid(g) * c + a, a + c


@mx.recurrence
def shift_register(a: mx.State("d"), c: mx.State("d"), x: "b t d", w: "d"):
    return x, a, w * c + a


@mx.recurrence
def whole_state_and_a_read(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", p: "v"):
    S = S - mx.outer(k, k @ S) + mx.outer(k, v)
    return S, mx.contract(p, S, over="v") + mx.sum(mx.contract(q, S, over="k"), over="v")


@mx.recurrence
def bilinear_read(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", p: "b t v"):
    S = S - 0.5 * mx.outer(k, k @ S) + mx.outer(k, v)
    return S, mx.contract(p * q, S, over="k v")


@mx.recurrence
def sums_of_states(S: mx.State("k v"), k: "b t k", v: "b t v", g: "b t k"):
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, mx.sum(S, over="k")


@mx.recurrence
def transition_written_as_one_matrix(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", W: "k j"):
    S = 0.5 * mx.contract(W, mx.rename(S, k="j"), over="j") + mx.outer(k, v)
    return S, q @ S


AFFINE = {name: m for name, m in list(globals().items()) if isinstance(m, mx.Mixer)}


def drawn(mixer: mx.Mixer) -> dict[str, torch.Tensor]:
    return {n: 0.5 * torch.randn([SIZES[a] for a in axes], dtype=torch.float64) for n, axes in mixer.signals.items()}


def both(mixer: mx.Mixer) -> tuple[torch.Tensor, torch.Tensor]:
    signals, axes = drawn(mixer), dict(mixer.signals)
    want = evaluate(mixer.body, signals, axes, mixer.returns)
    return evaluate(canonicalise(mixer.body).expr, signals, axes, mixer.returns), want


@pytest.mark.parametrize("name", AFFINE)
def test_the_normal_form_gives_what_the_update_gives(name: str) -> None:
    expr = canonicalise(AFFINE[name].body).expr
    assert not any(isinstance(n, Run) for n in walk(expr))
    got, want = both(AFFINE[name])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", AFFINE)
def test_with_boundary_resets_too(name: str) -> None:
    mixer = AFFINE[name].with_reset()
    signals, axes = drawn(mixer), dict(mixer.signals)
    signals["reset"] = torch.rand(2, SIZES["t"]) < 0.4
    want = evaluate(mixer.body, signals, axes, mixer.returns)
    got = evaluate(canonicalise(mixer.body).expr, signals, axes, mixer.returns)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def the_process(mixer: mx.Mixer):
    found = {n.process for n in walk(canonicalise(mixer.body).expr) if isinstance(n, Read)}
    assert len(found) == 1
    return found.pop()


def test_a_decay_that_is_a_product_of_exponentials_is_kept_as_a_log() -> None:
    assert the_process(gated_delta).transition.log is not None
    assert the_process(state_is_output).transition.log is not None
    assert the_process(value_gates).transition.log is not None
    assert the_process(read_between).transition.factor is not None


def test_a_product_of_householders_is_diagonal_plus_rank_two() -> None:
    A = the_process(householders).transition
    assert len(A.low_rank) == 2 and A.log is not None and A.dense is None


def test_a_choice_of_zero_is_a_reset_unless_the_state_is_read_before() -> None:
    assert the_process(boundary_by_hand).reset is not None
    assert the_process(boundary_read_before).reset is None


def test_keys_and_values_are_told_apart() -> None:
    p = the_process(gated_delta)
    assert p.over == ("k",) and [(set(k.axes), v.axes) for k, v in p.inputs] == [
        ({"b", "t", "h", "k"}, ("b", "t", "h", "v"))
    ]
    assert not any(isinstance(n, Size) for n in walk(p))


@mx.recurrence
def tanh_cell(h: mx.State("d"), x: "b t d", W: "j d"):
    h = mx.tanh(mx.rename(mx.contract(W, h, over="d"), j="d") + x)
    return h, h


@mx.recurrence
def square(S: mx.State("k"), x: "b t k"):
    return S * S + x, S


@mx.recurrence
def fed_back(S: mx.State("k"), M: mx.State("k"), x: "b t k"):
    M = 0.5 * M + S + x
    return S + M, M, S


@mx.recurrence
def both_sides(S: mx.State("k v"), k: "b t k", v: "b t v"):
    S = S - mx.outer(k, k @ S) - mx.outer(mx.contract(S, v, over="v"), v) + mx.outer(k, v)
    return S, S


@mx.recurrence
def cell(c: mx.State("d"), h: mx.State("d"), x: "b t d", W: "j d"):
    z = x + mx.rename(W @ h, j="d")
    c = mx.sigmoid(z) * c + mx.tanh(z)
    h = mx.sigmoid(z) * mx.tanh(c)
    return c, h, h


@mx.recurrence
def unlike(S: mx.State("k v"), n: mx.State("k"), k: "b t k", v: "b t v"):
    return S + mx.outer(n, v), n + mx.sum(S, "v") + k, S


@mx.recurrence
def turned(S: mx.State("k"), M: mx.State("k"), W: "j k", x: "b t k"):
    return S + mx.rename(W @ M, j="k") + x, M + S, S


def test_states_that_feed_each_other_are_one() -> None:
    p = the_process(fed_back)
    assert p.name == "S+M" and p.axes == ("S+M", "k") and not p.transition.low_rank
    assert fed_back.forms() == ["recurrent", "chunked", "parallel", "scan", "fft", "monarch", "direct", "dense"]


@pytest.mark.parametrize(
    ("mixer", "words"),
    [
        (tanh_cell, ["h is not affine in h", "tanh"]),
        (square, ["S is not affine in S"]),
        (cell, ["c is not affine in h", "sigmoid"]),
        (unlike, ["S, n feed each other", "S has axes (k v) and n has (k)"]),
        (turned, ["S, M feed each other through a matrix along k"]),
        (both_sides, ["mixes S along k and v at once"]),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_a_recurrence_without_normal_form_says_why(mixer: mx.Mixer, words: list[str]) -> None:
    (run,) = {n for n in walk(mixer.body) if isinstance(n, Run)}
    refusal = normal_form(run.recurrence)
    assert isinstance(refusal, NotAffine)
    for word in words:
        assert word in refusal.reason
    assert mixer.forms() == ["recurrent"]
