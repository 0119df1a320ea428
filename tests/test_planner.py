"""Prices follow the sizes, and the planner takes the cheapest way that is legal and fits."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import pytest

import mixer_ir as mx
from lowering.build import Builder, program
from lowering.context import Choice, SignalType
from lowering.cost import Cost, cost, is_view, operation_cost
from lowering.fused import chained, transforms
from lowering.kinds import kind_of
from lowering.monarch import fourier
from lowering.planner import Candidate, cheapest, plan
from lowering.profile import CPU, GPU, KERNELS, on_curve, profile_of
from mixer_ir.nodes.expr import Signal
from mixer_ir.nodes.matrix import Apply, Fourier


@mx.recurrence
def decayed(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t"):
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def bent(h: mx.State("k"), x: "b t k"):
    h = mx.tanh(h + x)
    return h, h


@mx.mixer
def filtered(w: "t", v: "b t v"):
    return mx.toeplitz(w) @ v


@mx.mixer
def stacked(q: "b t k", k: "b t k", v: "b t v", w: "t"):
    return mx.toeplitz(w) @ (mx.causal(mx.lowrank(q, k)) @ v)


def types(mixer, **sizes):
    given = {"b": 2, "k": 32, "v": 32, **sizes}
    return {n: SignalType(axes, tuple(given[a] for a in axes)) for n, axes in mixer.signals.items()}


def planned(mixer, form="auto", chunk=None, price_all=False, **sizes):
    return plan(mixer.expr, types(mixer, **sizes), CPU, form=form, chunk=chunk, price_all=price_all)


def test_a_matrix_product_counts_two_operations_an_entry_and_term():
    b = Builder()
    x, y = b.input("x", ("b", "i", "k"), (5, 8, 16)), b.input("y", ("b", "k", "j"), (5, 16, 4))
    made = cost(program({"z": b.contract(x, y, ("k",))}, [x, y]), CPU)
    assert made.operations == 2 * 5 * 8 * 16 * 4
    assert made.bytes == 4 * (5 * 8 * 16 + 5 * 16 * 4 + 5 * 8 * 4)
    assert made.launches == 1
    assert made.held == made.bytes


def test_a_loop_costs_its_body_as_often_as_it_turns():
    def loop(n):
        b = Builder()
        x, start = b.input("x", ("t", "k"), (n, 8)), b.input("s", ("k",), (8,))
        last, _ = b.scan("t", lambda i, c, s, k: ([i.map("tanh", i.add(c[0], s[0]))], []), [start], [x])
        return cost(program({"y": last[0]}, [x, start]), CPU)

    assert loop(100).operations == pytest.approx(100 * loop(1).operations)
    assert loop(100).seconds == pytest.approx(100 * loop(1).seconds)
    assert loop(100).launches == 200


def test_arrays_that_are_not_read_again_are_not_held():
    b = Builder()
    x = y = b.input("x", ("t",), (1000,))
    for _ in range(10):
        y = b.add(b.mul(y, 2.0), 1.0)
    assert cost(program({"y": y}, [x]), CPU).held == 3 * 4000


def test_costs_add_and_repeat():
    one = Cost(1, 2, 3, 4, 5)
    assert one + replace(one, held=9) == Cost(2, 4, 6, 8, 9)
    assert one.times(3) == Cost(3, 6, 9, 12, 5)


def test_views_cost_no_bytes():
    b = Builder()
    x = b.input("x", ("i", "j"), (4, 6))
    for view in (b.order(x, ("j", "i")), b.slice(x, "i", 0, 2), b.split(x, "j", "o", "n", 2), b.rename(x, "i", "k")):
        assert is_view(view)
        assert operation_cost(view, CPU).bytes == 0


def test_a_curve_is_level_outside_and_between_its_points_inside():
    curve = ((1.0, 10.0), (100.0, 1000.0))
    assert [on_curve(curve, x) for x in (0.1, 1, 10, 100, 1e6)] == pytest.approx([10, 10, 100, 1000, 1000])
    assert profile_of("a device never seen") is CPU


def test_the_cheapest_that_fits_is_taken_and_else_the_smallest():
    fast, slow = (Candidate(Choice(f), Cost(seconds=s, held=h)) for f, s, h in (("dense", 1, 8e9), ("chunked", 2, 4e9)))
    small = replace(CPU, memory=5e9)
    assert cheapest([fast, slow], CPU).choice.form == ("dense" if CPU.memory >= 8e9 else "chunked")
    assert cheapest([fast, slow], small) is slow
    assert cheapest([fast, slow], replace(CPU, memory=1e9)) is slow


@pytest.mark.parametrize(("t", "form"), [(512, "monarch"), (4096, "monarch"), (16384, "monarch"), (32768, "fft")])
def test_kernels_take_transforms_as_products_as_long_as_tiles_hold_their_chains(t, form):
    """Operators, on a processor or a GPU, take the library's at every length."""
    of = types(filtered, t=t)
    for profile, wanted in ((KERNELS, form), (GPU, "fft"), (CPU, "fft")):
        assert plan(filtered.expr, of, profile).pieces[0].chosen.form == wanted


