"""Running a plan on tensors: kernels are compiled from their text when they are first launched.

Kernels read and write memory in the dtype that it has, and compute in float32 or float64: bfloat16 and float16 signals
are never converted by a pass of their own. Nothing is added up by several programs, so two runs are bit-equal.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.eager import own
from backends.plan import check_shape, given
from backends.results import COMPLEX, precision_of, results
from backends.triton.compilers import LIMIT
from backends.triton.devices import room, triton_of
from backends.triton.evaluate import Buffer
from backends.triton.kernel import Kernel, Setting
from backends.triton.known import installed, refusal, sound
from backends.triton.levels import levels
from backends.triton.library import called
from backends.triton.narrow import narrow
from backends.triton.plans import planned
from backends.triton.real import real
from backends.triton.settle import asked, settled
from backends.triton.steps import Call, Launch, Plan, Repeat, Step, made_with, reads, writes
from backends.triton.tune import Timer, Way, name_of, tuned
from lowering import program as p
from lowering.program import Program, Value
from mixer_ir.errors import BackendError

ROUNDED = ("bf16", "bf16 widened")
"""how products take their factors where values between kernels may be rounded alike (backends/triton/narrow.py)"""
CPU = "cpu"
"""the target of Triton's interpreter"""


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


@lru_cache(maxsize=64)
def target_of(device: torch.device) -> str:
    """What kernels are compiled for: sm_90, gfx942; the interpreter's is `cpu`.

    Errors: BackendError where kernels cannot run.
    """
    if device.type == CPU:
        if not interpreted():
            raise BackendError(
                "the triton backend runs on GPUs, but the tensors are on the CPU: move them, or set TRITON_INTERPRET=1"
            )
        return CPU
    if interpreted() or device.type != "cuda":
        return device.type
    facts = torch.cuda.get_device_properties(device)
    return facts.gcnArchName.partition(":")[0] if torch.version.hip else f"sm_{facts.major}{facts.minor}"


@dataclass(frozen=True)
class Ready:
    """A plan for inputs of some dtypes.

    way    of running it           real   the precision that is computed in
    kept   the dtypes of all results, in order        stored   values that their kernel stores in another dtype
    given  the dtypes of what is passed
    """

    plan: Plan
    way: Way
    real: torch.dtype
    stored: Mapping[Value, torch.dtype]
    kept: Sequence[torch.dtype]
    given: Mapping[Value, torch.dtype]

    def type(self, b: Buffer) -> torch.dtype:
        """That of a kernel's array."""
        return self.given.get(b.value) or self.dtype(b.value)

    def dtype(self, v: Value) -> torch.dtype:
        """That of a value in memory."""
        return self.stored.get(v) or {"real": self.real, "int": torch.int64, "bool": torch.bool}[v.kind]


