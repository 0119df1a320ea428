"""Programs of real numbers alone: complex values as pairs, regions opened, updates as sums, kinds in the open.

What a kernel is emitted from knows real and whole numbers and truth values. An array of complex numbers that is stored
or goes through a Fourier transform has the axis `_z`: real part, imaginary part.
"""

from __future__ import annotations

from collections.abc import Callable

from backends.triton.affine import in_steps, pairs
from backends.triton.complexes import COMPLEX, Number, Pair, contract, mul, neg, zero
from backends.uniform import argument_kinds
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value
from mixer_ir.errors import BackendError

PART = "_z"
"""the axis of real and imaginary part"""


def real(program: Program) -> Program:
    """The same program without complex values; complex inputs and outputs have the axis `_z` (last)."""
    b = Builder()
    inputs = [_stored(b, v) for v in program.inputs]
    done: dict[Value, Number] = {v: _loaded(b, v, x) for v, x in zip(program.inputs, inputs, strict=True)}
    made = _run(b, program, done)
    outputs = tuple(_joined(b, y, v) for y, v in zip(made, program.outputs, strict=True))
    return Program(inputs=tuple(inputs), outputs=outputs, names=program.names)


def _stored(b: Builder, v: Value) -> Value:
    assert isinstance(v.op, p.Input)
    return v if v.kind != "complex" else b.input(v.op.name, (*v.axes, PART), (*v.shape, 2), "real")


def _loaded(b: Builder, v: Value, x: Value) -> Number:
    return Pair(b.at(x, PART, 0), b.at(x, PART, 1)) if v.kind == "complex" else x


def _joined(b: Builder, y: Number, v: Value) -> Value:
    if isinstance(y, Value):
        return b.order(b.expand(y, v.sizes), v.axes)
    parts = [b.order(b.expand(b.cast(x, "real"), v.sizes), v.axes) for x in y.values]
    z = b.concat([b.expand(x, {PART: 1}) for x in parts], PART)
    return b.order(z, (*v.axes, PART))


def _run(b: Builder, program: Program, done: dict[Value, Number]) -> list[Number]:
    parts: dict[Value, list[Number]] = {}
    for v in program.order:
        if v in done:
            continue
        op = v.op
        if isinstance(op, p.Pick):
            done[v] = parts[v.args[0]][op.index]
        elif isinstance(op, p.Scan):
            with b.named(v.label):
                parts[v] = _scan(b, op, [done[a] for a in v.args])
        elif isinstance(op, p.Region):
            args = [_as(b, done[a], x) for a, x in zip(v.args, op.body.inputs, strict=True)]
            parts[v] = _run(b, op.body, dict(zip(op.body.inputs, args, strict=True)))
        else:
            args = [_cast(b, done[a], kind) for a, kind in zip(v.args, argument_kinds(v), strict=True)]
            with b.named(v.label):
                done[v] = _operation(b, v, args)
    return [done[v] for v in program.outputs]


def _as(b: Builder, x: Number, like: Value) -> Number:
    return _each(_cast(b, x, like.kind), lambda y: b.order(b.expand(y, like.sizes), like.axes))


def _each(x: Number, change: Callable[[Value], Value]) -> Number:
    return Pair(change(x.re), change(x.im)) if isinstance(x, Pair) else change(x)


def _cast(b: Builder, x: Number, kind: str) -> Number:
    if isinstance(x, Pair):
        return x if kind == "complex" else b.cast(x.re, kind)  # type: ignore[arg-type]
    if kind == "complex":
        return Pair(b.cast(x, "real"), b.full(0.0, {}))
    return b.cast(x, kind)  # type: ignore[arg-type]


def _scan(b: Builder, op: p.Scan, args: list[Number]) -> list[Number]:
    """The loop with two carries (steps, constants, results) where there was a complex one."""
    inner = Builder()
    done: dict[Value, Number] = {}
    groups: list[list[Value]] = [[], [], []]
    inputs: list[list[Value]] = [[], [], []]
    for i, (v, x) in enumerate(zip(op.body.inputs, args, strict=True)):
        which = 0 if i < op.carries else 1 if i < op.carries + op.steps else 2
        x = _cast(b, x, v.kind)
        full = {**v.sizes, op.axis: op.length} if which == 1 else v.sizes
        axes = (op.axis, *v.axes) if which == 1 else v.axes
        flat = x.values if isinstance(x, Pair) else (x,)
        groups[which] += [b.order(b.expand(y, full), axes) for y in flat]
        kind = "real" if v.kind == "complex" else v.kind
        made = [inner.input(f"{_name(v)}{'_im' * j}", v.axes, v.shape, kind) for j in range(len(flat))]
        inputs[which] += made
        done[v] = Pair(*made) if len(made) == 2 else made[0]
    results = _run(inner, op.body, done)
    outputs: list[Value] = []
    slots: list[list[int]] = []
    for i, (y, v) in enumerate(zip(results, op.body.outputs, strict=True)):
        y = _cast(inner, y, v.kind)
        flat = y.values if isinstance(y, Pair) else (y,)
        slots.append(list(range(len(outputs), len(outputs) + len(flat))))
        outputs += [inner.order(inner.expand(x, v.sizes), v.axes) for x in flat]
        if i == op.carries - 1:
            carries = len(outputs)
    if not op.carries:
        carries = 0
    body = Program(
        inputs=(*inputs[0], *inputs[1], *inputs[2]),
        outputs=tuple(outputs),
        names=tuple(f"out{i}" for i in range(len(outputs))),
    )
    picked = b.picks(
        p.Scan(op.axis, op.length, body, carries, len(groups[1]), op.reverse), tuple(x for g in groups for x in g)
    )
    return [Pair(picked[s[0]], picked[s[1]]) if len(s) == 2 else picked[s[0]] for s in slots]


