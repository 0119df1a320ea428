"""The regions `decay` and `decay back` as one routine each (decay.c): a tree of half-blocks, carried where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from backends.native.fusing import DECAYS, INNER
from backends.native.index import Index
from backends.native.memory import Store
from backends.native.nest import Axes, Loop, Nest
from backends.native.reader import address, steps_of
from backends.native.scope import Scope, variables
from lowering import program as p
from lowering.adjoint import is_zero
from lowering.decay import SOURCE, SOURCE_RANK, STEP
from lowering.decay_region import BEFORE
from lowering.parts import KEY, RANK
from lowering.program import Value


def laid_out(v: Value) -> dict[str, int]:
    """The sizes of a result in the order in which the routine writes it."""
    return {a: v.size(a) for a in (*(a for a in v.axes if a not in INNER), *(a for a in INNER if a in v.axes))}


@dataclass(frozen=True)
class Array:
    """An array of the call where a nest stands: its text, and the steps along its axes; absent ones count as zeros."""

    text: str = "0"
    steps: Mapping[str, int] | None = None

    def along(self, *axes: str) -> str:
        return ", ".join(str((self.steps or {}).get(a, 0)) for a in axes)


@dataclass(frozen=True)
class Arrays:
    """The arguments and results of a region by name, where a nest stands."""

    scope: Scope
    made: Axes
    args: Mapping[str, Value]
    results: Mapping[str, Store]
    sizes: Mapping[str, int]

    def of(self, name: str, rank: Mapping[str, int]) -> Array:
        at = {a: self.scope.first.get(a, Index()) for a in INNER}
        at |= {a: Index((), i) for a, i in rank.items()}
        at |= self.made.at
        if name in self.results:
            store = self.results[name]
            return Array(f"{store.pointer} + ({store.address(at)})", store.strides)
        x = self.args.get(name)
        if x is None or is_zero(x):
            return Array()
        store, place = address(x, at, self.scope.where)
        return Array(f"{store.pointer} + ({place})", steps_of(x, self.scope.where))


def decay(scope: Scope, v: Value, results: Mapping[str, Store]) -> list[str]:
    """One call for each place of the batch axes; `results` are those that something reads, by name."""
    op = v.op
    assert isinstance(op, p.Region)
    args = dict(zip(op.body.input_names, v.args, strict=True))
    names = [n for n in args if n.startswith(("row:", "column:"))]
    batch = {a: n for a, n in args["step"].sizes.items() if a not in INNER}
    length = args[names[0]].size(STEP)
    keys = scope.extent({KEY: args["step"].size(KEY)})[KEY]
    back = op.label == DECAYS[1]
    results_of = (lambda n: f"d:{n}") if back else _carried
    places = [(n, r) for n in names for r in ranks(args[n])]

    def build(made: Axes) -> list[str]:
        nest = Nest([Loop(i, True) for i in variables(made, tuple(batch))])
        nest.calls = True
        arrays = Arrays(scope, made, args, results, scope.sizes)
        vectors, pairs = [], []
        for n, rank in places:
            last = STEP if back or n.startswith("row:") else SOURCE
            what = "COLUMN" if n.startswith("column:") else "ROW_BEFORE" if n.endswith(BEFORE) else "ROW_AFTER"
            x, to, ct = arrays.of(n, rank), arrays.of(results_of(n), rank), arrays.of(f"d:{_carried(n)}", rank)
            seen = SOURCE if what == "COLUMN" else STEP
            vectors.append(
                f"{{{what}, {x.text}, {x.along(STEP, KEY)}, {to.text}, {to.along(last, KEY)}, "
                f"{ct.text if back else 0}, {ct.along(seen, KEY)}}}"
            )
        for (i, (row, r)), (j, (column, s)) in product(enumerate(places), enumerate(places)):
            name = f"d:scores {row} {column}" if back else f"scores {row} {column}"
            if row.startswith("row:") and column.startswith("column:") and (name in args or name in results):
                scores = arrays.of(name, {**r, **s})
                if scores.steps is not None:
                    pairs.append(f"{{{i}, {j}, {scores.text}, {scores.along(STEP, SOURCE)}}}")
        step, whole = arrays.of("step", {}), arrays.of("d:whole" if back else "whole", {})
        to = arrays.of("d:step", {})
        call = (
            f"{{ const mixer_vector v[] = {{{', '.join(vectors)}}}; "
            f"const mixer_pair p[] = {{{', '.join(pairs) or '{0}'}}}; "
            f"mixer_decay{'_back' if back else ''}({length}, {keys}, {step.text}, {step.along(STEP, KEY)}, "
            f"{len(vectors)}, v, {len(pairs)}, p, {whole.text}, {whole.along(KEY)}"
            + (f", {to.text}, {to.along(STEP, KEY)}" if back else "")
            + "); }"
        )
        nest.inside.append(call)
        return nest.text(scope.share, simd=False, weight=length * keys * len(vectors) * 8)

    return scope.written(batch, build)


def _carried(name: str) -> str:
    return f"{'entering' if name.startswith('row:') else 'leaving'} {name}"


def ranks(x: Value) -> list[dict[str, int]]:
    """Every place along the axes of a low rank that x has."""
    axes = [a for a in (RANK, SOURCE_RANK) if a in x.axes]
    return [dict(zip(axes, at, strict=True)) for at in product(*(range(x.size(a)) for a in axes))]
