"""The catalog's mixers beside what a user has today: forward, forward and backward, and one step of decoding.

The contenders of a cell are checked against one another before any of them is timed; where they differ none is, and one
row says so. A run that would take longer than the cap is left out, and its row says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from math import log
from typing import Any

import torch
from torch import Tensor

import mixer_ir as mx
from backends import missing
from benchmarks.cpu_cases import Case
from benchmarks.cpu_peers import DECODING, FORWARD, PEERS, TRAINING
from benchmarks.limits import Work, step_work
from benchmarks.limits import work as work_of
from mixer_ir.driver.settling import settle
from mixer_ir.driver.timing import ResultsDiffer, race

Row = dict[str, Any]
Signals = Mapping[str, Tensor]
Run = Callable[[], Sequence[Tensor]]

OURS = ("native", "eager", "auto")
GOAL_LENGTH = 2048


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    ours     which of our backends; `beside`: whether others too
    goal     the length at which goals compare
    cap      seconds of one run: what is predicted to take longer is left out, unless a goal asks for it
    budget   seconds for the rounds of a cell beyond the first three
    """

    lengths: tuple[int, ...] = (256, 2048, 16384, 65536)
    works: tuple[str, ...] = (FORWARD, TRAINING, DECODING)
    ours: tuple[str, ...] = OURS
    beside: bool = True
    goal: int | None = GOAL_LENGTH
    cap: float = 2.5
    budget: float = 0.3


@dataclass(frozen=True)
class Contender:
    """One way to compute a case.

    run      from the signals to the output
    step     from the signals so far and the state before t, to a function of the signals at t; None: it has none
    ours     compiles in its first run
    trains   has a backward pass
    longest  the longest sequence whose arrays fit in memory
    goal     the work for which a goal compares with it
    absent   why it is not here
    """

    name: str
    run: Callable[..., Tensor]
    step: Callable[[Signals, Signals], Callable[..., Tensor]] | None
    ours: bool = False
    trains: bool = True
    longest: int | None = None
    goal: str = ""
    absent: str = ""


def rows(cases: Sequence[Case], settings: Settings) -> Iterator[Row]:
    """The rows of all cases, one at a time as they are measured."""
    for case in cases:
        measured = Measured(case, contenders(case, settings), settings)
        cells = {FORWARD: measured.forward, TRAINING: measured.training, DECODING: measured.decoding}
        for t in settings.lengths:
            signals = case.signals(t)
            for work in settings.works:
                yield from cells[work](signals, t)


def contenders(case: Case, settings: Settings) -> list[Contender]:
    """Ours, then the others; the first that is here is the one that all are compared with."""
    found = []
    for backend in settings.ours:
        if (reason := missing(backend)) is not None:
            found.append(Contender(backend, absent_one, None, absent=reason))
            continue
        f = mx.compile(case.declared, backend=backend, form=case.form if backend == "eager" else "auto")
        found.append(Contender(backend, f, partial(_stepping, f), ours=True))
    for peer in PEERS.get(case.name, ()) if settings.beside else ():
        absent = "" if find_spec(peer.module.split(".")[0]) else "not installed"
        if not absent:
            importlib.import_module(peer.module)
        found.append(Contender(peer.name, peer.run, peer.step, False, peer.trains, peer.longest, peer.goal, absent))
    return found


def absent_one(**signals: Tensor) -> Tensor:
    raise AssertionError("a contender that is not here is never run")


def _stepping(f: mx.CompiledMixer, past: Signals, state: Signals) -> Callable[..., Tensor]:
    return lambda **now: f.step(state, **now)[0]


