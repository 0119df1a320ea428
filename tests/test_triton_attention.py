"""Softmax attention as kernels: one loop each, what a mask closes left out, sums over rows and long sums by parts."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("triton")

import catalog
import mixer_ir as mx
from backends import reference
from backends.triton.kernel import Setting
from backends.triton.levels import levels
from backends.triton.partition import plan
from backends.triton.real import real
from backends.triton.stages import apart, staged
from backends.triton.work import work
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.driver.kernels import lowered
from tests.test_triton import agree, arrays

SIZES = {"b": 1, "h": 1, "g": 1, "k": 16, "v": 16}
MIXERS = catalog.get("softmax_attention").mixers


@mx.mixer
def banded(q: "b t h k", k: "b t h k", v: "b t h v") -> "b t h v":
    return mx.softmax(mx.band(mx.lowrank(q, k), 40, after=5)) @ v


@mx.mixer
def forgetting(q: "b t h k", k: "b t h k", v: "b t h v", f: "b t h") -> "b t h v":
    past = mx.cumsum(f)
    return mx.softmax(mx.causal(mx.lowrank(q, k) + mx.lowrank(past, 1, over="") - mx.lowrank(1, past, over=""))) @ v


def attention(name: str, **sizes: int) -> tuple[Program, Program]:
    """Both passes of one, as a GPU is given them."""
    mixer = {**MIXERS, "banded": banded, "forgetting": forgetting, "packed": MIXERS["softmax_attention"].with_reset()}[
        name
    ]
    own = {a for axes in mixer.signals.values() for a in axes}
    of = lowered(mixer, "flash", 16, {a: n for a, n in {**SIZES, **sizes}.items() if a in own})
    return of, adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("softmax_attention", {"t": 160, "g": 2}),
        ("full_attention", {"t": 150}),
        ("cross_attention", {"t": 70, "s": 40}),
        ("forgetting", {"t": 150}),
    ],
)
def test_both_passes_of_attention(name: str, sizes: dict[str, int]) -> None:
    of, back = attention(name, **sizes)
    given = arrays(of)
    agree(of, given)
    agree(back, {**arrays(back, seed=1), **given})


@pytest.mark.parametrize(
    ("name", "t"),
    [
        *(("softmax_attention", t) for t in (1, 7, 63, 65, 129, 200)),
        *((name, t) for name in ("cross_attention", "banded", "packed") for t in (7, 129)),
        ("banded", 300),
    ],
)
def test_both_passes_at_any_length(name: str, t: int) -> None:
    of, back = attention(name, t=t, s=150 - t // 2)
    given = arrays(of)
    agree(of, given)
    agree(back, {**arrays(back, seed=1), **given})


def test_attention_is_one_loop_forward_and_three_backward() -> None:
    """Results are computed where the last states are, row sums with them; keys and queries have a loop each."""
    first, second = (plan(real(levels(x)), Setting()) for x in attention("softmax_attention", t=256))
    assert len(first.steps) == 1 and len(second.steps) <= 3
    loops = [n for k in (*first.kernels(), *second.kernels()) for n in re.findall(r"for n_j_(\w+) in", k.text)]
    assert loops == ["N", "N", "N", "T"]
    assert not any("state" in b.name for k in (*first.kernels(), *second.kernels()) for b in k.writes)


def test_sums_over_rows_entry_by_entry_are_in_the_loop_over_rows() -> None:
    """The gradient of what each column adds to its scores sums them; no program does that for all rows itself."""
    _, back = attention("forgetting", t=4096, k=64, v=64)
    for kernel in plan(real(levels(back)), Setting(dot="bf16")).kernels():
        assert not re.search(r"^ {8,}for ", kernel.text, re.MULTILINE), f"a loop inside a loop:\n{kernel.text}"


@pytest.mark.parametrize("t", (130, 256, 1000, 4097))
def test_turns_that_a_mask_closes_are_left_out(t: int) -> None:
    """Of causal attention those after the rows and before the keys, of a band those on both sides, at any length."""

    def bounds(name: str) -> list[str]:
        made = [k.text for x in attention(name, t=t) for k in plan(real(levels(x)), Setting()).kernels()]
        assert not any("b_padded" in text for text in made)  # what is read beyond the last step is 0 as it is
        return [head for text in made for head in re.findall(r"for n_j_[NT] in range\((.*)\):", text)]

    for name in ("softmax_attention", "packed"):
        closed = bounds(name)
        assert all("i_t" in x for x in closed[:3]) and closed[3].startswith("(tl.maximum(") and "i_s" in closed[3]
    both = bounds("banded")
    assert len(both) == 4 and all(x.startswith("(tl.maximum(") and ", tl.minimum(" in x for x in both)
    assert not any("i_" in x for x in bounds("full_attention"))


def test_a_step_that_a_closed_mask_does_not_leave_as_it_is_is_taken() -> None:
    """A mean over all keys counts those that are masked: Σ_s where(s ≤ t, x, 1)."""
    b = Builder()
    q, k = b.input("q", ("t", "k"), (128, 16)), b.input("k", ("s", "k"), (128, 16))
    cut = [b.split(x, "s", "_n", "s", 16) for x in (k, b.iota("s", 128))]

    def step(i, carry, steps, constants):  # type: ignore[no-untyped-def]
        x = i.contract(constants[0], steps[0], ("k",))
        x = i.where(i.map("le", 0, i.sub(constants[1], steps[1])), x, 1.0)
        return [i.add(carry[0], i.sum(x, ("s",)))], []

    (y,), _ = b.scan("_n", step, [b.full(0.0, {"t": 128})], cut, [q, b.iota("t", 128)])
    of = program({"y": y}, [q, k])
    agree(of, arrays(of))
    (kernel,) = plan(of, Setting()).kernels()
    assert "for n_j_N in range(8)" in kernel.text


@pytest.mark.parametrize("t", [1 << 13, 8191, 9001])
def test_long_sums_of_few_results_take_two_stages(t: int) -> None:
    b = Builder()
    x, y = (b.input(n, ("b", "t", "h"), (4, t, 2)) for n in "xy")
    of = program({"dot": b.contract(x, y, ("b", "t")), "sum": b.reduce("sum", x, ("b", "t", "h"))}, [x, y])
    made = staged(of)
    assert len(list(apart(made))) == 2
    given = arrays(of)
    want, got = (reference.prepare(z)(given) for z in (of, made))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-12 * np.abs(want[name]).max())
    programs = [k.programs for k in plan(of, Setting()).kernels()]
    assert max(programs) >= 4  # in one stage a single program has all of a sum


@pytest.mark.parametrize("t", [1 << 13, 9001])
def test_long_products_with_few_tiles_of_results_take_two_stages(t: int) -> None:
    """A weight's gradient: sixteen tiles would be summed by sixteen programs; parts stay products of matrices."""
    b = Builder()
    x, y = b.input("x", ("b", "t", "n"), (4, t, 16)), b.input("y", ("b", "t", "d"), (4, t, 512))
    of = program({"dot": b.contract(x, y, ("b", "t"))}, [x, y])
    made = staged(of)
    assert len(list(apart(made))) == 1
    given = arrays(of)
    want, got = (reference.prepare(z)(given)["dot"] for z in (of, made))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())
    first, _ = plan(of, Setting(dot="bf16")).kernels()
    assert "tl.dot" in first.text
    assert first.programs >= 128


