"""The oracle: every expression and every matrix by its definition, on tensors in float64, differentiable by autograd.

It shares nothing with lowering: this is what the compiled forms are compared with. Made for short sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

from mixer_ir.definition.definition import Definition
from mixer_ir.definition.tensors import Tensors
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Expr
from mixer_ir.nodes.matrix import Matrix

Initial: TypeAlias = Mapping[str, tuple[Tensor, Axes]]
Oracle: TypeAlias = Definition[Tensors]


def evaluate(
    expr: Expr,
    signals: Mapping[str, Tensor],
    axes: Mapping[str, Axes],
    returns: Axes | None = None,
    initial: Initial | None = None,
) -> Tensor:
    """The values of `expr` laid out as `returns` (by default its own axes).

    signals, axes   each signal's tensor and the names of its dimensions
    initial         states before the first step, with their axes; zero where not given
    """
    oracle = oracle_on(signals, axes, initial)
    out: Tensor = oracle.value(expr).to(expr.axes if returns is None else returns, oracle.sizes)
    return out


def entries(
    matrix: Matrix, signals: Mapping[str, Tensor], axes: Mapping[str, Axes], initial: Initial | None = None
) -> tuple[Tensor, Axes]:
    """The entries M[…, t, s] and their axes: those over which the matrix differs, then t, then s."""
    oracle = oracle_on(signals, axes, initial)
    order = (*matrix.axes, TIME, SOURCE)
    return oracle.entries(matrix).to(order, oracle.sizes), order


def oracle_on(signals: Mapping[str, Tensor], axes: Mapping[str, Axes], initial: Initial | None = None) -> Oracle:
    """The definition on given tensors."""
    named = {n: Tensors.of(axes[n], x) for n, x in signals.items()}
    states = {n: Tensors.of(a, x) for n, (x, a) in (initial or {}).items()}
    sizes = {a: n for x in named.values() for a, n in x.sizes.items()}
    if TIME in sizes:
        sizes.setdefault(SOURCE, sizes[TIME])
    return Definition(Tensors, named, sizes, states)
