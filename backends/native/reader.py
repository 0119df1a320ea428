"""Reading a value inside a loop nest: what is stored is loaded, what is not is computed there, views are indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from backends.native.fusing import STRIDED, dropped
from backends.native.index import Index, Variable
from backends.native.memory import Store
from backends.native.nest import Nest, Term
from backends.native.spelling import call, cast, literal
from lowering import program as p
from lowering.program import Value
from mixer_ir.nodes.functions import Kind

At: TypeAlias = Mapping[str, Index]


INDEXED = (
    p.Constant, p.Iota, p.Map, p.Cast, p.Pad, p.Take, p.Expand, p.Order, p.Detach, p.Slice, p.Flip, p.Rename, p.Split,
    p.Merge,
)  # fmt: skip
"""what is computed inside the loops that read it"""


@dataclass(frozen=True, slots=True)
class Given:
    """An input of a loop's body: a value outside, at one place of an axis that the input lacks."""

    value: Value
    axis: str | None = None
    index: Index = field(default_factory=Index)


Where: TypeAlias = Store | Given


@dataclass
class Reader:
    """Terms for values at places, within one nest; equal reads are one."""

    where: Mapping[Value, Where]
    nest: Nest
    fresh: Callable[..., str]
    members: dict[Value, Term] = field(default_factory=dict)
    """what this very nest computes, at the place where it stands"""
    places: list[Index] = field(default_factory=list)
    """where in memory has been read or written"""
    _done: dict[tuple[Value, tuple[Index, ...], Term | None], Term] = field(default_factory=dict)

    def read(self, v: Value, at: At, guard: Term | None = None) -> Term:
        """Entry `at` of v; under a guard that does not hold, anything."""
        if v in self.members:
            return self.members[v]
        key = (v, tuple(at[a] for a in v.axes), guard)
        if key not in self._done:
            self._done[key] = self._read(v, at, guard)
        return self._done[key]

    def _read(self, v: Value, at: At, guard: Term | None) -> Term:
        match self.where.get(v):
            case Store() as store:
                return self.load(store, at, guard)
            case Given(value=outer, axis=axis, index=index):
                return self.read(outer, at if axis is None else {**at, axis: index}, guard)
        return self.computed(v, at, guard)

    def load(self, store: Store, at: At, guard: Term | None) -> Term:
        address = store.address(at)
        self.places.append(address)
        text = store.read(f"{store.pointer}[{address}]")
        if guard is None:
            return self._defined(store.kind, text, address.needs)
        return self._defined(store.kind, f"{guard.text} ? {text} : 0", address.needs | guard.needs)

    def computed(self, v: Value, at: At, guard: Term | None = None) -> Term:
        """v by its operation, even if it is stored."""
        op, args = v.op, v.args
        match op:
            case p.Constant():
                return Term(literal(op.value, v.kind))
            case p.Iota():
                return Term(f"((int64_t)({at[v.axes[0]]}))", at[v.axes[0]].needs)
            case p.Map():
                terms = [self.read(a, at, guard) for a in args]
                text = call(op.fn, args[-1].kind, [t.text for t in terms])
                return self._defined(v.kind, text, frozenset().union(*(t.needs for t in terms)))
            case p.Cast():
                term = self.read(args[0], at, guard)
                return Term(cast(term.text, args[0].kind, v.kind), term.needs)
            case p.Pad():
                return self._padded(v, op, at, guard)
            case p.Take():
                return self._taken(v, op, at, guard)
            case p.Expand() | p.Order() | p.Detach():
                return self.read(args[0], at, guard)
        return self.read(args[0], moved(v, at), guard)

    def _padded(self, v: Value, op: p.Pad, at: At, guard: Term | None) -> Term:
        """What v pads, or the padding.

        Where the innermost loop does not decide which, a place that is there is read in any case: gcc 12 takes wrong
        entries for loads under a condition that a loop does not change, and a choice of places costs nothing in it.
        """
        place = at[op.axis] + -op.before
        n = v.args[0].size(op.axis)
        tests = [f"{place} >= 0"] if place.least < 0 else []
        tests += [f"{place} < {n}"] if place.most >= n else []
        there = {**at, op.axis: place}
        if not tests:
            return self.read(v.args[0], there, guard)
        own = self._defined("bool", " && ".join(tests), place.needs)
        if n and self.nest.depth(place.needs) < len(self.nest.loops):
            inside = self._defined("int", f"{own.text} ? {place} : 0", place.needs)
            there[op.axis] = Index.of(Variable(inside.text, n, place.needs, whole=True))
        elif guard is None:
            guard = own
        else:
            guard = self._defined("bool", f"{guard.text} & {own.text}", own.needs | guard.needs)
        term = self.read(v.args[0], there, guard)
        text = f"{own.text} ? {term.text} : {literal(op.value, v.kind)}"
        return self._defined(v.kind, text, term.needs | own.needs)

    def _taken(self, v: Value, op: p.Take, at: At, guard: Term | None) -> Term:
        table, index = v.args
        place = self.read(index, at, guard)
        n = table.size(op.axis)
        return self.read(table, {**at, op.axis: Index.of(Variable(place.text, n, place.needs))}, guard)

    def _defined(self, kind: Kind, text: str, needs: frozenset[str]) -> Term:
        return self.nest.define(kind, text, needs, self.fresh())


def moved(v: Value, at: At) -> At:
    """Where an operation that moves entries takes entry `at` from."""
    match v.op:
        case p.Slice(axis=axis, start=start, step=step):
            return {**at, axis: at[axis] * step + start}
        case p.Flip(axis=axis):
            return {**at, axis: Index((), v.size(axis) - 1) - at[axis]}
        case p.Rename(old=old, new=new):
            return {**at, old: at[new]}
        case p.Split(axis=axis, outer=outer, inner=inner):
            return {**at, axis: at[outer] * v.size(inner) + at[inner]}
        case p.Merge(outer=outer, inner=inner, axis=axis):
            whole, rest = at[axis].divided(v.args[0].size(inner))
            return {**at, outer: whole, inner: rest}
        case p.Reduce(over=over):  # over axes of one entry each
            return {**at, **dict.fromkeys(over, Index())}
        case p.Order() | p.Detach() | p.Expand():
            return at
    raise AssertionError(f"{v} does not move entries")


def viewed(v: Value, where: Mapping[Value, Where]) -> bool:
    """Whether v is an array or looks at one differently."""
    match where.get(v):
        case Store():
            return True
        case Given(value=outer):
            return viewed(outer, where)
    return (isinstance(v.op, STRIDED) or dropped(v)) and viewed(v.args[0], where)


def address(v: Value, at: At, where: Mapping[Value, Where]) -> tuple[Store, Index]:
    """The array that v is a view of, and the position of entry `at` in it."""
    match where.get(v):
        case Store() as store:
            return store, store.address(at)
        case Given(value=outer, axis=axis, index=index):
            return address(outer, at if axis is None else {**at, axis: index}, where)
    return address(v.args[0], moved(v, at), where)


def steps_of(x: Value, where: Mapping[Value, Where]) -> dict[str, int]:
    """How far apart neighbours along each axis lie."""
    probes = {a: Variable(f"probe {a}", n, whole=True) for a, n in x.sizes.items()}
    _, place = address(x, {a: Index.of(i) for a, i in probes.items()}, where)
    found = dict(place.terms)
    return {a: found.get(i, 0) for a, i in probes.items()}