def test_long_sums_along_chunks_are_summed_by_chunk() -> None:
    """The parts lie along the chunks that states are carried over, and what every array has: as programs do."""
    b = Builder()
    x, y = (b.input(n, ("b", "t", "h"), (4, 1 << 13, 2)) for n in "xy")
    parted = b.split(x, "t", "c", "i", 64)
    states = b.affine_scan(b.reduce("sum", parted, ("i",)), b.reduce("sum", b.split(y, "t", "c", "i", 64), ("i",)), "c")
    left = b.merge(b.mul(parted, states), "c", "i", "t")
    of = program({"dot": b.contract(left, y, ("b", "t"))}, [x, y])
    (found,) = apart(staged(of))
    assert found.sizes == {"b": 4, "c": 128, "h": 2}


def test_turns_that_hang_on_the_program_are_counted_in_the_mean() -> None:
    text = """
    %c1 = arith.constant 1 : i32
    %c0 = arith.constant 0 : i32
    %c4 = arith.constant 4 : i64
    %p = tt.get_program_id x : i32
    %p64 = arith.extsi %p : i32 to i64
    %t = arith.remsi %p64, %c4 : i64
    %n = arith.trunci %t : i64 to i32
    scf.for %i = %c0 to %n step %c1  : i32 {
      %e = math.exp2 %c : tensor<32xf32>
    }
    """
    counted = work(text, 8)
    assert counted.known and [x.turns for x in counted.levels] == [1, 1.5] and counted.special == 8 * 1.5 * 32


@mx.mixer
def biased(q: "b t h k", k: "b t h k", v: "b t h v", f: "h t", g: "h t") -> "b t h v":
    return mx.softmax(mx.lowrank(q, k) + mx.toeplitz(f, anti=g)) @ v