def test_kernels_are_not_offered_transforms_as_products_of_a_filter_that_a_process_forms():
    @mx.recurrence
    def state(h: mx.State("k"), a: "k", x: "b t k"):
        h = mx.exp(a) * h + x
        return h, h

    piece = plan(state.expr, types(state, t=4096), KERNELS, price_all=True).pieces[0]
    price = {c.choice.form: c.cost.seconds for c in piece.candidates}
    assert min(price, key=lambda form: price[form]) == "monarch" != piece.chosen.form
    asked = plan(state.expr, types(state, t=4096), KERNELS, form="monarch").pieces[0]
    assert asked.chosen.form == "monarch"


@mx.recurrence
def turned(H: mx.State("n"), A: "t m n", q: "t n", x: "b t m"):
    H = mx.rename(A @ H + x, m="n")
    return H, q @ H


@mx.recurrence
def corrected(S: mx.State("k v"), z: "b t k", a: "b t k", v: "b t v"):
    S = mx.complex(mx.cos(z), mx.sin(z)) * S
    S = S - mx.outer(a, a @ S) + mx.outer(a, v)
    return S, mx.real(z @ S)


def test_kernels_are_not_offered_scans_that_compose_matrices():
    """By its price it would be taken; each of its levels waits for the one before."""
    of = types(turned, t=4096, m=64, n=64)
    piece = plan(turned.expr, of, KERNELS, price_all=True).pieces[0]
    price = {c.choice.form: c.cost.seconds for c in piece.candidates}
    assert min(price, key=lambda form: price[form]) == "scan" != piece.chosen.form
    assert plan(turned.expr, of, KERNELS).pieces[0].chosen == piece.chosen
    assert plan(turned.expr, of, KERNELS, form="scan").pieces[0].chosen.form == "scan"


def test_kernels_are_not_offered_forms_with_triangular_systems_that_they_do_not_solve():
    """Complex ones: by price chunks would be taken, and refused when kernels are written."""
    of = types(corrected, t=4096)
    piece = plan(corrected.expr, of, KERNELS, price_all=True).pieces[0]
    price = {c.choice.form: c.cost.seconds for c in piece.candidates}
    assert min(price, key=lambda form: price[form]) == "chunked" and piece.chosen.form == "recurrent"
    assert plan(corrected.expr, of, KERNELS).pieces[0].chosen == piece.chosen
    assert plan(corrected.expr, of, KERNELS, form="chunked").pieces[0].chosen.form == "chunked"


def test_a_loops_turns_move_nothing_in_kernels():
    """What an entry of softmax's weights takes stays in registers; the same as one matrix goes through memory."""

    @mx.mixer
    def attention(q: "b t k", k: "b s k", v: "b s v"):
        return mx.softmax(mx.lowrank(q, k)) @ v

    found = plan(attention.expr, types(attention, b=8, t=4096, s=4096), KERNELS, price_all=True).pieces[0]
    price = {c.choice.form: c.cost.seconds for c in found.candidates}
    assert found.chosen.form == "flash" and price["flash"] < price["parallel"]


