"""Building programs: one method an operation, with its shape rule; equal operations on equal values are one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from lowering import program as p
from lowering.program import AdjointRule, Program, Shape, Value
from mixer_ir.nodes.expr import Axes, Number, without
from mixer_ir.nodes.functions import FUNCTIONS, WIDTH, Kind, result_kind

Operand: TypeAlias = Value | Number
P = ParamSpec("P")
R = TypeVar("R")


def kind_of(number: Number) -> Kind:
    if isinstance(number, bool):
        return "bool"
    return "int" if isinstance(number, int) else "real" if isinstance(number, float) else "complex"


def _check(fine: bool, message: str) -> None:
    """Shape rules guard lowering's own bugs: bad input was refused before it came here."""
    if not fine:
        raise AssertionError(message)


class Builder:
    """Makes the values of one program."""

    def __init__(self) -> None:
        self._made: dict[Any, Value] = {}
        self._label = ""

    @contextmanager
    def named(self, label: str) -> Iterator[None]:
        """What is made meanwhile is called so: "name: step of the derivation", or a name within the step that it is.

        A value keeps its first name.
        """
        before = self._label
        if label:
            self._label = label if ": " in label else f"{label}: {before.partition(': ')[2]}"
        try:
            yield
        finally:
            self._label = before

    def call(self, x: Value, name: str) -> None:
        """x has this name within its step, if it has none."""
        if x.label.startswith(": "):
            object.__setattr__(x, "label", f"{name}{x.label}")

    def _new(self, op: p.Op, args: Sequence[Value], axes: Axes, shape: Shape, kind: Kind) -> Value:
        number = (type(op.value), repr(op.value)) if isinstance(op, p.Constant | p.Pad) else None
        key = (op, number, tuple(args), axes, shape, kind)
        if key not in self._made:
            self._made[key] = Value(op=op, args=tuple(args), axes=axes, shape=shape, kind=kind, label=self._label)
        return self._made[key]

    def _like(self, op: p.Op, x: Value, *, sizes: Mapping[str, int] | None = None, kind: Kind | None = None) -> Value:
        """A value with x's axes and sizes but for the sizes given."""
        shape = tuple((sizes or {}).get(a, n) for a, n in x.sizes.items())
        return self._new(op, (x,), x.axes, shape, kind or x.kind)

    # ------------------------------------------------------------------ sources

    def input(self, name: str, axes: Axes, shape: Shape, kind: Kind = "real") -> Value:
        _check(len(axes) == len(shape), f"{name}: {axes} against {shape}")
        return self._new(p.Input(name), (), axes, tuple(shape), kind)

    def const(self, value: Number) -> Value:
        return self._new(p.Constant(value), (), (), (), kind_of(value))

    def iota(self, axis: str, size: int) -> Value:
        return self._new(p.Iota(), (), (axis,), (size,), "int")

    def value(self, x: Operand) -> Value:
        return x if isinstance(x, Value) else self.const(x)

    def full(self, value: Number, sizes: Mapping[str, int]) -> Value:
        """A constant array."""
        return self.expand(self.const(value), sizes)

    # -------------------------------------------------------------- entry by entry

    def map(self, fn: str, *args: Operand) -> Value:
        """`fn` entry by entry; a function that is not primitive is unfolded."""
        function = FUNCTIONS[fn]
        if function.meaning is not None:
            return self.value(function.meaning(self.map, *args))
        values = [self.value(a) for a in args]
        _check(len(values) == function.arity, f"{fn} takes {function.arity} arguments")
        if (same := self._unchanged(fn, values)) is not None:
            return same
        sizes = self.joint(values)
        kind = result_kind(fn, tuple(v.kind for v in values))
        return self._new(p.Map(fn), values, tuple(sizes), tuple(sizes.values()), kind)

    def _unchanged(self, fn: str, values: list[Value]) -> Value | None:
        """x + 0, x − 0, 1 x, x / 1 are x."""
        neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1}.get(fn)
        if neutral is None:
            return None
        left, right = values
        sides = [(left, right)] if fn in ("sub", "div") else [(left, right), (right, left)]
        for x, c in sides:
            is_neutral = isinstance(c.op, p.Constant) and c.op.value == neutral
            if is_neutral and WIDTH[c.kind] <= WIDTH[x.kind] and result_kind(fn, (x.kind, c.kind)) == x.kind:
                return x
        return None

    def joint(self, values: Iterable[Value]) -> dict[str, int]:
        """The axes of all values in order of first appearance, with the sizes that they must agree on."""
        sizes: dict[str, int] = {}
        for v in values:
            for axis, n in v.sizes.items():
                _check(sizes.setdefault(axis, n) == n, f"axis {axis}: {sizes.get(axis)} against {n}")
        return sizes

    def add(self, *terms: Operand) -> Value:
        """The sum of all terms."""
        total = self.value(terms[0])
        for term in terms[1:]:
            total = self.map("add", total, term)
        return total

    def sub(self, x: Operand, y: Operand) -> Value:
        return self.map("sub", x, y)

    def mul(self, *factors: Operand) -> Value:
        """The product of all factors."""
        total = self.value(factors[0])
        for factor in factors[1:]:
            total = self.map("mul", total, factor)
        return total

    def where(self, condition: Operand, yes: Operand, no: Operand) -> Value:
        return self.map("where", condition, yes, no)

    def expand(self, x: Value, sizes: Mapping[str, int]) -> Value:
        """x repeated along the axes of `sizes` that it lacks; the result has x's axes, then the new ones."""
        missing = {a: n for a, n in sizes.items() if a not in x.axes}
        if not missing:
            return x
        return self._new(p.Expand(), (x,), (*x.axes, *missing), (*x.shape, *missing.values()), x.kind)

    def order(self, x: Value, axes: Axes, *, packed: bool = False) -> Value:
        """x with its axes in the order given, and stored so if `packed`."""
        _check(set(axes) == set(x.axes) and len(axes) == len(x.axes), f"{x.axes} cannot be put as {axes}")
        if axes == x.axes:
            return x
        return self._new(p.Order(packed), (x,), axes, tuple(x.size(a) for a in axes), x.kind)

    def cast(self, x: Value, kind: Kind) -> Value:
        return x if x.kind == kind else self._like(p.Cast(kind), x, kind=kind)

    def detach(self, x: Value) -> Value:
        return self._like(p.Detach(), x)

    # ------------------------------------------------------------------ sums

    def contract(self, x: Value, y: Value, over: Axes) -> Value:
        """Σ_over x y. An axis of `over` that only one side has is summed there first."""
        over = tuple(sorted(over))
        x = self.sum(x, tuple(a for a in over if a in x.axes and a not in y.axes))
        y = self.sum(y, tuple(a for a in over if a in y.axes and a not in x.axes))
        over = tuple(a for a in over if a in x.axes)
        if not over:
            return self.mul(x, y)
        sizes = self.joint((x, y))
        axes = without(tuple(sizes), over)
        kind = result_kind("mul", (x.kind, y.kind))
        return self._new(p.Contract(over), (x, y), axes, tuple(sizes[a] for a in axes), kind)

    def reduce(self, fn: str, x: Value, over: Axes) -> Value:
        over = tuple(a for a in x.axes if a in over)
        if not over:
            return x
        axes = without(x.axes, over)
        kind: Kind = "int" if x.kind == "bool" and fn == "sum" else x.kind
        return self._new(p.Reduce(fn, over), (x,), axes, tuple(x.size(a) for a in axes), kind)

    def sum(self, x: Value, over: Axes) -> Value:
        return self.reduce("sum", x, over)

    def cumulate(self, fn: str, x: Value, axis: str, *, reverse: bool = False, exclusive: bool = False) -> Value:
        kind: Kind = "int" if x.kind == "bool" else x.kind
        return self._like(p.Cumulate(fn, axis, reverse, exclusive), x, kind=kind)

    def affine_scan(self, a: Value, x: Value, axis: str, *, reverse: bool = False) -> Value:
        sizes = self.joint((x, a))
        _check(axis in a.axes and axis in x.axes, f"affine scan along {axis} of {a} and {x}")
        kind = result_kind("mul", (a.kind, x.kind))
        return self._new(p.AffineScan(axis, reverse), (a, x), tuple(sizes), tuple(sizes.values()), kind)

    def solve(self, lower: Value, r: Value, row: str, col: str, *, upper: bool = False) -> Value:
        """(I − L)⁻¹ r along `row`."""
        _check(row in lower.axes and col in lower.axes and row in r.axes and col not in r.axes, f"solve {lower} {r}")
        _check(lower.size(row) == lower.size(col), f"solve: {lower} is not square")
        sizes = self.joint((r, lower))
        axes = without(tuple(sizes), col)
        kind = result_kind("mul", (lower.kind, r.kind))
        return self._new(p.Solve(row, col, upper), (lower, r), axes, tuple(sizes[a] for a in axes), kind)

    def transform(self, which: str, x: Value, axis: str, n: int) -> Value:
        """fft, ifft, rfft, irfft along `axis`; n is the length of the (real) signal."""
        size = n // 2 + 1 if which == "rfft" else n
        _check(x.size(axis) == (n // 2 + 1 if which == "irfft" else n), f"{which} of {x} with n = {n}")
        kind: Kind = "real" if which == "irfft" else "complex"
        return self._like(p.Transform(which, axis, n), x, sizes={axis: size}, kind=kind)

    # --------------------------------------------------------------- moving entries

    def slice(self, x: Value, axis: str, start: int, stop: int, step: int = 1) -> Value:
        n = len(range(start, stop, step))
        _check(0 <= start and stop <= x.size(axis), f"slice {start}:{stop}:{step} of {x} along {axis}")
        if n == x.size(axis):
            return x
        return self._like(p.Slice(axis, start, stop, step), x, sizes={axis: n})

    def at(self, x: Value, axis: str, i: int) -> Value:
        """Entry i along `axis`, which is dropped."""
        i = i % x.size(axis)
        return self.sum(self.slice(x, axis, i, i + 1), (axis,))

    def pad(self, x: Value, axis: str, before: int, after: int, value: Number = 0) -> Value:
        if before == after == 0:
            return x
        return self._like(p.Pad(axis, before, after, value), x, sizes={axis: x.size(axis) + before + after})

    def longer(self, x: Value, axis: str, n: int) -> Value:
        """n more entries along an axis: what counts places goes on counting, all else is 0 there."""
        if axis not in x.axes or n == 0:
            return x
        if not counts(x):
            return self.pad(x, axis, 0, n, False if x.kind == "bool" else 0)
        match x.op:
            case p.Iota():
                return self.iota(axis, x.size(axis) + n)
            case p.Slice(axis=cut, start=start, stop=stop) if cut == axis:
                return self.slice(self.longer(x.args[0], axis, n), axis, start, stop + n)
            case p.Rename(old=old, new=new) if new == axis:
                return self.rename(self.longer(x.args[0], old, n), old, new)
        return self.again(x, [self.longer(a, axis, n) for a in x.args], {axis: x.size(axis) + n})

    def delay(self, x: Value, axis: str, by: int) -> Value:
        """y_i = x_{i−by}, zero outside."""
        n = x.size(axis)
        by = max(-n, min(by, n))
        return self.slice(self.pad(x, axis, max(by, 0), max(-by, 0)), axis, max(-by, 0), max(-by, 0) + n)

    def concat(self, parts: Sequence[Value], axis: str) -> Value:
        """The parts one after the other; an axis that one lacks is repeated."""
        if len(parts) == 1:
            return parts[0]
        sizes = self.joint([self._like(p.Slice(axis, 0, 0), x, sizes={axis: 0}) for x in parts])
        kind = max((x.kind for x in parts), key=WIDTH.__getitem__)
        some = [x for x in parts if x.size(axis)] or parts[:1]  # an empty part (no step before the first) adds nothing
        full = [self.order(self.expand(self.cast(x, kind), sizes), tuple(sizes)) for x in some]
        if len(full) == 1:
            return full[0]
        sizes[axis] = sum(x.size(axis) for x in parts)
        return self._new(p.Concat(axis), full, tuple(sizes), tuple(sizes.values()), kind)

    def flip(self, x: Value, axis: str) -> Value:
        return self._like(p.Flip(axis), x) if axis in x.axes else x

    def rename(self, x: Value, old: str, new: str) -> Value:
        if old == new or old not in x.axes:
            return x
        _check(new not in x.axes, f"{x} already has an axis {new}")
        axes = tuple(new if a == old else a for a in x.axes)
        return self._new(p.Rename(old, new), (x,), axes, x.shape, x.kind)

    def split(self, x: Value, axis: str, outer: str, inner: str, inner_size: int) -> Value:
        """position along `axis` = outer · inner_size + inner."""
        n, i = x.size(axis), x.axes.index(axis)
        _check(n % inner_size == 0, f"{x}: {axis} is not a multiple of {inner_size}")
        axes = (*x.axes[:i], outer, inner, *x.axes[i + 1 :])
        shape = (*x.shape[:i], n // inner_size, inner_size, *x.shape[i + 1 :])
        return self._new(p.Split(axis, outer, inner), (x,), axes, shape, x.kind)

    def merge(self, x: Value, outer: str, inner: str, axis: str) -> Value:
        """The two axes as one, at the place of `outer`."""
        rest = without(x.axes, (outer, inner))
        i = without(x.axes, inner).index(outer)
        x = self.order(x, (*rest[:i], outer, inner, *rest[i:]))
        shape = (*x.shape[:i], x.size(outer) * x.size(inner), *x.shape[i + 2 :])
        return self._new(p.Merge(outer, inner, axis), (x,), (*rest[:i], axis, *rest[i:]), shape, x.kind)

    def take(self, table: Value, axis: str, index: Value) -> Value:
        sizes = {**self.joint((index,))}
        rest = {a: n for a, n in table.sizes.items() if a != axis}
        for a, n in rest.items():
            _check(sizes.setdefault(a, n) == n, f"take: axis {a}")
        return self._new(p.Take(axis), (table, index), tuple(sizes), tuple(sizes.values()), table.kind)

    def put(self, update: Value, index: Value, axis: str, size: int, keep: Mapping[str, int]) -> Value:
        sizes = {**keep, axis: size}
        op = p.Put(axis, size, tuple(keep))
        return self._new(op, (update, index), tuple(sizes), tuple(sizes.values()), update.kind)

    # ----------------------------------------------------------- loops and regions

    def scan(
        self,
        axis: str,
        body: Callable[[Builder, list[Value], list[Value], list[Value]], tuple[Sequence[Value], Sequence[Value]]],
        carries: Sequence[Value],
        steps: Sequence[Value],
        constants: Sequence[Value] = (),
        *,
        length: int | None = None,
        reverse: bool = False,
    ) -> tuple[list[Value], list[Value]]:
        """A loop; `body(b, carries, steps, constants)` returns new carries and per-step results.

        Carries keep their axes, sizes and kinds: expand an initial carry to its full axes first.
        """
        inner = Builder()
        inner._label = self._label
        c = [inner.input(f"carry{i}", v.axes, v.shape, v.kind) for i, v in enumerate(carries)]
        s = [_per_step(inner, f"step{i}", v, axis) for i, v in enumerate(steps)]
        k = [inner.input(f"const{i}", v.axes, v.shape, v.kind) for i, v in enumerate(constants)]
        new, results = body(inner, c, s, k)
        new = [inner.order(inner.cast(inner.expand(n, o.sizes), o.kind), o.axes) for n, o in zip(new, c, strict=True)]
        names = (*(f"carry{i}" for i in range(len(new))), *(f"out{i}" for i in range(len(results))))
        part = Program(inputs=(*c, *s, *k), outputs=(*new, *results), names=names)
        n = length if length is not None else steps[0].size(axis)
        op = p.Scan(axis, n, part, len(carries), len(steps), reverse)
        picked = self.picks(op, (*carries, *steps, *constants))
        return picked[: len(new)], picked[len(new) :]

    def region(
        self, label: str, body: Program, args: Sequence[Value], adjoint: Program | AdjointRule | None = None
    ) -> list[Value]:
        """The results of `body` on `args`, kept together under a label."""
        return self.picks(p.Region(label, body, adjoint), tuple(args))

    def picks(self, op: p.Scan | p.Region, args: tuple[Value, ...]) -> list[Value]:
        """Every result of a scan or a region."""
        whole = self._new(op, args, (), (), "int")
        results = []
        for i, v in enumerate(op.body.outputs):
            stacked = isinstance(op, p.Scan) and i >= op.carries
            axes = (op.axis, *v.axes) if isinstance(op, p.Scan) and stacked else v.axes
            shape = (op.length, *v.shape) if isinstance(op, p.Scan) and stacked else v.shape
            results.append(self._new(p.Pick(i), (whole,), axes, shape, v.kind))
        return results

    def again(
        self,
        x: Value,
        args: Sequence[Value],
        sizes: Mapping[str, int] | None = None,
        op: p.Op | None = None,
        axes: Axes | None = None,
    ) -> Value:
        """The operation of x, or the one given, on other arguments, perhaps with other sizes or their order."""
        axes = x.axes if axes is None else axes
        known = {**x.sizes, **(sizes or {})}
        with self.named(x.label):
            return self._new(op or x.op, args, axes, tuple(known[a] for a in axes), x.kind)

    def remade(self, v: Value, known: dict[Value, Value]) -> Value:
        """v of another program, made here of what is known of that; what is made on the way is known from then on."""
        todo = [v]
        while todo:
            x = todo[-1]
            if missing := [a for a in x.args if a not in known]:
                todo += missing
            else:
                todo.pop()
                known[x] = known.get(x) or self.again(x, [known[a] for a in x.args])
        return known[v]

    def inline(self, body: Program, args: Mapping[str, Value]) -> list[Value]:
        """`body` built again here, its inputs replaced by `args`."""
        done: dict[Value, Value] = {}
        for v in body.order:
            done[v] = args[v.op.name] if isinstance(v.op, p.Input) else self.again(v, [done[a] for a in v.args])
        return [done[v] for v in body.outputs]


def _per_step(inner: Builder, name: str, v: Value, axis: str) -> Value:
    axes = without(v.axes, axis)
    _check(axis in v.axes, f"{v} is given per step of {axis} but lacks that axis")
    return inner.input(name, axes, tuple(v.size(a) for a in axes), v.kind)


def called(label: str) -> Callable[[Callable[Concatenate[Builder, P], R]], Callable[Concatenate[Builder, P], R]]:
    """What a function of a builder makes belongs to this step, as with `Builder.named`."""

    def of(make: Callable[Concatenate[Builder, P], R]) -> Callable[Concatenate[Builder, P], R]:
        @wraps(make)
        def named(b: Builder, /, *args: P.args, **options: P.kwargs) -> R:
            with b.named(label):
                return make(b, *args, **options)

        return named

    return of


def program(outputs: Mapping[str, Value], inputs: Sequence[Value]) -> Program:
    """A program from its named results and its inputs."""
    return Program(inputs=tuple(inputs), outputs=tuple(outputs.values()), names=tuple(outputs))


def counts(x: Value) -> bool:
    """Whether a value is whole numbers made of places along axes and of numbers alone."""
    match x.op:
        case p.Iota() | p.Constant():
            return x.kind == "int"
        case p.Map(fn="add" | "sub") | p.Rename() | p.Expand() | p.Order():
            return all(counts(a) for a in x.args)
        case p.Slice(step=step):
            return step == 1 and counts(x.args[0])
    return False
