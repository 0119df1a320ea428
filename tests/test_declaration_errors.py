"""What a declaration may not say, and the sentence that each mistake gets."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

import mixer_ir as mx
from tests.declared import gated_delta

MISTAKES: list[tuple[str, type[mx.MixerError], str, Callable[..., object]]] = []


def mistake(kind: type[mx.MixerError], *words: str, of: Callable[..., object] | None = None):
    """A function that is no declaration: over it, `of` raises an error of this kind with these words."""

    def keep(function: Callable[..., object]) -> Callable[..., object]:
        for word in words:
            MISTAKES.append((word, kind, function.__name__, lambda: (of or mx.mixer)(function)))
        return function

    return keep


recurrence = mx.recurrence


@mistake(
    mx.DeclarationError, "signal_name (test_declaration_errors.py, line", "name 'qq' is not defined", "did you mean q?"
)
def signal_name(q: "b t k", k: "b t k", v: "b t v"):
    return mx.lowrank(qq, k) @ v  # noqa: F821


@mistake(mx.DeclarationError, "has no 'sofmax'", "did you mean softmax?")
def word(q: "b t k", k: "b t k", v: "b t v"):
    return mx.sofmax(mx.lowrank(q, k)) @ v


@mistake(mx.DeclarationError, "no_axes: k has no axes; annotate it, as in k: 'b t h k'")
def no_axes(q: "b t k", k, v: "b t v"):
    return mx.lowrank(q, k) @ v


@mistake(mx.DeclarationError, "as in S: 'b t h k' (a state: S: mx.State('k v'))", of=recurrence)
def no_state(S, k: "b t k", v: "b t v"):
    return S + mx.outer(k, v), S


@mistake(mx.DeclarationError, "axis 'K' is not a lower-case name")
def upper_case(q: "b t K", v: "b t v"):
    return mx.identity() @ v


@mistake(mx.DeclarationError, "twice: v: an axis stands twice in 'b t t'")
def twice(v: "b t t"):
    return mx.identity() @ v


@mistake(mx.DeclarationError, "the annotation nowhere of v cannot be read")
def unread(v: nowhere):  # noqa: F821
    return mx.identity() @ v


@mistake(mx.DeclarationError, "number: v is annotated with 3; write its axes")
def number(v: 3):
    return mx.identity() @ v


@mistake(mx.DeclarationError, "constant: eps has a default")
def constant(v: "b t v", eps: "" = 1.0):
    return mx.identity() @ v


@mistake(mx.DeclarationError, "only: v is positional only", "leave out the /")
def only(v: "b t v", /):
    return mx.identity() @ v


@mistake(mx.AxisError, "its operand has axes (btv)", "is 'btv' meant as 'b t v'?")
def written_together(v: "btv"):  # noqa: F821
    return mx.identity() @ v


@mistake(mx.AxisError, "its operand has axes (b v)", "x + 0 * mx.index('t')")
def timeless(v: "b v", g: "b t"):
    return mx.diagonal(g) @ v


@mistake(mx.DeclarationError, "a signal is not indexed with [ ]", "mx.take(x, i, axis='c')")
def indexed(v: "b t v"):
    return v[..., 0]


@mistake(mx.DeclarationError, "no attribute 'exp'; write mx.exp(…)")
def method(v: "b t v"):
    return v.exp()


@mistake(mx.DeclarationError, "no attribute 'shape'; a signal has named axes", "mx.size('k')")
def shaped(v: "b t v"):
    return v / v.shape[-1]


@mistake(mx.DeclarationError, "mx.sum: axes are named in a string", "not -1")
def by_number(v: "b t v"):
    return mx.sum(v, -1)


@mistake(mx.AxisError, "the operand of a rename needs the axis x")
def renamed_x(v: "b t v"):
    return mx.rename(v, x="y")


@mistake(mx.AxisError, "the new value of state S (k v) has axes (b t v)", "are they swapped?", of=recurrence)
def swapped(S: mx.State("k v"), k: "b t k", v: "b t v"):
    S = S + mx.outer(k, v)
    return k @ S, S


@mistake(mx.DeclarationError, "many: vs stands for any number of arguments")
def many(*vs: "b t v"):
    return mx.identity() @ vs[0]


@mistake(mx.DeclarationError, "reserved: initial_state: this name is an argument of compiled mixers")
def reserved(initial_state: "b t"):
    return initial_state


@mistake(mx.DeclarationError, "own: self: this name is an argument of compiled mixers")
def own(self: "b t"):
    return self


@mistake(mx.DeclarationError, "handed: state: this name is an argument of compiled mixers", of=recurrence)
def handed(S: mx.State("k"), state: "b t k"):
    return S + state, S


@mistake(mx.DeclarationError, "lengths: cu_seqlens: this name is an argument of compiled mixers")
def lengths(cu_seqlens: "b t"):
    return cu_seqlens


@mistake(mx.DeclarationError, "line", "a signal has no truth value while a mixer is declared; write mx.where")
def branch(v: "b t v"):
    if v > 0:
        v = -v
    return mx.identity() @ v


@mistake(mx.DeclarationError, "a signal is not compared with == or !=; write mx.equal")
def comparison(v: "b t v", z: "b t v"):
    return mx.where(v == z, 0.0, 1.0) * v


@mistake(mx.DeclarationError, "a signal cannot be iterated over or unpacked")
def unpacked(v: "b t v"):
    first, _ = v
    return first


@mistake(mx.DeclarationError, "TypeError: ", "a declaration computes with signals, numbers and mx functions alone")
def other_library(v: "b t v"):
    return math.exp(v) * v


@mistake(mx.DeclarationError, "tensors are passed when it is called")
def tensor(v: "b t v"):
    return v * torch.ones(3)


@mistake(mx.DeclarationError, "of type ndarray stands where a signal or a number is expected")
def array(v: "b t v"):
    return np.ones(3) + v


@mistake(mx.DeclarationError, "nan stands where a number is expected")
def nan(v: "b t v"):
    return v * math.nan


@mistake(mx.DeclarationError, "not_applied returns a matrix; apply it to a signal: return M @ v")
def not_applied(q: "b t k", k: "b t k", v: "b t v"):
    return mx.lowrank(q, k)


@mistake(mx.DeclarationError, "nothing returns nothing; end it with return M @ v")
def nothing(v: "b t v"):
    mx.identity() @ v


@mistake(mx.DeclarationError, "two_outputs returns 2 values; a mixer has one output")
def two_outputs(v: "b t v"):
    return v, v


@mistake(mx.DeclarationError, "text_output returns 'v'")
def text_output(v: "b t v"):
    return "v"


@mistake(mx.AxisError, "no_time: the result has axes (b v), without t")
def no_time(v: "b t v"):
    return mx.sum(v, "t")


@mistake(mx.AxisError, "source_left: the result has axes (b s v); s is the source's time and must be mixed away")
def source_left(v: "b s v"):
    return 2 * v


@mistake(mx.AxisError, "the return annotation says (b t k), but the result has axes (b t v); they differ in k, v")
def annotated(v: "b t v") -> "b t k":
    return 2 * v


@mistake(mx.AxisError, "mx.index or mx.size has the axis z, which no signal has")
def unknown_size(v: "b t v"):
    return v * mx.sum(mx.index("z"), "z")


@mistake(mx.AxisError, "for the position of a column write mx.source(mx.index('t'))")
def column(v: "b t v"):
    return mx.dense(mx.index("t") - mx.index("s")) @ v


@mistake(mx.DeclarationError, "a matrix acts from the left: write M @ v")
def from_the_right(q: "b t k", k: "b t k", v: "b t v"):
    return v @ mx.lowrank(q, k)


@mistake(mx.AxisError, "mx.lowrank: q and k have axes (b t k) and (b t n), which share no axis to contract")
def nothing_shared(q: "b t k", n: "b t n", v: "b t v"):
    return mx.lowrank(q, n) @ v


@mistake(mx.AxisError, "h of a Toeplitz matrix needs the axis t, but it has axes (d)")
def no_lags(h: "d", v: "b t d"):
    return mx.toeplitz(h) @ v


@mistake(mx.AxisError, "a dense matrix needs the axis s, but it has axes (b t)")
def no_columns(h: "b t", v: "b t d"):
    return mx.dense(h) @ v


@mistake(mx.AxisError, "a matrix is applied along t (or s), but its operand has axes (b d)")
def no_operand(h: "t", v: "b d"):
    return mx.toeplitz(h) @ v


@mistake(mx.DeclarationError, "c * M needs a factor without the time axis")
def scaled_rows(h: "t", v: "b t d"):
    return (h * mx.toeplitz(h)) @ v


@mistake(mx.DeclarationError, "turn a signal x into one with mx.diagonal(x)")
def plus_signal(h: "t", v: "b t d"):
    return (mx.toeplitz(h) + h) @ v


@mistake(mx.DeclarationError, "band(0, after=0) leaves no entry")
def empty_band(h: "t", v: "b t d"):
    return mx.band(mx.toeplitz(h), 0) @ v


@mistake(mx.DeclarationError, "mx.band needs a whole number for the window, not 2.5")
def half_band(h: "t", v: "b t d"):
    return mx.band(mx.toeplitz(h), 2.5) @ v


@mistake(mx.DeclarationError, "mx.causal is of a matrix")
def causal_signal(h: "t", v: "b t d"):
    return mx.causal(h) @ v


@mistake(mx.AxisError, "mx.outer of (b t k) and (b t k): each side must bring an axis that the other lacks")
def no_outer(k: "b t k"):
    return mx.outer(k, k)


@mistake(mx.AxisError, "cannot rename k to t in (b t k): it has an axis t already")
def taken_name(k: "b t k"):
    return mx.rename(k, k="t")


@mistake(mx.AxisError, "the operand of a cumulative sum needs the axis t, but it has axes (k)")
def no_time_to_cumulate(k: "k", v: "b t k"):
    return mx.cumsum(k) * v


@mistake(mx.AxisError, "the left side's last axis is not one to contract")
def time_contracted(a: "b t", v: "b t"):
    return a @ v


@mistake(mx.DeclarationError, "state_in_mixer: S is a state; states belong to @mx.recurrence")
def state_in_mixer(S: mx.State("k"), v: "b t k"):
    return v


# ------------------------------------------------------------------------------------------ recurrences


@mistake(mx.DeclarationError, "stateless declares no state", of=recurrence)
def stateless(k: "b t k"):
    return k, k


@mistake(mx.DeclarationError, "late: S is a state; states are the first parameters, before k", of=recurrence)
def late(k: "b t k", S: mx.State("k")):
    return S + k, k @ S


@mistake(
    mx.DeclarationError, "too_few returns 2 values instead of 3: the new S, n in order, then the output", of=recurrence
)
def too_few(S: mx.State("k"), n: mx.State("k"), k: "b t k"):
    return S + k, k @ S


@mistake(mx.DeclarationError, "one_value returns one value; a recurrence returns the new S in order", of=recurrence)
def one_value(S: mx.State("k"), k: "b t k"):
    return S + k


@mistake(mx.AxisError, "timed: state S has the axis t", of=recurrence)
def timed(S: mx.State("t k"), k: "b t k"):
    return S + k, k @ S


@mistake(mx.DeclarationError, "bare: S: write the state's axes, as in mx.State('k v')", of=recurrence)
def bare(S: mx.State, k: "b t k"):
    return S + k, k @ S


@mistake(mx.AxisError, "unsized: state S has the axis n, which no signal has", of=recurrence)
def unsized(S: mx.State("n"), g: "b t"):
    return g * S, mx.sum(S, "n")


@mistake(mx.AxisError, "state n has axes (k), but its new value has", "or declare n: mx.State('k v')", of=recurrence)
def widened(S: mx.State("k v"), n: mx.State("k"), k: "b t k", v: "b t v"):
    return S + mx.outer(k, v), S + n, k @ S


@mistake(mx.DeclarationError, "state S is used along time (cumulate)", of=recurrence)
def along_time(S: mx.State("k"), k: "b t k"):
    return S + k, mx.cumsum(S * k)


@mistake(mx.DeclarationError, "state S is used along time (apply)", of=recurrence)
def mixed_inside(S: mx.State("k"), k: "b t k", h: "t"):
    return S + mx.toeplitz(h) @ (S * k), k @ S


@mistake(mx.AxisError, "an @ contracts h, which is a batch axis elsewhere", of=recurrence)
def batch_contracted(S: mx.State("k"), k: "b t h k", g: "b t h", f: "b t h"):
    return (g @ f) * S + k, k @ S


@mistake(mx.AxisError, "adds A · S_{t−1} with axes (m) to B ⊗ u_t", "call the row axis by the state's", of=recurrence)
def row_and_column(S: mx.State("n"), A: "m n", B: "n", u: "b t d"):
    return A @ S + B * u, mx.sum(S, "n")


@mistake(mx.AxisError, "say which axis is to be n, as in mx.rename(x, m='n')", of=recurrence)
def ambiguous(S: mx.State("n"), A: "m n", B: "l n", u: "b t n"):
    return (A @ S) * (B @ S), u @ S


@pytest.mark.parametrize("words, kind, name, declare", MISTAKES, ids=[f"{m[2]}: {m[0][:30]}" for m in MISTAKES])
def test_a_mistake_is_told(words: str, kind: type[mx.MixerError], name: str, declare: Callable[[], object]) -> None:
    with pytest.raises(kind) as caught:
        declare()
    assert words in str(caught.value)
    assert str(caught.value).startswith(name), "the message begins with the mixer"


def test_options_of_the_decorators() -> None:
    with pytest.raises(mx.DeclarationError, match=r"@mx.mixer has no option 'yaer'; it has paper, year, name, value"):
        mx.mixer(yaer=2024)
    with pytest.raises(mx.DeclarationError, match=r"@mx.recurrence\(year='2024'\): year is a int"):
        mx.recurrence(year="2024")
    with pytest.raises(mx.DeclarationError, match="value='w' is none of its signals v"):
        mx.mixer(value="w")(lambda_like)
    with pytest.raises(mx.DeclarationError, match="stands over a function"):
        mx.mixer(3)
    with pytest.raises(mx.DeclarationError, match=r"mx\.State takes axes as one string"):
        mx.State(("k", "v"))


def lambda_like(v: "b t v"):
    return mx.identity() @ v


def test_expressions_are_told_apart_outside_declarations_too() -> None:
    a, b = gated_delta.body, gated_delta.expr
    assert a == gated_delta.body and a != b
    with pytest.raises(mx.DeclarationError, match=r"write mx\.equal"):
        _ = a == 0
    with pytest.raises(mx.DeclarationError, match="branch on one"):
        bool(mx.identity())
    with pytest.raises(mx.DeclarationError, match=r"mx\.where needs a condition made of signals"):
        mx.where(True, 1, a)


def test_what_is_nested_too_deep_is_said_by_name_and_runs_where_python_lets_it() -> None:
    @mx.mixer
    def chained(x: "b t d") -> "b t d":
        """y_t = x_{t−1200}, by a delay of one step at a time"""
        for _ in range(1200):
            x = mx.delay(x, 1)
        return x

    y = mx.compile(chained, backend="eager")(x=torch.ones(1, 1201, 1))
    assert y.sum() == 1
    with pytest.raises(mx.DeclarationError, match=r"chained is nested too deep .* sys.setrecursionlimit"):
        _ = chained.traits
    with pytest.raises(mx.DeclarationError, match=r"chained is nested too deep .* sys.setrecursionlimit"):
        _ = chained.matrix_expr
