"""A matrix applied to a signal along time, in the form chosen for it: one row a form."""

from __future__ import annotations

from collections.abc import Callable

from lowering import direct, fft, flash, monarch
from lowering.context import Choice, Context
from lowering.entries import entries
from lowering.grid import Grid
from lowering.program import Value
from lowering.support import ahead, reach
from mixer_ir.errors import FormError, one_of
from mixer_ir.nodes.expr import SOURCE, TIME
from mixer_ir.nodes.matrix import Apply, LowRank, Softmax

Form = Callable[[Apply, Grid, Choice], Value]

DENSE = Choice("dense")


def apply(ctx: Context, e: Apply) -> Value:
    """y_t = Σ_s M[t, s] v_s"""
    cross = TIME not in e.of.axes
    if ctx.stream.active and not cross and (node := ahead(e.matrix)) is not None:
        ctx.stream.refuse(f"the matrix {type(node).__name__} looks ahead of each row")
    choice = ctx.forms.get(e, DENSE)
    if choice.form not in FORMS:
        raise FormError(f"a matrix has no form {choice.form!r}; it has {one_of(FORMS)}")
    return FORMS[choice.form](e, Grid.of(ctx, cross=cross, reach=reach(e.matrix, ctx.sizes)), choice)


def dense(e: Apply, on: Grid, choice: Choice) -> Value:
    """The whole matrix, then the product."""
    v = on.b.expand(on.col(e.of), {SOURCE: on.cols.size})
    with on.b.named("entries: the entries of the matrix"):
        matrix = on.full(entries(e.matrix, on))
    with on.b.named("reads: the matrix times the signal: M v"):
        return on.b.contract(matrix, v, (SOURCE,))


def parallel(e: Apply, on: Grid, choice: Choice) -> Value:
    """q (kᵀ v) for a low-rank matrix; a softmax in one block of keys."""
    match e.matrix:
        case LowRank(q=q, k=k, over=over):
            b = on.b
            v = b.expand(on.col(e.of), {SOURCE: on.cols.size})
            meanwhile = {a: f"_{a}" for a in over if a in v.axes}  # v's own axis of that name is not summed over
            for a, name in meanwhile.items():
                v = b.rename(v, a, name)
            with b.named("memory: all columns together: kᵀ v"):
                memory = b.contract(on.ctx.filled(on.col(k), over), v, (SOURCE,))
            with b.named("reads: read-out: q (kᵀ v)"):
                y = b.contract(on.ctx.filled(on.row(q), over), memory, over)
            for a, name in meanwhile.items():
                y = b.rename(y, name, a)
            return y
        case Softmax():
            return dense(e, on, choice)
    raise FormError(f"{type(e.matrix).__name__} has no form 'parallel'")


FORMS: dict[str, Form] = {
    "dense": dense,
    "parallel": parallel,
    "flash": flash.lower,
    "fft": fft.lower,
    "monarch": monarch.lower,
    "direct": direct.lower,
}
