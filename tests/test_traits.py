"""Traits: inferred ones are those that hold of the matrix; legality follows, and every refusal is a sentence."""

from __future__ import annotations

import re

import pytest
import torch

import mixer_ir as mx
from mixer_ir.definition.oracle import entries, evaluate
from mixer_ir.driver import samples
from mixer_ir.errors import DeclarationError, StreamError
from mixer_ir.nodes.expr import Signal
from mixer_ir.nodes.matrix import Diagonal, Flip, Matrix, Semiseparable, Sum
from mixer_ir.rules.canonical import gathered
from mixer_ir.rules.legal import FORMS, legal, refusal
from mixer_ir.rules.pieces import pieces
from mixer_ir.rules.reach import Reach, entries_reach
from tests.fuzz import part
from tests.random_mixers import Declaration, Piece, draw
from tests.test_affine import AFFINE
from tests.test_rules import Draw, values

SIZES = {"b": 2, "t": 6, "s": 6, "h": 2, "k": 3, "v": 2, "n": 2, "c": 4, "d": 2, "l": 3}


@mx.mixer
def attention(q: "b t h k", k: "b t h k", v: "b t h v"):
    return mx.softmax(mx.causal(mx.lowrank(q, k))) @ v


@mx.mixer
def cross_attention(q: "b t k", k: "b s k", v: "b s v"):
    return mx.softmax(mx.lowrank(q, k)) @ v


@mx.mixer
def window(q: "b t k", k: "b t k", v: "b t v"):
    return mx.softmax(mx.band(mx.lowrank(q, k), 3)) @ v


@mx.mixer
def long_convolution(x: "b t d", h: "d t", D: "d"):
    return mx.toeplitz(h) @ x + D * x


@mx.mixer
def two_sided(q: "b t n", k: "b t n", a: "b t", r: "b t n", l: "b t n", c: "b t", D: "", x: "b t v"):
    forward = mx.semiseparable(q, mx.exp(-mx.softplus(a)), k, over="n")
    backward = mx.semiseparable(r, mx.exp(-mx.softplus(c)), l, over="n")
    return (mx.shift(forward) + mx.flip(mx.shift(backward)) + D * mx.identity()) @ x


@mx.mixer
def codebook_attention(q: "b t k", z: "b t", W: "c k", v: "b t v"):
    return mx.softmax(mx.causal(mx.lowrank(q, mx.take(W, z, axis="c")))) @ v


@mx.recurrence
def time_invariant(x: mx.State("d n"), u: "b t d", A: "d n", B: "d n", C: "d n"):
    x = mx.exp(-mx.exp(A)) * x + B * u
    return x, mx.contract(C, x, over="n")


