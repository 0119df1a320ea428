"""mx.verify: every form of a mixer on every backend against its definition, values and gradients.

The definition is evaluated with plain loops in double precision (definition/oracle.py). Also held against it: chunks of
any length, a sequence cut anywhere with the state handed on, decoding step by step, the mixing matrix, and the traits
that the mixer claims. That an all-zero or late result would not pass is checked on the same inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from backends import available
from lowering.context import SignalType
from lowering.lower import lower
from lowering.planner import plan
from lowering.profile import profile_of
from mixer_ir.definition.oracle import entries
from mixer_ir.driver.binding import kind_of
from mixer_ir.driver.choosing import checked_form, checked_mixer
from mixer_ir.driver.compiled import CompiledMixer, compile
from mixer_ir.driver.running import checked_backend
from mixer_ir.errors import AxisError, DeclarationError, MachineError, MixerError, OptionError, StreamError, one_of
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, union
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Process, Recurrence
from mixer_ir.trust.expected import Expected, Measured, expected
from mixer_ir.trust.probe import probes

LENGTHS = (1, 2, 7, 64, 129)
CHUNKS = (1, 3, 16, 64)
DTYPES = (torch.float64, torch.float32)
CHUNKED = ("chunked", "flash")
SYMBOLIC_LENGTH = 2
REFERENCE_LENGTH = 64
T = TypeVar("T")
STATES = {"real": torch.float64, "complex": torch.complex128}


@dataclass(frozen=True)
class Row:
    """One comparison: errors are parts of the largest expected entry, infinite where there was no result."""

    form: str
    backend: str
    dtype: str
    length: int
    chunk: int | None
    value_error: float
    gradient_error: float | None
    tolerance: float
    ok: bool
    what: str = "whole"
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All comparisons of one mixer; `str` gives a table with a line for each form, backend, dtype and kind of check."""

    mixer: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The report in numbers and strings; an error without bound, which JSON cannot say, is None."""
        rows = [{n: None if x == math.inf else x for n, x in asdict(row).items()} for row in self.rows]
        return {"mixer": self.mixer, "ok": self.ok, "rows": rows}

    def __str__(self) -> str:
        groups: dict[tuple[str, str, str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.form, row.backend, row.dtype, row.what), []).append(row)
        head = ("form", "backend", "dtype", "what", "lengths", "chunks", "value", "gradient", "")
        lines = [head, *(_line(key, rows) for key, rows in groups.items())]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        wrong = [_complaint(row) for row in self.rows if not row.ok]
        verdict = f"{self.mixer}: {len(self.rows)} checks, " + ("all right" if self.ok else f"{len(wrong)} wrong")
        return "\n".join(
            [verdict, *table, *wrong[:20], *([f"… and {len(wrong) - 20} more"] if len(wrong) > 20 else [])]
        )


def _line(key: tuple[str, str, str, str], rows: Sequence[Row]) -> tuple[str, ...]:
    gradients = [row.gradient_error for row in rows if row.gradient_error is not None]
    return (
        *key,
        " ".join(str(n) for n in sorted({row.length for row in rows})),
        " ".join(str(n) for n in sorted({row.chunk for row in rows if row.chunk is not None})),
        f"{max(row.value_error for row in rows):.1e}",
        f"{max(gradients):.1e}" if gradients else "",
        "ok" if all(row.ok for row in rows) else "WRONG",
    )


def _complaint(row: Row) -> str:
    chunk = "" if row.chunk is None else f", chunk {row.chunk}"
    gradient = "" if row.gradient_error is None else f", gradient off by {row.gradient_error:.1e}"
    off = f"value off by {row.value_error:.1e} (allowed {row.tolerance:.1e}){gradient}"
    return f"WRONG  {row.form} on {row.backend}, {row.dtype}, t = {row.length}{chunk}, {row.what}: {row.note or off}"


def verify(
    mixer: Mixer,
    *,
    lengths: Sequence[int] = LENGTHS,
    chunks: Sequence[int] = CHUNKS,
    dtypes: Sequence[torch.dtype] = DTYPES,
    forms: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    sizes: Mapping[str, int] | None = None,
    signals: Mapping[str, Tensor] | None = None,
    sample: Callable[[int], Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> Report:
    """Hold every legal form on every backend against the definition, values and gradients.

    forms, backends   by default all that are legal, all that are there
    sizes             of axes other than t; small by default
    signals           tensors to use for these signals (then give `lengths` that fit them)
    sample            a function from a length to tensors for some or all signals, where the drawn ones do not suit

    Errors: those of `mx.compile` for a form or backend; OptionError for lengths or chunks that are no whole numbers
    from 1; SignalError and AxisError for signals and sizes that do not fit the mixer; MachineError where a backend
    lacks a compiler or a folder to write to.
    """
    checked_mixer(mixer, "verify")
    for word, names in (("forms", forms), ("backends", backends)):
        if isinstance(names, str):
            raise OptionError(f"{word} = {names!r}: mx.verify takes several names, as in {word}=[{names!r}]")
    for form in forms or ():
        checked_form(mixer, form)
    for backend in backends or ():
        checked_backend(backend)
    declared = union(*mixer.signals.values())
    foreign = [a for a in sizes or () if a not in declared]
    if foreign:
        raise AxisError(f"{mixer.name} has no axis {foreign[0]!r}; its axes: {one_of(declared)}")
    for word, numbers in (("lengths", lengths), ("chunks", chunks)):
        if isinstance(numbers, int) or not numbers or any(type(n) is not int or n < 1 for n in numbers):
            raise OptionError(f"{word} = {numbers!r}: mx.verify takes a list of numbers, each a whole number from 1")
    return Report(
        mixer.name,
        tuple(Verification(mixer, chunks, forms, backends, sizes, signals, sample, seed).rows(lengths, dtypes)),
    )


@dataclass
class Verification:
    """One run of verify."""

    mixer: Mixer
    chunks: Sequence[int]
    forms: Sequence[str] | None
    backends: Sequence[str] | None
    sizes: Mapping[str, int] | None
    signals: Mapping[str, Tensor] | None
    sample: Callable[[int], Mapping[str, Tensor]] | None
    seed: int

    def rows(self, lengths: Sequence[int], dtypes: Sequence[torch.dtype]) -> Iterator[Row]:
        forms = list(self.forms) if self.forms is not None else self.mixer.forms()
        backends = list(self.backends) if self.backends is not None else list(available())
        middle = sorted(lengths)[len(lengths) // 2]
        for dtype in dtypes if "eager" in backends else ():
            wanted = {n: self.expected(n, dtype) for n in lengths}
            yield from self.sensitive(wanted)
            for length, want in wanted.items():
                for form in forms:
                    yield from self.whole(form, "eager", want, length, every_chunk=dtype == dtypes[0])
                if dtype == dtypes[0] and 1 < length <= middle:
                    yield from self.streamed(forms, want, length)
        if "eager" in backends:
            yield from self.stated(forms, middle)
        for backend in (b for b in backends if b not in ("eager", "native")):
            yield from self.other(forms, backend, lengths)
        for dtype in dtypes if "native" in backends else ():
            want = self.expected(middle, dtype)
            for form in forms:
                yield from self.whole(form, "native", want, middle, every_chunk=False)
        yield from self.matrix(min(middle, 16))
        for probe in probes(self.mixer, self.expected(min(middle, 8), torch.float64)):
            yield Row(
                "",
                "definition",
                "float64",
                min(middle, 8),
                None,
                probe.error,
                None,
                probe.tolerance,
                probe.ok,
                probe.what,
            )

    def expected(self, length: int, dtype: torch.dtype, sizes: Mapping[str, int] | None = None) -> Expected:
        given = dict(self.signals or {}) | dict(self.sample(length) if self.sample else {})
        fixed = {
            a: n for name, x in given.items() for a, n in zip(self.mixer.signals.get(name, ()), x.shape, strict=False)
        }
        sizes = {**(self.sizes or {}), **(sizes or {}), **fixed}
        return expected(self.mixer, length, dtype=dtype, sizes=sizes, seed=self.seed, given=given)

    # ------------------------------------------------------------------ kinds of checks

    def sensitive(self, wanted: Mapping[int, Expected]) -> Iterator[Row]:
        """A row for every wrong result that would pass; a length at which all cancels is left to the others."""
        blind = {n: found for n, want in wanted.items() if (found := want.insensitive())}
        told = {n for n, want in wanted.items() if n not in blind or not want.cancelled}
        for n in blind if not told else blind.keys() & told:
            at = ("", "definition", _name(wanted[n].dtype), n, None, 0.0, None, wanted[n].allowed, False, "sensitivity")
            yield from (Row(*at, what) for what in blind[n])

    def whole(self, form: str, backend: str, want: Expected, length: int, *, every_chunk: bool) -> Iterator[Row]:
        chunks: list[int | None] = [None]
        if form in CHUNKED and every_chunk:
            chunks = [c for c in self.chunks if c <= length] or [min(self.chunks)]
        for chunk in chunks:
            yield self.row(form, backend, want, length, chunk, "whole", lambda f: lambda x, s: f(**x))

    def other(self, forms: Sequence[str], backend: str, lengths: Sequence[int]) -> Iterator[Row]:
        """Backends without gradients: values, on short sequences."""
        small = backend == "symbolic"
        wanted = [SYMBOLIC_LENGTH] if small else [n for n in lengths if n <= REFERENCE_LENGTH]
        sizes = dict.fromkeys(("b", "h", "v", "d"), 1) | {"k": 2, "n": 2, "m": 2} if small else {}
        for length in wanted:
            want = self.expected(length, torch.float64, sizes)
            for form in forms:
                yield self.row(
                    form, backend, want, length, None, "whole", lambda f: lambda x, s: f(**x), gradients=False
                )

    def streamed(self, forms: Sequence[str], want: Expected, length: int) -> Iterator[Row]:
        """The sequence cut in two with the state handed on; and its end taken step by step."""
        if not self.streamable(want):
            return
        cuts = sorted({1, length // 2, length - 1} - {0, length})
        for form in forms:
            for cut in cuts[:1] if length > 8 else cuts:
                yield self.row(form, "eager", want, length, None, "split", partial(self.split, cut=cut))
        start = max(length - 3, 1)
        yield self.row(forms[0], "eager", want, length, None, "steps", lambda f: self.steps(f, start))

    def stated(self, forms: Sequence[str], length: int) -> Iterator[Row]:
        """A random initial state, and gradients in it."""
        want = self.expected(length, torch.float64)
        states = self.states(want)
        if not states:
            return
        started = Expected(self.mixer, want.signals, torch.float64, states, self.seed)
        for form in forms:
            yield self.row(
                form, "eager", started, length, None, "initial state", lambda f: lambda x, s: f(**x, initial_state=s)
            )

    def matrix(self, length: int) -> Iterator[Row]:
        """f.matrix against the entries by definition."""
        want = self.expected(length, torch.float64)
        try:
            M = self.mixer.matrix_expr
        except DeclarationError:
            return
        with torch.no_grad():
            entry, axes = entries(M, want.signals, self.mixer.signals)
            order = (
                *(a for a in self.mixer.returns if a in M.axes),
                *(a for a in M.axes if a not in self.mixer.returns),
            )
            entry = entry.permute([axes.index(a) for a in (*order, *axes[-2:])])
            got = self.attempt(lambda: compile(self.mixer).matrix(**want.signals))
        if isinstance(got, str):
            yield Row("dense", "eager", "float64", length, None, float("inf"), None, 0.0, False, "matrix", got)
            return
        size = float(entry.abs().max()) or 1.0
        got = got.expand(entry.shape) if got.dim() == entry.dim() else got
        off = float((got - entry).abs().max()) / size if got.shape == entry.shape else float("inf")
        allowed = 1e-9 + 64 * want.noise / max(want.scale, 1e-300)
        yield Row("dense", "eager", "float64", length, None, off, None, allowed, off <= allowed, "matrix")

    # ------------------------------------------------------------------ how a mixer is run

    def split(self, f: CompiledMixer, cut: int) -> Callable[..., Tensor]:
        def run(signals: Mapping[str, Tensor], states: Mapping[str, Tensor]) -> Tensor:
            first, state = f.prefill(**self.part(signals, 0, cut))
            rest: dict[str, Any] = self.part(signals, cut, None)
            second = f(**rest, initial_state=state)
            return torch.cat([first, second], self.mixer.returns.index(TIME))

        return run

    def steps(self, f: CompiledMixer, start: int) -> Callable[..., Tensor]:
        def run(signals: Mapping[str, Tensor], states: Mapping[str, Tensor]) -> Tensor:
            axis = self.mixer.returns.index(TIME)
            y, state = f.prefill(**self.part(signals, 0, start))
            ys = [y]
            for t in range(start, self.length(signals)):
                here = self.part(signals, 0, t + 1)
                one = {
                    n: x.select(a.index(TIME), t) if TIME in (a := self.mixer.signals[n]) else x
                    for n, x in here.items()
                }
                y, state = f.step(state, **one)
                ys.append(y.unsqueeze(axis))
            return torch.cat(ys, axis)

        return run

    def length(self, signals: Mapping[str, Tensor]) -> int:
        return next(x.shape[a.index(TIME)] for n, x in signals.items() if TIME in (a := self.mixer.signals[n]))

    def part(self, signals: Mapping[str, Tensor], start: int, stop: int | None) -> dict[str, Tensor]:
        found = {}
        for n, x in signals.items():
            axes = self.mixer.signals[n]
            if SOURCE in axes and x.shape[axes.index(SOURCE)] == self.length(signals):
                x = x[(slice(None),) * axes.index(SOURCE) + (slice(0, stop),)]  # all columns up to the last step
            found[n] = x[(slice(None),) * axes.index(TIME) + (slice(start, stop),)] if TIME in axes else x
        return found

    def streamable(self, want: Expected) -> bool:
        """Whether the mixer can be cut at all: a mixer that cannot says so with a StreamError."""
        try:
            with torch.no_grad():
                compile(self.mixer).prefill(**want.signals)
        except StreamError:
            return False
        except Exception:  # whatever else is wrong shows in the rows
            return True
        return True

    def states(self, want: Expected) -> dict[str, tuple[Tensor, Axes]]:
        """Random initial states, where every state of the stream is one that the canonical form names."""
        named = {n.name for n in walk(self.mixer.expr) if isinstance(n, Process)}
        named |= {s.name for n in walk(self.mixer.expr) if isinstance(n, Recurrence) for s in n.states}
        axes = self.mixer.signals
        types = {n: SignalType(axes[n], tuple(x.shape), kind_of(x.dtype)) for n, x in want.signals.items()}
        try:
            choices = plan(self.mixer.expr, types, profile_of("cpu")).choices
            lowered = lower(
                self.mixer.expr, returns=self.mixer.returns, signals=types, forms=choices, initial=True, final=True
            )
        except MixerError:
            return {}
        if any(n not in named or t.kind not in ("real", "complex") for n, t in lowered.entering.items()):
            return {}
        g = torch.Generator().manual_seed(self.seed + 2)
        return {
            n: (torch.randn(t.shape, generator=g, dtype=STATES[t.kind]), t.axes) for n, t in lowered.entering.items()
        }

    # ------------------------------------------------------------------ one row

    def row(
        self,
        form: str,
        backend: str,
        want: Expected,
        length: int,
        chunk: int | None,
        what: str,
        way: Callable[[CompiledMixer], Callable[..., Tensor]],
        *,
        gradients: bool = True,
    ) -> Row:
        """One comparison; an error in lowering or running is a wrong row that quotes it."""
        options = {} if chunk is None else {"chunk": chunk}

        def measure() -> Measured:
            call = way(compile(self.mixer, form=form, backend=backend, **options))
            return want.run(call, gradients=gradients)

        found = self.attempt(measure)
        at = (form, backend, _name(want.dtype), length, chunk)
        if isinstance(found, str):
            return Row(*at, float("inf"), None, want.allowed, False, what, found)
        return Row(*at, found.value_error, found.gradient_error, found.tolerance, found.ok, what)

    @staticmethod
    def attempt(run: Callable[[], T]) -> T | str:
        """What `run` gives, or the error that it raised, in words: it belongs in the report; but for a MachineError."""
        try:
            return run()
        except MachineError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
