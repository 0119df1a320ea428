"""Sequences of any length: as many kernels and bytes as where chunks divide the length, and the same results."""

from __future__ import annotations

from math import prod

import pytest

pytest.importorskip("triton")

import catalog
from backends.triton.kernel import Setting
from backends.triton.partition import plan
from backends.triton.real import real
from lowering.adjoint import adjoint
from lowering.program import Program
from mixer_ir.driver.kernels import lowered
from tests.test_triton import agree, arrays

CHUNKED = ("gla", "retnet", "mamba2", "gated_deltanet", "linear_attention")
SMALL = {"b": 1, "h": 1, "g": 1, "k": 16, "v": 16, "p": 16, "n": 16}


def passes(name: str, form: str, chunk: int | None, **sizes: int) -> list[Program]:
    mixer = next(iter(catalog.get(name).mixers.values()))
    axes = {a for of in mixer.signals.values() for a in of}
    of = lowered(mixer, form, chunk, {a: n for a, n in sizes.items() if a in axes})
    return [of, adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])]


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize(("t", "chunk"), [(9, 4), (65, 64)])
def test_a_last_chunk_that_is_filled_up(name: str, t: int, chunk: int) -> None:
    of, back = passes(name, "chunked", chunk, **SMALL, t=t)
    given = arrays(of)
    agree(of, given)
    agree(back, {**arrays(back, seed=1), **given})


@pytest.mark.parametrize("name", (*CHUNKED, "softmax_attention", "mamba"))
def test_a_length_that_chunks_do_not_divide_costs_no_more(name: str) -> None:
    """Launches and bytes at 4,097 steps beside those at 4,096, heads of 64."""
    sizes = {"b": 8, "h": 16, "g": 1, "k": 64, "v": 64, "p": 64, "n": 64}
    odd, even = (passes(name, "auto", None, **sizes, t=t) for t in (4097, 4096))
    for one, other in zip(odd, even, strict=True):
        ours, theirs = (plan(real(x), Setting(dot="bf16")).kernels() for x in (one, other))
        assert len(ours) <= len(theirs)
        assert _bytes(ours) <= 1.03 * _bytes(theirs)


def _bytes(kernels: list) -> int:  # type: ignore[type-arg]
    return sum(prod(b.value.shape) for k in kernels for b in (*k.reads, *k.writes))
