"""The PyTorch spelling of the region `decay back`: up the tree as forward, then down it with cotangents, in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from backends.eager.decay import Pair, Steps, Vector, beside, early, halves, inside, pairs
from backends.eager.decay_layout import Layout
from backends.eager.setting import Setting, op_of, view
from backends.plan import Call
from lowering import program as p
from lowering.decay import SOURCE, STEP
from lowering.parts import KEY
from lowering.program import Value

SUMMED = 256
"""steps that are cumulated by a product with a triangular matrix; more are left to PyTorch's cumulation"""


def decay_back(v: Value, setting: Setting) -> Call:
    """The region `decay back`, by the rule of lowering/decay_region.py."""
    body = op_of(v, p.Region).body
    layout = Layout.of(body.inputs, setting)
    names, inputs = body.input_names, dict(zip(body.input_names, body.inputs, strict=True))
    seen = {tuple(name.removeprefix("d:").split(" ")) for name in names if name.startswith("d:scores")}

    def spelled(*args: Tensor) -> list[Tensor]:
        given = {n: x if n.startswith("d:") else x.conj_physical() for n, x in zip(names, args, strict=True)}
        steps = Steps(layout, inputs["step"], given["step"])
        rows, columns = (layout.vectors(inputs, given, of) for of in ("row:", "column:"))
        cts = {n: layout.read(v, given[n].to(layout.dtype), _last(n)) for n, v in inputs.items() if n in wanted}
        scores = {(r, c): cts[f"d:scores {r[0]} {c[0]}"][place] for (r, c), place in pairs(rows, columns, seen)}
        own = {pair: ct.diagonal(-early(pair[0]), 1, 2).unsqueeze(2) for pair, ct in scores.items()}
        scores = {pair: _spanning(ct) if early(pair[0]) else ct for pair, ct in scores.items()}
        d_rows = {row: _copied(cts[f"d:entering {row[0]}"][row[1]]) for row in rows}
        d_columns = {column: _copied(cts[f"d:leaving {column[0]}"][column[1]]) for column in columns}
        for ct in d_columns.values():
            ct[:, layout.length - 1] = 0
        total = _down(steps, rows, columns, scores, d_rows, d_columns)
        step = torch.zeros(steps.factors.shape, dtype=layout.dtype, device=steps.factors.device)
        for row, x in rows.items():
            if early(row):
                step[:, :-1].addcmul_(x[:, 1:], d_rows[row][:, 1:])
            else:
                step.addcmul_(x, d_rows[row])
        for column, y in columns.items():
            step.addcmul_(y, d_columns[column], value=-1)
        step = _suffixes(step).add_(total)
        if not steps.factors.is_complex():
            step.masked_fill_(steps.factors == 0, 0)
        for (row, column), ct in own.items():
            late = slice(early(row), None)
            until = slice(0, layout.size - early(row))
            d_rows[row][:, late].addcmul_(ct, columns[column][:, until])
            d_columns[column][:, until].addcmul_(ct, rows[row][:, late])
        for column, ct in d_columns.items():
            ct[:, layout.length - 1] += cts[f"d:leaving {column[0]}"][column[1]][:, layout.length - 1]
        results = []
        for name, out in zip(body.names, body.outputs, strict=True):
            if name == "d:step":
                results.append(_step(layout, out, step, given["d:whole"], inputs["d:whole"]))
            else:
                made = {at: x for (n, at), x in {**d_rows, **d_columns}.items() if f"d:{n}" == name}
                results.append(layout.write(out, made, (STEP, KEY)))
        return results

    wanted = {n for n in names if n.startswith("d:") and n != "d:whole"}
    return spelled


