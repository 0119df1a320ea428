"""Real parts of what is put together from real and imaginary parts, without putting it together.

    Re(x + iy) = x,   Im(x + iy) = y,   Re(r z) = r Re z for a real r,   Re(u + v) = Re u + Re v

and the same through everything that only moves entries or sums them. What only the other half needs is dropped: a
complex filter on a signal that is real, of which the real part is read, is a real filter.
"""

from __future__ import annotations

from dataclasses import replace

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value


def halved(program: Program) -> Program:
    """The same results, with the halves that are asked for taken where they are made."""
    if not any(_asked(v) for v in program.order):
        return program
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    for v in program.order:
        if v not in done:
            args = [done[a] for a in v.args]
            same = v if args == list(v.args) else b.again(v, args)
            done[v] = (_half(b, args[0], _fn(v)) or same) if _asked(v) else same
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _fn(v: Value) -> str:
    return v.op.fn if isinstance(v.op, p.Map) else ""


def _asked(v: Value) -> bool:
    return _fn(v) in ("real", "imag") and v.args[0].kind == "complex"


def _half(b: Builder, x: Value, which: str) -> Value | None:
    """The real or the imaginary part of x, with the axes of x; None where x is not made of halves."""
    made = _made(b, x, which)
    return None if made is None else b.order(b.expand(made, x.sizes), x.axes)


def _made(b: Builder, x: Value, which: str) -> Value | None:
    if x.kind != "complex":
        return b.cast(x, "real") if which == "real" else None
    match x.op:
        case p.Map(fn="complex"):
            return x.args[which == "imag"]
        case p.Map(fn="add" | "sub" as fn):
            halves = [_half(b, a, which) for a in x.args]
            if all(h is None for h in halves):
                return None
            return b.map(fn, *(h or b.map(which, a) for h, a in zip(halves, x.args, strict=True)))
        case p.Map(fn="mul"):
            real, other = sorted(x.args, key=lambda a: a.kind == "complex")
            half = None if real.kind == "complex" else _half(b, other, which)
            return None if half is None else b.mul(real, half)
        case (
            p.Rename()
            | p.Slice()
            | p.Order()
            | p.Split()
            | p.Merge()
            | p.Expand()
            | p.Pad(value=0)
            | p.Reduce(fn="sum")
        ):
            half = _half(b, x.args[0], which)
            return None if half is None else b.again(replace(x, kind="real"), [half])
    return None
