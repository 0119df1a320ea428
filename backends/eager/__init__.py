"""The eager backend: PyTorch on any device, in float32 or float64, one tensor operation after the other.

Nothing is decided in a call: how each operation reads its arguments is settled once per precision and device, and
what depends on no input (masks, weights, constants) is computed then. If autograd records the call, every step is
one that it can follow; otherwise loops write their results where they end up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from backends.eager.cumulative import affine_scan, affine_scan_of_parts, cumulate, in_parts
from backends.eager.entries import ENTRIES
from backends.eager.loops import LOOPS, body_of
from backends.eager.setting import Setting
from backends.eager.sums import SUMS
from backends.plan import Call, Run, check_shape, given, plan
from backends.uniform import uniform
from lowering import program as p
from lowering.program import Program, Value

FOLDED = 1 << 20  # entries: a value without inputs that is larger is computed again in every call

OPERATIONS: dict[type, Callable[[Value, Setting], Call]] = {
    **ENTRIES,
    **SUMS,
    p.Cumulate: cumulate,
    p.AffineScan: affine_scan,
}


def prepare(
    program: Program, *, alone: torch.dtype | None = None
) -> Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """A function from tensors by input name to tensors by output name.

    It computes in the widest floating precision among its inputs (at least float32), on their device; in that of
    `alone` (by default PyTorch's default dtype) where no input is floating.
    """
    runs: dict[Setting, Run] = {}
    plain = uniform(program)

    def call(arrays: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inputs = given(program, arrays)
        for v, x in zip(program.inputs, inputs, strict=True):
            check_shape(v, x.shape)
        setting = setting_of(inputs, alone)
        if setting not in runs:
            with torch.inference_mode(False), torch.no_grad():
                runs[setting] = planned(plain, setting)
        inputs = [x.to(setting.dtype(v.kind)) for v, x in zip(program.inputs, inputs, strict=True)]
        results = runs[setting](inputs)
        return dict(zip(program.names, results if setting.recorded else own(results, inputs), strict=True))

    return call


def own(results: list[torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The results, copied where they are parts of an input: who writes into a result changes nothing else."""
    lent = {x.untyped_storage().data_ptr() for x in inputs}
    return [x.clone() if x.untyped_storage().data_ptr() in lent else x for x in results]


def setting_of(inputs: list[torch.Tensor], alone: torch.dtype | None = None) -> Setting:
    """The precision and device that these inputs ask for."""
    floating = [x.dtype for x in inputs if x.is_floating_point() or x.is_complex()]
    floating = floating or [alone or torch.get_default_dtype()]
    double = any(dtype in (torch.float64, torch.complex128) for dtype in floating)
    return Setting(
        real=torch.float64 if double else torch.float32,
        device=inputs[0].device if inputs else torch.device("cpu"),
        recorded=any(followed(x) for x in inputs),
    )


def followed(x: torch.Tensor) -> bool:
    """Whether autograd, forward mode or a transform of torch.func looks at what is done with x."""
    if x.requires_grad and torch.is_grad_enabled():
        return True
    return forward_ad._current_level >= 0 or torch._C._functorch.is_functorch_wrapped_tensor(x)


def planned(program: Program, setting: Setting) -> Run:
    """The program's run under one setting."""

    apart: set[Value] = set()  # concatenations that are never written

    def spell(v: Value) -> Call:
        if isinstance(v.op, p.Scan | p.Region):
            return LOOPS[type(v.op)](v, setting, planned(body_of(v.op, setting), setting))
        if v in apart:
            return lambda *parts: parts
        if isinstance(v.op, p.AffineScan) and v.args[1] in apart:
            return affine_scan_of_parts(v, setting)
        return OPERATIONS[type(v.op)](v, setting)

    known: dict[Value, Any] = {}
    for v in program.order:
        foldable = not isinstance(v.op, p.Input | p.Scan | p.Region | p.Pick) and all(a in known for a in v.args)
        if foldable and torch.Size(v.shape).numel() <= FOLDED:
            known[v] = spell(v)(*(known[a] for a in v.args))
    read = {a for v in program.order if v not in known for a in v.args} | set(program.outputs)
    used = Counter([*program.outputs, *(a for v in program.order for a in v.args)])
    apart |= {v.args[1] for v in program.order if in_parts(v, setting) and used[v.args[1]] == 1} - set(known)
    run = plan(program, spell, {v: x for v, x in known.items() if v in read})
    constant = [i for i, v in enumerate(program.outputs) if v in known]
    return _copying(run, constant) if constant else run


def _copying(run: Run, constant: list[int]) -> Run:
    """The run with fresh copies of the results that are the same in every call."""

    def copying(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        results = run(inputs)
        for i in constant:
            results[i] = results[i].clone(memory_format=torch.contiguous_format)
        return results

    return copying
