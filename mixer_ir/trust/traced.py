"""From the declaration to the canonical form, in symbols: the traced update against its normal form, and each rule.

Sizes are small and every entry is a free symbol, so that the formulas are compared, not numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lowering.kinds import kinds_in
from mixer_ir.definition.definition import Definition
from mixer_ir.definition.named import stack
from mixer_ir.driver import samples
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.expr import TIME, Axes, Expr, Signal, union, without
from mixer_ir.nodes.functions import Kind
from mixer_ir.nodes.matrix import Matrix
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Process, Run
from mixer_ir.rules.algebra import replaced
from mixer_ir.rules.canonical import Fired
from mixer_ir.rules.coupled import members
from mixer_ir.trust import cells
from mixer_ir.trust.algebra import Algebra
from mixer_ir.trust.cells import Cells
from mixer_ir.trust.emitted import small

STEPS = 2
"""how long the instances are on which a rule is tried"""


def traced(
    mixer: Mixer, run: Run, normal: Expr, algebra: Algebra, complex: tuple[str, ...]
) -> Iterator[tuple[str, str | None]]:
    """One step from an arbitrary state: (what is compared, where it differs or None) for each state and the output.

    What another recurrence gives is a signal here: that one has states, and steps, of its own.

    complex   the signals that stand for complex numbers, also in the steps below
    """
    yield from algebra.draws(lambda: _traced(mixer, run, normal, algebra, complex)).items()


def _traced(
    mixer: Mixer, run: Run, normal: Expr, algebra: Algebra, complex: tuple[str, ...]
) -> Iterator[tuple[str, str | None]]:
    kind = cells.over(algebra)
    sizes, signals = _signals(mixer, 1, kind, complex)
    given: dict[str, Kind] = {n: "complex" if n in complex else "real" for n in signals}
    inner: dict[Node, Node] = {}
    for n, of in kinds_in(run, given).items():
        if isinstance(n, Run) and n is not run:
            inner[n] = stands = Signal(name=f"{n.recurrence.name}·{len(inner)}", axes=n.axes)
            signals[stands.name] = kind.symbols(stands.name, n.axes, tuple(sizes[a] for a in n.axes), of)
            given[stands.name] = of
    r, normal = replaced(run.recurrence, inner), replaced(normal, inner)
    kinds = kinds_in(normal, given)
    processes = {name: n for n in walk(normal) if isinstance(n, Process) for name in members(n)}
    states = {}
    for s in r.states:
        axes = (*without(r.batch, (TIME, *s.axes)), *s.axes)
        of = kinds[processes[s.name]] if s.name in processes else "real"
        states[s] = kind.symbols(f"{s.name}₀", axes, tuple(sizes[a] for a in axes), of)
    before = {s.name: x for s, x in states.items()}
    for p in processes.values():
        if len(members(p)) > 1:
            before[p.name] = stack([before[name] for name in members(p)], p.name)
    new, output = Definition(kind, signals, sizes).update(r, states, 0)
    form = Definition(kind, signals, sizes, before)
    for s, after in new.items():
        if s.name in processes:
            p = processes[s.name]
            found = form.states_of(p)[1].at(p.name, members(p).index(s.name))
            yield f"{s.name}_t = A_t {s.name}_(t−1) + Σ k vᵀ is its traced update", _differs(found, after, sizes)
    for p in {p.name: p for p in processes.values() if p.factors}.values():
        done = before[p.name]
        for i, f in enumerate(p.factors):
            one = replace(p, transition=f.transition, inputs=f.inputs, factors=(), reset=None if i else p.reset)
            done = Definition(kind, signals, sizes, {**before, p.name: done}).states_of(one)[1]
        yield f"the step of {p.name} is its factors, one after the other", _differs(done, form.states_of(p)[1], sizes)
    yield "y_t is the traced output", _differs(form.value(normal).at(TIME, 0), output, sizes)


def fired(mixer: Mixer, algebra: Algebra, complex: tuple[str, ...]) -> Iterator[tuple[Fired, str | None]]:
    """Every rule that fired, once, with where its two sides differ on symbols (None: nowhere)."""
    yield from algebra.draws(lambda: _fired(mixer, algebra, complex)).items()


def _fired(mixer: Mixer, algebra: Algebra, complex: tuple[str, ...]) -> Iterator[tuple[Fired, str | None]]:
    seen: set[tuple[Node, Node]] = set()
    sizes, signals = _signals(mixer, STEPS, cells.over(algebra), complex)
    for rule in mixer.rules:
        if (rule.before, rule.after) in seen or isinstance(rule.before, Run):
            continue
        seen.add((rule.before, rule.after))
        yield rule, _sides_differ(rule, Definition(cells.over(algebra), signals, sizes), sizes)


def _sides_differ(rule: Fired, on: Definition[Cells], sizes: dict[str, int]) -> str | None:
    before, after = rule.before, rule.after
    if isinstance(before, Expr) and isinstance(after, Expr):
        return _differs(on.value(after), on.value(before), sizes)
    if isinstance(before, Matrix) and isinstance(after, Matrix):
        return _differs(on.entries(after), on.entries(before), sizes)
    return f"the rule makes {type(after).__name__} of {type(before).__name__}"


def _differs(got: Cells, want: Cells, sizes: dict[str, int]) -> str | None:
    axes: Axes = union(want.axes, got.axes)
    sizes = {**sizes, **got.sizes, **want.sizes}
    a, b = got.to(axes, sizes), want.to(axes, sizes)
    for i in np.ndindex(*a.shape):
        if a[i] != b[i]:
            return f"{a[i]} instead of {b[i]}"
    return None


def _signals(
    mixer: Mixer, length: int, kind: type[Cells], complex: tuple[str, ...]
) -> tuple[dict[str, int], dict[str, Cells]]:
    """Small sizes, and a symbol for every entry of every signal that may be one."""
    sizes = small(mixer, length)
    known = samples.discrete(mixer, sizes, seed=3)
    signals = {}
    for name, axes in mixer.signals.items():
        if name in known:
            signals[name] = kind(axes, known[name].numpy().astype(object))
        else:
            shape = tuple(sizes[a] for a in axes)
            signals[name] = kind.symbols(name, axes, shape, "complex" if name in complex else "real")
    return sizes, signals
