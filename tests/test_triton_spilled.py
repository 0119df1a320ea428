"""Narrow tiles, where larger ones have spilled: products are stored, not computed again; masks are the loads' own."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import catalog
from backends import reference
from backends.triton import kernel, launch, partition
from backends.triton.kernel import SPILLED, Setting
from backends.triton.levels import levels
from backends.triton.partition import plan
from backends.triton.real import real
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.driver.kernels import lowered
from tests.programs import arrays


def halves() -> Program:
    """Scores of the upper and the lower half of rows, each times keys of its own."""
    b = Builder()
    sizes = {"c": 8, "t": 64, "s": 64, "k": 512, "v": 64}
    named = {"q": "ctv", "e": "csv", "k": "csk", "w": "csk"}
    q, e, k, w = (b.input(n, tuple(axes), tuple(sizes[a] for a in axes)) for n, axes in named.items())
    scores = b.contract(q, e, ("v",))
    upper = b.map("lt", b.iota("t", 64), 32)
    one, other = b.where(upper, scores, 0.0), b.where(upper, 0.0, scores)
    return program({"y": b.add(b.contract(one, k, ("s",)), b.contract(other, w, ("s",)))}, [q, e, k, w])


def test_what_many_narrow_tiles_would_compute_again_is_stored_before_its_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    of = halves()
    monkeypatch.setattr(kernel, "SHAPES", ((1 << 10, 256),) * 2)
    assert len(plan(of, Setting(dot="bf16")).kernels()) == 1
    scores, y = plan(of, Setting(dot="bf16", limit=SPILLED - 1)).kernels()
    assert len(scores.writes) == 1 and len(y.reads) == 3
    assert dict(y.grid)["k"] >= partition.OFTEN
    loads = [
        x for x in y.text.replace("\n", " ").split("tl.load(") if x.lstrip().startswith(f"p_{scores.writes[0].name}")
    ]
    assert len(loads) == 2 and all("mask=" in x for x in loads) and "tl.where(m_" not in y.text


@pytest.mark.parametrize("name", ["kda", "rwkv7", "gla", "mamba2", "gated_deltanet"])
def test_narrow_tiles_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "room", lambda target: (SPILLED - 1, 0))
    monkeypatch.setattr(kernel, "SHAPES", ((1 << 8, 256),) * 2)
    monkeypatch.setattr(partition, "OFTEN", 2)
    mixer = catalog.get(name).mixer
    axes = {a for of in mixer.signals.values() for a in of}
    sizes = {"b": 1, "t": 32, "h": 1, "g": 1, "k": 32, "v": 16, "p": 16, "n": 32}
    of = lowered(mixer, "chunked", 16, {a: n for a, n in sizes.items() if a in axes})
    inputs = [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable]
    masked = 0
    for one in (of, adjoint(of, inputs)):
        given = {n: -np.abs(x) if n in ("g", "A", "w") else x for n, x in arrays(one).items()}
        want = reference.prepare(one)(given)
        got = launch.prepare(one)({n: torch.from_numpy(np.asarray(x)) for n, x in given.items()})
        for n, x in want.items():
            np.testing.assert_allclose(got[n].numpy(), x, rtol=1e-7, atol=1e-7 * max(1.0, np.abs(x).max()))
            assert np.abs(x).max() > 1e-3
        text = "".join(k.text for k in plan(real(levels(one)), Setting("tl.float64", limit=SPILLED - 1)).kernels())
        masked += len(re.findall(r"mask=m_\w*scores", text))
    assert masked or name not in ("kda", "rwkv7"), "scores of several levels, of which each product takes one"
