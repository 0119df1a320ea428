"""The triton backend: array programs as generated GPU kernels, forward and adjoint alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from backends.triton.launch import prepare as _prepare
from lowering.program import Program


def present() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def prepare(program: Program) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """`program` as a function from tensors to tensors, run by generated kernels."""
    return _prepare(program)
