"""Running a program on torch tensors with the backend that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from backends import BACKENDS, autograd, eager, missing, native, prepare, triton
from backends.triton.levels import levels
from lowering.program import Program
from mixer_ir.binding import nearest
from mixer_ir.errors import BackendError, OptionError, one_of

Run: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def checked_backend(name: str) -> str:
    """The backend that runs under this name."""
    if name == "auto":
        return "eager"
    if name not in BACKENDS:
        raise OptionError(f"there is no backend {name!r}{nearest(name, BACKENDS)}; backends: auto, {one_of(BACKENDS)}")
    if (reason := missing(name)) is not None:
        raise BackendError(reason)
    return name


def backend_in_words(name: str) -> str:
    """What runs the programs, and what else could."""
    if name == "native":
        return "native (compiled by this machine's C compiler)"
    reason = native.missing()
    other = 'backend="native" compiles the same programs as C' if reason is None else f"not native: {reason}"
    return f"{name}; {other}" if name == "eager" else name


def runner(backend: str, program: Program, precision: torch.dtype) -> Run:
    """The program as a differentiable function of tensors by input name; its adjoints run on the same backend.

    precision   the real dtype of a call, where the inputs that the program reads do not tell
    """
    if backend == "eager":
        return autograd.differentiable(program, partial(without_autocast, precision=precision))
    if backend == "native":
        return autograd.differentiable(program, partial(native.prepare, alone=precision))
    if backend == "triton":
        return autograd.differentiable(levels(program), partial(triton.prepare, alone=precision))
    return autograd.differentiable(program, partial(through_arrays, backend))


def without_autocast(program: Program, precision: torch.dtype) -> Run:
    """The eager backend in the precision of its inputs, inside an autocast region too."""
    run = eager.prepare(program, alone=precision)

    def call(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device = next((x.device.type for x in tensors.values() if x.dim()), "cpu")
        if not torch.is_autocast_enabled(device):
            return run(tensors)
        with torch.autocast(device, enabled=False):
            return run(tensors)

    return call


def through_arrays(backend: str, program: Program) -> Run:
    """The program on a backend that computes with NumPy arrays."""
    run = prepare(backend, program)

    def call(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device = next((x.device for x in tensors.values() if x.dim()), None)
        out = run({n: x.detach().resolve_conj().cpu().numpy() for n, x in tensors.items()})
        return {n: _tensor(x).to(device) for n, x in out.items()}

    return call


def _tensor(x: Any) -> Tensor:
    """A NumPy array as a tensor; exact (SymPy) entries as floating-point numbers."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "O":
        return torch.from_numpy(np.array(x, order="C"))
    entries = [complex(v) for v in x.ravel()]
    real = all(v.imag == 0 for v in entries)
    values = [v.real for v in entries] if real else entries
    return torch.tensor(values, dtype=torch.float64 if real else torch.complex128).reshape(x.shape)
