"""Products of one number a step inside a segment, as a region `decay of numbers`, which a backend may spell as a whole.

The region's input is `log` or `factor`, α_t or its logarithm along `_i`. Its results are those of the row and the
column of ones (lowering/decay.py says what they are): `scores`, `entering`, each also `:before` for rows that read
before their step, `:every` for rows that have one entry for several steps, `leaving` and `whole`.

A logarithm g_l is multiplied into every product that spans it, so that its gradient needs no second pass over the
products: with L the scores, entering and leaving numbers x and y,

    ḡ_l = Σ_{s < l ≤ t} L[t, s] L̄[t, s] + Σ_{t ≥ l} x_t x̄_t + Σ_{s < l} y_s ȳ_s + what comes to the whole,

and the first is Σ_{t ≥ l} of the sums of row t less those of column t, but for what spans no step. Rows for several
steps give all of these the same: what comes to this row and later ones, or only to later ones if it reads before. As in
lowering/decay_region.py that loses no digits that count, and where e^g is 0 in the precision at hand, so is its
gradient.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from lowering.adjoint_entries import conj
from lowering.build import Builder, program
from lowering.decay import EVERY, SOURCE, STEP, Span, Tree, read_at, scalars
from lowering.decay_region import BEFORE
from lowering.parts import UPDATE
from lowering.program import Program, Value
from lowering.segment import Column, Row

LABEL = "decay of numbers"
AT_STEPS = ":every"


def numbers(b: Builder, step: Span, length: int, rows: Collection[Row], updates: int = 1) -> Tree:
    """The tree of one number a step as a region, for rows of ones, those called EVERY with one entry for `updates`."""
    inner = Builder()
    value = b.expand(step.value, {STEP: length})
    given = inner.input("log" if step.rule == "log" else "factor", value.axes, value.shape, value.kind)
    grown = scalars(inner, replace(step, value=given), length, updates)
    rows = sorted(set(rows), key=lambda row: (row.name, row.before))
    made = {_named("scores", row): grown.scores[row, Column("")] for row in rows}
    made |= {_named("entering", row): grown.entering[row] for row in rows}
    made |= {"leaving": grown.leaving[Column("")], "whole": grown.whole.value}
    forward = program({name: x for name, x in made.items() if x is not None}, [given])
    found = dict(zip(made, b.region(LABEL, forward, [value], _back if step.rule == "log" else None), strict=True))
    return Tree(
        entering={row: found[_named("entering", row)] for row in rows},
        leaving={Column(""): found["leaving"]},
        whole=replace(step, value=found["whole"]),
        scores={(row, Column("")): found[_named("scores", row)] for row in rows},
    )


def _named(what: str, row: Row) -> str:
    return what + AT_STEPS * (row.name == EVERY) + BEFORE * row.before


def _back(forward: Program) -> Program:
    """The adjoint of the region of logarithms."""
    b = Builder()
    with b.named("d_log: gradient of the logarithms of decay: what spans a step, summed from the end"):
        return _reversed(b, forward)


def _reversed(b: Builder, forward: Program) -> Program:
    (log,) = forward.inputs
    made = dict(zip(forward.names, b.region(LABEL, forward, [log], _back), strict=True))
    cts = {n: b.input(f"d:{n}", v.axes, v.shape, v.kind) for n, v in zip(forward.names, forward.outputs, strict=True)}
    found, reached = cts["whole"], []
    for name, x in made.items():
        late = name.endswith(BEFORE)
        each = b.mul(conj(b, x), cts[name])
        if name.startswith("scores"):
            each = b.where(_side_by_side(b, each, late, log.size(STEP)), 0.0, each)
            reached.append(b.map("neg", b.rename(b.sum(each, (STEP,)), SOURCE, STEP)))
            each = b.sum(each, (SOURCE,))
        if name == "leaving":
            found = b.add(found, b.cumulate("sum", b.rename(each, SOURCE, STEP), STEP, exclusive=True))
        elif AT_STEPS in name:
            each = b.cumulate("sum", each, STEP, reverse=True, exclusive=late)
            each = b.expand(each, {UPDATE: log.size(STEP) // each.size(STEP)})
            found = b.add(found, b.merge(each, STEP, UPDATE, STEP))
        elif name != "whole":
            reached.append(b.delay(each, STEP, -1) if late else each)
    if reached:
        found = b.add(found, b.cumulate("sum", b.add(*reached), STEP, reverse=True))
    if log.kind == "real":
        found = b.where(b.map("eq", b.map("exp", log), 0.0), 0.0, found)
    return program({"d:log": b.order(found, log.axes)}, [log, *cts.values()])


def _side_by_side(b: Builder, scores: Value, late: bool, length: int) -> Value:
    """Where no step lies between a row and a column."""
    row, source = b.iota(STEP, length), b.iota(SOURCE, scores.size(SOURCE))
    row = read_at(b, row, length // scores.size(STEP), late)
    return b.map("eq", row, b.add(source, 1) if late else source)
