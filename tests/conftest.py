"""What every test may rely on: one thread a worker, fixed seeds, and uninitialised memory that shows."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from functools import wraps

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported, which other packages do too

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from backends import rising

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

settings.register_profile("default", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=500)
settings.load_profile("ci" if os.environ.get("CI") else "default")  # or: pytest --hypothesis-profile=thorough

EMPTY = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch, "empty_permuted"),
    (torch.Tensor, "new_empty"),
    (torch.Tensor, "new_empty_strided"),
)


def poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The same allocation filled with NaN, so that reading what was never written cannot pass unseen."""

    @wraps(make)
    def allocate(*args: object, **options: object) -> torch.Tensor:
        made = make(*args, **options)
        if made.is_floating_point() or made.is_complex():
            made.detach().fill_(float("nan"))
        return made

    return allocate


@pytest.fixture(autouse=True)
def nan_in_empty_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty and its kin hand out NaN."""
    for owner, name in EMPTY:
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


@pytest.fixture(autouse=True, scope="session")
def nothing_rises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs under "auto" stay on PyTorch's operators, however slow the machine is and whatever its cache holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXER_IR_CACHE", str(tmp_path_factory.mktemp("cache") / "none"))
        patch.setattr(rising, "LEAST", math.inf)
        yield


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test draws the same numbers, whichever ran before it; dtype and gradient mode are put back after it."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
