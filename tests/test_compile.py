"""Compiled mixers: every form is the oracle's, and a state handed on changes nothing."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch

import mixer_ir as mx
from mixer_ir.definition.oracle import entries, evaluate
from mixer_ir.driver.cache import Cache
from mixer_ir.driver.streaming import StreamState

B, T, H, K, V = 2, 7, 2, 3, 4
SIZES = {"b": B, "t": T, "h": H, "k": K, "v": V, "n": 3, "s": 5}


@mx.recurrence
def delta(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h", beta: "b t h"):
    S = mx.exp(g) * (S - beta * mx.outer(k, k @ S)) + beta * mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def gated(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h k"):
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def bent(h: mx.State("k"), x: "b t k"):
    h = mx.tanh(h + x)
    return h, h


@mx.mixer
def attention(q: "b t h k", k: "b t h k", v: "b t h v"):
    return mx.softmax(mx.causal(mx.lowrank(q, k))) @ v


@mx.mixer
def windowed(q: "b t h k", k: "b t h k", v: "b t h v"):
    return mx.softmax(mx.band(mx.lowrank(q, k), 3)) @ v


@mx.mixer
def across(q: "b t h k", k: "b s h k", v: "b s h v"):
    return mx.softmax(mx.lowrank(q, k)) @ v


@mx.mixer
def filtered(w: "h t", v: "b t h v"):
    return mx.toeplitz(w) @ v


@mx.mixer
def both_ways(q: "b t k", k: "b t k", v: "b t v", d: "b t"):
    M = mx.causal(mx.lowrank(q, k))
    return (M + mx.flip(M) + mx.diagonal(d)) @ v


@mx.mixer
def summed(v: "b t v", g: "b t"):
    return mx.cumsum(v) * mx.sigmoid(mx.delay(g, by=1))


@mx.mixer
def still(w: "n", q: "n", v: "b t v"):
    return mx.semiseparable(q, mx.transition(mx.exp(-mx.softplus(w))), w, over="n") @ v


MIXERS = (delta, gated, bent, attention, windowed, across, filtered, both_ways, summed, still)
STREAMED = (delta, gated, bent, attention, windowed, filtered, summed, still)


def named(mixer):
    return mixer.name


def signals(mixer, dtype=torch.float64, t=T):
    sizes = {**SIZES, "t": t}
    given = {n: torch.randn([sizes[a] for a in axes], dtype=dtype) for n, axes in mixer.signals.items()}
    for name in {"g", "beta"} & set(given):
        given[name] = -given[name].abs() if name == "g" else given[name].sigmoid()
    if mixer is delta:
        given["k"] = torch.nn.functional.normalize(given["k"], dim=-1)
    return given


def want(mixer, given, initial=None):
    return evaluate(mixer.body, given, mixer.signals, mixer.returns, initial)


def close(got, wanted, tolerance=1e-9):
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted.to(got.dtype), rtol=tolerance, atol=tolerance)


def at(mixer, given, window):
    """The signals at some steps."""
    return {
        n: x[(slice(None),) * a.index("t") + (window,)] if "t" in a else x
        for (n, a), x in zip(mixer.signals.items(), given.values(), strict=True)
    }


FORMS = [(mixer, form) for mixer in MIXERS for form in ("auto", *mixer.forms())]


@pytest.mark.parametrize(("mixer", "form"), FORMS, ids=lambda x: getattr(x, "name", x))
def test_every_form_is_the_oracle_with_its_gradients(mixer, form):
    given = {n: x.requires_grad_() for n, x in signals(mixer).items()}
    wanted = want(mixer, given)
    y = mx.compile(mixer, form=form)(**given)
    close(y, wanted)
    w = torch.randn_like(wanted)
    got = torch.autograd.grad((y * w).sum(), list(given.values()))
    for one, two in zip(got, torch.autograd.grad((wanted * w).sum(), list(given.values())), strict=True):
        close(one, two, 1e-8)


@pytest.mark.parametrize("mixer", MIXERS, ids=named)
@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_backends_agree(mixer, backend):
    given = {n: x.requires_grad_() for n, x in signals(mixer).items()}
    y = mx.compile(mixer, backend=backend)(**given)
    close(y, want(mixer, given))
    y.sum().backward()
    assert all(x.grad is not None for x in given.values())


@pytest.mark.parametrize("mixer", STREAMED, ids=named)
@pytest.mark.parametrize("split", [1, 4, 6])
def test_a_state_handed_on_changes_nothing(mixer, split):
    given = signals(mixer)
    wanted, f = want(mixer, given), mx.compile(mixer)
    first, state = f.prefill(**at(mixer, given, slice(split)))
    close(first, wanted.narrow(mixer.returns.index("t"), 0, split))
    rest, last = f(**at(mixer, given, slice(split, None)), initial_state=state, return_state=True)
    close(rest, wanted.narrow(mixer.returns.index("t"), split, T - split))
    assert last.length == T
    for t in range(split, T):
        y, state = f.step(state, **at(mixer, given, t))
        close(y, wanted.select(mixer.returns.index("t"), t))
    assert state.length == T


@pytest.mark.parametrize("mixer", STREAMED, ids=named)
def test_steps_from_nothing_are_the_whole(mixer):
    given = signals(mixer, t=20)
    wanted, f, state = want(mixer, given), mx.compile(mixer), None
    for t in range(20):
        y, state = f.step(state, **at(mixer, given, t))
        close(y, wanted.select(mixer.returns.index("t"), t))


@pytest.mark.parametrize("mixer", [m for m in MIXERS if m not in (bent, summed)], ids=named)
def test_the_matrix_is_what_it_multiplies_by(mixer):
    given = signals(mixer)
    value = mixer.value
    M = mx.compile(mixer).matrix(**{n: x for n, x in given.items() if n != value or mixer is still})
    wanted, axes = entries(mixer.matrix_expr, given, mixer.signals)
    order = [axes.index(a) for a in (*(a for a in mixer.returns if a in axes and a != "t"), "t", "s")]
    close(M, wanted.permute(order))
    close(mx.compile(mixer).matrix(**given), M)


def test_gradients_reach_the_initial_state():
    given = signals(delta)
    S = torch.randn(B, H, K, V, dtype=torch.float64, requires_grad=True)
    y = mx.compile(delta)(**given, initial_state={"S": S})
    wanted = want(delta, given, {"S": (S, tuple("bhkv"))})
    close(y, wanted)
    w = torch.randn_like(y)
    close(*(torch.autograd.grad((x * w).sum(), S)[0] for x in (y, wanted)))


@pytest.mark.parametrize("mixer", [delta, gated, bent, attention, windowed, summed], ids=named)
def test_packed_sequences_do_not_see_each_other(mixer):
    given, f = signals(mixer), mx.compile(mixer)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, 3] = True
    y = f(**given, reset=reset)
    axis = mixer.returns.index("t")
    close(y.narrow(axis, 0, 3), f(**at(mixer, given, slice(3))))
    close(y.narrow(axis, 3, T - 3), f(**at(mixer, given, slice(3, None))))


def test_what_needs_no_gradient_costs_no_backward_pass():
    given = signals(delta)
    given["v"].requires_grad_()
    y = mx.compile(delta)(**given)
    y.sum().backward()
    assert given["v"].grad is not None
    assert all(x.grad is None for n, x in given.items() if n != "v")
    with torch.no_grad():
        assert not mx.compile(delta)(**given).requires_grad


def test_programs_are_made_once_a_size():
    f = mx.compile(delta)
    for t in (5, 5, 6, 5):
        f(**signals(delta, t=t))
    assert len(f._programs) == 2


def test_an_autocast_region_does_not_lower_the_precision():
    given, f = signals(gated, torch.float32), mx.compile(gated)
    wanted = f(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(f(**given), wanted)


def test_copies_and_pickles_are_the_same_function():
    given, f = signals(delta), mx.compile(delta, form="chunked", chunk=4)
    for again in (copy.copy(f), copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert (again.form, again.options) == ("chunked", {"chunk": 4})
        close(again(**given), f(**given))
    _, state = f.prefill(**given)
    again = pickle.loads(pickle.dumps(state))
    assert isinstance(again, StreamState)
    assert again.length == T
    assert repr(f) == "<compiled delta: form chunked, backend auto, chunk=4>"


def test_threads_share_one_program():
    f, given, results = mx.compile(delta), signals(delta), []
    threads = [threading.Thread(target=lambda: results.append(f(**given))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(f._programs) == 1
    for y in results:
        close(y, results[0])


def test_the_cache_forgets_what_was_not_used_for_longest():
    made = []
    cache = Cache(2)
    for key in "abacab":
        cache.get(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c", "b"]
    assert len(cache) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_dtype_of_the_signals(dtype):
    given = signals(attention, dtype)
    assert mx.compile(attention)(**given).dtype == dtype


def test_complex_signals():
    given = signals(still)
    given["v"] = given["v"] + 1j * torch.randn_like(given["v"])
    y = mx.compile(still)(**given)
    assert y.dtype == torch.complex128
    close(y, want(still, given))


@mx.recurrence
def kept(S: mx.State("n"), R: mx.State("n"), q: "b t h n", u: "t h"):
    """states whose axis only the query has, one passing what it holds to the other"""
    return S, S + 0.3 * u * R, q @ (S + 0.3 * u * R)


@pytest.mark.parametrize("form", kept.forms())
def test_a_state_may_have_an_axis_that_only_its_query_has(form: str) -> None:
    u, q = torch.randn(3, 2), torch.randn(1, 3, 2, 4)
    state = {"S": torch.randn(4), "R": torch.randn(2, 4)}
    S, R, rows = state["S"], state["R"], []
    for t in range(3):
        R = S + 0.3 * u[t, :, None] * R
        rows.append((q[:, t] * R).sum(-1))
    f = mx.compile(kept, form=form)
    assert torch.equal(f(u=u, q=q), torch.zeros(1, 3, 2))
    torch.testing.assert_close(f(u=u, q=q, initial_state=state), torch.stack(rows, 1))
