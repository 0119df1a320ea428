"""Loop nests of what works entry by entry, and of what moves entries into place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.native.fusing import is_sum
from backends.native.index import Index, Variable
from backends.native.memory import Store
from backends.native.nest import Axes, Loop, Nest, Term
from backends.native.reader import Reader
from backends.native.scope import Scope, put, side_by_side, variables
from backends.native.spelling import TYPES, literal
from backends.native.steps import summed_axis
from lowering import program as p
from lowering.program import Value


def entrywise(
    scope: Scope, stores: Mapping[Value, Store | None], copies: Sequence[tuple[Value, Store]] = ()
) -> list[str]:
    """Values over the same axes in one nest; those without a store are read by the others alone; copies go along.

    Sums over an axis of what stands there may come with them: over the innermost one in a number, over the one
    around the lane in a number for each entry of the lane.
    """
    lead = next(iter(stores))
    ended = [v for v in stores if v.axes != lead.axes and is_sum(v)]
    lane = scope.lane if scope.lane in lead.axes else None
    first: tuple[str, ...] = lead.axes
    if ended and lane is not None:
        summed = tuple({summed_axis(v): None for v in ended if summed_axis(v) != lane})
        first = (*(a for a in lead.axes if a != lane and a not in summed), *summed, lane)

    def build(made: Axes, axes: tuple[str, ...] = first, settled: bool = bool(ended)) -> list[str]:
        outer, last = variables(made, axes[:-1]), variables(made, axes[-1:])
        over = {summed_axis(v) for v in ended}
        nest = Nest([Loop(i, not over & {a}) for a in axes for i in made.loops[a]])
        made = made.with_ends([*stores, *(v for v, _ in copies)])
        reader = scope.reader(nest)
        for v, store in stores.items():
            if v in ended:
                assert store is not None
                if summed_axis(v) == axes[-1]:
                    _ended(nest, reader, v, store, made, len(outer), bool(last))
                else:
                    _ended_side_by_side(nest, reader, v, store, made, len(variables(made, axes[:-2])), scope, last)
                continue
            term = reader.computed(v, made.at)
            reader.members[v] = term
            if store is not None:
                put(reader, store, made, term)
        for v, store in copies:
            put(reader, store, made, reader.read(v, made.at))
        if not settled:
            better = side_by_side(made, lead.axes, reader.places)
            if better != axes:
                return build(made, better, True)
        return nest.text(scope.share)

    return scope.written(lead.sizes, build)


def _ended(nest: Nest, reader: Reader, v: Value, store: Store, made: Axes, depth: int, loop: bool) -> None:
    """A sum over the innermost axis."""
    total, terms = reader.fresh("sum"), [reader.read(a, made.at) for a in v.args]
    nest.before[depth].insert(0, f"{TYPES[v.kind]} {total} = 0;")
    nest.inside.append(f"{total} += {' * '.join(t.text for t in terms)};")
    nest.after[depth].append(f"{store.pointer}[{store.address(made.at)}] = {total};")
    if loop:
        nest.sums.append(("+", total))


def _ended_side_by_side(
    nest: Nest, reader: Reader, v: Value, store: Store, made: Axes, depth: int, scope: Scope, lane: list[Variable]
) -> None:
    """A sum over the axis around the innermost one: a number for each entry of the lane."""
    total, terms = reader.fresh("sum"), [reader.read(a, made.at) for a in v.args]
    size, place = 1, Index()
    for i in lane:
        size, place = size * i.size, place * i.size + Index.of(i)
    heads = " ".join(Loop(i, True).head for i in lane[:-1]) + "".join(
        f' _Pragma("omp simd") {Loop(i, True).head}' for i in lane[-1:]
    )
    nest.before[depth] += [f"{TYPES[v.kind]} {total}[{size}];", f"{heads} {total}[{place}] = 0;"]
    nest.inside.append(f"{total}[{place}] += {' * '.join(t.text for t in terms)};")
    nest.after[depth].append(f"{heads} {store.pointer}[{store.address(made.at)}] = {total}[{place}];")


def copied(scope: Scope, v: Value, store: Store, sizes: Mapping[str, int] | None = None) -> list[str]:
    """v written to a store, whose axes may be more than v's."""
    sizes = v.sizes if sizes is None else sizes

    def build(made: Axes, order: tuple[str, ...] | None = None) -> list[str]:
        axes = order or tuple(sizes)
        nest = Nest([Loop(i, True) for i in variables(made, axes)])
        reader = scope.reader(nest)
        put(reader, store, made, reader.read(v, made.at))
        better = side_by_side(made, axes, reader.places) if order is None else axes
        return nest.text(scope.share) if better == axes else build(made, better)

    return scope.written(sizes, build)


def added(scope: Scope, v: Value, part: Store, total: Store) -> list[str]:
    """One part of v added to the sum of those before it."""

    def build(made: Axes) -> list[str]:
        nest = Nest([Loop(i, True) for i in variables(made, v.axes)])
        to, entry = (f"{store.pointer}[{store.address(made.at)}]" for store in (total, part))
        nest.inside.append(f"{to} += {entry};")
        return nest.text(scope.share)

    return scope.written(v.sizes, build)


def gathered(scope: Scope, v: Value, store: Store, parts: Store) -> list[str]:
    """The sum of what all threads have of v; `parts` is where it lies with thread i."""

    def build(made: Axes) -> list[str]:
        nest, c = Nest([Loop(i, True) for i in variables(made, v.axes)]), TYPES[v.kind]
        total, at = scope.fresh("sum"), store.address(made.at)
        term = f"{parts.pointer}[{parts.address(made.at)}]"
        nest.inside.append(f"{c} {total} = {literal(0, v.kind)};")
        nest.inside.append(f"for (long i = 0; i < threads; i++) {total} += {term};")
        nest.inside.append(f"{store.pointer}[{at}] = {store.written(total)};")
        return nest.text(scope.share, simd=False)

    return scope.written(v.sizes, build)


def concat(scope: Scope, v: Value, store: Store) -> list[str]:
    op = v.op
    assert isinstance(op, p.Concat)
    lines, start = [], 0
    for x in v.args:
        lines += copied(scope, x, store.shifted(op.axis, start))
        start += x.size(op.axis)
    return lines


def put_back(scope: Scope, v: Value, store: Store) -> list[str]:
    """Zeros, then every update added where its index says; one after the other, as two may meet."""
    op, (update, index) = v.op, v.args
    assert isinstance(op, p.Put)
    sizes = {**update.sizes, **index.sizes}

    def zeros(made: Axes) -> list[str]:
        nest = Nest([Loop(i, True) for i in variables(made, v.axes)])
        put(scope.reader(nest), store, made, Term(literal(0, v.kind)))
        return nest.text(scope.share)

    def build(made: Axes) -> list[str]:
        nest = Nest([Loop(i, False) for i in variables(made, tuple(sizes))])
        reader = scope.reader(nest)
        place, entry = reader.read(index, made.at), reader.read(update, made.at)
        to = store.address({**made.at, op.axis: Index.of(Variable(place.text, op.size, place.needs))})
        nest.inside.append(f"{store.pointer}[{to}] += {entry.text};")
        return nest.text(False)

    return [*scope.written(v.sizes, zeros), *scope.written(sizes, build)]
