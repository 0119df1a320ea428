"""Expressions to values: what is computed entry by entry or along an axis, for a whole sequence or a piece of it.

The value of an expression has its axes, or fewer where it does not vary along one.
"""

from __future__ import annotations

from typing import assert_never

from lowering import apply, histories, states, unroll
from lowering.context import Context
from lowering.program import Value
from mixer_ir.errors import DeclarationError
from mixer_ir.nodes import expr as x
from mixer_ir.nodes.expr import SOURCE, TIME, Expr
from mixer_ir.nodes.matrix import Apply
from mixer_ir.nodes.process import Read, Run, State


def evaluate(ctx: Context, e: Expr) -> Value:
    """The value of `e` at the steps computed here, from the values that `ctx.of` has for its parts."""
    b, stream, of = ctx.b, ctx.stream, ctx.of
    match e:
        case x.Literal(value=v):
            return b.const(v)
        case x.Signal(name=name):
            return ctx.signals[name]
        case State(name=name):
            if e in ctx.states:
                return ctx.states[e]
            raise DeclarationError(f"the state {name} is read outside of its recurrence")
        case x.Call(fn=fn, args=args):
            return b.map(fn, *(of(a) for a in args))
        case x.Contract(left=left, right=right, over=over):
            if TIME in over:
                stream.refuse("a contraction sums over all t")
            return b.contract(ctx.filled(of(left), over), ctx.filled(of(right), over), over)
        case x.Reduce(fn=fn, of=part, over=over):
            if TIME in over:
                stream.refuse(f"a {fn} runs over all t")
            return b.reduce(fn, ctx.filled(of(part), over), over)
        case x.Cumulate():
            return histories.cumulate(ctx, e)
        case x.Delay():
            return histories.delay(ctx, e)
        case x.Reverse(of=part):
            stream.refuse("a signal is reversed in time")
            return b.flip(of(part), TIME)
        case x.Rename(of=part, old=old, new=new):
            if old == TIME:
                stream.refuse(f"a signal over t is read along {new}, at all times at once")
            return b.rename(of(part), old, new)
        case x.Index(axis=axis):
            here = b.iota(axis, ctx.size(axis, "an index"))
            return b.add(here, stream.time(ctx.length)) if axis == TIME and stream.active else here
        case x.Size(axis=axis):
            if axis in (TIME, SOURCE):
                stream.refuse(f"it uses the length of axis {axis}")
            return b.const(ctx.size(axis, "a size"))
        case x.Take(table=table, axis=axis, index=index):
            return b.take(of(table), axis, of(index))
        case x.Join(parts=parts, along=along, axis=axis):
            pairs = zip(parts, along, strict=True)
            named = [b.rename(ctx.filled(of(p), (a,)), a, axis) if a else b.expand(of(p), {axis: 1}) for p, a in pairs]
            return b.concat(named, axis)
        case x.Detach(of=part):
            return b.detach(of(part))
        case Apply():
            return apply.apply(ctx, e)
        case Read():
            return states.read(ctx, e)
        case Run():
            return unroll.run(ctx, e)
        case _:
            assert_never(e)  # type: ignore[arg-type]  # the bases Expr and Node have no values
