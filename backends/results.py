"""In which dtypes a program's results come, whatever backend computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch

from lowering.program import Program
from mixer_ir.nodes.functions import Kind

DOUBLE = frozenset({torch.float64, torch.complex128})
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
STATE, COTANGENT = "state:", "d:"


def precision_of(dtypes: Sequence[torch.dtype], alone: torch.dtype = torch.float32) -> torch.dtype:
    """The real dtype that is computed in: float64 if an input is that wide, else float32; `alone` without floats."""
    floating = [x for x in dtypes if x.is_floating_point or x.is_complex] or [alone]
    return torch.float64 if any(x in DOUBLE for x in floating) else torch.float32


def results(program: Program, dtypes: Sequence[torch.dtype], alone: torch.dtype = torch.float32) -> list[torch.dtype]:
    """The dtype of every output, from those of the inputs.

    A cotangent comes in the dtype of what it is the cotangent of; a state in the precision that is computed in; any
    other real result in what the real inputs promote to, states, cotangents and single numbers aside, so that bfloat16
    signals give a bfloat16 result.
    """
    precision = precision_of(dtypes, alone)
    given = dict(zip(program.input_names, dtypes, strict=True))
    common = _common(program, given, precision)
    made = []
    for name, v in zip(program.names, program.outputs, strict=True):
        real = common
        if name.startswith(COTANGENT) and (of := given.get(name.removeprefix(COTANGENT))) is not None:
            real = _real(of)
        elif name.startswith(STATE):
            real = precision
        made.append(_of_kind(v.kind, real))
    return made


def _common(program: Program, given: Mapping[str, torch.dtype], precision: torch.dtype) -> torch.dtype:
    if precision == torch.float64:
        return precision
    shaped = [
        _real(given[n])
        for n, v in zip(program.input_names, program.inputs, strict=True)
        if v.differentiable and v.shape and not n.startswith((STATE, COTANGENT))
    ]
    return reduce(torch.promote_types, shaped) if shaped else precision


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def _of_kind(kind: Kind, real: torch.dtype) -> torch.dtype:
    if kind == "complex":
        return COMPLEX[torch.promote_types(real, torch.float32)]
    return {"int": torch.int64, "bool": torch.bool}.get(kind, real)
