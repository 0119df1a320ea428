"""Backends: each runs an array program; none of them knows what a mixer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from lowering.program import Program
from mixer_ir.errors import BackendError, OptionError

BACKENDS: dict[str, str] = {
    "reference": "NumPy, float64, each operation by its definition",
    "symbolic": "SymPy, exact, for small sizes",
    "eager": "PyTorch, on any device",
}
"""name -> what it is; the module backends.<name> has `prepare`"""


def available() -> tuple[str, ...]:
    """The names of the backends that run on this machine."""
    return tuple(BACKENDS)


def prepare(name: str, program: Program) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """`program` planned for one backend: a function from arrays by input name to arrays by output name."""
    if name not in BACKENDS:
        raise OptionError(f"there is no backend {name!r}; backends: {', '.join(BACKENDS)}")
    if name not in available():
        raise BackendError(
            f"the backend {name!r} does not run on this machine; those that do: {', '.join(available())}"
        )
    return import_module(f"backends.{name}").prepare(program)  # type: ignore[no-any-return]