@mx.recurrence
def read_before(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v"):
    return S + mx.outer(k, v), q @ S


@mx.mixer
def backward(x: "b t v", g: "b t", q: "b t n", k: "b t n"):
    return mx.flip(mx.semiseparable(q, mx.exp(-mx.softplus(g)), k, over="n")) @ x


EXPECTED = {
    "attention": (attention, "causal data_dependent streamable", None),
    "cross_attention": (cross_attention, "data_dependent streamable", "softmax"),
    "window": (window, "causal data_dependent streamable linear_time", None),
    "long_convolution": (long_convolution, "causal time_invariant streamable", None),
    "two_sided": (two_sided, "bidirectional data_dependent linear_time", "quasiseparable"),
    "codebook_attention": (codebook_attention, "causal data_dependent streamable linear_time", None),
    "time_invariant": (time_invariant, "causal time_invariant streamable linear_time", "toeplitz"),
    "read_before": (read_before, "causal strictly_causal data_dependent streamable linear_time", "semiseparable"),
    "backward": (backward, "anticausal data_dependent linear_time", "semiseparable backward in time"),
}
FLAGS = (
    "causal",
    "strictly_causal",
    "anticausal",
    "bidirectional",
    "time_invariant",
    "data_dependent",
    "linear_time",
    "streamable",
)


@pytest.mark.parametrize("name", EXPECTED)
def test_traits_are_those_that_are_known(name: str) -> None:
    mixer, flags, structure = EXPECTED[name]
    expected = set(flags.split())
    if name == "cross_attention":
        expected.add("bidirectional")
    assert {f for f in FLAGS if getattr(mixer.traits, f)} == expected
    if structure is not None:
        assert mixer.traits.structure == structure
    assert str(mixer.traits) and mixer.traits.to_json()["cost"] == mixer.traits.cost


@pytest.mark.parametrize("name", ["attention", "two_sided", "codebook_attention", "read_before", "time_invariant"])
def test_causality_holds_of_the_values(name: str) -> None:
    mixer = EXPECTED[name][0]
    torch.manual_seed(0)
    signals = {n: torch.randn([SIZES[a] for a in axes], dtype=torch.float64) for n, axes in mixer.signals.items()}
    if "z" in signals:
        signals["z"] = torch.randint(0, 4, signals["z"].shape)
    axes = dict(mixer.signals)
    changed = dict(signals)
    for n, own in axes.items():
        if "t" in own:
            later = torch.arange(SIZES["t"]) >= 3
            shape = [SIZES["t"] if a == "t" else 1 for a in own]
            changed[n] = torch.where(later.reshape(shape), signals[n].flip(0), signals[n])
    y, z = (
        evaluate(mixer.body, s, axes, mixer.returns).select(mixer.returns.index("t"), 2) for s in (signals, changed)
    )
    assert torch.allclose(y, z) == mixer.traits.causal


def streams(mixer: mx.Mixer, d: Declaration) -> bool:
    """Whether the first step can be taken by itself, and the others from its state."""
    n = max(d.sizes["t"], 2)
    sizes = samples.sizes_for(mixer, n, {**d.sizes, "t": n} | ({} if d.cross else {"s": n}))
    given = {x: torch.randn([sizes[a] for a in mixer.signals[x]]).cdouble() for x in mixer.signals if x[0] == "Z"}
    signals = samples.draw(mixer, sizes, d.seed, given)
    first, rest = (
        {x: part(v, mixer.signals[x], *span, d.cross) for x, v in signals.items()} for span in ((0, 1), (1, n))
    )
    f = mx.compile(mixer)
    try:
        _, state = f.prefill(**first)
        f(**rest, initial_state=state)
    except StreamError:
        return False
    return True


@pytest.mark.parametrize("start", (0, 30, 60))
def test_a_mixer_streams_where_its_traits_say_so(start: int) -> None:
    seen = set()
    for seed in range(start, start + 30):
        d = draw(seed)
        if not d.grid:  # whose length is not free
            try:
                mixer = d.build()
            except DeclarationError:  # resets of what cannot be packed
                continue
            assert mixer.traits.streamable == streams(mixer, d), str(d)
            seen.add(mixer.traits.streamable)
    assert seen == {True, False}


@pytest.mark.parametrize(
    "text",
    [
        'mx.softmax(mx.lowrank(q, c, over="k")) @ w',
        'mx.softmax(mx.band(mx.lowrank(q, c, over="k"), 2, after=1)) @ w',
        'mx.shift(mx.lowrank(q, c, over="k")) @ w',
        'mx.decay(mx.lowrank(q, c, over="k"), mx.sigmoid(g)) @ w',
        "mx.causal(mx.dense(m)) @ v",
        "mx.dense(m) @ v",
        "mx.softmax(mx.causal(mx.dense(m))) @ v",
        "mx.softmax(mx.dense(m)) @ v",
        "mx.causal(mx.softmax(mx.dense(m))) @ v",
        "mx.mask(mx.diagonal(g), m > 0) @ v",
        "mx.decay(mx.toeplitz(f, anti=g), 0.9) @ v",
        "mx.causal(mx.circulant(f)) @ v",
        'mx.causal(mx.vandermonde(q, over="k").T) @ v',
        'mx.causal(mx.lowrank(q, q, over="k").T) @ v',
    ],
)
def test_a_matrix_streams_where_its_traits_say_so(text: str) -> None:
    axes = {"q": "t k", "c": "s k", "w": "s v", "v": "t v", "g": "t", "f": "t", "m": "t s"}
    used = {n: a for n, a in axes.items() if re.search(rf"\b{n}\b", text)}
    d = Declaration((), (), Piece("value", text), used, {"b": 1, "t": 4, "s": 4, "k": 2, "v": 2})
    mixer = d.build()
    assert mixer.traits.streamable == streams(mixer, d)


@pytest.mark.parametrize("seed", range(80))
def test_entries_beyond_the_reach_are_zero(seed: int) -> None:
    M: Matrix = Draw(seed).matrix(1 + seed % 2)
    signals, axes = values()
    x, _ = entries(M, signals, axes)
    t, s = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
    reach = entries_reach(M)
    for side, where in ((Reach.PAST, s < t), (Reach.NOW, s == t), (Reach.FUTURE, s > t)):
        if side not in reach:
            assert not x[..., where].any()


def test_a_sum_of_both_directions_is_gathered_as_quasiseparable() -> None:
    M = gathered(two_sided.matrix_expr)
    assert isinstance(M, Sum)
    assert [type(m) for m in M.terms] == [Semiseparable, Flip, Diagonal]
    assert M.terms[0].strict and M.terms[1].of.strict


@pytest.mark.parametrize("name", EXPECTED)
def test_every_form_is_legal_or_refused_in_a_sentence(name: str) -> None:
    mixer = EXPECTED[name][0]
    for piece in pieces(mixer.expr):
        reasons = legal(piece)
        assert tuple(reasons) == FORMS
        assert reasons["dense"] is None
        for form, reason in reasons.items():
            assert reason is None or len(reason.split()) > 3, form
    for form in FORMS:
        assert (refusal(mixer.expr, form) is None) == (form in mixer.forms())


def test_legal_forms_of_the_common_structures() -> None:
    assert attention.forms() == ["parallel", "flash", "dense"]
    assert long_convolution.forms() == ["fft", "monarch", "direct", "dense"]
    assert read_before.forms() == ["recurrent", "chunked", "parallel", "scan", "dense"]
    assert time_invariant.forms() == [f for f in FORMS if f != "flash"]


def test_a_refusal_names_the_signals() -> None:
    (piece,) = pieces(AFFINE["gated_delta"].expr)
    assert legal(piece)["fft"] == "its transition depends on t through g, beta, k" or "g" in str(legal(piece)["fft"])
    (piece,) = pieces(read_before.expr)
    assert legal(piece)["fft"] == "its input depends on t through k"


def test_names_of_states_and_pieces_are_distinct() -> None:
    @mx.mixer
    def twice(q: "b t k", k: "b t k", l: "b t k", v: "b t v"):
        return mx.causal(mx.lowrank(q, k)) @ v + mx.causal(mx.lowrank(q, l)) @ v

    names = [p.name for p in pieces(twice.expr)]
    assert names == ["state_0", "state_1"]
    assert Signal(name="q", axes=("b", "t", "k")) is not None
