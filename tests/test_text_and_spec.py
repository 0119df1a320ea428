"""Mixers as text: what is written reads like mathematics, comes back equal, and junk is refused without harm."""

from __future__ import annotations

import copy
import json
import math
import pickle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mixer_ir as mx
from mixer_ir.language.mixer import Mixer
from mixer_ir.language.spec import FIELDS, NODES
from mixer_ir.nodes.expr import Call, Expr, Literal, Reduce, Rename, Signal
from mixer_ir.nodes.matrix import Matrix
from mixer_ir.nodes.node import Node, walk
from tests.declared import ALL, cross, gated_delta, nested, quasiseparable

# -------------------------------------------------------------------------------------------------- as mathematics


def test_a_recurrence_reads_like_its_equations() -> None:
    assert str(gated_delta).splitlines() == [
        "gated_delta: q, k (b t h k)   v (b t h v)   g, beta (b t h) → (b t h v)",
        "  S_t = e^{g_t} (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ,   y_t = S_tᵀ q_t",
        "    S_t = exp(g_t) (S_{t−1} − beta_t k_t ⊗ (k_t · S_{t−1})) + beta_t k_t ⊗ v_t",
        "    y_t = q_t · S_t",
    ]


def test_a_matrix_reads_like_its_declaration() -> None:
    assert str(cross).splitlines()[-1] == "    y_t = softmax(mask((1 / 2) lowrank(q_t, k_s; k), 0 < keep_s)) v_s"
    assert "flip(shift(semiseparable(Cr_t, exp(A dt_t), dt_t ⊗ Br_t; n)))" in str(quasiseparable)


@pytest.mark.parametrize("mixer", ALL, ids=lambda m: m.name)
def test_every_part_has_a_formula(mixer: mx.Mixer) -> None:
    assert {t.partition(" ")[0] for t in str(mixer).splitlines()[:1]} == {f"{mixer.name}:"}
    for node in (*walk(mixer.body), *walk(mixer.expr)):
        if isinstance(node, Expr | Matrix):
            assert mx.formula(node)


def test_parentheses_keep_the_meaning() -> None:
    a, b, c = (Signal(name=n, axes=("t",)) for n in "abc")
    texts = {
        a - (b - c): "a_t − (b_t − c_t)",
        (a - b) - c: "a_t − b_t − c_t",
        a / (b * c): "a_t / (b_t c_t)",
        (a + b) * c: "(a_t + b_t) c_t",
        (-a) * b: "(−a_t) b_t",
        (a * b) ** 2: "(a_t b_t)^2",
        a ** (b + c): "a_t^(b_t + c_t)",
        -(a + b): "−(a_t + b_t)",
        mx.exp(a + b) * 2: "exp(a_t + b_t) 2",
        mx.where(a < b, -1, 2.5): "where(a_t < b_t, −1, 2.5)",
        ~((a < b) & (b < c)): "not ((a_t < b_t) and (b_t < c_t))",
        a * -math.inf: "a_t (−∞)",
    }
    assert {mx.formula(e): t for e, t in texts.items()} == {t: t for t in texts.values()}


def test_what_is_used_often_is_written_once() -> None:
    x: Expr = Signal(name="x", axes=("t",))
    for _ in range(300):
        x = mx.sin(x) * x + x  # without sharing, 3^300 words
    assert len(mx.formula(x)) < 30_000


# -------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("mixer", ALL, ids=lambda m: m.name)
def test_a_mixer_comes_back_equal(mixer: mx.Mixer) -> None:
    for other in (pickle.loads(pickle.dumps(mixer)), copy.deepcopy(mixer)):
        assert other == mixer and other.body is mixer.body, "equal nodes are one object, however they came here"
    again = mx.loads(mx.dumps(mixer))
    assert again == mixer and again.body is mixer.body
    assert list(again.signals.items()) == list(mixer.signals.items())
    assert mx.dumps(again) == mx.dumps(mixer)
    assert str(again) == str(mixer)


@pytest.mark.parametrize("mixer", ALL, ids=lambda m: m.name)
def test_a_canonical_form_comes_back_too(mixer: mx.Mixer) -> None:
    canonical = Mixer(name=mixer.name, signals=mixer.signals, body=mixer.expr, returns=mixer.returns)
    assert mx.loads(mx.dumps(canonical)).body is mixer.expr


NUMBERS = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False), st.complex_numbers(allow_nan=False), st.just(-0.0)
)


@st.composite
def expressions(draw: st.DrawFn) -> Expr:
    x: Expr = Signal(name="x", axes=("b", "t", "k"))
    pool: list[Expr] = [x, Signal(name="y", axes=("t", "k"))]
    for _ in range(draw(st.integers(1, 12))):
        a, b = (draw(st.sampled_from(pool)) for _ in range(2))
        made = draw(st.integers(0, 5))
        if made == 0:
            pool.append(Literal(value=draw(NUMBERS)))
        elif made == 1 and "k" in a.axes and "t2" not in a.axes:
            pool.append(Rename(of=Reduce(fn="sum", of=a, over=("k",)), old="t", new="t2"))
        elif made == 2:
            pool.append(Call(fn="where", args=(a < b, a, b)))
        else:
            pool.append(draw(st.sampled_from([a + b, a * b, -a, mx.exp(a), mx.silu(b), a / b, a**2])))
    return (
        x + mx.sum(pool[-1], " ".join(set(pool[-1].axes) - {"b", "t", "k"})) if "t2" in pool[-1].axes else x + pool[-1]
    )


