"""Generated kernels of random mixers against their definitions, and the small programs that went wrong in some."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

from backends import reference
from backends.triton import launch
from lowering.build import Builder, program
from lowering.program import Value


def double(make, **shapes: int) -> None:
    """`make(builder, x)` of numbers x over t, to the last digits."""
    b = Builder()
    x = b.input("x", ("t",), (5,))
    of = program({"y": make(b, x)}, [x])
    given = np.linspace(-1.0, 1.0, 5)
    got = launch.prepare(of)({"x": torch.from_numpy(given)})["y"].numpy()
    np.testing.assert_allclose(got, reference.prepare(of)({"x": given})["y"], rtol=1e-14, atol=1e-14)


def summed(b: Builder, x: Value) -> Value:
    return b.mul(x, b.map("exp", b.sum(b.full(-0.3, {"i": 3}), ("i",))))


def contracted(b: Builder, x: Value) -> Value:
    return b.add(x, b.contract(b.full(0.1, {"i": 3}), b.full(0.7, {"i": 3}), ("i",)))


def placed(b: Builder, x: Value) -> Value:
    place = b.at(b.at(b.split(b.iota("n", 2), "n", "o", "i", 1), "i", 0), "o", 1)
    return b.mul(x, b.cast(b.map("mod", place, b.value(8)), "real"))


@pytest.mark.parametrize("make", [summed, contracted, placed])
def test_numbers(make):
    double(make)
