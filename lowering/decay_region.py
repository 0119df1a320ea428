"""The tree of logarithms as a region `decay` of the program, with an adjoint of its own; a backend may spell either.

The region's inputs are `step`, `row:<name>` (or `row:<name>:before`) and `column:<name>`; its results `entering <row>`,
`leaving <column>`, `whole` and `scores <row> <column>`, where a row and a column are named as among the inputs. Its
adjoint is a region `decay back`, with the same inputs and `d:<result>` for each result, which gives `d:<input>`.

For rows and columns the adjoint is that of the tree. A logarithm g_l is multiplied into every product that spans it, so

    ḡ_l = Σ_{s < l ≤ t} (what scores[t, s] contributes) = Σ_{t ≥ l} x_t x̄_t − Σ_{s ≥ l} y_s ȳ_s,

and one cumulated sum of differences is enough. It loses no digits that count: products that span no step at all (a row
and its own column) stay out of both sums, so that nothing is larger than what some step contributes; and where e^g is
0 in the precision at hand, so is its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lowering.adjoint import adjoint
from lowering.adjoint_entries import conj
from lowering.build import Builder, called, program
from lowering.decay import SOURCE, STEP, Span, Tree, tree
from lowering.parts import KEY
from lowering.program import Program, Value
from lowering.segment import Column, Row
from mixer_ir.nodes.expr import without
from mixer_ir.nodes.functions import WIDTH

BEFORE = ":before"


def products(
    b: Builder,
    step: Span,
    length: int,
    rows: Mapping[Row, Value],
    columns: Mapping[Column, Value],
    pairs: Sequence[tuple[Row, Column]],
) -> Tree:
    """The tree of a logarithm with the axis `_k`, as a region."""
    if not rows and not columns:
        return tree(b, step, length, rows, columns, pairs)
    row_names = {row: f"row:{row.name}" + BEFORE * row.before for row in rows}
    column_names = {column: f"column:{column.name}" for column in columns}
    like = b.expand(step.value, {STEP: length})
    args = {"step": step.value}
    args |= {name: _beside(b, rows[row], like) for row, name in row_names.items()}
    args |= {name: _beside(b, columns[column], like) for column, name in column_names.items()}
    inner = Builder()
    given = {name: inner.input(name, x.axes, x.shape, x.kind) for name, x in args.items()}
    grown = tree(
        inner,
        replace(step, value=given["step"]),
        length,
        {row: given[name] for row, name in row_names.items()},
        {column: given[name] for column, name in column_names.items()},
        pairs,
    )
    made = {f"entering {row_names[row]}": x for row, x in grown.entering.items()}
    made |= {f"leaving {column_names[column]}": y for column, y in grown.leaving.items()}
    made["whole"] = grown.whole.value
    known = {pair: s for pair, s in grown.scores.items() if s is not None}
    made |= {f"scores {row_names[row]} {column_names[column]}": s for (row, column), s in known.items()}
    forward = program(made, list(given.values()))
    results = dict(zip(made, b.region("decay", forward, list(args.values()), _back), strict=True))
    return Tree(
        entering={row: results[f"entering {name}"] for row, name in row_names.items()},
        leaving={column: results[f"leaving {name}"] for column, name in column_names.items()},
        whole=replace(step, value=results["whole"]),
        scores={
            pair: results[f"scores {row_names[pair[0]]} {column_names[pair[1]]}"] if pair in known else None
            for pair in pairs
        },
    )


def _beside(b: Builder, x: Value, step: Value) -> Value:
    """A row or a column with the axes of the steps, so that each step's part in it can be told; complex if they are."""
    x = b.cast(x, max(x.kind, step.kind, key=WIDTH.__getitem__))
    x = b.expand(x, step.sizes)
    rest = without(x.axes, (*step.axes, KEY))
    return b.order(x, (*without(step.axes, (STEP, KEY)), *rest, STEP, KEY))


def _back(forward: Program) -> Program:
    """The adjoint as one region `decay back`."""
    b, back = Builder(), back_of(forward)
    args = [b.input(name, v.axes, v.shape, v.kind) for name, v in zip(back.input_names, back.inputs, strict=True)]
    return program(dict(zip(back.names, b.region("decay back", back, args), strict=True)), args)


