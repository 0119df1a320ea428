"""Sums: cumulated ones that no kernel of their own waits for, single ones of many entries, those that scans take."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import catalog
from backends import reference
from backends.triton import launch, partition, sums
from backends.triton.kernel import Setting
from backends.triton.partition import plan
from backends.triton.real import real
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.driver.kernels import lowered
from tests.programs import arrays


def gradients(**sizes: int) -> Program:
    of = lowered(catalog.get("linear_attention").mixer, "chunked", 64, {"b": 1, "h": 1, "k": 128, "v": 128} | sizes)
    return adjoint(of, ["q", "k", "v"])


def stored(of: Program, limit: int = Setting().limit) -> list[set[str]]:
    """What each kernel stores, of tiles that may take so many registers."""
    return [{b.name for b in k.writes} for k in plan(real(of), Setting(limit=limit)).kernels()]


def turns(text: str) -> int:
    """Of all loops of a kernel."""
    return sum(map(int, re.findall(r"in range\((\d+)\)", text)))


def test_few_sums_are_taken_where_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of a normaliser's state at 128, where a loop finds no registers: its parts are summed last."""
    of = gradients(t=256)
    made = stored(of, limit=90)
    monkeypatch.setattr(launch, "Setting", partial(Setting, limit=90))
    given = {n: x.astype(np.float32) for n, x in arrays(of).items()}
    want = reference.prepare(of)(given)
    got = launch.prepare(of)({n: torch.from_numpy(x) for n, x in given.items()})
    for n, x in want.items():
        assert np.abs(got[n].numpy() - x).max() <= 1e-4 * max(1.0, np.abs(x).max())
    monkeypatch.setattr(partition, "MUCH", 0)
    before = stored(of, limit=90)
    assert len(made) == len(before) - 1 and "pad" in set().union(*made)
    assert set().union(*made) < set().union(*before)


def test_a_normalised_mixer_goes_back_in_few_launches() -> None:
    """At 128 several programs hold a state: the rows' normalisers, which each would compute again, are stored once."""
    assert len(stored(gradients(b=8, t=4096, h=16, k=64, v=64))) == 3
    wide = stored(gradients(b=8, t=4096, h=16))
    assert len(wide) == 4 and {"map"} in wide


def test_a_single_sum_over_two_axes_takes_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Σ_{k v} x y beside a cumulated sum: arrays are read in tiles as they lie, in few turns, and summed at the end."""
    b = Builder()
    x = b.input("x", ("c", "k", "v"), (3, 96, 128))
    y = b.input("y", ("c", "v", "k"), (3, 128, 96))
    g = b.input("g", ("c", "i"), (3, 64))
    of = program({"z": b.mul(b.cumulate("sum", g, "i"), b.contract(x, y, ("k", "v")))}, [x, y, g])
    given = {n: a.astype(np.float32) for n, a in arrays(of).items()}
    want = reference.prepare(of)(given)["z"]
    got = launch.prepare(of)({n: torch.from_numpy(a) for n, a in given.items()})["z"].numpy()
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    (kernel,) = plan(real(of), Setting()).kernels()
    assert turns(kernel.text) == 2
    monkeypatch.setattr(sums, "FEW", 1 << 20)
    (before,) = plan(real(of), Setting()).kernels()
    assert turns(before.text) == 12


def test_a_scan_waits_for_products_along_its_steps() -> None:
    """h_t = a_t h_{t−1} + r_t u_t, r_t of products of a chunk's rows: r is stored, and the scan goes by blocks."""
    b = Builder()
    q = b.input("q", ("_t", "k"), (128, 64))
    s = b.input("s", ("c", "k", "v"), (2, 64, 64))
    w = b.input("w", ("_t", "v"), (128, 64))
    a = b.input("a", ("_t", "n"), (128, 32))
    u = b.input("u", ("_t", "n"), (128, 32))
    rows = b.contract(b.split(q, "_t", "c", "i", 64), s, ("k",))
    r = b.contract(b.merge(rows, "c", "i", "_t"), w, ("v",))
    of = program({"h": b.affine_scan(a, b.mul(u, r), "_t")}, [q, s, w, a, u])
    given = {n: x.astype(np.float32) for n, x in arrays(of).items()}
    given["a"] = np.tanh(given["a"])
    want = reference.prepare(of)(given)["h"]
    got = launch.prepare(of)({n: torch.from_numpy(x) for n, x in given.items()})["h"].numpy()
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    first, second = plan(real(of), Setting()).kernels()
    assert [b.value.axes for b in first.writes] == [("_t",)] and "tl.dot(" in first.text
    assert "tl.associative_scan(" in second.text and "tl.dot(" not in second.text
