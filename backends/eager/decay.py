"""PyTorch spellings of the regions `decay` and `decay back`: the tree of lowering/decay.py, written in place.

Every row and column lies as (batch, steps, keys). Blocks of LEAF steps are done lag by lag; then each half is carried
to the other end of its pair where it lies, and what stands between two halves is one product of matrices. The adjoint
climbs the same tree and walks it down again. lowering/decay_region.py says what comes in and goes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import torch
from torch import Tensor

from backends.eager.decay_layout import EMPTY, Layout, Place, merged
from backends.eager.setting import Setting, op_of
from backends.plan import Call
from lowering import program as p
from lowering.decay import SOURCE, STEP
from lowering.decay_region import BEFORE
from lowering.parts import KEY
from lowering.program import Value

LEAF = 4
"""steps in the first blocks"""
Vector = tuple[str, Place]
Pair = tuple[Vector, Vector]


class Steps:
    """The factors e^g of the steps, and the sums of g over blocks, one size after the other."""

    def __init__(self, layout: Layout, v: Value, g: Tensor) -> None:
        self.size, self.leaf = layout.size, min(LEAF, layout.size)
        self.factors = layout.read(v, g.exp(), (STEP, KEY), 1.0)[EMPTY]
        log = layout.read(v, g, (STEP, KEY))[EMPTY]
        self.cut = self.leaves(self.factors)
        self.carries, m, sums = [], self.leaf, self.leaves(log).sum(2)
        while m < self.size:
            sums = sums.view(sums.shape[0], -1, 2, sums.shape[2])
            self.carries.append((m, sums.exp().flatten(0, 1).unsqueeze(2)))
            sums, m = sums.sum(2), 2 * m
        self.whole = sums[:, 0]

    def leaves(self, x: Tensor) -> Tensor:
        """(batch, leaves, steps of a leaf, keys)"""
        return x.view(x.shape[0], -1, self.leaf, x.shape[2])

    def since(self, early: bool) -> Iterator[Tensor | None]:
        """For each step of a leaf, the product of the factors from the first to it, or to the one before it."""
        made = None
        if early:
            yield None
        for i in range(self.leaf - early):
            here = self.cut[:, :, i]
            made = here if made is None else made * here
            yield made

    def until(self) -> Iterator[Tensor | None]:
        """For each step of a leaf, from the last one, the product of the factors after it."""
        made = None
        yield None
        for i in range(self.leaf - 1, 0, -1):
            here = self.cut[:, :, i]
            made = here if made is None else made * here
            yield made

    def entered(self, x: Tensor, early: bool) -> Tensor:
        """Rows carried to the start of their leaves."""
        made = torch.empty_like(x, memory_format=torch.contiguous_format)
        for here, there, factor in zip(
            self.leaves(x).unbind(2), self.leaves(made).unbind(2), self.since(early), strict=True
        ):
            there.copy_(here) if factor is None else torch.mul(here, factor, out=there)
        return made

    def left(self, y: Tensor) -> Tensor:
        """Columns carried to the end of their leaves."""
        made = torch.empty_like(y, memory_format=torch.contiguous_format)
        places = zip(self.leaves(y).unbind(2)[::-1], self.leaves(made).unbind(2)[::-1], self.until(), strict=True)
        for here, there, factor in places:
            there.copy_(here) if factor is None else torch.mul(here, factor, out=there)
        return made


def halves(x: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The left and the right halves of pairs of blocks of m: (batch · pairs, m, keys), views."""
    left, right = x.view(-1, 2, m, x.shape[-1]).unbind(1)
    return left, right


def beside(scores: Tensor, m: int) -> Tensor:
    """Of (batch, steps, steps) what stands between the halves of pairs of m: (batch, pairs, m, m), a view."""
    n = scores.shape[1] // (2 * m)
    return scores.view(-1, n, 2, m, n, 2, m).diagonal(dim1=1, dim2=4)[:, 1, :, 0].movedim(-1, 1)


def inside(scores: Tensor, leaf: int, lag: int) -> Tensor:
    """Of (batch, steps, steps) one lag of the leaves: (batch, leaves, leaf − lag), a view."""
    n = scores.shape[1] // leaf
    return scores.view(-1, n, leaf, n, leaf).diagonal(dim1=1, dim2=3).diagonal(-lag, 1, 2)


def pairs(
    rows: Mapping[Vector, Tensor], columns: Mapping[Vector, Tensor], wanted: set[tuple[str, ...]]
) -> list[tuple[Pair, Place]]:
    """Every row with every column that it has scores with, and where along their own axes they lie."""
    found = []
    for row, column in product(rows, columns):
        place = merged(row[1], column[1])
        if place is not None and ("scores", row[0], column[0]) in wanted:
            found.append(((row, column), place))
    return found


def decay(v: Value, setting: Setting) -> Call:
    """The region `decay`."""
    body = op_of(v, p.Region).body
    layout = Layout.of(body.inputs, setting)
    names, wanted = body.input_names, [tuple(name.split(" ")) for name in body.names]
    inputs = dict(zip(names, body.inputs, strict=True))

    def spelled(*args: Tensor) -> list[Tensor]:
        given = dict(zip(names, args, strict=True))
        steps = Steps(layout, inputs["step"], given["step"])
        rows, columns = (layout.vectors(inputs, given, of) for of in ("row:", "column:"))
        found = pairs(rows, columns, set(wanted))
        scores = {pair: _in_leaves(steps, layout, rows[pair[0]], columns[pair[1]], early(pair[0])) for pair, _ in found}
        entering = {row: steps.entered(x, early(row)) for row, x in rows.items()}
        leaving = {column: steps.left(y) for column, y in columns.items()}
        for m, carry in steps.carries:
            for (row, column), made in scores.items():
                product = torch.bmm(halves(entering[row], m)[1], halves(leaving[column], m)[0].transpose(1, 2))
                beside(made, m).copy_(product.view(made.shape[0], -1, m, m))
            for x in entering.values():
                halves(x, m)[1].mul_(carry[:, 0])
            for y in leaving.values():
                halves(y, m)[0].mul_(carry[:, 1])
        results = []
        for out, (what, *of) in zip(body.outputs, wanted, strict=True):
            if what == "whole":
                results.append(layout.write(out, {EMPTY: steps.whole}, (KEY,)))
            elif what == "scores":
                parts = {place: scores[pair] for pair, place in found if [pair[0][0], pair[1][0]] == of}
                results.append(layout.write(out, parts, (STEP, SOURCE)))
            else:
                carried, last = (entering, STEP) if what == "entering" else (leaving, SOURCE)
                results.append(layout.write(out, {at: x for (n, at), x in carried.items() if [n] == of}, (last, KEY)))
        return results

    return spelled


def early(row: Vector) -> bool:
    """Whether a row reads before its step."""
    return row[0].endswith(BEFORE)


def _in_leaves(steps: Steps, layout: Layout, x: Tensor, y: Tensor, early: bool) -> Tensor:
    """Scores (batch, steps, steps) with the leaves done, zeros elsewhere."""
    made = x.new_zeros(x.shape[0], layout.size, layout.size)
    x, carried = steps.leaves(x), steps.leaves(y)
    for lag in range(early, steps.leaf):
        if lag > early:
            carried = carried[:, :, :-1] * steps.cut[:, :, lag - early :]
        columns = carried[:, :, : steps.leaf - lag]
        torch.sum(x[:, :, lag:] * columns, -1, out=inside(made, steps.leaf, lag))
    return made
