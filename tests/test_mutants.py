"""Lowering broken on purpose: mx.verify and mx.prove both see every mutant, and say nothing of the unbroken one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import lowering.blocks
import lowering.chunked
import lowering.parts
import lowering.recurrent
import lowering.scan
import lowering.segment
import mixer_ir as mx
from lowering.segment import Dot, Entering, Leaving, Plus, Resolve, Row, Segment, Whole
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Process
from mixer_ir.rules import canonical
from mixer_ir.rules.algebra import replaced
from mixer_ir.trust.prove import prove
from mixer_ir.trust.verify import verify


@mx.recurrence
def forgetful(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t k", beta: "b t"):
    """A gated state that forgets along its key before it writes."""
    S = mx.exp(g) * S
    S = S + beta * mx.outer(k, v - k @ S)
    return S, q @ S


@mx.recurrence
def two_reads(S: mx.State("k v"), q: "b t k", r: "b t k", k: "b t k", v: "b t v", g: "b t"):
    """One state, read before and after its update."""
    new = mx.exp(g) * S + mx.outer(k, v)
    return new, q @ new + r @ S


def seen_by_verify(mixer: mx.Mixer) -> bool:
    return not verify(mixer, lengths=(1, 2, 7), chunks=(1, 2, 3), dtypes=(torch.float64,), backends=("eager",)).ok


def seen_by_prove(mixer: mx.Mixer) -> bool:
    return not prove(mixer).ok


# ---------------------------------------------------------------------------------- mutants of the formula

SEGMENT = lowering.segment.segment


def rewritten(change: Callable[[Any], Any]) -> Callable[..., Segment]:
    """The segment formula with `change` applied to every term and block, innermost first."""

    def deep(x: Any) -> Any:
        match x:
            case Dot(block=block, of=of):
                return change(Dot(change(block), deep(of)))
            case Plus(terms=terms):
                return change(Plus(tuple(deep(t) for t in terms)))
        return change(x)

    def mutant(**options: Any) -> Segment:
        made = SEGMENT(**options)
        auxiliary = None if made.auxiliary is None else deep(made.auxiliary)
        return Segment(auxiliary, tuple(deep(y) for y in made.reads), deep(made.state))

    return mutant


def without_entering_decay(x: Any) -> Any:
    """What enters is not read: the incoming state never reaches a read-out."""
    if isinstance(x, Plus):
        return Plus(tuple(t for t in x.terms if not (isinstance(t, Dot) and isinstance(t.block, Entering))) or x.terms)
    return x


def whole_forgotten(x: Any) -> Any:
    """The state is handed on without its decay: Whole is left out."""
    return x.of if isinstance(x, Dot) and isinstance(x.block, Whole) else x


def unresolved(x: Any) -> Any:
    """The auxiliary input is not solved for."""
    return x.of if isinstance(x, Dot) and isinstance(x.block, Resolve) else x


def leaving_dropped(x: Any) -> Any:
    """The last input does not reach the state."""
    if isinstance(x, Plus) and any(isinstance(t, Dot) and isinstance(t.block, Leaving) for t in x.terms):
        return Plus(x.terms[:-1])
    return x


FORMULA = (without_entering_decay, whole_forgotten, unresolved, leaving_dropped)


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Segment]], None]:
    def use(mutant: Callable[..., Segment]) -> None:
        monkeypatch.setattr(lowering.segment, "segment", mutant)
        monkeypatch.setattr(lowering.chunked, "segment", mutant)

    return use


@pytest.mark.parametrize("change", FORMULA, ids=lambda f: f.__name__)
def test_a_wrong_formula_is_seen_by_both(change, formula):
    formula(rewritten(change))
    assert seen_by_verify(forgetful)
    proof = prove(forgetful)
    assert not proof.ok
    laws = [step.law for step in proof.open]
    assert any(law.startswith("S: ") for law in laws), laws  # in block symbols, for every length
    assert any("emitted" in law for law in laws), laws  # and in the program


def test_reads_before_and_after_swapped_are_seen(monkeypatch):
    """The program reads the state on the wrong side of the step."""
    old = lowering.segment.queries

    def turned(before: tuple[bool, ...]) -> tuple[bool, ...]:
        return tuple(not early for early in before)

    monkeypatch.setattr(lowering.blocks, "queries", lambda before: old(turned(before)))
    monkeypatch.setattr(lowering.chunked, "segment", lambda *, before, **rest: SEGMENT(before=turned(before), **rest))
    assert seen_by_verify(two_reads) and seen_by_prove(two_reads)


# ---------------------------------------------------------------------------------- mutants of the arrays


def negated_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign: the scores between steps are subtracted."""
    old = lowering.blocks.Blocks.scores

    def scores(self: Any, row: Row, column: Any) -> Any:
        found = old(self, row, column)
        return None if found is None else self.b.map("neg", found)

    monkeypatch.setattr(lowering.blocks.Blocks, "scores", scores)


