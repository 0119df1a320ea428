"""Axes of two places whose entries are treated apart: the same numbers, with every entry read where it is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import catalog
from backends import reference
from backends.triton import launch, sinking
from backends.triton.kernel import Setting
from backends.triton.pairs import paired
from backends.triton.partition import plan
from backends.triton.real import real
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.driver.kernels import lowered
from tests.programs import arrays


def count(of: Program, kind: type) -> int:
    return sum(isinstance(v.op, kind) for v in of.order)


def agree(made: Program, of: Program) -> None:
    given = arrays(of)
    want, got = (reference.prepare(x)(given) for x in (of, made))
    for name, x in want.items():
        np.testing.assert_allclose(got[name], x, rtol=1e-12, atol=1e-12)


def chosen(at: int, first: int, second: int) -> Program:
    """where(r = at, −2 x[first], x[second] + 1)"""
    b = Builder()
    x = b.input("x", ("t", "r"), (5, 2))
    one, other = (b.take(x, "r", b.const(i)) for i in (first, second))
    y = b.where(b.map("eq", b.iota("r", 2), at), b.mul(one, -2.0), b.add(b.at(x, "r", second), b.mul(other, 0.0), 1.0))
    return program({"y": y}, [x])


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (0, 0)])
def test_a_choice_between_entries_reads_each_where_it_lies(at: int, first: int, second: int) -> None:
    of = chosen(at, first, second)
    made = paired(of)
    agree(made, of)
    assert count(made, p.Take) == count(made, p.Reduce) == 0
    crossed = (first != at) + (second == at)
    assert count(made, p.Flip) == (crossed > 0)


def test_what_is_no_pair_stays() -> None:
    """Three places, an axis that both branches have, and a condition that is no place."""
    b = Builder()
    x, m = b.input("x", ("t", "r"), (5, 3)), b.input("m", ("r",), (2,), "bool")
    one, other = (b.take(x, "r", b.const(i)) for i in (0, 1))
    y = b.where(b.map("eq", b.iota("r", 3), 0), one, other)
    pair = b.slice(x, "r", 0, 2)
    z = b.where(b.map("eq", b.iota("r", 2), 0), b.mul(pair, 2.0), pair)
    w = b.where(m, one, other)
    for made in (y, z, w):
        of = program({"y": made}, [x, m])
        assert paired(of) is of


@pytest.mark.parametrize("name", ["retention", "rotary_attention"])
def test_rotations_and_their_adjoints(name: str) -> None:
    entry, form = {"retention": ("retnet", "chunked"), "rotary_attention": ("softmax_attention", "flash")}[name]
    mixer = catalog.get(entry).mixers[name]
    axes = {a for of in mixer.signals.values() for a in of}
    sizes = {n: m for n, m in {"b": 1, "t": 6, "h": 2, "g": 1, "r": 2, "k": 3, "v": 4}.items() if n in axes}
    of = lowered(mixer, form, 3, sizes)
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])
    for one in (of, back):
        made = paired(one)
        agree(made, one)
        assert count(made, p.Take) == 0 < count(one, p.Take) and count(made, p.Flip) > 0


def test_a_flipped_product_is_moved_in_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of rotated keys: products are taken once, and both entries of every pair change places."""
    monkeypatch.setattr(sinking, "LANES", 1)
    of = lowered(catalog.get("retnet").mixer, "chunked", 16, {"b": 1, "t": 32, "h": 1, "r": 2, "k": 16, "v": 32})
    back = adjoint(of, ["q", "k", "v"])
    (kernel,) = (k for k in plan(real(back), Setting()).kernels() if any(b.name == "d_k" for b in k.writes))
    assert "_exchanged(" in kernel.text
    given = arrays(back)
    want = reference.prepare(back)(given)
    got = launch.prepare(back)({n: torch.from_numpy(np.asarray(x)) for n, x in given.items()})
    for n, x in want.items():
        assert np.abs(got[n].numpy() - x).max() <= 1e-7 * max(1.0, np.abs(x).max())
