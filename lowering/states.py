"""Processes: all that one state is asked, lowered together in the form that was chosen for it."""

from __future__ import annotations

from collections.abc import Sequence

from lowering.context import Choice, Context
from lowering.factors import Updates
from lowering.grid import Grid
from lowering.parts import Options, gather
from lowering.process import lower_process
from lowering.program import Value
from lowering.stream import StateType
from mixer_ir.nodes.expr import BATCH, SOURCE, TIME, Axes, Expr, union, without
from mixer_ir.nodes.matrix import Semiseparable
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Process, Read

DEFAULT = Choice("chunked", 64)


def read(ctx: Context, e: Read) -> Value:
    """y_t = q_tᵀ S_t, lowered together with all reads of the process whose queries wait for as many others."""
    level = _waits(e)
    together = [r for r in ctx.reads.get(e.process, ()) if _waits(r) == level] or [e]
    if e not in together:
        together.append(e)
    for r, value in zip(together, _reads(ctx, e.process, together, first=level == 0), strict=True):
        ctx.memo[r] = value
    return ctx.memo[e]


def _waits(e: Read) -> int:
    """How many reads of the same process must be known before the query of this one is."""
    inner = [r for r in walk(e.query) if isinstance(r, Read) and r.process is e.process]
    return 1 + max(map(_waits, inner)) if inner else 0


def _reads(ctx: Context, process: Process, reads: Sequence[Read], *, first: bool) -> list[Value]:
    b, stream, A = ctx.b, ctx.stream, process.transition
    like = state_type(ctx, process)
    name, before = ctx.state_names.get(process, process.name), None
    if stream.active:
        name = ctx.state_names.setdefault(process, stream.unique(process.name))
        before = stream.take(name, like)
    choice = ctx.forms.get(process, DEFAULT)
    options = Options(chunk=choice.chunk, held=choice.held, filled=choice.filled)
    if process.factors and choice.form == "chunked" and ctx.length > 1:
        parts = Updates(b, process, ctx.of, ctx.length).parts(reads, ctx.sizes, before)
    else:
        parts = gather(
            b,
            over=process.over,
            state=process.axes,
            sizes=ctx.sizes,
            inputs=[(ctx.of(key), ctx.of(value)) for key, value in process.inputs],
            queries=[(ctx.of(r.query), r.before) for r in reads],
            log=_part(ctx, A.log),
            factor=_part(ctx, A.factor),
            low_rank=[(ctx.of(x), ctx.of(y)) for x, y in A.low_rank],
            dense=_part(ctx, A.dense),
            along=A.along,
            beside=A.beside,
            row=A.row,
            reset=_part(ctx, process.reset),
            initial=before,
        )
    values, after = lower_process(b, parts, choice.form, options)
    if first:
        stream.leave(name, b.expand(after, dict(zip(like.axes, like.shape, strict=True))), like)
    return values


def _part(ctx: Context, e: Expr | None) -> Value | None:
    return None if e is None else ctx.of(e)


def state_type(ctx: Context, process: Process) -> StateType:
    """A process' state: batch axes, b first, then its own."""
    A = process.transition
    exprs = [*A.exprs, *(x for pair in process.inputs for x in pair)]
    exprs += [] if process.reset is None else [process.reset]
    gone: Axes = (TIME, BATCH, *process.axes, *((A.row,) if A.row else ()))
    have = union(*(x.axes for x in exprs))
    axes = (*((BATCH,) if BATCH in have else ()), *without(have, gone), *without(process.axes, BATCH))
    kinds = {ctx.of(x).kind for x in exprs}
    shape = tuple(ctx.size(a, f"the state {process.name}") for a in axes)
    return StateType(axes, shape, "complex" if "complex" in kinds else "real")


def semiseparable(M: Semiseparable, on: Grid) -> Value:
    """C_tᵀ A_t … A_{s+1} B_s: column s is what the process gives for a unit input at s."""
    b, ctx, A = on.b, on.ctx, M.A
    if on.cross:
        ctx.stream.refuse("a semiseparable matrix beside one of cross mixing has states of earlier steps")
    steps = on.steps()
    low = steps.low

    def along(e: Expr | None) -> Value | None:
        return None if e is None else on.timeline(e, steps)

    positions = b.add(b.iota(TIME, steps.size), low)
    unit = b.cast(b.map("eq", positions, on.s()), "real")
    parts = gather(
        b,
        over=M.over,
        state=M.over,
        sizes={**ctx.sizes, TIME: steps.size, SOURCE: on.cols.size},
        inputs=[(on.timeline(M.B, steps), unit)],
        queries=[(on.timeline(M.C, steps), M.strict)],
        log=along(A.log),
        factor=along(A.factor),
        low_rank=[(on.timeline(x, steps), on.timeline(y, steps)) for x, y in A.low_rank],
        dense=along(A.dense),
        along=A.along,
        beside=A.beside,
        row=A.row,
    )
    changing = A.dense is not None and TIME in A.dense.axes
    (value,), _ = lower_process(b, parts, "recurrent" if changing else "chunked", Options(chunk=64))
    return b.slice(value, TIME, on.rows.low - low, on.rows.high - low)
