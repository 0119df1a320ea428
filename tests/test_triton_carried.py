"""Affine scans as loops that read their states: the same results, fewer kernels, where loops fill a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import catalog
import mixer_ir as mx
from backends import reference
from backends.triton import launch, sinking
from backends.triton.carried import carried
from backends.triton.kernel import Setting
from backends.triton.partition import plan
from backends.triton.real import real
from benchmarks.gpu_cases import retention, scalar_gla
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.driver.kernels import lowered
from tests.programs import arrays

MIXERS = {m.name: m for m in (retention, scalar_gla)}
MIXERS |= {
    f"catalog's {name}": catalog.get(name).mixer for name in ("retnet", "mamba2", "gla", "linear_attention", "mlstm")
}


def passes(mixer: mx.Mixer, **sizes: int) -> list[Program]:
    """The chunked form, forward and backward."""
    axes = {a for of in mixer.signals.values() for a in of}
    sizes = {"b": 1, "t": 24, "h": 2, "k": 16, "v": 8} | sizes
    of = lowered(mixer, "chunked", 8, {a: n for a, n in sizes.items() if a in axes})
    inputs = [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable]
    return [of, adjoint(of, inputs)]


def given(of: Program) -> dict[str, np.ndarray]:
    made = {n: -np.abs(x) if n in ("g", "A") else x for n, x in arrays(of).items()}
    return {n: np.abs(x) if n in ("dt", "gamma") else x for n, x in made.items()}


def loops(of: Program, kind: type) -> int:
    return sum(isinstance(v.op, kind) for v in of.order)


@pytest.mark.parametrize("name", MIXERS)
def test_loops_that_read_their_states_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for of in passes(MIXERS[name]):
        monkeypatch.setattr(sinking, "LANES", 1)
        made = carried(of)
        want, got = (reference.prepare(x)(given(of)) for x in (of, made))
        for n, x in want.items():
            np.testing.assert_allclose(got[n], x, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(x).max()))
        monkeypatch.setattr(sinking, "LANES", 1 << 62)
        assert loops(carried(of), p.AffineScan) == loops(of, p.AffineScan)


def test_simple_states_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward one kernel, and no state in memory; what takes many products for each step keeps its states."""
    for mixer in (retention, scalar_gla):
        of, _ = passes(mixer, b=8, t=4096, h=16, k=128, v=128)
        (kernel,) = plan(real(of), Setting(dot="bf16")).kernels()
        assert {b.name for b in (*kernel.reads, *kernel.writes)} == {*mixer.signals, "y"}
    of, _ = passes(retention, b=1, t=4096, h=2, k=128, v=128)
    assert len(plan(real(of), Setting(dot="bf16")).kernels()) == 2, "few programs: all steps' reads at once"


def test_sums_of_states_and_their_normaliser_are_one_loop() -> None:
    """Forward one kernel that passes each signal once; the smaller sum comes before what reads the larger one."""
    of, _ = passes(MIXERS["catalog's linear_attention"], b=8, t=4096, h=16, k=64, v=64)
    (kernel,) = plan(real(of), Setting(dot="bf16")).kernels()
    assert {b.name for b in (*kernel.reads, *kernel.writes)} == {"q", "k", "v", "y"}
    assert kernel.text.index("b_new_state =") < kernel.text.index("tl.dot(") < kernel.text.index("b_new_state2 =")


@pytest.mark.parametrize("name", MIXERS)
def test_decays_stand_apart_from_what_products_read_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop is given keys and queries once: decays that lack their axis go to the values, or behind the product."""
    monkeypatch.setattr(sinking, "LANES", 1)
    for of in passes(MIXERS[name]):
        for v in carried(of).order:
            if isinstance(v.op, p.Scan):
                products = [a for a in v.args if isinstance(a.op, p.Map) and a.op.fn == "mul"]
                decayed = [(x, d) for a in products for x, d in (a.args, a.args[::-1]) if x in v.args]
                assert all({*d.axes} >= {*x.axes} for x, d in decayed)


@pytest.mark.parametrize("name", ["retention", "scalar_gla", "catalog's linear_attention"])
def test_kernels_that_read_their_states(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, heads that no tile divides included."""
    monkeypatch.setattr(sinking, "LANES", 1)
    for of in passes(MIXERS[name], t=21, k=16, v=19):
        values = given(of)
        want = reference.prepare(of)(values)
        got = launch.prepare(of)({n: torch.from_numpy(np.asarray(x)) for n, x in values.items()})
        for n, x in want.items():
            assert np.abs(got[n].numpy() - x).max() <= 1e-7 * max(1.0, np.abs(x).max())


def test_states_that_are_read_together_are_carried_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quotient of two reads, merged and cut at the end, is computed in one loop; nothing of the states is stored."""
    monkeypatch.setattr(sinking, "LANES", 1)
    for t in (24, 21):
        of, _ = passes(MIXERS["catalog's mlstm"], t=t)
        (loop,) = (v for v in carried(of).order if isinstance(v.op, p.Scan))
        assert loop.op.carries == 2
        assert len(loop.op.body.outputs) == 3


def test_normalisers_that_other_loops_wait_for_are_read_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward states are stored, and with them what each row is divided by: no other kernel computes it again."""
    monkeypatch.setattr(sinking, "LANES", 1)
    _, back = passes(MIXERS["catalog's mlstm"])
    loop = next(v for v in carried(back).order if isinstance(v.op, p.Scan))
    stored = [x.sizes for x in loop.op.body.outputs[loop.op.carries :]]
    assert {"b": 1, "_i": 8, "h": 2} in stored
    assert sum("_k" in sizes for sizes in stored) == loop.op.carries == 2


def test_what_is_cumulated_of_what_is_cumulated_is_one_loop() -> None:
    """Each kernel reads the signals alone, so that none waits for the other."""
    b = Builder()
    x, y = (b.input(n, ("b", "t"), (3, 150)) for n in "xy")
    first = b.cumulate("sum", x, "t")
    of = program({"first": first, "largest": b.cumulate("max", b.sub(y, first), "t")}, [x, y])
    (kernel,) = plan(real(of), Setting()).kernels()
    assert {u.name for u in kernel.reads} == {"x", "y"}
    values = arrays(of)
    want = reference.prepare(of)(values)
    got = launch.prepare(of)({n: torch.from_numpy(v) for n, v in values.items()})
    for n, v in want.items():
        np.testing.assert_allclose(got[n].numpy(), v, rtol=1e-9, atol=1e-9)