def _name(v: Value) -> str:
    assert isinstance(v.op, p.Input)
    return v.op.name


def _operation(b: Builder, v: Value, args: list[Number]) -> Number:
    op = v.op
    if isinstance(op, p.Constant) and v.kind == "complex":
        z = complex(op.value)
        return Pair(b.const(z.real), b.const(z.imag))
    if isinstance(op, p.Transform):
        return _transform(b, op, args[0])
    if isinstance(op, p.Put):
        return _put(b, v, op, args)
    if isinstance(op, p.Detach):
        return args[0]
    if isinstance(op, p.Cast):
        return _cast(b, args[0], op.kind)
    if isinstance(op, p.Map) and op.fn in ("real", "imag", "conj", "complex"):
        return _part(b, op.fn, args)
    if any(isinstance(x, Pair) for x in args):
        return _paired(b, v, [x if isinstance(x, Pair) else _cast(b, x, "complex") for x in args], args)
    return _again(b, v, [x for x in args if isinstance(x, Value)])


def _again(b: Builder, v: Value, args: list[Value]) -> Value:
    """v's operation on other arguments (with v's axes if it is an Expand, an Order or a Concat)."""
    kind = "real" if v.kind == "complex" else v.kind
    op = v.op
    if isinstance(op, p.Expand):
        return b.expand(args[0], v.sizes)
    if isinstance(op, p.Order):
        return b.order(b.expand(args[0], v.sizes), v.axes)
    if isinstance(op, p.Map):
        return b.map(op.fn, *args)
    full = [b.order(b.expand(x, a.sizes), a.axes) for x, a in zip(args, v.args, strict=True)]
    return b._new(op, full, v.axes, v.shape, kind)


def _part(b: Builder, fn: str, args: list[Number]) -> Number:
    x = args[0]
    if fn == "complex":
        y = args[1]
        assert isinstance(x, Value) and isinstance(y, Value)
        return Pair(b.cast(x, "real"), b.cast(y, "real"))
    if not isinstance(x, Pair):
        return b.mul(x, 0) if fn == "imag" else x
    return x.re if fn == "real" else x.im if fn == "imag" else Pair(x.re, neg(b, x.im))


def _paired(b: Builder, v: Value, pairs: list[Number], args: list[Number]) -> Number:
    """An operation of complex numbers, on real and imaginary parts."""
    op = v.op
    xs = [x for x in pairs if isinstance(x, Pair)]
    if isinstance(op, p.Map):
        if op.fn == "where":
            condition = args[0]
            assert isinstance(condition, Value)
            return Pair(*(b.where(condition, y, z) for y, z in zip(xs[1].values, xs[2].values, strict=True)))
        if op.fn not in COMPLEX:
            raise BackendError(f"the triton backend has no spelling of {op.fn} for complex numbers")
        return COMPLEX[op.fn](b, *xs)
    if isinstance(op, p.Contract):
        return contract(b, xs[0], xs[1], op.over)
    if isinstance(op, p.AffineScan):
        return _affine(b, v, op, *xs)
    if isinstance(op, p.Cumulate) and op.fn == "prod":
        return _products(b, v, op, xs[0])
    if isinstance(op, p.Take):
        index = args[1]
        assert isinstance(index, Value)
        return _each(xs[0], lambda x: b.take(b.expand(x, v.args[0].sizes), op.axis, index))
    if isinstance(op, p.Solve):
        return _solved(b, v, op, *xs)
    if isinstance(op, p.Pad):
        z = complex(op.value)
        whole = _as(b, xs[0], v.args[0])
        assert isinstance(whole, Pair)
        filled = zip(whole.values, (z.real, z.imag), strict=True)
        return Pair(*(b.pad(x, op.axis, op.before, op.after, y) for x, y in filled))
    re, im = (_again(b, v, [x.values[i] for x in xs]) for i in (0, 1))
    return Pair(re, im)


