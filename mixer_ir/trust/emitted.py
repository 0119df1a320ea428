"""Emitted programs with a symbol for every entry: what lowering really wrote, against the definition, exactly.

This ties the array operations of a form to the formula that they stand for: a wrong sign, a mask that is off by one, a
decay too many or too few, a chunk that begins a step late all show, on sizes that a person could write down.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backends import prepare
from lowering import lower as lowering
from lowering.context import Lowered, SignalType
from lowering.planner import plan
from lowering.profile import profile_of
from mixer_ir.definition.cells import Cells
from mixer_ir.definition.definition import Definition
from mixer_ir.driver import samples
from mixer_ir.errors import StreamError
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Signal
from mixer_ir.nodes.functions import Kind
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Process
from mixer_ir.trust.exact import Ring

LENGTHS: Mapping[str, tuple[tuple[int, int | None], ...]] = {
    "chunked": ((1, 1), (2, 1), (3, 2), (4, 2), (3, 4)),
    "parallel": ((2, None), (3, None)),
    "recurrent": ((1, None), (3, None)),
    "scan": ((2, None), (3, None)),
    "flash": ((2, 1), (3, 2)),
}
"""form -> (length, chunk) pairs that are tried; every kind of border is among them"""
OTHER: tuple[tuple[int, int | None], ...] = ((1, None), (2, None), (3, None))
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


@dataclass
class Emitted:
    """The programs of one mixer at small sizes, in symbols."""

    mixer: Mixer
    ring: Ring = field(default_factory=Ring)
    cases: dict[int, list[Case]] = field(default_factory=dict)

    def checks(self, form: str) -> Iterator[tuple[int, int | None, Difference | None]]:
        """For each length and chunk that is tried: the first difference, or None."""
        for length, chunk in LENGTHS.get(form, OTHER):
            for case in self.of_length(length):
                yield length, chunk, case.compare(form, chunk)

    def of_length(self, length: int) -> list[Case]:
        if length not in self.cases:
            self.cases[length] = [Case(self.mixer, length, known, self.ring) for known in self.patterns(length)]
        return self.cases[length]

    def patterns(self, length: int) -> list[dict[str, torch.Tensor]]:
        """Values for signals that cannot be symbols: integers as drawn, truth values in every pattern (or some)."""
        sizes = small(self.mixer, length)
        drawn = samples.draw(self.mixer, sizes, seed=3)
        fixed = {n: x for n, x in drawn.items() if not x.is_floating_point()}
        truths = [n for n, x in fixed.items() if x.dtype == torch.bool]
        if not truths:
            return [fixed]
        count = sum(fixed[n].numel() for n in truths)
        bits = list(itertools.product([False, True], repeat=count))
        chosen = bits if len(bits) <= MOST_PATTERNS else [bits[(i * 5 + 2) % len(bits)] for i in range(MOST_PATTERNS)]
        return [{**fixed, **_patterned(fixed, truths, pattern)} for pattern in chosen]


def _patterned(fixed: Mapping[str, torch.Tensor], names: list[str], bits: tuple[bool, ...]) -> dict[str, torch.Tensor]:
    made, rest = {}, list(bits)
    for n in names:
        count = fixed[n].numel()
        made[n] = torch.tensor(rest[:count]).reshape(fixed[n].shape)
        rest = rest[count:]
    return made


def small(mixer: Mixer, length: int) -> dict[str, int]:
    """Batch and value axes of size 1, axes that are summed over of size 2."""
    state = {a for n in walk(mixer.expr) if isinstance(n, Process) for a in n.over}
    summed = {a for n in walk(mixer.expr) for a in getattr(n, "over", ()) if isinstance(a, str)}
    wide = {a: WIDE for axes in mixer.signals.values() for a in axes if a in state | summed}
    ones = {a: 1 for axes in mixer.signals.values() for a in axes if a not in (TIME, SOURCE) and a not in wide}
    return samples.sizes_for(mixer, length, {**ones, **wide})


def directions(mixer: Mixer) -> dict[str, None]:
    """Signals that stand for vectors of a low rank beyond 2, whose products have too many terms: they are numbers."""
    found: dict[str, None] = {}
    for process in (n for n in walk(mixer.expr) if isinstance(n, Process)):
        pairs = process.transition.low_rank
        parts = (part for pair in pairs for part in pair) if len(pairs) > 2 else ()
        inside = (n for part in parts for n in walk(part) if isinstance(n, Signal))
        found |= {n.name: None for n in inside if set(process.over) & set(n.axes)}
    return found


class Case:
    """One length with the known signals fixed: the definition once, and any number of programs to compare with it."""

    def __init__(self, mixer: Mixer, length: int, known: Mapping[str, torch.Tensor], ring: Ring) -> None:
        self.mixer, self.ring = mixer, ring
        self.sizes = small(mixer, length)
        self.signals: dict[str, Cells] = {}
        self.types: dict[str, SignalType] = {}
        numbered = directions(mixer)
        for name, axes in mixer.signals.items():
            shape = tuple(self.sizes[a] for a in axes)
            kind: Kind = "real"
            if name in known:
                kind = "bool" if known[name].dtype == torch.bool else "int"
                self.signals[name] = Cells(axes, known[name].numpy().astype(object))
            elif name in numbered:
                first = 2 + 5 * list(numbered).index(name)  # no two directions alike
                self.signals[name] = Cells(
                    axes, (first + np.arange(math.prod(shape)) % 7).reshape(shape).astype(object)
                )
            else:
                self.signals[name] = Cells.symbols(name, axes, shape)
            self.types[name] = SignalType(axes, shape, kind)
        self.processes = {n.name: n for n in walk(mixer.expr) if isinstance(n, Process)}

    def compare(self, form: str, chunk: int | None) -> Difference | None:
        """The program of this form against the definition: from an initial state, if there is one, and without."""
        for stated in (False, True):
            lowered = self.lowered(form, chunk, stated)
            if lowered is None:
                continue
            states = {n: Cells.symbols(f"{n}_before", t.axes, t.shape) for n, t in lowered.entering.items()}
            found = self._differs(lowered, states)
            if found is not None:
                return found
        return None

    def lowered(self, form: str, chunk: int | None, stated: bool) -> Lowered | None:
        """The program; with states only if they are those of the mixer's processes."""
        chosen = plan(self.mixer.expr, self.types, profile_of("cpu"), form=form, chunk=chunk)
        try:
            made = lowering.lower(
                self.mixer.expr,
                returns=self.mixer.returns,
                signals=self.types,
                forms=chosen.choices,
                initial=stated,
                final=stated,
                past=0,
            )
        except StreamError:
            return None
        ours = not stated or (made.entering and all(n in self.processes for n in (*made.entering, *made.states)))
        return made if ours else None

    def _differs(self, lowered: Lowered, states: Mapping[str, Cells]) -> Difference | None:
        inputs: dict[str, Any] = {n: x.data for n, x in self.signals.items() if n in lowered.program.input_names}
        inputs |= {f"state:{n}": x.data for n, x in states.items()}
        out = prepare("symbolic", lowered.program)(inputs)
        want = Definition(Cells, self.signals, self.sizes, states)
        returns = self.mixer.returns
        found = self._unequal("y", out["y"], want.value(self.mixer.body if not states else self.mixer.expr), returns)
        for name, kind in lowered.states.items():
            if found is None:
                found = self._unequal(
                    f"state {name}", out[f"state:{name}"], want.states_of(self.processes[name])[-1], kind.axes
                )
        return found

    def _unequal(self, name: str, got: Any, want: Cells, axes: Axes) -> Difference | None:
        cells = want.to(axes, self.sizes)
        if got.shape != cells.shape:
            return Difference(name, f"shape {got.shape}", f"shape {cells.shape}")
        for i in np.ndindex(*cells.shape):
            if not self.ring.equal(got[i], cells[i]):
                at = ", ".join(f"{a}={n}" for a, n in zip(axes, i, strict=True))
                return Difference(f"{name}[{at}]", str(got[i]), str(cells[i]))
        return None
