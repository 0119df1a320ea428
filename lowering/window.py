"""Softmax in a narrow band: block of rows after block, each with the few blocks of columns that its band meets."""

from __future__ import annotations

from collections.abc import Sequence

from lowering.build import Builder
from lowering.program import Value
from lowering.tiles import Tiling, masked, scores
from mixer_ir.nodes.expr import SOURCE, TIME

ROWS, BLOCKS = "_g", 4
SMALLEST = 64


def block(before: int, after: int) -> int:
    """How many rows go together: about as many as the band is wide."""
    return max(SMALLEST, min(before + after, 512))


def pays(tiling: Tiling, before: int, after: int) -> bool:
    """Whether the band is narrow and no part is an array over both rows and columns."""
    size, rows = block(before, after), tiling.on.rows.size
    both = any(TIME in p.axes and SOURCE in p.axes for p in tiling.parts.values())
    return not both and rows >= BLOCKS * size and rows >= BLOCKS * (before + after)


def lower(tiling: Tiling, v: Value, before: int, after: int) -> Value:
    """y for rows t from the columns t − before … t + after."""
    on, b = tiling.on, tiling.on.b
    size, rows = block(before, after), on.rows.size
    behind, ahead = -(-before // size), -(-after // size)
    count = -(-rows // size)
    names = list(tiling.parts)
    inside = b.map("le", 0, b.iota(SOURCE, on.cols.size))
    cut = [
        _tiled(b, x, on.rows.low - on.cols.low, size, count, behind, ahead) for x in (*tiling.parts.values(), v, inside)
    ]
    steps = [x for x in cut if ROWS in x.axes]
    constants = [x for x in cut if ROWS not in x.axes]
    sizes = {**on.ctx.sizes, TIME: size, SOURCE: (behind + 1 + ahead) * size}
    places = [ROWS in x.axes for x in cut]

    def step(
        i: Builder, carry: Sequence[Value], given: Sequence[Value], fixed: Sequence[Value]
    ) -> tuple[list[Value], list[Value]]:
        here, rest = iter(given), iter(fixed)
        *own, values, there = [next(here) if place else next(rest) for place in places]
        with i.named("scores: scores of a block of rows"):
            x, kept = scores(tiling.matrix, i, dict(zip(names, own, strict=True)), sizes)
            x = masked(i, x, there if kept is None else i.map("and", kept, there))
        with i.named("weights: weights e^(x − max x)"):
            top = i.detach(i.map("max", i.reduce("max", x, (SOURCE,)), -1e30))
            weights = i.map("exp", i.sub(x, top))
        with i.named("reads: weighted values over the sum of the weights"):
            total = i.sum(weights, (SOURCE,))
            y = i.contract(weights, values, (SOURCE,))
            return [], [i.map("div", y, i.where(i.map("eq", total, 0.0), 1.0, total))]

    _, (y,) = b.scan(ROWS, step, [], steps, constants, length=count)
    return b.slice(b.merge(y, ROWS, TIME, TIME), TIME, 0, rows)


def _tiled(b: Builder, x: Value, first: int, size: int, count: int, behind: int, ahead: int) -> Value:
    """Rows in blocks; columns in tiles of blocks, those of row block g around column first + g · size."""
    if TIME in x.axes:
        return b.split(b.pad(x, TIME, 0, count * size - x.size(TIME)), TIME, ROWS, TIME, size)
    if SOURCE not in x.axes:
        return x
    fill = False if x.kind == "bool" else 0
    low = first - behind * size
    high = first + (count + ahead) * size
    x = b.pad(x, SOURCE, max(-low, 0), max(high - x.size(SOURCE), 0), fill)
    x = b.slice(x, SOURCE, max(low, 0), max(low, 0) + high - low)
    blocks = b.split(x, SOURCE, ROWS, SOURCE, size)
    return b.concat([b.slice(blocks, ROWS, j, j + count) for j in range(behind + 1 + ahead)], SOURCE)
