"""Running a plan on tensors: kernels are compiled from their text when they are first launched."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from backends.eager import own
from backends.plan import check_shape, given
from backends.triton.evaluate import Buffer
from backends.triton.kernel import Kernel, Setting
from backends.triton.levels import levels
from backends.triton.partition import Call, Launch, Plan, Repeat, Step, plan, reads, writes
from backends.triton.real import PART, real
from lowering import program as p
from lowering.program import Program, Value
from mixer_ir.errors import BackendError


@lru_cache(maxsize=4096)
def function(source: str, name: str) -> Any:
    """The compiled-on-launch kernel of this text."""
    file = f"<mixer-ir {sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space: dict[str, Any] = {"__name__": "mixer_ir_kernels"}
    exec(compile(source, file, "exec"), space)
    return space[name]


def interpreted() -> bool:
    """Whether Triton runs kernels on the CPU, for tests."""
    import triton

    return bool(triton.knobs.runtime.interpret)


def prepare(
    program: Program, *, alone: torch.dtype = torch.float32, dot: str = "ieee"
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A function from tensors by input name to tensors by output name.

    alone   the precision where no input has one     dot   how products of matrices take their factors
    """
    plain = real(levels(program))
    plans: dict[torch.dtype, Plan] = {}
    complexes = {n for n, v in zip(program.input_names, program.inputs, strict=True) if v.kind == "complex"}

    def call(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = given(program, arrays)
        for v, x in zip(program.inputs, inputs, strict=True):
            check_shape(v, x.shape)
        floating = [x.dtype for x in inputs if x.is_floating_point() or x.is_complex()] or [alone]
        double = any(x in (torch.float64, torch.complex128) for x in floating)
        dtype = torch.float64 if double else torch.float32
        if dtype not in plans:
            plans[dtype] = plan(plain, Setting("tl.float64" if double else "tl.float32", dot))
        device = inputs[0].device if inputs else torch.device("cpu")
        _check(device)
        made: dict[Value, Tensor] = {}
        for name, v, x in zip(program.input_names, plain.inputs, inputs, strict=True):
            if name in complexes:
                x = torch.view_as_real(x.to(torch.complex128 if double else torch.complex64).resolve_conj())
            made[v] = x.to(_dtype(v, dtype)).contiguous()
        results = _run(plans[dtype], made, dtype, device)
        out = [
            torch.view_as_complex(y.contiguous()) if v.kind == "complex" else y
            for v, y in zip(program.outputs, results, strict=True)
        ]
        return dict(zip(program.names, own(out, inputs), strict=True))

    return call


def _check(device: torch.device) -> None:
    if device.type == "cpu" and not interpreted():
        raise BackendError(
            "the triton backend runs on GPUs, but the tensors are on the CPU: move them, or set TRITON_INTERPRET=1"
        )


def _dtype(v: Value, real_dtype: torch.dtype) -> torch.dtype:
    return {"real": real_dtype, "int": torch.int64, "bool": torch.bool}[v.kind]


def _run(made_by: Plan, made: dict[Value, Tensor], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    last: dict[Value, int] = {}
    for i, step in enumerate(made_by.steps):
        last |= dict.fromkeys(reads(step), i)
    kept = {*made_by.program.outputs, *made_by.program.inputs}
    for i, step in enumerate(made_by.steps):
        _step(step, made, dtype, device)
        for v in dict.fromkeys((*reads(step), *(b.value for b in writes(step)))):
            if last.get(v, -1) <= i and v not in kept:
                made.pop(v, None)
    return [made[v] for v in made_by.program.outputs]


def _step(step: Step, made: dict[Value, Tensor], dtype: torch.dtype, device: torch.device) -> None:
    if isinstance(step, Call):
        made[step.buffer.value] = _library(step.buffer.value, [made[a] for a in step.buffer.value.args]).contiguous()
        return
    for b in writes(step):
        made[b.value] = torch.empty(b.value.shape, dtype=_dtype(b.value, dtype), device=device)
    if isinstance(step, Launch):
        launch(step.kernel, [made[b.value] for b in (*step.kernel.reads, *step.kernel.writes)])
    else:
        _repeat(step, made, dtype, device)


def launch(kernel: Kernel, tensors: list[Tensor]) -> None:
    """One launch of a kernel; truth values are passed as bytes."""
    if all(b.value.shape and 0 in b.value.shape for b in kernel.writes):
        return
    args = [x.view(torch.int8) if x.dtype == torch.bool else x for x in tensors]
    function(kernel.source, kernel.name)[(kernel.programs,)](*args, num_warps=kernel.warps)


def _repeat(step: Repeat, made: dict[Value, Tensor], dtype: torch.dtype, device: torch.device) -> None:
    """The loop, from outside."""
    op = step.scan.op
    assert isinstance(op, p.Scan)
    args = [made[a] for a in step.scan.args]
    axes = [a.axes for a in step.scan.args]
    carries = args[: op.carries]
    results = {_index(b): made[b.value] for b in step.results}
    order = range(op.length - 1, -1, -1) if op.reverse else range(op.length)
    for i in order:
        here = [
            x.select(a.index(op.axis), i).contiguous() if op.carries <= j < op.carries + op.steps else x
            for j, (x, a) in enumerate(zip(args, axes, strict=True))
        ]
        here[: op.carries] = carries
        out = _run(step.body, dict(zip(step.body.program.inputs, here, strict=True)), dtype, device)
        carries = out[: op.carries]
        for j, y in results.items():
            if j >= op.carries:
                y[i].copy_(out[j])
    for j, y in results.items():
        if j < op.carries:
            y.copy_(carries[j])


def _index(b: Buffer) -> int:
    assert isinstance(b.value.op, p.Pick)
    return b.value.op.index


def _library(v: Value, args: list[Tensor]) -> Tensor:
    """PyTorch's own: cuFFT and triangular solves."""
    op = v.op
    if isinstance(op, p.Transform):
        x = v.args[0]
        axes = tuple(a for a in x.axes if a != PART)
        z = args[0]
        if PART in x.axes:
            z = torch.view_as_complex(z.movedim(x.axes.index(PART), -1).contiguous())
        length = {} if op.which == "rfft" else {"n": op.n}
        y: Tensor = getattr(torch.fft, op.which)(z, dim=axes.index(op.axis), **length)
        return y if op.which == "irfft" else torch.view_as_real(y)
    assert isinstance(op, p.Solve)
    lower, right = v.args
    batch = [a for a in v.axes if a != op.row and a in lower.axes]
    columns = [a for a in v.axes if a != op.row and a not in batch]
    matrix = _ordered(args[0], lower.axes, [*batch, op.row, op.col])
    r = _ordered(args[1], right.axes, [*batch, op.row, *columns])
    sizes = [v.size(a) for a in batch]
    n = v.size(op.row)
    r = r.expand(*sizes, n, *(v.size(a) for a in columns)).reshape(*sizes, n, -1)
    eye = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    full = (eye - matrix).expand(*sizes, n, n)
    y = torch.linalg.solve_triangular(full, r, upper=op.upper, unitriangular=True)
    y = y.reshape(*sizes, n, *(v.size(a) for a in columns))
    return y.permute(*([*batch, op.row, *columns].index(a) for a in v.axes))


def _ordered(x: Tensor, axes: tuple[str, ...], wanted: list[str]) -> Tensor:
    """x with the axes `wanted`, of size 1 where it lacks one."""
    x = x.permute(*(axes.index(a) for a in wanted if a in axes))
    for i, a in enumerate(wanted):
        if a not in axes:
            x = x.unsqueeze(i)
    return x