def test_a_chain_of_transforms_moves_its_ends_and_what_a_tile_does_not_hold():
    def made(n):
        b = Builder()
        x, h = b.input("x", ("r", "t"), (8, n)), b.input("h", ("t",), (n,))
        y = fourier(b, b.mul(fourier(b, b.mul(x, 2.0), "t"), h), "t", inverse=True)
        return program({"y": b.map("real", y)}, [x, h])

    for n, cut in ((1024, False), (4096, True)):
        of = made(n)
        inside = chained(of, KERNELS.longest)
        products = [v for v in of.order if transforms(v)]
        assert {inside[v] for v in products} == {n}
        ends = 4 * (8 * n + n + 8 * n)
        assert cost(of, KERNELS).bytes == ends + cut * len(products) * 8 * 8 * n
    assert not chained(made(1 << 15), KERNELS.longest)


def test_a_form_asked_for_is_taken_by_the_pieces_that_have_it():
    made = planned(stacked, form="chunked", t=300)
    forms = {p.piece.name: p.chosen.form for p in made.pieces}
    chunked = [p for p in made.pieces if "chunked" in p.forms]
    assert chunked and len(chunked) < len(made.pieces)
    assert all(p.chosen.form == "chunked" for p in chunked)
    assert forms["toeplitz"] in next(p for p in made.pieces if p.piece.name == "toeplitz").forms
    dense = planned(stacked, form="dense", t=300)
    assert {p.chosen.form for p in dense.pieces} == {"dense"}


def updated(S, k, v, updates):
    for i in range(1, updates + 1):
        S = S + mx.outer(mx.tanh(i * k), v - mx.tanh(i * k) @ S)
    return S


@pytest.mark.parametrize(("updates", "chunk"), [(1, 64), (2, 32), (3, 16), (9, 16)])
def test_a_chunks_system_has_as_many_rows_as_tiles_of_kernels(updates, chunk):
    """With a decay that keys share the step is a product of updates; with one for each key it has a low rank."""

    @mx.recurrence
    def product(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", a: "b t"):
        S = updated(mx.exp(-(a * a)) * S, k, v, updates)
        return S, q @ S

    @mx.recurrence
    def rank(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", a: "b t k"):
        S = updated(mx.exp(-(a * a)) * S, k, v, updates)
        return S, q @ S

    for mixer in (product, rank):
        of = types(mixer, t=4096)
        assert plan(mixer.expr, of, KERNELS, form="chunked").pieces[0].chosen.chunk == chunk
        assert plan(mixer.expr, of, KERNELS, form="chunked", chunk=64).pieces[0].chosen.chunk == 64


def test_a_chunk_asked_for_is_kept_and_cut_to_the_sequence():
    assert planned(decayed, form="chunked", chunk=24, t=300).pieces[0].chosen == Choice("chunked", 24)
    assert planned(decayed, form="chunked", chunk=24, t=10).pieces[0].chosen == Choice("chunked", 10)
    assert planned(decayed, form="chunked", t=300).pieces[0].chosen.chunk in CPU.chunks


def test_long_sequences_are_not_computed_densely():
    assert planned(decayed, t=8192).pieces[0].chosen.form == "chunked"
    assert planned(filtered, t=16384).pieces[0].chosen.form in ("fft", "monarch")


def test_a_step_after_a_long_past_is_not_spelled_out_lag_by_lag():
    """The filter of a stream is as long as all that came before, however short the call."""
    few, many = (plan(filtered.expr, types(filtered, t=1), CPU, past=n).pieces[0] for n in (16, 4096))
    assert "direct" in [c.choice.form for c in few.candidates]
    assert "direct" not in [c.choice.form for c in many.candidates]
    assert many.chosen.form in ("fft", "dense")


def test_what_leaves_no_choice_is_not_priced():
    (piece,) = planned(bent, t=50).pieces
    assert piece.chosen == Choice("recurrent")
    assert piece.candidates == ()
    (piece,) = planned(bent, t=50, price_all=True).pieces
    assert len(piece.candidates) == 1


def test_planning_is_quick():
    planned(decayed, t=4096)
    start = perf_counter()
    planned(decayed, t=4096)
    assert perf_counter() - start < 0.4


def test_kinds():
    x, z = Signal(name="x", axes=("t",)), Signal(name="z", axes=("t",))
    kinds = {"x": "real", "z": "int"}
    assert kind_of(x + z, kinds) == "real"
    assert kind_of(z < 3, kinds) == "bool"
    assert kind_of(z * 2, kinds) == "int"
    assert kind_of(Apply(matrix=Fourier(), of=x), kinds) == "complex"
