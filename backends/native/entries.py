"""Loop nests of what works entry by entry, and of what moves entries into place."""

from __future__ import annotations

from collections.abc import Mapping

from backends.native.fusing import is_sum
from backends.native.index import Index, Variable
from backends.native.memory import Store
from backends.native.nest import Axes, Loop, Nest, Term
from backends.native.reader import Reader
from backends.native.scope import Scope, put, side_by_side, variables
from backends.native.spelling import TYPES, literal
from lowering import program as p
from lowering.program import Value


def entrywise(scope: Scope, stores: Mapping[Value, Store | None]) -> list[str]:
    """Values over the same axes in one nest; those without a store are read by the others alone.

    Sums over the innermost axis of what stands there may come with them.
    """
    lead = next(iter(stores))
    ended = any(v.axes != lead.axes and is_sum(v) for v in stores)

    def build(made: Axes, order: tuple[str, ...] | None = None) -> list[str]:
        axes = order or lead.axes
        outer, last = variables(made, axes[:-1]), variables(made, axes[-1:])
        nest = Nest([*(Loop(i, True) for i in outer), *(Loop(i, not ended) for i in last)])
        reader = scope.reader(nest)
        for v, store in stores.items():
            if is_sum(v):
                assert store is not None
                _ended(nest, reader, v, store, made, len(outer), bool(last))
                continue
            term = reader.computed(v, made.at)
            reader.members[v] = term
            if store is not None:
                put(reader, store, made, term)
        if order is None and not ended:
            better = side_by_side(made, lead.axes, reader.places)
            if better != lead.axes:
                return build(made, better)
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


def gathered(scope: Scope, v: Value, store: Store, place: int) -> list[str]:
    """The sum of what all threads have of v."""

    def build(made: Axes) -> list[str]:
        nest, c = Nest([Loop(i, True) for i in variables(made, v.axes)]), TYPES[v.kind]
        at = store.address(made.at)
        term = f"(({c} *)(OWN(i) + {place}))[{at}]"
        nest.inside.append(f"{c} sum = {literal(0, v.kind)}; for (long i = 0; i < threads; i++) sum += {term};")
        nest.inside.append(f"{store.pointer}[{at}] = sum;")
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