@dataclass
class Measured:
    """A case being measured, length by length; `seen` are the times so far by contender and work."""

    case: Case
    contenders: list[Contender]
    settings: Settings
    seen: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=dict)

    def forward(self, signals: Signals, t: int) -> Iterator[Row]:
        """One call without gradients."""
        with torch.no_grad():
            runs = {c.name: partial(_outputs, c.run, signals) for c in self.contenders}
            yield from self._cell(FORWARD, t, runs, work_of(self.case.declared, signals))

    def training(self, signals: Signals, t: int) -> Iterator[Row]:
        """One call, and the gradients of every trained signal from a random cotangent."""
        trained = [
            n for n, x in signals.items() if n not in self.case.fixed and (x.is_floating_point() or x.is_complex())
        ]
        leaves = {n: x.clone().requires_grad_() if n in trained else x for n, x in signals.items()}
        sizes = {a: s for n, x in signals.items() for a, s in zip(self.case.declared.signals[n], x.shape, strict=True)}
        cotangent = torch.randn([sizes[a] for a in self.case.declared.returns])
        runs = {c.name: partial(_gradients, c.run, leaves, trained, cotangent) for c in self.contenders}
        yield from self._cell(TRAINING, t, runs, work_of(self.case.declared, signals, trained))

    def decoding(self, signals: Signals, t: int) -> Iterator[Row]:
        """One step from the state after t − 1; at the first length alone where that state does not grow."""
        traits, axes = self.case.declared.traits, self.case.declared.signals
        if t > self.settings.lengths[0] and (traits.state is not None or not traits.streamable):
            return
        if not traits.streamable:
            yield self._row(DECODING, t, OURS[0], skipped="it looks ahead, so that there is nothing to decode")
            return
        if not self._due("eager", FORWARD, t):
            yield self._row(DECODING, t, OURS[0], skipped="the state before it takes too long to make")
            return
        before = {n: x.narrow(axes[n].index("t"), 0, t - 1) if "t" in axes[n] else x for n, x in signals.items()}
        now = {n: x.select(axes[n].index("t"), t - 1) if "t" in axes[n] else x for n, x in signals.items()}
        with torch.no_grad():
            f = mx.compile(self.case.declared, backend="eager")
            _, state = f.prefill(**before)
            runs = {c.name: partial(_outputs, c.step(before, state), now) for c in self.contenders if c.step}
            yield from self._cell(DECODING, t, runs, step_work(state, now, f.step(state, **now)[0]))

    def _cell(self, what: str, t: int, runs: Mapping[str, Run], due: Work) -> Iterator[Row]:
        going: dict[str, Run] = {}
        fresh = [c.name for c in self.contenders if c.ours or t == self.settings.lengths[0]]
        for c in self.contenders:
            if c.name not in runs:
                continue
            if reason := self._skipped(c, what, t):
                yield self._row(what, t, c.name, skipped=reason)
                continue
            going[c.name] = runs[c.name]
            if c.name == "auto":
                settle(runs[c.name])
        try:
            times = race(going, budget=self.settings.budget, fresh=fresh)
        except ResultsDiffer as error:
            yield self._row(what, t, next(iter(going)), differs=str(error))
            return
        for name, timing in times.items():
            self.seen.setdefault((name, what), []).append((t, timing.seconds))
            tokens = 1 if what == DECODING else t
            yield self._row(
                what,
                t,
                name,
                seconds=timing.seconds,
                rounds=timing.rounds,
                tokens=self.case.sizes["b"] * tokens / timing.seconds,
                **asdict(due),
            )

    def _row(self, what: str, t: int, contender: str, **found: Any) -> Row:
        return {
            "family": self.case.family,
            "mixer": self.case.name,
            "T": t,
            "work": what,
            "contender": contender,
            **found,
        }

    def _skipped(self, c: Contender, what: str, t: int) -> str:
        """Why a contender is not run; empty where it is."""
        if c.absent:
            return c.absent
        if what == TRAINING and not c.trains:
            return "has no backward pass on a CPU"
        if c.longest is not None and t > c.longest:
            return f"too large for memory beyond T = {c.longest:,}"
        if c.name == "auto" and "eager" in self.settings.ours and not self._due("eager", what, t):
            return "begins on eager"
        if not self._due(c.name, what, t) and not (what == c.goal and t == self.settings.goal):
            return f"over the cap: {self._predicted(c.name, what, t):.1f} s"
        return ""

    def _due(self, contender: str, what: str, t: int) -> bool:
        return self._predicted(contender, what, t) <= self.settings.cap

    def _predicted(self, contender: str, what: str, t: int) -> float:
        """Seconds, growing with the power of T that the last two lengths show, at least linearly; 0 at the first."""
        match self.seen.get((contender, what), ()):
            case [*_, (t1, s1), (t2, s2)]:
                return s2 * (t / t2) ** max(1.0, log(s2 / s1) / log(t2 / t1))
            case [(t1, s1)]:
                return s1 * t / t1
        return 0.0


def _outputs(f: Callable[..., Tensor], signals: Signals) -> tuple[Tensor]:
    return (f(**signals),)


def _gradients(
    f: Callable[..., Tensor], leaves: Signals, trained: Sequence[str], cotangent: Tensor
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(f(**leaves), [leaves[n] for n in trained], cotangent)
