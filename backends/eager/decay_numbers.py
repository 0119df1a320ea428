"""The PyTorch spelling of the region `decay of numbers`: row after row in blocks of LEAF steps, then pair by pair.

Between the halves of a pair of blocks stands the product of what enters the right half and what leaves the left one.
The numbers lie as (batch, steps); the scores with a row of zeros before the first, from which rows that read before
their step are read.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from backends.eager.decay import beside
from backends.eager.setting import Setting, op_of, view
from backends.plan import Call
from lowering import program as p
from lowering.decay import SOURCE, STEP
from lowering.decay_numbers import AT_STEPS
from lowering.decay_region import BEFORE
from lowering.program import Value

LEAF = 16
"""steps in the first blocks"""


def decay_numbers(v: Value, setting: Setting) -> Call:
    """The region `decay of numbers`."""
    body = op_of(v, p.Region).body
    (given,) = body.inputs
    batch = tuple(a for a in given.axes if a != STEP)
    sizes, n = tuple(given.size(a) for a in batch), given.size(STEP)
    logs = op_of(given, p.Input).name == "log"
    as_ = view(given.axes, (*batch, STEP))
    last = {"scores": (STEP, SOURCE), "entering": (STEP,), "leaving": (SOURCE,), "whole": ()}
    asked = [(name, name.partition(":")[0]) for name in body.names]
    rows = [
        (name.replace(AT_STEPS, ""), _rows(name, out, n)) for name, out in zip(body.names, body.outputs, strict=True)
    ]
    orders = []
    for out, (_, what) in zip(body.outputs, asked, strict=True):
        lying = (*batch, *last[what])
        orders.append([lying.index(a) for a in out.axes])

    def spelled(x: Tensor) -> list[Tensor]:
        x = (x if as_ is None else as_(x)).reshape(prod(sizes), n)
        found = _tree(x, logs)
        lying = [found[name][at].reshape((*sizes, *found[name][at].shape[1:])) for name, at in rows]
        return [y.permute(order) for y, order in zip(lying, orders, strict=True)]

    return spelled


def _rows(name: str, out: Value, steps: int) -> tuple[slice, ...]:
    """Where in a result lie those for rows of several steps: after the last of these, or at the first."""
    if AT_STEPS not in name:
        return ()
    n = steps // out.size(STEP)
    return slice(None), slice(0 if name.endswith(BEFORE) else n - 1, None, n)


def _tree(x: Tensor, logs: bool) -> dict[str, Tensor]:
    """All results, of (batch, steps)."""
    n = x.shape[1]
    size = 1 << (n - 1).bit_length()
    leaf = min(LEAF, size)
    if size != n:
        x = torch.constant_pad_nd(x, (0, size - n), 0.0 if logs else 1.0)
    cut = x.reshape(x.shape[0], -1, leaf)
    grid = x.new_zeros(x.shape[0], size + 1, size)
    scores = grid[:, 1:]
    _leaves(scores, cut.exp() if logs else cut)
    cumulated, joined = (torch.cumsum, torch.Tensor.add_) if logs else (torch.cumprod, torch.Tensor.mul_)
    entering = cumulated(cut, -1)
    leaving = torch.full_like(entering, 0.0 if logs else 1.0)
    leaving[..., :-1] = cumulated(cut[..., 1:].flip(-1), -1).flip(-1)
    m = leaf
    while m < size:
        left, right = (z.view(z.shape[0], -1, 2, m).unbind(2) for z in (entering, leaving))
        rows, columns = left[1].unsqueeze(-1), right[0].unsqueeze(-2)
        torch.mul(rows.exp() if logs else rows, columns.exp() if logs else columns, out=beside(scores, m))
        joined(right[0], left[1][..., -1:])
        joined(left[1], left[0][..., -1:])
        m *= 2
    entering, leaving = entering.view(-1, size), leaving.view(-1, size)
    factors = entering.exp() if logs else entering
    return {
        "scores": scores[:, :n, :n],
        "scores" + BEFORE: grid[:, :n, :n],
        "entering": factors[:, :n],
        "entering" + BEFORE: torch.constant_pad_nd(factors[:, : n - 1], (1, 0), 1.0),
        "leaving": (leaving.exp() if logs else leaving)[:, :n],
        "whole": entering[:, -1],
    }


def _leaves(scores: Tensor, factors: Tensor) -> None:
    """The blocks on the diagonal of (batch, steps, steps), each row the one before times its factor."""
    count, leaf = factors.shape[1:]
    blocks = scores.view(-1, count, leaf, count, leaf).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    blocks.diagonal(dim1=2, dim2=3).fill_(1)
    rows, each = blocks.unbind(2), factors.unsqueeze(-1).unbind(2)
    for i in range(1, leaf):
        torch.mul(rows[i - 1][..., :i], each[i], out=rows[i][..., :i])
