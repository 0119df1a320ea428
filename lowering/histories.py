"""Cumulations and delays: expressions that remember earlier steps, started anew where a packed piece begins."""

from __future__ import annotations

from lowering.build import Builder
from lowering.context import Context
from lowering.program import Value
from lowering.stream import StateType
from mixer_ir.nodes.expr import TIME, Cumulate, Delay, Number, union
from mixer_ir.nodes.functions import Kind

JOIN = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


def cumulate(ctx: Context, e: Cumulate) -> Value:
    """y_t = fn(y_{t−1}, x_t), x_t alone where the reset is true."""
    b = ctx.b
    x = ctx.filled(ctx.of(e.of), union(e.axes, (TIME,)))
    x = b.cast(x, "int") if x.kind == "bool" else x
    axes, shape = zip(*((a, n) for a, n in x.sizes.items() if a != TIME), strict=True) if len(x.axes) > 1 else ((), ())
    like = StateType(axes, shape, x.kind, neutral(e.fn, x.kind))
    name = ctx.stream.name(f"cum{e.fn}") if ctx.stream.active else ""
    before = ctx.stream.take(name, like) if ctx.stream.active else None
    reset = None if e.reset is None else ctx.of(e.reset)
    y = _cumulated(b, e.fn, x, before, reset)
    if ctx.stream.active:
        ctx.stream.leave(name, b.at(y, TIME, ctx.length - 1), like)
    return y


def _cumulated(b: Builder, fn: str, x: Value, before: Value | None, reset: Value | None) -> Value:
    if reset is None:
        y = b.cumulate(fn, x, TIME)
        return y if before is None else b.map(JOIN[fn], before, y)
    n = x.size(TIME)
    if before is not None:
        x = b.concat((b.expand(before, {TIME: 1}), x), TIME)
        reset = b.pad(reset, TIME, 1, 0, False)
    if fn == "sum":
        y = b.affine_scan(b.where(reset, b.cast(b.const(0), x.kind), b.cast(b.const(1), x.kind)), x, TIME)
    else:
        y = _segmented(b, fn, x, b.cumulate("sum", reset, TIME))
    return b.slice(y, TIME, y.size(TIME) - n, y.size(TIME))


def _segmented(b: Builder, fn: str, x: Value, piece: Value) -> Value:
    """Cumulated within each piece, by doubling: after the i-th round an entry covers the 2^i entries up to it."""
    n, step = x.size(TIME), 1
    while step < n:
        earlier = b.pad(b.slice(x, TIME, 0, n - step), TIME, step, 0)
        same = b.map("eq", piece, b.pad(b.slice(piece, TIME, 0, n - step), TIME, step, 0, -1))
        x = b.map(JOIN[fn], x, b.where(same, earlier, neutral(fn, x.kind)))
        step *= 2
    return x


def neutral(fn: str, kind: Kind) -> Number:
    """What leaves the other argument as it is."""
    if fn in ("sum", "prod"):
        value = int(fn == "prod")
        return value if kind == "int" else float(value)
    sign = -1 if fn == "max" else 1
    return sign * 2**62 if kind == "int" else sign * float("inf")


def delay(ctx: Context, e: Delay) -> Value:
    """y_t = x_{t−by}, zero outside the sequence or the packed piece."""
    b, stream = ctx.b, ctx.stream
    if e.by < 0:
        stream.refuse(f"a signal is delayed by {e.by}: it looks ahead")
    x = ctx.filled(ctx.of(e.of), union(e.of.axes, (TIME,)))
    piece = None
    if e.reset is not None:
        piece = b.cumulate("sum", ctx.filled(_past(ctx, ctx.of(e.reset), e.by), (TIME,)), TIME)
    whole = _past(ctx, x, e.by)
    start = whole.size(TIME) - ctx.length
    y = _window(b, whole, start, e.by, ctx.length)
    if piece is not None:
        here = b.slice(piece, TIME, start, start + ctx.length)
        there = _window(b, piece, start, e.by, ctx.length)
        y = b.where(b.map("eq", here, there), y, b.cast(b.const(0), y.kind))
    return y


def _past(ctx: Context, x: Value, by: int) -> Value:
    """x with the `by` entries before it, where a stream carries them."""
    if not ctx.stream.active or by <= 0:
        return x
    return ctx.stream.latest(ctx.stream.name("delay"), x, by)


def _window(b: Builder, whole: Value, start: int, by: int, length: int) -> Value:
    """Entries start − by … start − by + length − 1, zero where there are none."""
    low, high = start - by, start - by + length
    n = whole.size(TIME)
    inside = b.slice(whole, TIME, min(max(low, 0), n), max(min(high, n), 0)) if low < n and high > 0 else None
    if inside is None:
        return b.slice(b.pad(b.slice(whole, TIME, 0, 0), TIME, length, 0), TIME, 0, length)
    return b.pad(inside, TIME, max(-low, 0), max(high - n, 0))
