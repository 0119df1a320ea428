"""Backends: each runs an array program; none of them knows what a mixer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backends import eager, native, reference, symbolic, triton
from lowering.program import Program
from mixer_ir.errors import OptionError

BACKENDS: dict[str, Callable[[Program], Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "reference": reference.prepare,
    "symbolic": symbolic.prepare,
    "eager": eager.prepare,
    "native": native.prepare,
    "triton": triton.prepare,
}
"""name -> `prepare`: a program as a function from arrays by input name to arrays by output name"""


def available() -> tuple[str, ...]:
    """The names of the backends that run on this machine: `native` needs a C compiler, `triton` a GPU."""
    return tuple(name for name in BACKENDS if missing(name) is None and (name != "triton" or triton.on_gpu()))


def missing(name: str) -> str | None:
    """Why a backend cannot run on this machine; None if it can."""
    return {"native": native.missing, "triton": triton.missing}.get(name, lambda: None)()


def prepare(name: str, program: Program) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """`program` planned for one backend."""
    if name not in BACKENDS:
        raise OptionError(f"there is no backend {name!r}; backends: {', '.join(BACKENDS)}")
    return BACKENDS[name](program)
