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
from backends.eager.inverses import inverted
from backends.eager.loops import LOOPS
from backends.eager.memory import keep
from backends.eager.setting import Setting
from backends.eager.sums import SUMS
from backends.eager.writing import Place, Writing
from backends.plan import Call, Run, check_shape, given, plan
from backends.uniform import uniform
from lowering import program as p
from lowering.program import Program, Value

FOLDED = 1 << 20  # entries: a value without inputs that is larger is computed again in every call

NARROW = (torch.bfloat16, torch.float16)
NO_PLACES: Mapping[Value, Place] = {}

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
    `alone` (by default PyTorch's default dtype) where no input is floating. Products of bfloat16 or float16 inputs
    that are results as they stand are PyTorch's of that format, which sum in float32.
    """
    runs: dict[Setting, Run] = {}
    plain = uniform(inverted(program))
    products = nothing_but_products(plain)

    def call(arrays: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inputs = given(program, arrays)
        for v, x in zip(program.inputs, inputs, strict=True):
            check_shape(v, x.shape)
        setting = setting_of(inputs, alone)
        if setting not in runs:
            keep()
            with torch.inference_mode(False), torch.no_grad():
                runs[setting] = planned(plain, setting)
        if not (products and len({x.dtype for x in inputs}) == 1 and inputs[0].dtype in NARROW):
            inputs = [x.to(setting.dtype(v.kind)) for v, x in zip(program.inputs, inputs, strict=True)]
        results = runs[setting](inputs)
        return dict(zip(program.names, results if setting.recorded else own(results, inputs), strict=True))

    return call


def nothing_but_products(program: Program) -> bool:
    """Whether every result is a matrix product of two inputs."""
    made = {v for v in program.order if isinstance(v.op, p.Contract) and {*v.args[0].axes} != {*v.args[1].axes}}
    views = {v for v in program.order if isinstance(v.op, p.Input | p.Order)}
    return {*program.order} == made | views and not any(a in made for v in made for a in v.args)


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


def planned(program: Program, setting: Setting, places: Mapping[Value, Place] = NO_PLACES) -> Run:
    """The program's run under one setting.

    places   values that are written into arrays given with the call, where they can be: then the result is that array
    """

    apart: set[Value] = set()  # concatenations that are never written
    writing = Writing()

    def spell(v: Value) -> Call:
        if isinstance(v.op, p.Scan | p.Region):
            return LOOPS[type(v.op)](v, setting, lambda body, places: planned(body, setting, places))
        if v in apart:
            return lambda *parts: parts
        if isinstance(v.op, p.AffineScan) and v.args[1] in apart:
            return affine_scan_of_parts(v, setting)
        return writing.spelled(v, setting) or OPERATIONS[type(v.op)](v, setting)

    known: dict[Value, Any] = {}
    for v in program.order:
        foldable = not isinstance(v.op, p.Input | p.Scan | p.Region | p.Pick) and all(a in known for a in v.args)
        if foldable and torch.Size(v.shape).numel() <= FOLDED:
            known[v] = spell(v)(*(known[a] for a in v.args))
    read = {a for v in program.order if v not in known for a in v.args} | set(program.outputs)
    used = Counter([*program.outputs, *(a for v in program.order for a in v.args)])
    apart |= {v.args[1] for v in program.order if in_parts(v, setting) and used[v.args[1]] == 1} - set(known)
    writing = Writing.of(program, setting, known, places)
    run = plan(program, spell, {v: x for v, x in known.items() if v in read}, writing.into)
    constant = [i for i, v in enumerate(program.outputs) if v in known]
    return _copying(run, constant) if constant else run


def _copying(run: Run, constant: list[int]) -> Run:
    """The run with fresh copies of the results that are the same in every call."""

    def copying(inputs: Sequence[torch.Tensor], places: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        results = run(inputs, places)
        for i in constant:
            results[i] = results[i].clone(memory_format=torch.contiguous_format)
        return results

    return copying
