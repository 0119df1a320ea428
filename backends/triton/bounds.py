"""Which turns of a loop a program leaves out: those whose mask is false all over its tile, where they change nothing.

Causal softmax is the case in point: a block of keys after the last row of a tile has no score that counts, so the
largest score, the sum and the accumulator stay as they are. That a closed mask leaves every state as it is, is seen
from the body by constants alone: e^(−∞) = 0, 0 · x = 0, x + 0 = x, max(x, −∞) = x, where(c, x, x) = x (x is taken for
a finite number here: what is masked is not read, whatever lies there). When a mask closes is seen from the positions
that it compares, where these are sums of places along axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from backends.triton.evaluate import Where
from backends.triton.tile import Index, factor
from lowering import program as p
from lowering.program import Value

Known: TypeAlias = "float | Value"
"""a number (truth values are 0 and 1), or the value that it is the same as"""


def turns(v: Value, where: Where) -> tuple[str, str] | None:
    """(the first turn, one past the last) of a loop in the program whose tile is at `where`, if not all of them."""
    op = v.op
    assert isinstance(op, p.Scan)
    if op.reverse or len(op.body.outputs) > op.carries:
        return None
    body = op.body
    given = dict(zip(body.inputs, v.args, strict=True))
    first, last = [], []
    for c in body.order:
        if not (isinstance(c.op, p.Map) and c.op.fn in ("le", "lt")):
            continue
        x, y = (_line(a, given) for a in c.args)
        if x is None or y is None or not _idle(op, c):
            continue
        lead = x - y  # closed where this is above 0; with lt, where it is at least 0
        step = lead.by.pop(op.axis, 0)
        least = _least(lead, c, where) + ("" if c.op.fn == "le" else " + 1")
        if "i_" not in least:
            continue
        if step > 0:  # closed from some turn on: open where step · n + least ≤ 0
            last.append(f"(tl.maximum({step} - ({least}), 0) // {step}).to(tl.int32)")
        elif step < 0:
            first.append(f"(tl.maximum({least} + {-step - 1}, 0) // {-step}).to(tl.int32)")
    if not first and not last:
        return None
    return _extreme("maximum", ["0", *first]), _extreme("minimum", [str(op.length), *last])


def _extreme(fn: str, of: list[str]) -> str:
    made = of[0]
    for text in of[1:]:
        made = text if made == "0" else f"tl.{fn}({text}, {made})"
    return made


# ---------------------------------------------------------------------- what a closed mask leaves as it is


def _idle(op: p.Scan, closed: Value) -> bool:
    """Whether a step leaves every carry as it is where a condition is false everywhere."""
    known: dict[Value, Known] = {closed: 0.0}
    carries = zip(op.body.inputs, op.body.outputs, strict=False)
    return all(_known(y, known) is x for x, y in carries)


def _known(v: Value, known: dict[Value, Known]) -> Known:
    if v not in known:
        known[v] = _simplified(v, [_known(a, known) for a in v.args])
    return known[v]


def _simplified(v: Value, args: list[Known]) -> Known:
    numbers = [x for x in args if isinstance(x, float)]
    rest: list[Known] = [x for x in args if not isinstance(x, float)]
    match v.op:
        case p.Constant(value=value) if not isinstance(value, complex):
            return float(value)
        case p.Expand() | p.Order() | p.Detach():
            return args[0]
        case p.Cast() if v.kind == v.args[0].kind or numbers:
            return args[0]
        case p.Rename() | p.Split() | p.Merge() if numbers:
            return numbers[0]
        case p.Contract() if 0.0 in numbers:
            return 0.0
        case p.Reduce(fn="sum") if numbers == [0.0]:
            return 0.0
        case p.Reduce(fn="max" | "min") if numbers:
            return numbers[0]
        case p.Map(fn=fn):
            return _mapped(v, fn, args, numbers, rest)
    return v


def _mapped(v: Value, fn: str, args: list[Known], numbers: list[float], rest: list[Known]) -> Known:
    match fn:
        case "and" | "mul" if 0.0 in numbers:
            return 0.0
        case "mul" if len(numbers) == 2:
            return numbers[0] * numbers[1]
        case "and" | "mul" if 1.0 in numbers and rest:
            return rest[0]
        case "add" if 0.0 in numbers and rest:
            return rest[0]
        case "sub" if rest and args[0] is args[1]:
            return 0.0
        case "sub" if args[1] == 0.0 or (args[0] == -math.inf and args[1] != -math.inf):
            return args[0]
        case "max" if -math.inf in numbers and rest:
            return rest[0]
        case "exp" | "exp2" if args[0] in (0.0, -math.inf):
            return 1.0 if args[0] == 0.0 else 0.0
        case "neg" if numbers == [0.0]:
            return 0.0
        case "where" if isinstance(args[0], float):
            return args[2] if args[0] == 0.0 else args[1]
        case "where" if args[1] == args[2]:
            return args[1]
    return v


# ---------------------------------------------------------------------- when a mask closes


@dataclass
class Line:
    """at + Σ by[axis] · (place along the axis)."""

    at: int
    by: dict[str, int]

    def __sub__(self, other: Line) -> Line:
        by = {a: self.by.get(a, 0) - other.by.get(a, 0) for a in (*self.by, *other.by)}
        return Line(self.at - other.at, {a: n for a, n in by.items() if n})


def _line(v: Value, given: Mapping[Value, Value]) -> Line | None:
    """A whole number as a sum of places, through the body of a loop and what is handed to it."""
    if v in given:
        return _line(given[v], {})
    found = [_line(a, given) for a in v.args]
    args = [x for x in found if x is not None]
    if len(args) < len(found) or v.kind != "int":
        return None
    match v.op:
        case p.Constant(value=int(value)):
            return Line(value, {})
        case p.Iota():
            return Line(0, {v.axes[0]: 1})
        case p.Expand() | p.Order() | p.Cast() | p.Detach():
            return args[0]
        case p.Map(fn="sub"):
            return args[0] - args[1]
        case p.Map(fn="add"):
            return args[0] - (Line(0, {}) - args[1])
        case p.Reduce(over=over) if all(v.args[0].size(a) == 1 for a in over):
            return Line(args[0].at, {a: n for a, n in args[0].by.items() if a not in over})
        case p.Rename(old=old, new=new):
            return Line(args[0].at, {new if a == old else a: n for a, n in args[0].by.items()})
        case p.Split(axis=axis, outer=outer, inner=inner):
            by = dict(args[0].by)
            step = by.pop(axis, 0)
            return Line(args[0].at, by | {outer: step * v.size(inner), inner: step}) if step else args[0]
        case p.Slice(axis=axis, start=start, step=step):
            n = args[0].by.get(axis, 0)
            return Line(args[0].at + n * start, args[0].by | ({axis: n * step} if n else {}))
    return None


def _least(line: Line, c: Value, where: Where) -> str:
    """The least value of a line on a program's tile, as text."""
    terms = [str(line.at)] if line.at or not line.by else []
    for a, n in line.by.items():
        low, high = _ends(where[a]) if a in where else ("0", str(c.size(a) - 1))
        end = low if n > 0 else high
        if end != "0":
            terms.append(end if n == 1 else f"{n} * {factor(end)}")
    return " + ".join(terms) or "0"


def _ends(ix: Index) -> tuple[str, str]:
    """The least and the greatest place of a tile."""
    if ix.parts is not None:
        (low, high), n = _ends(ix.parts[0]), ix.parts[2]
        inner = _ends(ix.parts[1])
        return tuple(  # type: ignore[return-value]
            " + ".join(x for x in (f"{factor(outer)} * {n}" * (outer != "0"), end) if x and x != "0") or "0"
            for outer, end in zip((low, high), inner, strict=True)
        )
    if not ix.dims:
        return ix.text, ix.text
    return str(ix.low), str(ix.high)
