"""The triton backend: array programs as generated GPU kernels, forward and adjoint alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch

from backends.triton import known, launch
from backends.triton.tune import measured
from lowering.program import Program
from mixer_ir.errors import BackendError


def missing() -> str | None:
    """Why kernels cannot run here; None if they can: on a GPU, or in Triton's interpreter."""
    if find_spec("triton") is None:
        return "the backend 'triton' needs the package triton, which is not installed: pip install triton"
    if (reason := known.too_old()) is not None:
        return reason
    if on_gpu() or launch.interpreted():
        return None
    return (
        "the backend 'triton' needs a GPU, and there is none here (its interpreter runs kernels on the CPU: "
        "TRITON_INTERPRET=1)"
    )


def on_gpu() -> bool:
    """Whether kernels run here at their speed, not in the interpreter."""
    return find_spec("triton") is not None and torch.cuda.is_available()


def prepare(
    program: Program, *, alone: torch.dtype = torch.float32, tune: bool = False
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """`program` as a function from tensors by input name to tensors by output name, run by generated kernels.

    It computes in float64 if an input is, else in float32; bfloat16 and float16 are read and written as they are, and
    products of bfloat16 signals take bfloat16 factors. Errors: BackendError for what has no spelling here, and
    where kernels cannot run.

    alone   the precision where no input has one
    tune    whether the first call tries several ways to run, which takes minutes, and keeps the fastest for ever
    """
    if (reason := missing()) is not None:
        raise BackendError(reason)
    if tune and not on_gpu():
        raise BackendError("tune=True measures kernels on a GPU, and there is none here")
    return launch.prepare(program, alone=alone, timer=measured if tune else None)
