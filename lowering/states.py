"""Reads of a process: all that one state is asked, lowered together in the form that was chosen for it."""

from __future__ import annotations

from lowering import expressions
from lowering.context import Choice, Context
from lowering.process import lower_process
from lowering.program import Value
from lowering.stream import StateType
from mixer_ir.expr import BATCH, TIME, Axes, Process, Read, union, without
from mixer_ir.node import walk


def read(ctx: Context, e: Read) -> Value:
    """y_t = q_tᵀ S_t for all reads of the process whose queries do not wait for this one."""
    together = [r for r in ctx.reads.get(e.process, (e,)) if _depth(r) == _depth(e)]
    raise NotImplementedError
