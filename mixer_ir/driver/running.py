"""Running a program on torch tensors with the backend that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from backends import BACKENDS, autograd, eager, missing, native, prepare, triton
from backends.rising import Rise
from backends.triton.levels import levels
from lowering.profile import CPU, KERNELS, NATIVE, Profile, profile_of
from lowering.program import Program
from mixer_ir.driver.binding import nearest
from mixer_ir.errors import BackendError, OptionError, one_of

Run: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def checked_backend(name: str, tune: bool = False) -> str:
    """`name` if a backend goes by it that is here; "auto" always is. `tune`: whether its kernels are to be tuned."""
    if tune and name != "triton":
        raise OptionError(f'tune=True is for the generated kernels of backend="triton", not for {name!r}')
    if name == "auto":
        return name
    if name not in BACKENDS:
        raise OptionError(f"there is no backend {name!r}{nearest(name, BACKENDS)}; backends: auto, {one_of(BACKENDS)}")
    if (reason := missing(name)) is not None:
        raise BackendError(reason)
    return name


def backend_on(name: str, device: torch.device) -> str:
    """The backend that runs on a device under this name: "auto" rises to compiled C on processors alone."""
    return "eager" if name == "auto" and device.type != "cpu" else name


def in_words(name: str, device: str) -> str:
    """What runs the programs."""
    if name == "native":
        return "native: compiled C"
    if name not in ("auto", "eager"):
        return name
    operators = f"{name}: PyTorch's operators"
    if name == "eager" or device != "cpu":
        return operators
    if (reason := native.missing()) is not None:
        return f"{operators}, not compiled C: {reason}"
    return f"{operators}, then compiled C where it is faster, for what has run for as long as compiling takes"


def told(run: Run) -> list[str]:
    """What has become of a program and of its adjoints, a line each; nothing where there is one backend for all."""
    way = run.way if isinstance(run, autograd.Differentiable) else None
    return [str(made) for made in way.made] if isinstance(way, Rise) else []


def settled(run: Run) -> bool:
    """Whether it is decided on which backend a program and its adjoints go on."""
    way = run.way if isinstance(run, autograd.Differentiable) else None
    return not isinstance(way, Rise) or all(made.stage in ("compiled", "stays") for made in way.made)


def profiles_of(backend: str, device: str) -> tuple[Profile, ...]:
    """By which rates forms are chosen: those of what runs; for "auto" on processors, also of what it may rise to."""
    if device != "cpu":
        return (KERNELS if (backend, device) == ("triton", "cuda") else profile_of(device),)
    return {"native": (NATIVE,), "auto": (CPU, NATIVE)}.get(backend, (CPU,))


def runner(
    backend: str,
    program: Program,
    precision: torch.dtype,
    other: Callable[[], Program] | None = None,
    *,
    tune: bool = False,
) -> Run:
    """The program as a differentiable function of tensors by input name; its adjoints run on the same backend.

    precision   the real dtype of a call, where the inputs that the program reads do not tell
    other       for "auto": the same as a program in the forms that are best for compiled C
    tune        for "triton": whether the first call tries several ways to run
    """
    if backend == "auto":
        rise = Rise(preparing("eager", precision), precision, other or (lambda: program))
        return autograd.differentiable(program, rise, name=backend, alone=precision)
    prepare, of = preparing(backend, precision, tune), levels(program) if backend == "triton" else program
    return autograd.differentiable(of, prepare, name=backend, alone=precision, opaque=backend != "eager")


def preparing(backend: str, precision: torch.dtype, tune: bool = False) -> Callable[[Program], Run]:
    """The backend's way to prepare a program."""
    if backend == "eager":
        return partial(without_autocast, partial(eager.prepare, alone=precision))
    if backend == "native":
        return partial(native.prepare, alone=precision)
    if backend == "triton":
        return partial(without_autocast, partial(triton.prepare, alone=precision, tune=tune))
    return partial(through_arrays, backend)


def without_autocast(prepare: Callable[[Program], Run], program: Program) -> Run:
    """What calls PyTorch's operations, in the precision of its inputs inside an autocast region too."""
    run = prepare(program)

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
        out = run({n: _widened(x.detach()).resolve_conj().cpu().numpy() for n, x in tensors.items()})
        return {n: _tensor(x).to(device) for n, x in out.items()}

    return call


def _widened(x: Tensor) -> Tensor:
    """NumPy knows no bfloat16, and computes in float16 where it is given that."""
    return x.float() if x.is_floating_point() and x.itemsize < 4 else x


def _tensor(x: Any) -> Tensor:
    """A NumPy array as a tensor; exact (SymPy) entries as floating-point numbers."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "O":
        return torch.from_numpy(np.array(x, order="C"))
    entries = [complex(v) for v in x.ravel()]
    real = all(v.imag == 0 for v in entries)
    values = [v.real for v in entries] if real else entries
    return torch.tensor(values, dtype=torch.float64 if real else torch.complex128).reshape(x.shape)