def back_of(forward: Program) -> Program:
    """The adjoint of a region `decay`, from any program of its results."""
    b = Builder()
    args = dict(zip(forward.input_names, forward.inputs, strict=True))
    cts = {f"d:{n}": b.input(f"d:{n}", v.axes, v.shape, v.kind) for n, v in _results(forward).items()}
    vectors = [n for n in args if n != "step"]
    seen = [n for n in _results(forward) if n != "whole"]
    spanning = {n: _spanning(b, n, cts[f"d:{n}"]) for n in seen}
    through = adjoint(forward, vectors, seen)
    given = {**args, **{f"d:{n}": b.order(ct, cts[f"d:{n}"].axes) for n, ct in spanning.items()}}
    made = dict(zip(vectors, b.inline(through, given), strict=True))
    left = dict(zip(forward.names, b.inline(forward, args), strict=True))
    step = _of_steps(b, args, made, {n: (left[n], spanning[n]) for n in seen if n.startswith("leaving")})
    found = {n: b.add(made[n], *_own(b, n, args, cts)) for n in vectors}
    found["step"] = b.add(step, cts["d:whole"])
    outputs = {f"d:{n}": _as(b, found[n], v) for n, v in args.items()}
    return program(outputs, (*args.values(), *cts.values()))


def _results(forward: Program) -> dict[str, Value]:
    return dict(zip(forward.names, forward.outputs, strict=True))


def _as(b: Builder, ct: Value, like: Value) -> Value:
    ct = b.cast(b.expand(b.sum(ct, without(ct.axes, like.axes)), like.sizes), like.kind)
    return b.order(ct, like.axes)


@called("d_spanning: cotangents of products that span a step")
def _spanning(b: Builder, name: str, ct: Value) -> Value:
    """The cotangent of a result where it spans a step."""
    what, *of = name.split(" ")
    if what == "scores":
        return b.where(_beside_each_other(b, of[0], ct), 0.0, ct)
    if what == "leaving":
        return b.where(_last(b, ct, SOURCE), 0.0, ct)
    return ct


def _beside_each_other(b: Builder, row: str, ct: Value) -> Value:
    """Where no step lies between a row and a column."""
    t, s = b.iota(STEP, ct.size(STEP)), b.iota(SOURCE, ct.size(SOURCE))
    return b.map("eq", t, b.add(s, 1) if row.endswith(BEFORE) else s)


def _last(b: Builder, x: Value, axis: str) -> Value:
    return b.map("eq", b.iota(axis, x.size(axis)), x.size(axis) - 1)


@called("d_log: gradient of the logarithms of decay: Σ over t ≥ l of x x̄ − y ȳ, summed from the end")
def _of_steps(
    b: Builder, args: Mapping[str, Value], made: Mapping[str, Value], leaving: Mapping[str, tuple[Value, Value]]
) -> Value:
    """ḡ but for what comes through the whole: Σ_{t ≥ l} (x_t x̄_t − y_t ȳ_t) + Σ_s what is left of s."""
    step = args["step"]
    length = next(x.size(STEP) for n, x in args.items() if n != "step")
    over = (*step.axes, STEP)

    def product(x: Value, ct: Value) -> Value:
        return b.contract(conj(b, x), ct, without(tuple(b.joint((x, ct))), over))

    here = b.const(0.0)
    for name, ct in made.items():
        each = product(args[name], ct)
        if name.endswith(BEFORE):
            each = b.delay(each, STEP, -1)
        here = b.sub(here, each) if name.startswith("column:") else b.add(here, each)
    found = b.cumulate("sum", here, STEP, reverse=True)
    for y, ct in leaving.values():
        found = b.add(found, b.contract(conj(b, y), ct, without(tuple(b.joint((y, ct))), step.axes)))
    if step.kind == "real":
        found = b.where(b.map("eq", b.map("exp", step), 0.0), 0.0, found)
    return b.expand(found, {STEP: length})


@called("d_own: what comes through products that span no step: a row and its own column")
def _own(b: Builder, name: str, args: Mapping[str, Value], cts: Mapping[str, Value]) -> list[Value]:
    """What comes to a row or a column through products that span no step."""
    found = []
    for result, ct in cts.items():
        what, *of = result.removeprefix("d:").split(" ")
        if what == "scores" and name in of:
            row, column = of
            each = b.sum(b.where(_beside_each_other(b, row, ct), ct, 0.0), (SOURCE,))
            late = row.endswith(BEFORE)
            if name == row:
                other = conj(b, b.delay(args[column], STEP, 1) if late else args[column])
            else:
                other = conj(b, args[row])
            each = b.contract(each, other, without(tuple(b.joint((each, other))), args[name].axes))
            found.append(b.delay(each, STEP, -1) if late and name == column else each)
        elif what == "leaving" and name in of:
            found.append(b.rename(b.where(_last(b, ct, SOURCE), ct, 0.0), SOURCE, STEP))
    return found
