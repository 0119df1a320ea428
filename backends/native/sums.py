"""Loop nests of sums along axes: contractions, reductions, cumulations, affine scans, solves and transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from backends.native.entries import concat, copied, put_back
from backends.native.fusing import is_product
from backends.native.index import Index, Variable
from backends.native.memory import Store
from backends.native.nest import Axes, Loop, Nest, Term
from backends.native.products import product
from backends.native.reader import Reader, address, steps_of, viewed
from backends.native.scope import Scope, variables
from backends.native.spelling import NEUTRAL, TYPES, combined, literal
from lowering import program as p
from lowering.program import Value

TILE = 512
"""the most sums that are held at once"""
HELD = 1 << 14
"""and where an axis cannot be cut"""
TRANSFORMS = ("fft", "ifft", "rfft", "irfft")
TRANSFORMED = 32
"""how many transforms run at once"""


def held(scope: Scope, sizes: Mapping[str, int], inner: str, free: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """How the innermost axis is cut, so that its sums stay in the nearest cache and threads have enough to share."""
    n = scope.extent(sizes)[inner]
    around = prod(m for a, m in scope.extent(sizes).items() if a in free and a != inner)
    most = TILE if around >= 8 or not scope.share else min(TILE, max(n // 8, 16))
    if n <= most:
        return {}
    tile = next((m for m in range(most, 7, -1) if n % m == 0), n)
    return {inner: (n // tile, tile)} if tile < n else {}


def folded(
    scope: Scope,
    v: Value,
    store: Store,
    over: Mapping[str, int],
    inner: str | None,
    term: Callable[[Reader, Axes], Term],
    fn: str,
) -> list[str]:
    """Terms taken together over axes: in one variable, or in one for each entry of `inner`, an axis of the result."""
    sizes = {**v.sizes, **over}
    free = tuple(a for a in v.axes if a != inner)

    def build(made: Axes) -> list[str]:
        outer, last = variables(made, free), []
        if inner is not None:
            *more, last_one = made.loops[inner]
            outer, last = [*outer, *more], [last_one]
        summed = variables(made, tuple(over))
        loops = [*(Loop(i, True) for i in outer), *(Loop(i, False) for i in summed), *(Loop(i, True) for i in last)]
        nest, d, total = Nest(loops), len(outer), scope.fresh("sum")
        start, c, entry = NEUTRAL[fn](v.kind), TYPES[v.kind], scope.fresh("s")
        found = term(scope.reader(nest), made)
        to = f"{store.pointer}[{store.address(made.at)}]"
        if last:
            n, head = last[0].size, f'_Pragma("omp simd") {loops[-1].head} '
            nest.before[d] += [f"{c} {total}[{n}];", f"{head}{total}[{last[0].text}] = {start};"]
            at = f"{total}[{last[0].text}]"
            nest.inside.append(f"{at} = {combined(fn, v.kind, at, found.text)};")
            nest.after[d].append(f"{head}{to} = {at};")
        else:
            nest.before[d].append(f"{c} {total} = {start};")
            nest.inside.append(f"const {c} {entry} = {found.text}; {total} = {combined(fn, v.kind, total, entry)};")
            nest.after[d].append(f"{to} = {total};")
            if summed and v.kind in ("real", "int") and fn in ("sum", "prod"):
                nest.sums.append(("+" if fn == "sum" else "*", total))
        return nest.text(scope.share)

    cuts = held(scope, v.sizes, inner, free) if inner is not None else {}
    return scope.written(sizes, build, cuts)


def innermost(scope: Scope, v: Value, lead: Value) -> str | None:
    """The lane, or the last axis of what is read most, if the result has it."""
    sizes = scope.extent(lead.sizes)
    if scope.lane in v.axes and scope.lane in lead.axes:
        return scope.lane
    last = next((a for a in reversed(lead.axes) if sizes[a] > 1), None)
    if last is None or last not in v.axes or (sizes[last] > HELD and sizes[last] % 8):
        return None
    return last


def reduce(scope: Scope, v: Value, store: Store) -> list[str]:
    op, x = v.op, v.args[0]
    assert isinstance(op, p.Reduce)
    over = {a: x.size(a) for a in x.axes if a in op.over}
    return folded(scope, v, store, over, innermost(scope, v, x), lambda r, made: r.read(x, made.at), op.fn)


def contract(scope: Scope, v: Value, store: Store) -> list[str]:
    if is_product(v):
        return product(scope, v, store)
    op, (x, y) = v.op, v.args
    assert isinstance(op, p.Contract)
    lead = max(v.args, key=lambda a: (prod(a.shape), -len(a.axes)))
    over = {a: n for a, n in lead.sizes.items() if a in op.over}

    def term(reader: Reader, made: Axes) -> Term:
        a, b = reader.read(x, made.at), reader.read(y, made.at)
        return Term(f"({a.text} * {b.text})", a.needs | b.needs)

    return folded(scope, v, store, over, innermost(scope, v, lead), term, "sum")


def running(
    scope: Scope,
    v: Value,
    store: Store,
    axis: str,
    reverse: bool,
    start: str,
    step: Callable[[Reader, Mapping[str, Index], str, str], list[str]],
) -> list[str]:
    """A number carried along an axis, for all other axes at once."""
    others = tuple(a for a in v.axes if a != axis)
    sizes = scope.extent(v.sizes)
    inner = next((a for a in reversed(v.axes) if sizes[a] > 1), axis)
    n = v.size(axis)

    def build(made: Axes) -> list[str]:
        last = [made.loops[inner][-1]] if inner != axis else []
        outer = [i for i in variables(made, others) if i not in last]
        place = {**made.at, axis: Index((), n - 1) - made.at[axis] if reverse else made.at[axis]}
        ordered = [Loop(i, False) for i in made.loops[axis]]
        nest = Nest([*(Loop(i, True) for i in outer), *ordered, *(Loop(i, True) for i in last)])
        d, total, c = len(outer), scope.fresh("h"), TYPES[v.kind]
        at = f"{total}[{last[0].text}]" if last else total
        if last:
            nest.before[d] += [
                f"{c} {total}[{last[0].size}];",
                f'_Pragma("omp simd") {Loop(last[0], True).head} {at} = {start};',
            ]
        else:
            nest.before[d].append(f"{c} {total} = {start};")
        to = f"{store.pointer}[{store.address(place)}]"
        nest.inside.extend(step(scope.reader(nest), place, at, f"{to} = {at};"))
        return nest.text(scope.share)

    cuts = held(scope, v.sizes, inner, others) if inner != axis else {}
    return scope.written(v.sizes, build, cuts)


def cumulate(scope: Scope, v: Value, store: Store) -> list[str]:
    op, x = v.op, v.args[0]
    assert isinstance(op, p.Cumulate)

    def step(reader: Reader, place: Mapping[str, Index], at: str, keep: str) -> list[str]:
        more = f"{at} = {combined(op.fn, v.kind, at, reader.read(x, place).text)};"
        return [keep, more] if op.exclusive else [more, keep]

    return running(scope, v, store, op.axis, op.reverse, NEUTRAL[op.fn](v.kind), step)


def affine_scan(scope: Scope, v: Value, store: Store) -> list[str]:
    op, (a, x) = v.op, v.args
    assert isinstance(op, p.AffineScan)

    def step(reader: Reader, place: Mapping[str, Index], at: str, keep: str) -> list[str]:
        factor, term = reader.read(a, place), reader.read(x, place)
        return [f"{at} = {factor.text} * {at} + {term.text};", keep]

    return running(scope, v, store, op.axis, op.reverse, literal(0, v.kind), step)


def solve(scope: Scope, v: Value, store: Store) -> list[str]:
    """In place, row after row: w_i = r_i + Σ_j L_ij w_j over the rows j that are done."""
    op, (lower, right) = v.op, v.args
    assert isinstance(op, p.Solve)
    columns = tuple(a for a in v.axes if a != op.row and a not in lower.axes)
    batch = tuple(a for a in v.axes if a != op.row and a in lower.axes)
    n = v.size(op.row)
    lines = copied(scope, right, store, v.sizes)
    if n > 1 and v.kind == "real" and columns and viewed(lower, scope.where):
        last_one = columns[-1]
        if store.strides[last_one] == 1 and scope.extent(v.sizes)[last_one] >= 8:
            return [*lines, *_solved(scope, v, store, last_one)]
    rest = {a: m for a, m in v.sizes.items() if a != op.row}

    def build(made: Axes) -> list[str]:
        last = variables(made, columns)[-1:]
        outer = [i for i in variables(made, (*batch, *columns)) if i not in last]
        row, col = (Variable(i, n, frozenset((i,)), whole=True) for i in (scope.fresh("row"), scope.fresh("col")))
        i, j = Index.of(row), Index.of(col)
        if op.upper:
            i, j = Index((), n - 1) - i, Index((), n - 1) - j
        loops = [*(Loop(o, True) for o in outer), Loop(row, False), Loop(col, False, stop=row.text)]
        nest = Nest([*loops, *(Loop(o, True) for o in last)])
        entry = scope.reader(nest).read(lower, {**made.at, op.row: i, op.col: j})
        here, there = (store.address({**made.at, op.row: at}) for at in (i, j))
        nest.inside.append(f"{store.pointer}[{here}] += {entry.text} * {store.pointer}[{there}];")
        return nest.text(scope.share)

    return lines if n == 1 else [*lines, *scope.written(rest, build)]


def _solved(scope: Scope, v: Value, store: Store, columns: str) -> list[str]:
    """By a routine, for all entries along one axis at once."""
    op, lower = v.op, v.args[0]
    assert isinstance(op, p.Solve)
    rest = {a: m for a, m in v.sizes.items() if a not in (op.row, columns)}
    size, n, last = scope.extent(v.sizes)[columns], v.size(op.row), Index((), v.size(op.row) - 1)
    at = last if op.upper else Index()
    steps = steps_of(lower, scope.where)
    back = -1 if op.upper else 1

    def build(made: Axes) -> list[str]:
        nest = Nest([Loop(i, True) for i in variables(made, tuple(rest))])
        nest.calls = True
        source, place = address(lower, {**made.at, op.row: at, op.col: at}, scope.where)
        to = store.address({**made.at, op.row: at, columns: scope.first.get(columns, Index())})
        nest.inside.append(
            f"mixer_solve({n}, {size}, {source.pointer} + ({place}), {back * steps[op.row]}, {back * steps[op.col]}, "
            f"{store.pointer} + ({to}), {back * store.strides[op.row]});"
        )
        return nest.text(scope.share, simd=False, weight=n * n * size // 8)

    return scope.written(rest, build)


def transform(scope: Scope, v: Value, store: Store) -> list[str]:
    """Many at once along another axis, best the one along which the argument lies side by side."""
    op, x = v.op, v.args[0]
    assert isinstance(op, p.Transform)
    others = {a: m for a, m in v.sizes.items() if a != op.axis}
    sizes = scope.extent(others)
    probes = {a: Variable(f"probe {a}", 1 << 30, whole=True) for a in (*others, op.axis)}
    source, place = address(x, {a: Index.of(i) for a, i in probes.items()}, scope.where)
    steps = {a: dict(place.terms).get(i, 0) for a, i in probes.items()}
    many = max(others, key=lambda a: (sizes[a] >= 8, steps[a] == 1, sizes[a]), default=None)
    count = 1 if many is None else sizes[many]
    at_once = next((m for m in (TRANSFORMED, TRANSFORMED // 2) if count > m and count % m == 0), count)

    def build(made: Axes) -> list[str]:
        along = made.loops[many][-1] if many is not None and made.loops[many] else None
        nest = Nest([Loop(i, True) for i in variables(made, tuple(others)) if i is not along])
        zero = {a: Index(tuple(t for t in i.terms if t[0] is not along), i.constant) for a, i in made.at.items()}
        start = address(x, {**zero, op.axis: Index()}, scope.where)[1]
        to = store.address({**zero, op.axis: Index()})
        apart = (0, 0) if many is None else (steps[many], store.strides[many])
        nest.inside.append(
            f"mixer_transforms({TRANSFORMS.index(op.which)}, {op.n}, {along.size if along else 1}, "
            f"{source.pointer} + ({start}), {steps[op.axis]}, {apart[0]}, "
            f"{store.pointer} + ({to}), {store.strides[op.axis]}, {apart[1]});"
        )
        nest.calls = True
        return nest.text(scope.share, simd=False, weight=op.n * at_once * 2)

    cuts = {many: (count // at_once, at_once)} if many is not None and at_once < count else {}
    return scope.written(others, build, cuts)


LOOPS: dict[type, Callable[[Scope, Value, Store], list[str]]] = {
    p.Reduce: reduce,
    p.Contract: contract,
    p.Cumulate: cumulate,
    p.AffineScan: affine_scan,
    p.Solve: solve,
    p.Transform: transform,
    p.Concat: concat,
    p.Put: put_back,
}