@mx.mixer
def masked(q: "b t h k", k: "b t h k", v: "b t h v", f: "h t") -> "b t h v":
    return mx.softmax(mx.causal(mx.lowrank(q, k) + mx.toeplitz(f))) @ v


@mx.mixer
def lessened(q: "b t h k", k: "b t h k", v: "b t h v", slope: "h") -> "b t h v":
    return mx.softmax(mx.causal(mx.lowrank(q, k) - mx.toeplitz(slope * mx.index("t")))) @ v


@mx.mixer
def weighed(q: "t", f: "t", v: "b t h") -> "b t h":
    return mx.diagonal(q) @ mx.shift(mx.decay(mx.toeplitz(f), 0.9)) @ v


@pytest.mark.parametrize(("mixer", "t"), [(biased, 150), (masked, 190), (masked, 9), (lessened, 150), (weighed, 193)])
def test_filters_inside_a_matrix_are_differentiated(mixer: mx.Mixer, t: int) -> None:
    own = {a for axes in mixer.signals.values() for a in axes}
    sizes = {a: n for a, n in {"b": 2, "t": t, "h": 1, "k": 16, "v": 16}.items() if a in own}
    of = lowered(mixer, "auto", None, sizes)
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])
    agree(back, arrays(back, seed=3))


def test_a_filters_gradient_takes_blocks_of_scores() -> None:
    """All lags of a block of rows are met by one tile: the loop multiplies tiles, and no kernel reads all scores."""
    own = {a for axes in masked.signals.values() for a in axes}
    sizes = {a: n for a, n in {"b": 2, "t": 4096, "h": 2, "k": 64, "v": 64}.items() if a in own}
    of = lowered(masked, "auto", None, sizes)
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])
    kernels = plan(real(levels(back)), Setting(dot="bf16")).kernels()
    assert len(kernels) <= 8
    assert all(b.value.axes.count("t") + b.value.axes.count("s") < 2 for k in kernels for b in k.writes)
    last = next(k for k in kernels for b in k.writes if b.name == "d_f")
    assert not re.search(r"\brange\(|tl\.dot\(", last.text)


@mx.mixer
def sloped(q: "b t h k", k: "b t h k", v: "b t h v", slope: "h", at: "t") -> "b t h v":
    past = mx.lowrank(slope, at, over="") - mx.lowrank(slope * at, 1, over="")
    return mx.softmax(mx.causal(mx.lowrank(q, k) + past)) @ v


@mx.mixer
def distanced(q: "b t h k", k: "b t h k", v: "b t h v", slope: "h") -> "b t h v":
    at = mx.index("t")
    return mx.softmax(mx.lowrank(q, k) - mx.dense(slope * mx.abs(at - mx.source(at)))) @ v


@mx.mixer
def keyed(q: "b t h k", k: "b t h k", v: "b t h v", c: "t") -> "b t h v":
    return mx.softmax(mx.causal(mx.lowrank(q, k) + mx.lowrank(1, c, over=""))) @ v


SHARED = [sloped, distanced, keyed]


def backward(mixer: mx.Mixer, chunk: int, **sizes: int) -> Program:
    own = {a for axes in mixer.signals.values() for a in axes}
    of = lowered(mixer, "flash", chunk, {a: n for a, n in sizes.items() if a in own})
    return adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])


@pytest.mark.parametrize("mixer", SHARED, ids=lambda m: m.name)
@pytest.mark.parametrize("t", [9, 150])
def test_what_all_rows_of_scores_share_is_differentiated(mixer: mx.Mixer, t: int) -> None:
    back = backward(mixer, 16, b=2, t=t, h=2, k=16, v=16)
    agree(back, arrays(back, seed=3))


@pytest.mark.parametrize("mixer", SHARED, ids=lambda m: m.name)
def test_what_all_rows_of_scores_share_is_carried_apart(mixer: mx.Mixer) -> None:
    """Each program sums for its own rows, in the loops that attention has anyway: no loop is cut into launches."""
    back = backward(mixer, 64, b=2, t=4096, h=2, k=64, v=64)
    made = plan(real(levels(back)), Setting(dot="bf16"))
    loops = [n for k in made.kernels() for n in re.findall(r"^ *for n_j_(\w+) in", k.text, re.MULTILINE)]
    assert loops[:3] == ["N", "N", "T"] and len(made.steps) <= 5
    assert not any(re.search(r"^ {8,}for ", k.text, re.MULTILINE) for k in made.kernels())
