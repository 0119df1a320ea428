"""Cumulated sums that no kernel of their own waits for: what reads them sums the parts that are in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import catalog
from backends import reference
from backends.triton import launch, partition
from backends.triton.kernel import Setting
from backends.triton.partition import plan
from backends.triton.real import real
from lowering.adjoint import adjoint
from lowering.program import Program
from mixer_ir.driver.kernels import lowered
from tests.programs import arrays


def gradients(**sizes: int) -> Program:
    of = lowered(catalog.get("linear_attention").mixer, "chunked", 64, {"b": 1, "h": 1, "k": 128, "v": 128} | sizes)
    return adjoint(of, ["q", "k", "v"])


def stored(of: Program) -> list[set[str]]:
    """What each kernel stores."""
    return [{b.name for b in k.writes} for k in plan(real(of), Setting()).kernels()]


def test_few_sums_are_taken_where_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of a normaliser's state at 128: its parts are stored by chunk, and the last kernel sums them."""
    of = gradients(t=256)
    made = stored(of)
    given = {n: x.astype(np.float32) for n, x in arrays(of).items()}
    want = reference.prepare(of)(given)
    got = launch.prepare(of)({n: torch.from_numpy(x) for n, x in given.items()})
    for n, x in want.items():
        assert np.abs(got[n].numpy() - x).max() <= 1e-4 * max(1.0, np.abs(x).max())
    monkeypatch.setattr(partition, "MUCH", 0)
    before = stored(of)
    assert len(made) == len(before) - 1 and "pad" in set().union(*made)
    assert set().union(*made) < set().union(*before)


def test_a_normalised_mixer_goes_back_in_three_launches() -> None:
    assert len(stored(gradients(b=8, t=4096, h=16))) == 3