@given(body=expressions(), doc=st.text(max_size=20), year=st.none() | st.integers())
@settings(max_examples=60, deadline=None)
def test_any_expression_comes_back_equal(body: Expr, doc: str, year: int | None) -> None:
    signals = {"x": ("b", "t", "k"), "y": ("t", "k")}
    mixer = Mixer(name="m", signals=signals, body=body, returns=("b", "t", "k"), doc=doc, year=year)
    assert mx.loads(mx.dumps(mixer)) == mixer
    assert str(mixer).startswith("m: ")


# -------------------------------------------------------------------------------------------------- junk


def broken(**changes: object) -> str:
    return json.dumps({**json.loads(mx.dumps(gated_delta)), **changes})


def with_node(i: int, **changes: object) -> str:
    top = json.loads(mx.dumps(gated_delta))
    top["nodes"][i].update(changes)
    return json.dumps(top)


JUNK = {
    "{junk": "this is not a mixer's text: Expecting property name",
    "": "this is not a mixer's text",
    "memory.json": "(char 0); of a file, give what is in it",
    "[" * 100_000: "this is not a mixer's text",
    "3": "this is JSON, but not a mixer's",
    "{}": "this is JSON, but not a mixer's: it has no 'mixer_ir'",
    '{"mixer_ir": NaN}': "NaN is not JSON",
    '{"mixer_ir": 1, "mixer_ir": 1}': "a key stands twice in one object",
    '{"mixer_ir": 1}': "the mixer lacks 'body'",
    broken(mixer_ir=2): "'mixer_ir' is 2; this version of mixer-ir reads 1",
    broken(mixer_ir=True): "'mixer_ir' is True",
    broken(code="import os"): "the mixer has 'code', which is not known",
    broken(nodes=[]): "'nodes' is a list of one node or more",
    broken(nodes=[{"node": "__import__"}]): "nodes[0]: '__import__' is not the name of a node",
    broken(nodes=[{"node": "Expr"}]): "nodes[0]: 'Expr' is not the name of a node",
    broken(nodes=[{"node": ["Literal"]}]): "nodes[0]: ['Literal'] is not the name of a node",
    broken(name=3): "'name' is a string, not 3",
    broken(year="2024"): "'year' is a whole number or null",
    broken(value="w"): "'value' is the name of a signal or null, not 'w'",
    broken(body=-1): "'body' is the number of an expression among the nodes, not -1",
    broken(body=0.0): "'body' is the number of an expression among the nodes, not 0.0",
    broken(returns="b t h"): "'returns' is 'b t h', but the body has axes (b t h v)",
    broken(returns="b b"): "an axis stands twice",
    broken(signals={}): "'signals' is a list of pairs [name, axes]",
    broken(signals=[["q", "b t"], ["q", "b t"]]): "of different names, not ['q', 'b t']",
    broken(signals=[["import os", "b t"]]): "of different names, not ['import os', 'b t']",
    broken(signals=[["q", "b t"]]): "which 'signals' does not declare so",
    with_node(0, axes="b t"): "nodes[0] (Signal).axes is a list",
    with_node(0, axes=["b", 3]): "nodes[0] (Signal).axes[1] is a str, not 3",
    with_node(0, axes=["b", "b"]): "nodes[0] (Signal): ",
    with_node(0, extra=1): "nodes[0] (Signal) has 'extra', which is not known",
}


@pytest.mark.parametrize("text", JUNK, ids=lambda t: t[:30])
def test_junk_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(mx.SpecError) as caught:
        mx.loads(text)
    assert JUNK[text] in str(caught.value)


def test_what_is_no_text_or_no_mixer_is_refused() -> None:
    with pytest.raises(mx.SpecError, match=r"mx\.loads reads text, not bytes"):
        mx.loads(b"{}")  # type: ignore[arg-type]
    with pytest.raises(mx.SpecError, match=r"mx\.dumps writes a mixer, not str"):
        mx.dumps("gated_delta")  # type: ignore[arg-type]


ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 99), st.integers(), st.floats(), st.text(max_size=4),
    st.sampled_from(["t", "s", "b", "k", "exp", "mul", "sum", *NODES]),
    st.builds(lambda i: {"at": i}, st.integers(-1, 40)),
    st.sampled_from([{"float": "nan"}, {"float": "inf"}, {"complex": [1.0, 2.0]}, {"complex": ["a"]}, {}, [], ["t"]]),
)  # fmt: skip


def places(value: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(p for key, v in inner for p in places(v, (*at, key)))]


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """The text of a mixer with up to three places changed, dropped or doubled."""
    top = json.loads(mx.dumps(draw(st.sampled_from([*ALL, nested.with_reset()]))))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(top)[1:]))
        holder = top
        for key in way:
            holder = holder[key]
        match draw(st.sampled_from(["change", "change", "change", "drop", "double"])):
            case "drop":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case _:
                holder[last] = copy.deepcopy(draw(ATOMS))
    return json.dumps(top)


@given(text=mutants())
@settings(max_examples=400, deadline=None)
def test_a_mutated_spec_is_a_mixer_or_refused(text: str) -> None:
    try:
        mixer = mx.loads(text)
    except mx.SpecError as e:
        assert str(e)
    else:
        assert mx.loads(mx.dumps(mixer)) == mixer
        assert str(mixer)


@given(
    text=st.text()
    | st.recursive(ATOMS, lambda x: st.lists(x) | st.dictionaries(st.text(max_size=3), x)).map(json.dumps)
)
@example(text='{"mixer_ir": ' + "1" * 5000 + "}")
@settings(max_examples=100, deadline=None)
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(mx.SpecError):
        mx.loads(text)


def test_reading_touches_no_code() -> None:
    names = {n for n, fields in FIELDS.items() if any("Callable" in str(h) for h in fields.values())}
    assert not names
    assert all(issubclass(cls, Node) for cls in NODES.values())