def late_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that is off by one: rows after the step do not see it."""
    old = lowering.blocks.Blocks.scores

    def scores(self: Any, row: Row, column: Any) -> Any:
        found = old(self, row, column)
        if found is None or row.before:
            return found
        b = self.b
        seen = b.map("lt", b.iota("_s", self.length), b.iota("_i", self.length))
        return b.where(seen, found, 0.0)

    monkeypatch.setattr(lowering.blocks.Blocks, "scores", scores)


def undecayed_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decay that is missing: inputs reach the end of a chunk as they came in."""

    def leaving(self: Any, column: Any) -> Any:
        return self.b.rename(self.b.expand(self.columns[column], {"_i": self.length}), "_i", "_s")

    monkeypatch.setattr(lowering.blocks.Blocks, "leaving", leaving)


def early_chunk_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong border: every chunk is entered with the state that leaves it."""
    old = lowering.chunked._states

    def states(b: Any, parts: Any, terms: Any, change: Any, count: int) -> Any:
        entering, state = old(b, parts, terms, change, count)
        after = b.concat([b.slice(entering, "_c", 1, count), b.expand(state, {"_c": 1})], "_c")
        return b.order(after, entering.axes), state

    monkeypatch.setattr(lowering.chunked, "_states", states)


def lost_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recurrent form and all others forget the decay of the first step of a call."""
    old = lowering.parts.Parts.cut

    def cut(self: Any, b: Any, start: int, stop: int, initial: Any) -> Any:
        return old(self, b, start, stop, None if start else initial)

    monkeypatch.setattr(lowering.parts.Parts, "cut", cut)


ARRAYS = (negated_scores, late_scores, undecayed_leaving, early_chunk_states, lost_reset)


@pytest.mark.parametrize("mutant", ARRAYS, ids=lambda f: f.__name__)
def test_wrong_arrays_are_seen_by_both(mutant, monkeypatch):
    mutant(monkeypatch)
    assert seen_by_verify(forgetful), "mx.verify does not see it"
    proof = prove(forgetful)
    assert not proof.ok, "mx.prove does not see it"
    assert all("emitted" in step.law for step in proof.open), "the formula is right; the program is not"
    assert "instead" in proof.open[0].because or "the program" in proof.open[0].because


@pytest.mark.parametrize("mixer", [forgetful, two_reads], ids=lambda m: m.name)
def test_the_unbroken_lowering_passes_both(mixer):
    assert not seen_by_verify(mixer)
    assert not seen_by_prove(mixer)


def test_a_wrong_normal_form_is_seen_by_both(monkeypatch):
    """The key and the query of a process are the same signals, scaled: a factor that tracing lost."""
    old = canonical.named

    def named(expr: Any) -> Any:
        found = old(expr)
        table = {
            p: replace(p, inputs=tuple((k, 2 * v) for k, v in p.inputs)) for p in walk(found) if isinstance(p, Process)
        }
        return replaced(found, table)

    monkeypatch.setattr(canonical, "named", named)
    fresh = mx.loads(mx.dumps(two_reads))
    assert seen_by_verify(fresh) and seen_by_prove(fresh)