def prepare(
    program: Program, *, alone: torch.dtype = torch.float32, dot: str | None = None, timer: Timer | None = None
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A function from tensors by input name to tensors by output name.

    alone   the precision where no input has one
    dot     how products of matrices take their factors: by default as `factors` says
    timer   tells how long a call takes: the first call with inputs of some dtypes is tuned by it
    """
    plain = real(levels(program))
    made: dict[tuple[Any, ...], Ready] = {}

    def call(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = given(program, arrays)
        for v, x in zip(program.inputs, inputs, strict=True):
            check_shape(v, x.shape)
        device = next((x.device for x in inputs if x.dim()), torch.device(CPU))
        dtypes = tuple(x.dtype for x in inputs)
        how = dot or factors(program, dtypes, alone)
        target = target_of(device)
        if how == "bf16" and target == CPU:
            how = "bf16 widened"  # the interpreter would multiply their bits
        key = (dtypes, how, device)
        if key not in made:
            made[key] = readied(program, plain, dtypes, alone, how, target)
            if timer is not None:

                def run(way: Way) -> list[Tensor]:
                    return _called(readied(program, plain, dtypes, alone, way, target), program, inputs, device)

                name = name_of(made[key].plan.kernels(), dtypes, target)
                made[key] = readied(program, plain, dtypes, alone, tuned(made[key].way, name, run, timer), target)
        return dict(zip(program.names, own(_called(made[key], program, inputs, device), inputs), strict=True))

    return call


def _called(ready: Ready, program: Program, inputs: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    arrays: dict[Value, Tensor] = {}
    for v, inner, x in zip(program.inputs, ready.plan.program.inputs, inputs, strict=True):
        if v.kind == "complex":
            x = torch.view_as_real(x.to(COMPLEX[ready.real]).resolve_conj())
        arrays[inner] = x.to(device).contiguous()
    with on(device):
        out = _run(ready, ready.plan, arrays, device)
    return [
        (torch.view_as_complex(y.contiguous()) if v.kind == "complex" else y).to(dtype)
        for v, y, dtype in zip(program.outputs, out, ready.kept, strict=True)
    ]


def factors(program: Program, dtypes: Sequence[torch.dtype], alone: torch.dtype) -> str:
    """How products of matrices take their factors: as the narrowest signals are; float32 as PyTorch was told.

    float16 signals are multiplied in tf32, which has as many digits and the range of float32: a state may be larger
    than any float16; so are complex numbers, as a transform is a chain of products, each of which would round to
    bfloat16 what the last one gave. Sums are float32 always.
    """
    if precision_of(dtypes, alone) == torch.float64:
        return "ieee"
    narrow = {x for x, v in zip(dtypes, program.inputs, strict=True) if v.kind == "real" and v.shape}
    if torch.bfloat16 in narrow:
        return "tf32" if any(v.kind == "complex" and isinstance(v.op, p.Contract) for v in program.order) else "bf16"
    if torch.float16 in narrow:
        return "tf32"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def readied(
    program: Program,
    plain: Program,
    dtypes: Sequence[torch.dtype],
    alone: torch.dtype,
    how: str | Way,
    target: str,
    *,
    limit: float = LIMIT,
) -> Ready:
    """The plan of `program` (`plain`: of real numbers) for inputs of these dtypes on a device.

    how     products of matrices take their factors, or all that there is to choose
    limit   seconds that one kernel may be compiled for, where kernels are compiled to see what fits
    """
    precision = precision_of(dtypes, alone)
    wide = precision == torch.float64
    most, copies = room(target)
    setting = Setting("tl.float64" if wide else "tl.float32", limit=most, copies=copies)
    way = how if isinstance(how, Way) else Way(replace(setting, dot=how))
    kept = results(program, dtypes, alone)

    def ready(of: Plan) -> Ready:
        given = {v: precision if x.is_complex else x for v, x in zip(of.program.inputs, dtypes, strict=True)}
        return Ready(of, way, precision, _stored(of, kept, precision, way.setting.dot), kept, given)

    if triton_of(target) is None:
        return ready(planned(plain, way.setting, target))
    marks = [str(x) for x in (*dtypes, *kept)]
    if (few := asked()) is not None:
        marks.append(f"of {few} plans")

    def make() -> Plan:
        return settled(plain, way.setting, target, lambda of: ready(of).type, limit=limit)

    return ready(planned(plain, way.setting, target, marks, make))


def _stored(of: Plan, kept: Sequence[torch.dtype], precision: torch.dtype, dot: str) -> dict[Value, torch.dtype]:
    """The values that their kernel stores in another dtype than it computes in."""
    read = {v for step in of.steps for v in reads(step)} | set(of.program.inputs)
    calls = {step.buffer.value for step in of.steps if isinstance(step, Call)}
    stored: dict[Value, torch.dtype] = {}
    for v, dtype in zip(of.program.outputs, kept, strict=True):
        if v.kind == "real" and not dtype.is_complex and v not in read and v not in calls:
            stored[v] = precision if stored.get(v, dtype) != dtype else dtype
    if dot in ROUNDED:
        own = (b.value for step in of.steps if not isinstance(step, Call) for b in writes(step))
        wide = [v for v, dtype in zip(of.program.outputs, kept, strict=True) if dtype.itemsize > 2]
        between = [v for v in own if v not in stored]
        stored |= dict.fromkeys(narrow(of.program, between, wide, made_with(of.steps)), torch.bfloat16)
    return stored


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels are launched on the device of their tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _run(ready: Ready, of: Plan, made: dict[Value, Tensor], device: torch.device) -> list[Tensor]:
    last: dict[Value, int] = {}
    for i, step in enumerate(of.steps):
        last |= dict.fromkeys(reads(step), i)
    kept = {*of.program.outputs, *of.program.inputs}
    for i, step in enumerate(of.steps):
        _step(ready, step, made, device)
        for v in dict.fromkeys((*reads(step), *(b.value for b in writes(step)))):
            if last.get(v, -1) <= i and v not in kept:
                made.pop(v, None)
    return [made[v] for v in of.program.outputs]


def _step(ready: Ready, step: Step, made: dict[Value, Tensor], device: torch.device) -> None:
    if isinstance(step, Call):
        v = step.buffer.value
        made[v] = called(v, [made[a].to(ready.dtype(a)) for a in v.args]).contiguous()
        return
    for b in writes(step):
        made[b.value] = torch.empty(b.value.shape, dtype=ready.dtype(b.value), device=device)
    if isinstance(step, Launch):
        launch(step.kernel, [made[b.value] for b in (*step.kernel.reads, *step.kernel.writes)], ready.way)
    else:
        _repeat(ready, step, made, device)


def launch(kernel: Kernel, tensors: list[Tensor], way: Way) -> None:
    """One launch of a kernel; truth values are passed as bytes.

    Errors: BackendError for what is known to be compiled wrongly, for what needs more of the device than it has, and
    for what the interpreter cannot run.
    """
    if all(b.value.shape and 0 in b.value.shape for b in kernel.writes):
        return
    args = [x.view(torch.int8) if x.dtype == torch.bool else x for x in tensors]
    from triton.runtime.errors import InterpreterError, OutOfResources

    run, warps = _compiled(kernel, way.warps, target_of(tensors[-1].device))
    try:
        run[(kernel.programs,)](*args, num_warps=warps, num_stages=way.stages or kernel.stages)
    except OutOfResources as error:
        raise BackendError(f"{kernel.name} needs more of the device than it has: {error}") from error
    except InterpreterError as error:
        old = installed() < (3, 7) and np.lib.NumpyVersion(np.__version__) >= "2.4.0"
        hint = "; that of triton 3.6 works with NumPy up to 2.3: install triton 3.7 or numpy 2.3" if old else ""
        raise BackendError(f"Triton's interpreter cannot run {kernel.name}: {error}{hint}") from error


@lru_cache(maxsize=4096)
def _compiled(kernel: Kernel, warps: int | None, target: str) -> tuple[Any, int]:
    """(what Triton compiles at its first launch, warps of a program)."""
    if warps is None:
        kernel = sound(kernel, target, installed())
    elif (reason := refusal(kernel := replace(kernel, warps=warps), target, installed())) is not None:
        raise BackendError(reason)
    return function(kernel.source, kernel.name), kernel.warps


def _repeat(ready: Ready, step: Repeat, made: dict[Value, Tensor], device: torch.device) -> None:
    """The loop, from outside."""
    op = step.scan.op
    assert isinstance(op, p.Scan)
    args = [made[a] for a in step.scan.args]
    axes = [a.axes for a in step.scan.args]
    carries = args[: op.carries]
    results_of = {_index(b): made[b.value] for b in step.results}
    order = range(op.length - 1, -1, -1) if op.reverse else range(op.length)
    for i in order:
        here = [
            x.select(a.index(op.axis), i).contiguous() if op.carries <= j < op.carries + op.steps else x
            for j, (x, a) in enumerate(zip(args, axes, strict=True))
        ]
        here[: op.carries] = carries
        out = _run(ready, step.body, dict(zip(step.body.program.inputs, here, strict=True)), device)
        carries = out[: op.carries]
        for j, y in results_of.items():
            if j >= op.carries:
                y[i].copy_(out[j])
    for j, y in results_of.items():
        if j < op.carries:
            y.copy_(carries[j])


def _index(b: Buffer) -> int:
    assert isinstance(b.value.op, p.Pick)
    return b.value.op.index
