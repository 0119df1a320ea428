"""The triton backend: array programs as generated GPU kernels, forward and adjoint alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch

from backends.triton import launch
from lowering.program import Program
from mixer_ir.errors import BackendError


def missing() -> str | None:
    """Why kernels cannot run here; None if they can: on a GPU, or in Triton's interpreter."""
    if find_spec("triton") is None:
        return "the backend 'triton' needs the package triton, which is not installed"
    if on_gpu() or launch.interpreted():
        return None
    return (
        "the backend 'triton' needs a GPU, and there is none here (its interpreter runs kernels on the CPU: "
        "TRITON_INTERPRET=1)"
    )


def on_gpu() -> bool:
    """Whether kernels run here at their speed, not in the interpreter."""
    return find_spec("triton") is not None and torch.cuda.is_available()


def prepare(program: Program, *, alone: torch.dtype = torch.float32) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """`program` as a function from tensors by input name to tensors by output name, run by generated kernels.

    It computes in float64 if an input is, else in float32. Errors: BackendError for what has no spelling here, and
    where kernels cannot run.

    alone   the precision where no input has one
    """
    if (reason := missing()) is not None:
        raise BackendError(reason)
    return launch.prepare(program, alone=alone)