def _copied(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _last(name: str) -> tuple[str, str]:
    """The last axes of a cotangent."""
    what = name.removeprefix("d:").split(" ")[0]
    return (STEP, SOURCE) if what == "scores" else (STEP if what == "entering" else SOURCE, KEY)


def _spanning(ct: Tensor) -> Tensor:
    """The cotangent of the scores of a row that reads before its step, where they span a step."""
    ct = ct.clone()
    ct.diagonal(-1, 1, 2).zero_()
    return ct


def _down(
    steps: Steps,
    rows: Mapping[Vector, Tensor],
    columns: Mapping[Vector, Tensor],
    scores: Mapping[Pair, Tensor],
    d_rows: Mapping[Vector, Tensor],
    d_columns: Mapping[Vector, Tensor],
) -> Tensor:
    """The cotangents of rows and columns, from those of what enters and leaves; and Σ_s of what is left of s."""
    entering = {row: steps.entered(x, early(row)) for row, x in rows.items()}
    leaving = {column: steps.left(y) for column, y in columns.items()}
    met = []
    for m, carry in steps.carries:
        right = {row: halves(x, m)[1].clone() for row, x in entering.items()}
        left = {column: halves(y, m)[0].clone() for column, y in leaving.items()}
        met.append((m, carry, right, left))
        for x in entering.values():
            halves(x, m)[1].mul_(carry[:, 0])
        for y in leaving.values():
            halves(y, m)[0].mul_(carry[:, 1])
    total = torch.zeros_like(steps.factors[:, :1])
    for column, ct in d_columns.items():
        total = total + (ct * leaving[column]).sum(1, keepdim=True)
    for m, carry, right, left in reversed(met):
        for ct in d_rows.values():
            halves(ct, m)[1].mul_(carry[:, 0])
        for ct in d_columns.values():
            halves(ct, m)[0].mul_(carry[:, 1])
        for (row, column), ct in scores.items():
            between = beside(ct, m).reshape(-1, m, m)
            halves(d_rows[row], m)[1].add_(torch.bmm(between, left[column]))
            halves(d_columns[column], m)[0].add_(torch.bmm(between.transpose(1, 2), right[row]))
    _down_leaves(steps, rows, columns, scores, d_rows, d_columns)
    return total


def _down_leaves(
    steps: Steps,
    rows: Mapping[Vector, Tensor],
    columns: Mapping[Vector, Tensor],
    scores: Mapping[Pair, Tensor],
    d_rows: Mapping[Vector, Tensor],
    d_columns: Mapping[Vector, Tensor],
) -> None:
    """From the ends of the leaves to their steps, and what the steps of one leaf are to each other."""
    cut, leaf = steps.leaves, steps.leaf
    for row, ct in d_rows.items():
        for here, factor in zip(cut(ct).unbind(2), steps.since(early(row)), strict=True):
            if factor is not None:
                here.mul_(factor)
    for ct in d_columns.values():
        for here, factor in zip(cut(ct).unbind(2)[::-1], steps.until(), strict=True):
            if factor is not None:
                here.mul_(factor)
    between = steps.cut
    for span in range(1, leaf):
        between = between[:, :, 1:] if span == 1 else between[:, :, :-1] * steps.cut[:, :, span:]
        for (row, column), ct in scores.items():
            lag = span + early(row)
            n = leaf - lag
            if n > 0:
                slope = between[:, :, :n] * inside(ct, leaf, lag).unsqueeze(3)
                cut(d_rows[row])[:, :, lag:].addcmul_(slope, cut(columns[column])[:, :, :n])
                cut(d_columns[column])[:, :, :n].addcmul_(slope, cut(rows[row])[:, :, lag:])


def _suffixes(x: Tensor) -> Tensor:
    """The sums from each step to the last one."""
    n = x.shape[1]
    if n > SUMMED:
        return x.flip(1).cumsum(1).flip(1)
    return torch.matmul(torch.ones(n, n, dtype=x.dtype, device=x.device).triu(), x)


def _step(layout: Layout, out: Value, x: Tensor, whole: Tensor, like: Value) -> Tensor:
    """The cotangent of the steps: summed over axes that they lack, with that of the whole, which spans them all."""
    axes = (*layout.batch, STEP, KEY)
    x = x[:, : layout.length].reshape(*layout.shape, layout.length, x.shape[-1])
    left = [a for a in axes if a in out.axes or a == STEP]
    if lacking := [i for i, a in enumerate(axes) if a not in left]:
        x = x.sum(lacking)
    as_ = view(like.axes, tuple(left))
    x = x + (whole if as_ is None else as_(whole))
    if STEP not in out.axes:
        x, left = x.sum(left.index(STEP)), [a for a in left if a != STEP]
    x = x.permute([left.index(a) for a in out.axes])
    return x.real if out.kind == "real" and x.is_complex() else x
