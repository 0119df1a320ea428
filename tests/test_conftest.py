"""The test bed itself: the poison reaches every way to allocate, and the seeds hold."""

from __future__ import annotations

import pytest
import torch

SOME = torch.ones(2, 3)
ALLOCATIONS = {
    "empty": lambda dtype: torch.empty(2, 3, dtype=dtype),
    "empty_like": lambda dtype: torch.empty_like(SOME, dtype=dtype),
    "empty_strided": lambda dtype: torch.empty_strided((2, 3), (3, 1), dtype=dtype),
    "new_empty": lambda dtype: SOME.new_empty(2, 3, dtype=dtype),
    "requires_grad": lambda dtype: torch.empty(2, 3, dtype=dtype, requires_grad=True),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("allocate", ALLOCATIONS.values(), ids=ALLOCATIONS.keys())
def test_empty_memory_holds_nan(allocate, dtype):
    assert allocate(dtype).isnan().all()


def test_empty_integers_are_left_alone():
    assert torch.empty(3, dtype=torch.int64).shape == (3,)


@pytest.mark.parametrize("again", [False, True])
def test_every_test_draws_the_same_numbers(again):
    assert torch.rand(()).item() == pytest.approx(0.49625658988952637)