def _solved(b: Builder, v: Value, op: p.Solve, lower: Pair, r: Pair) -> Pair:
    """(I − L)⁻¹ r: a real system of twice the rows, the imaginary part of each after its real part.

    Entry by entry L is (re −im; im re), which is triangular as L is. A real L has a system for each part of r.
    """
    if zero(lower.im):
        return Pair(*(y if zero(y) else b.solve(lower.re, y, op.row, op.col, upper=op.upper) for y in r.values))
    right, left = f"{PART}r", f"{PART}c"
    sizes = lower.im.sizes
    same = b.map("eq", b.iota(op.row, sizes[op.row]), b.iota(op.col, sizes[op.col]))
    im = b.where(same, 0.0, lower.im)  # what a system of its rows does not read, one of twice the rows would

    def column(x: Value, y: Value) -> Value:
        return _stacked(b, x, y, right)

    matrix = _stacked(b, column(lower.re, im), column(neg(b, im), lower.re), left)
    matrix = b.merge(b.merge(matrix, op.row, right, op.row), op.col, left, op.col)
    rows = b.merge(column(*r.values), op.row, right, op.row)
    made = b.split(b.solve(matrix, rows, op.row, op.col, upper=op.upper), op.row, op.row, right, 2)
    return Pair(*(b.order(b.at(made, right, i), v.axes) for i in (0, 1)))


def _stacked(b: Builder, x: Value, y: Value, axis: str) -> Value:
    """x, then y along a new last axis."""
    sizes = {**x.sizes, **y.sizes}
    return b.concat([b.expand(b.expand(z, sizes), {axis: 1}) for z in (x, y)], axis)


def _affine(b: Builder, v: Value, op: p.AffineScan, a: Pair, x: Pair) -> Pair:
    """h_i = a_i h_{i−1} + x_i: along time a scan of pairs, from chunk to chunk a loop that its reads may sink into."""
    if op.axis.startswith("_"):
        return in_steps(b, a, x, op.axis, op.reverse, v.sizes)
    full = [y if zero(y) else b.expand(y, {op.axis: v.size(op.axis)}) for y in (*a.values, *x.values)]
    made = pairs(b, Pair(full[0], _inward(b, full[1])), Pair(*full[2:]), op.axis, op.reverse)
    return Pair(*(y if zero(y) else b.order(b.expand(y, v.sizes), v.axes) for y in made.values))


def _inward(b: Builder, x: Value) -> Value:
    """x with a sign where it is made: so a conjugate that is the same at every step is seen to be."""
    if not isinstance(x.op, p.Map) or x.op.fn != "neg":
        return x
    y = x.args[0]
    moved = isinstance(y.op, p.Expand | p.Slice) or (isinstance(y.op, p.Pad) and y.op.value == 0)
    return b.again(y, [_inward(b, neg(b, y.args[0]))]) if moved else x


def _products(b: Builder, v: Value, op: p.Cumulate, x: Pair) -> Pair:
    """Cumulated products as a loop over pairs."""
    rest = {n: m for n, m in v.sizes.items() if n != op.axis}

    def body(k: Builder, c: list[Value], s: list[Value], _: list[Value]) -> tuple[list[Value], list[Value]]:
        h = mul(k, Pair(s[0], s[1]), Pair(c[0], c[1]))
        new = [k.order(k.expand(y, rest), tuple(rest)) for y in h.values]
        return new, list(c) if op.exclusive else new

    start = [b.full(1.0, rest), b.full(0.0, rest)]
    steps = [b.expand(y, v.sizes) for y in x.values]
    _, made = b.scan(op.axis, body, start, steps, reverse=op.reverse)
    return Pair(*(b.order(y, v.axes) for y in made))


def _transform(b: Builder, op: p.Transform, x: Number) -> Number:
    """The transform of an array with the axis `_z` where it is complex."""
    if isinstance(x, Pair):
        sizes = {**x.re.sizes, **x.im.sizes}
        full = [b.expand(b.order(b.expand(y, sizes), tuple(sizes)), {PART: 1}) for y in x.values]
        z = b.concat(full, PART)
    else:
        z = x
    sizes = {a: n for a, n in z.sizes.items() if a != PART}
    sizes[op.axis] = op.n // 2 + 1 if op.which == "rfft" else op.n
    if op.which == "irfft":
        return b._new(op, (z,), tuple(sizes), tuple(sizes.values()), "real")
    sizes[PART] = 2
    y = b._new(op, (z,), tuple(sizes), tuple(sizes.values()), "real")
    return Pair(b.at(y, PART, 0), b.at(y, PART, 1))


def _put(b: Builder, v: Value, op: p.Put, args: list[Number]) -> Number:
    """Σ over what is not kept of the updates whose index says so: no two entries are written at once."""
    update, index = args
    assert isinstance(index, Value)
    chosen = b.map("eq", index, b.iota(op.axis, op.size))
    gone = tuple(a for x in v.args for a in x.axes if a not in op.keep and a != op.axis)
    sizes = {a: n for x in v.args for a, n in x.sizes.items()}

    def placed(x: Value) -> Value:
        picked = b.where(chosen, b.expand(x, {a: sizes[a] for a in gone}), b.cast(b.const(0), x.kind))
        return b.order(b.expand(b.sum(picked, gone), v.sizes), v.axes)

    return _each(update, placed)
