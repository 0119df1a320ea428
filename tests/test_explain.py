"""An explanation names every form: what it costs and which is taken, or why it is not legal."""

from __future__ import annotations

import pytest
import torch

import mixer_ir as mx
from mixer_ir.rules.legal import FORMS


@mx.recurrence
def gated(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h"):
    """S_t = e^{g_t} S_{t−1} + k_t v_tᵀ"""
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def bent(h: mx.State("k"), x: "b t k"):
    h = mx.tanh(h + x)
    return h, h


@mx.mixer
def looked_up(z: "b t", codes: "c k", keep: "b t", v: "b t v"):
    return mx.resets(mx.causal(mx.lowrank(mx.take(codes, z, axis="c"), mx.take(codes, z, axis="c"))), keep) @ v


@pytest.fixture
def told():
    return mx.compile(gated).explain(b=2, t=500, h=4, k=16, v=16)


def test_every_form_has_a_row(told):
    assert [r.form for r in told.rows] == list(FORMS)
    assert [r.form for r in told.rows if r.legal] == gated.forms()
    assert all(r.seconds > 0 and r.operations > 0 and r.bytes > 0 for r in told.rows if r.legal)
    assert all(r.why_not and r.seconds == 0 for r in told.rows if not r.legal)


def test_exactly_one_is_chosen_and_it_is_the_cheapest(told):
    (chosen,) = [r for r in told.rows if r.chosen]
    assert chosen.seconds == min(r.seconds for r in told.rows if r.legal)
    assert told.chosen == {chosen.piece: chosen.form}


def test_the_form_asked_for_is_the_chosen_one():
    assert list(mx.compile(gated, form="scan").explain(t=500).chosen.values()) == ["scan"]
    chunk = [r.chunk for r in mx.compile(gated, form="chunked", chunk=24).explain(t=500).rows if r.chosen]
    assert chunk == [24]


def test_the_text_says_it_all(told):
    text = str(told)
    for words in (
        "gated",
        "t = 500",
        "its transition depends on t through g",
        "chosen",
        "causal",
        "operations",
        *FORMS,
    ):
        assert words in text, f"{words!r} is not in:\n{text}"
    assert all(len(line) < 160 for line in text.splitlines())


def test_rules_that_fired_are_told_with_their_identity():
    @mx.mixer
    def linear(q: "b t k", k: "b t k", v: "b t v"):
        return mx.causal(mx.lowrank(q, k)) @ v

    text = str(mx.compile(linear).explain(t=64))
    assert "causal_lowrank" in text


def test_signals_give_the_sizes():
    given = {"q": (2, 9, 3, 4), "k": (2, 9, 3, 4), "v": (2, 9, 3, 5), "g": (2, 9, 3)}
    told = mx.compile(gated).explain(**{n: torch.zeros(s) for n, s in given.items()})
    assert told.sizes == {"b": 2, "t": 9, "h": 3, "k": 4, "v": 5}
    assert told.assumed == ()


def test_sizes_that_are_not_given_are_said_to_be_assumed():
    told = mx.compile(gated).explain(t=500)
    assert told.assumed == ("b", "h", "k", "v")
    assert "sizes assumed: b, h, k, v" in str(told)


def test_a_recurrence_that_is_not_affine_says_which_term():
    text = str(mx.compile(bent).explain(t=20))
    assert "recurrent" in text
    assert "tanh" in text


def test_indices_and_masks_are_taken_for_what_they_are():
    assert str(mx.compile(looked_up).explain(t=20))
