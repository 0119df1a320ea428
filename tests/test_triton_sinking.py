"""Reads in the loop whose state they read: when, and that the same comes out, stored where results lie."""

from __future__ import annotations

import pytest
import torch

import catalog
import mixer_ir as mx
from backends.reference import prepare
from backends.triton import sinking
from backends.triton.fission import fissioned
from backends.triton.inverses import inverted
from backends.triton.kernel import Setting
from backends.triton.partition import plan
from backends.triton.sinking import sunk
from lowering import program as p
from lowering.build import Builder, program
from lowering.program import Program, Value
from mixer_ir.driver.kernels import lowered

pytest.importorskip("triton")
C, N = 3, 16


def loop(use: str, lanes: int) -> Program:
    """S ← S + kᵀ (v − k S) over c; its states, read by q or otherwise, with c and the row i as one axis of the result.

    A state has twice the entries of the results of a step.
    """
    b = Builder()
    q, k, v = (
        b.input(n, ("c", "i", a), (C, N // 2, lanes if a == "v" else N))
        for n, a in (("q", "k"), ("k", "k"), ("v", "v"))
    )
    first = b.full(0.0, {"k": N, "v": lanes})

    def body(
        inner: Builder, carries: list[Value], here: list[Value], _: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        (state,), (key, value) = carries, here
        error = inner.sub(value, inner.contract(key, state, ("k",)))
        return [inner.add(state, inner.contract(key, error, ("i",)))], [state]

    (last,), (states,) = b.scan("c", body, [first], [k, v])
    over = ("v",) if use == "summed" else ("k",)
    y = b.contract(v if use == "summed" else q, states, over)
    made = {"y": b.merge(y, "c", "i", "t"), "last": last}
    return program(made | ({"states": states} if use == "returned" else {}), [q, k, v])


def stored(of: Program) -> list[tuple[str, ...]]:
    """The axes of what loops store step by step."""
    return [v.axes for v in of.order if isinstance(v.op, p.Pick) and v.op.index > 0]


@pytest.mark.parametrize(
    ("use", "lanes", "sinks"),
    [("read", 1 << 13, True), ("read", 64, False), ("returned", 1 << 13, False), ("summed", 1 << 13, False)],
)
def test_reads_sink_where_a_loop_fills_a_device_and_stores_less(use: str, lanes: int, sinks: bool) -> None:
    """Not where its states are asked for, nor where a read sums over what programs share out."""
    before = loop(use, lanes)
    after = sunk(before)
    assert stored(before) == [("c", "k", "v")]
    assert stored(after) == ([("c", "i", "v")] if sinks else [("c", "k", "v")])


@pytest.mark.parametrize("name", ["gated_deltanet", "kda"])
def test_programs_with_reads_in_their_loops_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinking, "LANES", 1)
    of = fissioned(inverted(lowered(next(iter(catalog.get(name).mixers.values())), "chunked", 4, SIZES), 128))
    generator = torch.Generator().manual_seed(0)
    given = {
        n: -torch.rand(v.shape, generator=generator, dtype=torch.float64).numpy()
        for n, v in zip(of.input_names, of.inputs, strict=True)
    }
    assert len(stored(sunk(of))) < len(stored(of))
    results = [prepare(x)(given).values() for x in (sunk(of), of)]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), torch.from_numpy(theirs), rtol=1e-12, atol=1e-12)


SIZES = {"b": 1, "t": 12, "h": 2, "k": 3, "v": 5}


def test_a_loop_writes_results_where_they_lie() -> None:
    """No kernel that does no more than put a loop's results in another order; and they are right."""
    mixer = next(iter(catalog.get("deltanet").mixers.values()))
    sizes = {"b": 64, "t": 8, "h": 2, "k": 16, "v": 64}
    of = lowered(mixer, "chunked", 4, sizes)
    kernels = plan(of, Setting(dot="bf16")).kernels()
    assert [b.name for b in kernels[-1].writes] == ["y"]
    assert "for n_" in kernels[-1].text
    generator = torch.Generator().manual_seed(1)
    given = {n: torch.rand([sizes[a] for a in axes], generator=generator) * 0.2 for n, axes in mixer.signals.items()}
    results = [mx.compile(mixer, form="chunked", chunk=4, backend=backend)(**given) for backend in ("triton", "eager")]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
