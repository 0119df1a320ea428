"""The arrays of one process in one form, whatever its axes are called: what every form of a process starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lowering.build import Builder
from lowering.program import Map, Value
from mixer_ir.nodes.expr import TIME, Axes, union, without
from mixer_ir.nodes.functions import WIDTH, Kind

KEY, ROW, VALUE, RANK, EACH, UPDATE = "_k", "_l", "_v", "_r", "_e", "_u"
"""The merged contracted axes, the row axis of a dense transition, the merged value axes, the pairs of a low rank, and
what a dense transition along the major part of `_k` leaves alone: the minor part; the updates of one step."""


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen about a form.

    chunk     steps in a chunk (chunked form); clamped to the sequence
    stretch   steps that are held in memory at once; None: chosen from the sizes
    held      entries of one array that are held in memory at once (chunked and scan), or of the states that are kept
              for the way back (recurrent), where `stretch` is not given
    filled    the last chunk is filled up with steps that write nothing, else it may be shorter
    """

    chunk: int | None = None
    stretch: int | None = None
    held: int | None = None
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A read-out: y_t = q_tᵀ S_t, or q_tᵀ S_{t−1} with `before`."""

    vector: Value
    before: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """What the axes were called, to give results their names back.

    keys      the axes merged into `_k`           values   the axes merged into `_v`
    summed    contracted axes that the transition does not act along: batch axes here, summed after the read
    batch     the state's other axes              state    the state's own axes, as declared
    """

    keys: Axes
    values: Axes
    summed: Axes
    batch: Axes
    state: Axes
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Parts:
    """S_t = A_t S_{t−1} + Σ_j k_j,t v_j,tᵀ with A_t = diag(α_t) + Σ_r a_r,t b_r,tᵀ, and what is read of it.

    decay     α_t, or log α_t with `logs`; without `_k` a scalar; None is the identity (or there is `dense`)
    dense     in the place of diag(α_t) a matrix with the axes `_l` (new state) and `_k` (old state); where it is
              smaller than the state's `_k` it acts along the major part: D ⊗ I, or with `_e` one D for each of the rest
    low_rank  (a, b), with the axis `_r` if there is more than one pair
    inputs    (key, value) pairs: a key has `_k` (if there is one), a value has `_v` (if there is one)
    initial   S_{−1}, or None for zero
    updates   how many updates a step makes one after the other: then all but the queries has the axis `_u` too, and
              decays have no `_k`

    A part without the axis t is the same at every step; batch axes that a part lacks are broadcast late.
    """

    steps: int
    kind: Kind
    decay: Value | None
    logs: bool
    dense: Value | None
    low_rank: tuple[Value, Value] | None
    inputs: tuple[tuple[Value, Value], ...]
    queries: tuple[Query, ...]
    initial: Value | None
    frame: Frame
    updates: int = 1

    @property
    def arrays(self) -> list[Value]:
        """Every array but the initial state."""
        singles = [x for x in (self.decay, self.dense) if x is not None]
        pairs = [x for pair in ((self.low_rank,) if self.low_rank else ()) + self.inputs for x in pair]
        return [*singles, *pairs, *(q.vector for q in self.queries)]

    def with_arrays(self, arrays: Iterable[Value], *, steps: int, initial: Value | None) -> Parts:
        """The same process with other arrays (in the order of `arrays`), length and initial state."""
        rest = iter(arrays)
        return replace(
            self,
            steps=steps,
            initial=initial,
            decay=None if self.decay is None else next(rest),
            dense=None if self.dense is None else next(rest),
            low_rank=None if self.low_rank is None else (next(rest), next(rest)),
            inputs=tuple((next(rest), next(rest)) for _ in self.inputs),
            queries=tuple(replace(q, vector=next(rest)) for q in self.queries),
        )

    def map(self, change: Callable[[Value], Value], *, steps: int, initial: Value | None) -> Parts:
        return self.with_arrays([change(x) for x in self.arrays], steps=steps, initial=initial)

    def cut(self, b: Builder, start: int, stop: int, initial: Value | None) -> Parts:
        """The steps start … stop−1, from another initial state."""
        if (start, stop) == (0, self.steps):
            return replace(self, initial=initial)
        return self.map(
            lambda x: b.slice(x, TIME, start, stop) if TIME in x.axes else x, steps=stop - start, initial=initial
        )

    @property
    def shared(self) -> int | None:
        """The input whose key is also the `a` of the low rank, if there is one."""
        if self.low_rank is None:
            return None
        return next((i for i, (k, _) in enumerate(self.inputs) if k is self.low_rank[0]), None)

    @property
    def state_sizes(self) -> dict[str, int]:
        """The axes of the state as the forms see it, with their sizes: batch, then `_k`, then `_v`."""
        sizes = {a: self.frame.sizes[a] for a in self.frame.batch}
        for axis, merged in ((KEY, self.frame.keys), (VALUE, self.frame.values)):
            if merged:
                sizes[axis] = _product(self.frame.sizes[a] for a in merged)
        return sizes

    @property
    def batch_size(self) -> int:
        """How many independent states there are."""
        return _product(self.frame.sizes[a] for a in self.frame.batch)


def _product(numbers: Iterable[int]) -> int:
    total = 1
    for n in numbers:
        total *= n
    return total


def gather(
    b: Builder,
    *,
    over: Axes,
    state: Axes,
    sizes: Mapping[str, int],
    inputs: Sequence[tuple[Value, Value]],
    queries: Sequence[tuple[Value, bool]],
    log: Value | None = None,
    factor: Value | None = None,
    low_rank: Sequence[tuple[Value, Value]] = (),
    dense: Value | None = None,
    along: str | None = None,
    beside: Axes = (),
    row: str | None = None,
    reset: Value | None = None,
    initial: Value | None = None,
    updates: int = 1,
) -> Parts:
    """The evaluated expressions of a Process as Parts.

    over, state   as in the Process           sizes   of every axis, t among them
    inputs        (key, value) pairs          queries   (vector, before) pairs, one a read
    log, factor, low_rank, dense, along, beside, row  as in its Transition
    reset         true (over t) where the incoming state is dropped: folded into what reads it here
    initial       the state before the first step, with batch and state axes
    updates       how many updates a step makes, along `_u`
    """
    steps = sizes[TIME]
    keys = over
    if along is not None and low_rank:
        keys = (along, *beside)
    elif along is not None and dense is not None:
        keys = (along, *without(over, along))
    matrices = [x for x in (log, factor, dense, reset) if x is not None]
    matrices += [x for pair in low_rank for x in pair] + [k for k, _ in inputs]
    read = [q for q, _ in queries]
    vectors = [v for _, v in inputs] + ([initial] if initial is not None else [])
    gone = (TIME, UPDATE, *keys, *((row,) if row else ()))
    shared = without(union(*(x.axes for x in matrices)), gone)
    asked = without(union(*(x.axes for x in read)), gone)
    rest = without(union(*(x.axes for x in vectors), without(state, over)), (*gone, *shared))
    values = without(rest, asked)
    batch = union(shared, without(rest, values))
    frame = Frame(keys=keys, values=values, summed=without(over, keys), batch=batch, state=state, sizes=dict(sizes))

    if reset is not None:
        if dense is not None:
            dense = b.where(reset, 0.0, dense)
        elif factor is not None:
            factor = b.where(reset, 0.0, factor)
        elif log is not None and log.kind == "complex":  # −inf + iθ does not add up in floating point
            factor, log = b.where(reset, 0.0, b.map("exp", log)), None
        else:
            log = b.where(reset, float("-inf"), 0.0 if log is None else log)
        low_rank = [(x, b.where(reset, 0.0, y)) for x, y in low_rank]
        first = b.at(reset, UPDATE, 0) if UPDATE in reset.axes else reset
        queries = [(b.where(first, 0.0, q) if before else q, before) for q, before in queries]
    decay = log if log is not None else factor
    if decay is not None and any(a in decay.axes for a in keys):
        decay = _merged(b, decay, keys, KEY, sizes)
    if dense is not None:
        assert along is not None and row is not None
        dense = b.rename(b.rename(b.expand(dense, {row: sizes[along], along: sizes[along]}), row, ROW), along, KEY)
        if any(a in dense.axes for a in keys[1:]):
            dense = _merged(b, dense, keys[1:], EACH, sizes)

    def key(x: Value) -> Value:
        return _merged(b, _number(b, x), keys, KEY, sizes)

    def value(x: Value) -> Value:
        return _merged(b, _number(b, x), values, VALUE, sizes)

    inputs = [(core, b.mul(scale, v)) for (core, scale), v in ((scaled(b, k, keys), v) for k, v in inputs)]
    low_rank = [(core, b.mul(scale, y)) for (core, scale), y in ((scaled(b, x, keys), y) for x, y in low_rank)]
    pairs = [(key(x), key(y)) for x, y in low_rank]
    parts = Parts(
        steps=steps,
        kind="real",
        decay=None if decay is None else _number(b, decay),
        logs=log is not None,
        dense=dense,
        low_rank=None if not pairs else (_stacked(b, [x for x, _ in pairs]), _stacked(b, [y for _, y in pairs])),
        inputs=tuple((key(k), value(v)) for k, v in inputs),
        queries=tuple(Query(key(q), before) for q, before in queries),
        initial=None if initial is None else value(key(initial)),
        frame=frame,
        updates=updates,
    )
    driving = parts.arrays[: len(parts.arrays) - len(queries)] + ([parts.initial] if parts.initial is not None else [])
    kind = max(("real", *(x.kind for x in driving)), key=WIDTH.__getitem__)
    parts = replace(parts, kind=kind)
    return parts if parts.initial is None else replace(parts, initial=as_state(b, parts, parts.initial))


def scaled(b: Builder, x: Value, axes: Axes) -> tuple[Value, Value]:
    """x as vector · scale, all factors without the axes `axes` in the scale.

    A scale moves to the other side of an outer product, where it costs as little; and then vectors that differ by
    a scale alone are one and the same.
    """
    if not any(a in x.axes for a in axes):
        return x, b.const(1)
    if isinstance(x.op, Map):
        match x.op.fn, x.args:
            case "neg", (y,):
                vector, scale = scaled(b, y, axes)
                return vector, b.map("neg", scale)
            case "mul", (y, z):
                if any(a in y.axes for a in axes):
                    y, z = z, y
                if not any(a in y.axes for a in axes):
                    vector, scale = scaled(b, z, axes)
                    return vector, b.mul(y, scale)
    return x, b.const(1)


def _number(b: Builder, x: Value) -> Value:
    return x if x.differentiable else b.cast(x, "real")


def _merged(b: Builder, x: Value, axes: Axes, into: str, sizes: Mapping[str, int]) -> Value:
    """x with the axes `axes` (expanded where it lacks one) as one axis."""
    if not axes:
        return x
    x = b.expand(x, {a: sizes[a] for a in axes})
    x = b.rename(x, axes[0], into)
    for a in axes[1:]:
        x = b.merge(x, into, a, into)
    return x


def _stacked(b: Builder, vectors: Sequence[Value]) -> Value:
    return vectors[0] if len(vectors) == 1 else b.concat([b.expand(x, {RANK: 1}) for x in vectors], RANK)


def as_state(b: Builder, parts: Parts, x: Value) -> Value:
    """x as a full state: every axis of the state, in order, in the state's kind of number."""
    sizes = parts.state_sizes
    return b.order(b.cast(b.expand(x, sizes), parts.kind), tuple(sizes))


