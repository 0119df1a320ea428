"""Emitted programs with a symbol for every entry: what lowering really wrote, against the definition, exactly.

This ties the array operations of a form to the formula that they stand for: a wrong sign, a mask that is off by one, a
decay too many or too few, a chunk that begins a step late all show, on sizes that a person could write down.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backends.symbolic import prepare
from lowering import lower as lowering
from lowering.context import Lowered, SignalType
from lowering.kinds import undefined
from lowering.planner import plan
from lowering.profile import profile_of
from mixer_ir.definition.definition import Definition
from mixer_ir.driver import samples
from mixer_ir.errors import StreamError
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Signal
from mixer_ir.nodes.functions import Kind
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Process
from mixer_ir.trust import cells
from mixer_ir.trust.algebra import Algebra
from mixer_ir.trust.cells import Cells

LENGTHS: Mapping[str, tuple[tuple[int, int | None], ...]] = {
    "chunked": ((1, 1), (2, 1), (3, 2), (4, 2), (3, 4)),
    "parallel": ((2, None), (3, None)),
    "recurrent": ((1, None), (3, None)),
    "scan": ((2, None), (3, None)),
    "flash": ((2, 1), (3, 2)),
}
"""form -> (length, chunk) pairs that are tried; every kind of border is among them"""
OTHER: tuple[tuple[int, int | None], ...] = ((1, None), (2, None), (3, None))
COMPLEX: Mapping[str, tuple[int, int | None]] = {"chunked": (3, 2), "flash": (3, 2)}
"""the pair that is tried once more with complex signals; length 3 for other forms"""
MOST_PATTERNS = 4
WIDE = 2


@dataclass(frozen=True)
class Difference:
    """The first entry where a program and the definition are not the same formula."""

    where: str
    program: str
    definition: str

    def __str__(self) -> str:
        return f"{self.where}: the program gives {_short(self.program)}, the definition {_short(self.definition)}"


def _short(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Made:
    """A program and what runs it on formulas."""

    lowered: Lowered
    run: Callable[[Mapping[str, Any]], dict[str, Any]]

    @property
    def states(self) -> set[str]:
        return {*self.lowered.entering, *self.lowered.states}


@dataclass
class Emitted:
    """The programs of one mixer at small sizes, in symbols: real ones, or complex ones for some signals."""

    mixer: Mixer
    algebra: Algebra = field(default_factory=Algebra)
    complex: tuple[str, ...] = ()
    cases: dict[tuple[int, int], list[Case]] = field(default_factory=dict)
    programs: dict[Any, Made | StreamError] = field(default_factory=dict)

    def checks(self, form: str) -> dict[str, str | None]:
        """For each length and chunk that is tried: what was compared, and the first difference, or None."""
        return self.algebra.draws(lambda: self._checks(form))

    def _checks(self, form: str) -> Iterator[tuple[str, str | None]]:
        tried = (COMPLEX.get(form, (3, None)),) if self.complex else LENGTHS.get(form, OTHER)
        for length, chunk in tried:
            label = f"t = {length}" + ("" if chunk is None else f" in chunks of {chunk}")
            label += " of complex numbers" if self.complex else ""
            for case in self.of_length(length):
                for how, found in case.compare(form, chunk):
                    yield f"{label}{how}", None if found is None else str(found)

    def of_length(self, length: int) -> list[Case]:
        key = (length, self.algebra.draw)
        if key not in self.cases:
            self.cases[key] = [Case(self, length, known) for known in self.patterns(length)]
        return self.cases[key]

    def patterns(self, length: int) -> list[dict[str, torch.Tensor]]:
        """Values for signals that cannot be symbols: integers as drawn, truth values in every pattern (or some)."""
        fixed = samples.discrete(self.mixer, small(self.mixer, length), seed=3)
        truths = [n for n, x in fixed.items() if x.dtype == torch.bool]
        if not truths:
            return [fixed]
        count = sum(fixed[n].numel() for n in truths)
        bits = list(itertools.product([False, True], repeat=count))
        chosen = bits if len(bits) <= MOST_PATTERNS else [bits[(i * 5 + 2) % len(bits)] for i in range(MOST_PATTERNS)]
        return [{**fixed, **_patterned(fixed, truths, pattern)} for pattern in chosen]

    @property
    def known(self) -> str:
        """Which signals are no symbols, for a person to read; nothing if all are."""
        fixed = samples.discrete(self.mixer, small(self.mixer, 1), seed=3)
        truths = [n for n, x in fixed.items() if x.dtype == torch.bool]
        whole = [n for n in fixed if n not in truths]
        parts = [f"{', '.join(whole)} as drawn"] if whole else []
        parts += [f"{', '.join(truths)} in up to {MOST_PATTERNS} patterns a length"] if truths else []
        return f"; with {', '.join(parts)}" if parts else ""

    def program(
        self, types: Mapping[str, SignalType], form: str, chunk: int | None, past: int | None, final: bool
    ) -> Made | StreamError:
        """The program of a form; `past` if it takes states: how many columns those hold that grow."""
        key = (tuple(types.items()), form, chunk, past, final)
        if key not in self.programs:
            self.programs[key] = self._program(types, form, chunk, past, final)
        return self.programs[key]

    def _program(
        self, types: Mapping[str, SignalType], form: str, chunk: int | None, past: int | None, final: bool
    ) -> Made | StreamError:
        chosen = plan(self.mixer.expr, types, profile_of("cpu"), form=form, chunk=chunk)
        try:
            lowered = lowering.lower(
                self.mixer.expr,
                returns=self.mixer.returns,
                signals=types,
                forms=chosen.choices,
                initial=past is not None,
                final=final,
                past=past or 0,
            )
        except StreamError as refused:
            return refused
        return Made(lowered, prepare(lowered.program, self.algebra))


def _patterned(fixed: Mapping[str, torch.Tensor], names: list[str], bits: tuple[bool, ...]) -> dict[str, torch.Tensor]:
    made, rest = {}, list(bits)
    for n in names:
        count = fixed[n].numel()
        made[n] = torch.tensor(rest[:count]).reshape(fixed[n].shape)
        rest = rest[count:]
    return made


def complex_signals(mixer: Mixer) -> tuple[str, ...]:
    """The signals that may be complex: nothing is done with what is made of them that takes real numbers."""
    kinds: dict[str, Kind] = dict.fromkeys(mixer.signals, "real")
    free = [n for n in kinds if n not in samples.discrete(mixer, small(mixer, 1))]
    bodies = (mixer.body, mixer.expr)
    return tuple(n for n in free if not any(undefined(x, {**kinds, n: "complex"}) for x in bodies))


def small(mixer: Mixer, length: int) -> dict[str, int]:
    """Batch and value axes of size 1, axes that are summed over of size 2."""
    state = {a for n in walk(mixer.expr) if isinstance(n, Process) for a in n.over}
    summed = {a for n in walk(mixer.expr) for a in getattr(n, "over", ()) if isinstance(a, str)}
    wide = {a: WIDE for axes in mixer.signals.values() for a in axes if a in state | summed}
    ones = {a: 1 for axes in mixer.signals.values() for a in axes if a not in (TIME, SOURCE) and a not in wide}
    return samples.sizes_for(mixer, length, {**ones, **wide})


class Case:
    """One length with the known signals fixed: the definition once, and any number of programs to compare with it."""

    def __init__(self, of: Emitted, length: int, known: Mapping[str, torch.Tensor]) -> None:
        self.of, self.mixer, self.length, self.cells = of, of.mixer, length, cells.over(of.algebra)
        self.sizes = small(self.mixer, length)
        self.signals: dict[str, Cells] = {}
        self.kinds: dict[str, Kind] = {}
        for name, axes in self.mixer.signals.items():
            if name in known:
                self.kinds[name] = "bool" if known[name].dtype == torch.bool else "int"
                self.signals[name] = self.cells(axes, known[name].numpy().astype(object))
            else:
                self.kinds[name] = "complex" if name in of.complex else "real"
                shape = tuple(self.sizes[a] for a in axes)
                self.signals[name] = self.cells.symbols(name, axes, shape, self.kinds[name])
        self.definitions: dict[tuple[str, ...], Definition[Cells]] = {}
        self.processes = {n.name: n for n in walk(self.mixer.expr) if isinstance(n, Process)}
        sources = {n.name for n in walk(self.mixer.expr) if isinstance(n, Signal) and SOURCE in n.axes}
        self.cross = any(TIME not in self.mixer.signals[name] for name in sources)

    def compare(self, form: str, chunk: int | None) -> Iterator[tuple[str, Difference | None]]:
        """The program against the definition: from the beginning, and from any state or cut in two."""
        whole = self.program(self.signals, form, chunk, None, final=False)
        if isinstance(whole, StreamError):
            raise whole
        yield "", self._differs(whole, {}, self.definition({}))
        stated = self.program(self.signals, form, chunk, 0, final=True)
        if isinstance(stated, StreamError):
            return
        if stated.lowered.entering and stated.states <= self.processes.keys():
            entering = stated.lowered.entering
            states = {n: self.cells.symbols(f"{n}_before", t.axes, t.shape, t.kind) for n, t in entering.items()}
            yield " from any state", self._differs(stated, states, self.definition(states))
        elif self.length > 1:
            yield f" cut at {self.length // 2}", self._cut(form, chunk, self.length // 2)

    def _cut(self, form: str, chunk: int | None, at: int) -> Difference | None:
        """The first `at` steps, and the others from the states that those leave, against the whole."""
        first, rest = self.part(0, at), self.part(at, self.length)
        y = self.definition({}).value(self.mixer.body)
        states: Mapping[str, Any] = {}
        for signals, past, start, stop in ((first, None, 0, at), (rest, at, at, self.length)):
            made = self.program(signals, form, chunk, past, final=past is None)
            if isinstance(made, StreamError):
                raise made
            out = self._run(made, signals, {f"state:{n}": states[f"state:{n}"] for n in made.lowered.entering})
            wanted = self.cells(y.axes, y.data.take(range(start, stop), y.axes.index(TIME))) if TIME in y.axes else y
            found = self._unequal("y", out["y"], wanted, self.mixer.returns, stop - start)
            if found is not None:
                return found
            states = out
        return None

    def part(self, start: int, stop: int) -> dict[str, Cells]:
        """The signals at some steps; of columns (s) all until the last step, or all of another sequence."""
        made = dict(self.signals)
        for n, x in made.items():
            for axis, first in ((SOURCE, 0), (TIME, start)):
                if axis in x.axes and not (axis == SOURCE and self.cross):
                    made[n] = x = self.cells(x.axes, x.data.take(range(first, stop), x.axes.index(axis)))
        return made

    def program(
        self, signals: Mapping[str, Cells], form: str, chunk: int | None, past: int | None, *, final: bool
    ) -> Made | StreamError:
        types = {n: SignalType(x.axes, x.data.shape, self.kinds[n]) for n, x in signals.items()}
        return self.of.program(types, form, chunk, past, final)

    def definition(self, states: Mapping[str, Cells]) -> Definition[Cells]:
        if tuple(states) not in self.definitions:
            self.definitions[tuple(states)] = Definition(self.cells, self.signals, self.sizes, states)
        return self.definitions[tuple(states)]

    def _run(self, made: Made, signals: Mapping[str, Cells], states: Mapping[str, Any]) -> dict[str, Any]:
        names = made.lowered.program.input_names
        return made.run({**{n: x.data for n, x in signals.items() if n in names}, **states})

    def _differs(self, made: Made, states: Mapping[str, Cells], want: Definition[Cells]) -> Difference | None:
        y = want.value(self.mixer.expr if states else self.mixer.body)
        out = self._run(made, self.signals, {f"state:{n}": x.data for n, x in states.items()})
        found = self._unequal("y", out["y"], y, self.mixer.returns, self.length)
        for name, kind in made.lowered.states.items():
            if found is None:
                S = want.states_of(self.processes[name])[-1]
                found = self._unequal(f"state {name}", out[f"state:{name}"], S, kind.axes, self.length)
        return found

    def _unequal(self, name: str, got: Any, want: Cells, axes: Axes, length: int) -> Difference | None:
        wanted = want.to(axes, {**self.sizes, TIME: length})
        if got.shape != wanted.shape:
            return Difference(name, f"shape {got.shape}", f"shape {wanted.shape}")
        for i in np.ndindex(*wanted.shape):
            if self.of.algebra.read(got[i]) != wanted[i]:
                at = ", ".join(f"{a}={n}" for a, n in zip(axes, i, strict=True))
                return Difference(f"{name}[{at}]", str(got[i]), str(wanted[i]))
        return None