def zero_state(b: Builder, parts: Parts) -> Value:
    return as_state(b, parts, b.const(0.0))


def _spread(b: Builder, x: Value, merged: str, axes: Axes, sizes: Mapping[str, int]) -> Value:
    """The inverse of merging."""
    if not axes:
        return x
    for a in reversed(axes[1:]):
        x = b.split(x, merged, merged, a, sizes[a])
    return b.rename(x, merged, axes[0])


def named_read(b: Builder, parts: Parts, y: Value) -> Value:
    """A read with its own axes: t, the batch axes, the value axes."""
    frame = parts.frame
    sizes = {TIME: parts.steps, **{a: n for a, n in parts.state_sizes.items() if a != KEY}}
    y = _spread(b, b.expand(y, sizes), VALUE, frame.values, frame.sizes)
    y = b.sum(y, frame.summed)
    asked = without(y.axes, (TIME, *frame.batch, *frame.values))
    return b.order(y, (TIME, *without(frame.batch, frame.summed), *asked, *frame.values))


def named_state(b: Builder, parts: Parts, state: Value) -> Value:
    """A state with its own axes: the batch axes, then the state's as declared."""
    frame = parts.frame
    x = _spread(b, as_state(b, parts, state), VALUE, frame.values, frame.sizes)
    x = _spread(b, x, KEY, frame.keys, frame.sizes)
    return b.order(x, (*without(x.axes, frame.state), *(a for a in frame.state if a in x.axes)))
