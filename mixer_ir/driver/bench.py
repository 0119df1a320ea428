"""Every form of a mixer on every backend that is here, timed side by side once their results were found to agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backends import BACKENDS, available, missing, triton
from mixer_ir.driver import samples
from mixer_ir.driver.binding import nearest
from mixer_ir.driver.choosing import checked_form, checked_mixer
from mixer_ir.driver.compiled import CompiledMixer, compile
from mixer_ir.driver.explain import Row as Priced
from mixer_ir.driver.running import checked_backend, profiles_of, settled, told
from mixer_ir.driver.settling import settle
from mixer_ir.driver.timing import TOLERANCE, ResultsDiffer, Timing, machine, race
from mixer_ir.errors import AxisError, BackendError, GradientError, OptionError, one_of
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.expr import TIME, union

TYPICAL = {"b": 1, TIME: 1024, "h": 4, "n": 16} | dict.fromkeys("kvdm", 64)
LIMIT = 5.0
"""seconds: a form that is predicted to take longer is left out"""
BUDGET = 2.0
"""seconds for the rounds beyond the third"""
EXACT = 2e4
"""operations a second of exact arithmetic, roughly"""

NAMED = {"symbolic": "exact arithmetic is for a few steps; it is timed where it is asked for by name"}

Run = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Contender:
    """A form on a backend, with what the cost model says of its forward pass.

    seconds, held   predicted time, and bytes held at once          chosen   the planner takes this form here
    """

    form: str
    backend: str
    seconds: float
    held: float
    chosen: bool

    @property
    def name(self) -> str:
        return f"{self.form} on {self.backend}"


@dataclass(frozen=True)
class Row:
    """A contender with its time: median `seconds` of so many `rounds`, and `ratio` to the fastest."""

    form: str
    backend: str
    seconds: float
    rounds: int
    tokens: float
    """a second"""
    ratio: float
    predicted: float
    chosen: bool
    note: str = ""


@dataclass(frozen=True)
class LeftOut:
    """What was not timed, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Bench:
    """The times of one mixer, the fastest first; none where two contenders differ, and `wrong` says which."""

    mixer: str
    work: str
    dtype: str
    sizes: Mapping[str, int]
    machine: Mapping[str, str]
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    wrong: str = ""

    @property
    def ok(self) -> bool:
        return not self.wrong

    def to_json(self) -> dict[str, Any]:
        """The report in numbers and strings."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        sizes = ", ".join(f"{a} = {n}" for a, n in self.sizes.items())
        lines = [f"{self.mixer}  ({sizes}; {self.dtype}; {self.work})"]
        lines += [", ".join(f"{k} {v}" for k, v in self.machine.items()), ""]
        lines += [f"not timed: {self.wrong}"] if self.wrong else _table(self.rows)
        lines += ["", "left out"] if self.left_out else []
        return "\n".join([*lines, *(f"  {x.what}: {x.why}" for x in self.left_out)])


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [("form", "backend", "median ms", "tokens/s", "ratio", "predicted ms", "")]
    for r in rows:
        numbers = (f"{1e3 * r.seconds:.3g}", f"{r.tokens:,.0f}", f"{r.ratio:.2f}", f"{1e3 * r.predicted:.3g}")
        lines.append((r.form, r.backend, *numbers, "; ".join(x for x in ("chosen" * r.chosen, r.note) if x)))
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    ways = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.rjust)
    laid = ([way(c, w) for way, c, w in zip(ways, line, widths, strict=False)] + [line[-1]] for line in lines)
    return ["  ".join(cells).rstrip() for cells in laid]


def bench(
    mixer: Mixer,
    *,
    sizes: Mapping[str, int] | None = None,
    forms: Sequence[str] = (),
    backends: Sequence[str] = (),
    backward: bool = False,
    dtype: torch.dtype = torch.float32,
    limit: float = LIMIT,
    seed: int = 0,
    saying: Callable[[str], None] = lambda line: None,
) -> Bench:
    """Times every legal form on every backend that is here, on random signals: on the GPU where there is one.

    sizes      of axes; t = 1024 and other typical ones where none are given
    forms      by default all that are legal; and what the planner mixes, where a mixer has several parts
    backends   by default all that are here, and "auto" where it has settled
    backward   forward and backward pass, for every floating signal, instead of the forward pass alone
    limit      seconds that the forward pass of a form may be predicted to take; others are left out
    saying     is told what goes on

    Medians of runs in turn, after a warm-up, and after all results were compared with those of the first contender; two
    that differ are in the report, whose `ok` is then False.

    Errors: those of `mx.compile` for a form or backend; AxisError for sizes that do not fit the mixer; OptionError for
    another dtype, and where nothing is left to be timed.
    """
    checked_mixer(mixer, "bench")
    dtype_named(word := str(dtype).removeprefix("torch."))
    device = torch.device("cuda" if triton.on_gpu() else "cpu")
    at = _sizes(mixer, sizes or {})
    drawn = samples.draw(mixer, at, seed)
    signals = {n: samples.rounded(x, dtype).to(device) for n, x in drawn.items()}
    left: list[LeftOut] = []
    runs: dict[Contender, Run] = {}
    compiled: dict[Contender, CompiledMixer] = {}
    found = _fitting(_contenders(mixer, signals, forms, backends, device, left), device, limit, left)
    for i, one in enumerate(found):
        saying(f"{mixer.name}: first runs, {i + 1} of {len(found)}: {one.name}")
        f = compile(mixer, form=one.form, backend=one.backend)
        run = _trained(f, signals) if backward else partial(_once, f, signals)
        try:
            (settle if one.backend == "auto" else _called)(run)
        except BackendError as error:
            left.append(LeftOut(one.name, str(error)))
            continue
        if all(settled(made.run) for made in f._programs.held()):
            runs[one], compiled[one] = run, f
        else:
            left.append(LeftOut(one.name, "it has not settled: " + "; ".join(_told(f))))
    if not runs:
        why = f"; {left[0].what}: {left[0].why}" if left else ""
        raise OptionError(f"of {mixer.name} nothing is left to be timed, of {len(left)} asked for{why}")
    saying(f"{mixer.name}: comparing and timing {len(runs)}")
    times, wrong = _raced({one.name: run for one, run in runs.items()})
    best = min((t.seconds for t in times.values()), default=0.0)
    tokens = at.get("b", 1) * at[TIME]
    rows = [_row(one, times[one.name], best, tokens, _told(compiled[one])) for one in runs if times]
    return Bench(
        mixer.name,
        "forward and backward" if backward else "forward",
        word,
        at,
        machine(),
        tuple(sorted(rows, key=lambda r: r.seconds)),
        tuple(left),
        wrong,
    )


def dtype_named(word: str) -> torch.dtype:
    """A floating-point dtype by its name; OptionError for another."""
    names = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCE}
    if word not in names:
        raise OptionError(f"signals are not drawn in {word!r}{nearest(word, names)}; dtypes: {one_of(names)}")
    return names[word]


# ---------------------------------------------------------------------------------------------------- what runs


def _contenders(
    mixer: Mixer,
    signals: Mapping[str, Tensor],
    forms: Sequence[str],
    backends: Sequence[str],
    device: torch.device,
    left: list[LeftOut],
) -> list[Contender]:
    """The forms and backends asked for, or all; backends that are not here are left out, unless asked for."""
    wanted = [checked_form(mixer, f) for f in dict.fromkeys(forms)] or list(mixer.forms())
    named = [checked_backend(b) for b in dict.fromkeys(backends)]
    here = named or [b for b in BACKENDS if b in available() and b != "symbolic"]
    left += [LeftOut(b, missing(b) or NAMED.get(b, "needs a GPU")) for b in BACKENDS if not named and b not in here]
    if device.type != "cpu" and "native" in here:
        left.append(LeftOut("native", f"it is for processors, and the signals are on {device.type}"))
        here.remove("native")
    table = compile(mixer, backend="auto").explain(**signals).rows
    found = []
    for backend in here:
        some = [_predicted(table, form, backend) for form in wanted]
        mixed = not forms and table and not any(c.chosen for c in some)
        found += [*some, *([_predicted(table, "auto", backend)] if mixed else [])]
    return found if forms or named else [*found, _predicted(table, "auto", "auto")]


def _predicted(table: Sequence[Priced], form: str, backend: str) -> Contender:
    """A form is taken by every piece that has it; the others take what the planner chooses for them."""
    seconds = held = operations = 0.0
    chosen = form != "auto"
    for piece in dict.fromkeys(r.piece for r in table):
        rows = [r for r in table if r.piece == piece]
        compiled = backend == "native" and any(r.rises for r in rows)
        best = next(r for r in rows if (r.rises if compiled else r.chosen))
        taken = next((r for r in rows if r.form == form and r.legal), best)
        chosen &= taken is best
        times = [taken.compiled] if compiled else [taken.seconds]
        times += [r.compiled for r in rows if r.rises and backend == form == "auto"]
        seconds, held, operations = seconds + min(times), held + taken.held, operations + taken.operations
    return Contender(form, backend, operations / EXACT if backend == "symbolic" else seconds, held, chosen)


def _fitting(found: Sequence[Contender], device: torch.device, limit: float, left: list[LeftOut]) -> list[Contender]:
    """Those that should be done in time and in memory."""
    memory = profiles_of("eager", device.type)[0].memory

    def why(one: Contender) -> str:
        if one.seconds > limit:
            return f"predicted to take {one.seconds:.3g} s, longer than {limit:g} s"
        return f"predicted to hold {one.held / 1e9:.3g} GB at once" if one.held > memory else ""

    left += [LeftOut(one.name, why(one)) for one in found if why(one)]
    return [one for one in found if not why(one)]


def _sizes(mixer: Mixer, given: Mapping[str, int]) -> dict[str, int]:
    """The sizes given, typical ones beside them, and what they entail."""
    axes = union(*mixer.signals.values())
    for axis, n in given.items():
        if axis not in axes:
            raise AxisError(f"{mixer.name} has no axis {axis!r}; its axes: {one_of(axes)}")
        if type(n) is not int or n < 1:
            raise AxisError(f"{axis} = {n!r}: the size of an axis is a whole number from 1")
    wanted = {a: n for a, n in TYPICAL.items() if a in axes} | dict(given)
    sizes = samples.sizes_for(mixer, wanted[TIME], wanted)
    for axis, n in given.items():
        if sizes[axis] != n:
            raise AxisError(f"{axis} = {n} does not go with the other sizes of {mixer.name}: {sizes[axis]} does")
    return sizes


@torch.no_grad()
def _once(f: CompiledMixer, signals: Mapping[str, Any]) -> tuple[Tensor]:
    return (f(**signals),)


def _trained(f: CompiledMixer, signals: Mapping[str, Tensor]) -> Run:
    """Forward and backward from a weighted sum of the output: the output, and every gradient."""
    leaves: dict[str, Any] = {n: x.detach().clone() for n, x in signals.items()}
    inputs = [x.requires_grad_() for x in leaves.values() if x.is_floating_point() or x.is_complex()]
    weights: list[Tensor] = []

    def run() -> tuple[Tensor, ...]:
        y = f(**leaves)
        if not y.requires_grad:
            raise GradientError(f"the output of {f.mixer.name} has no gradient in any signal; time its forward pass")
        if not weights:
            g = torch.Generator().manual_seed(0)
            weights.append(torch.randn(y.shape, generator=g).to(y.device, y.dtype))
        return y.detach(), *torch.autograd.grad(y, inputs, weights[0], materialize_grads=True)

    return run


def _called(run: Run) -> None:
    run()


def _raced(runs: Mapping[str, Run]) -> tuple[Mapping[str, Timing], str]:
    """(the time of each, ""), or (none, which two differ)."""
    try:
        return race(runs, budget=BUDGET), ""
    except ResultsDiffer as error:
        return {}, str(error)


def _told(f: CompiledMixer) -> Iterator[str]:
    """What has become of the programs of "auto"."""
    return (line for made in f._programs.held() for line in told(made.run))


def _row(one: Contender, timing: Timing, best: float, tokens: int, programs: Iterator[str]) -> Row:
    s = timing.seconds
    note = "; ".join(programs)
    return Row(one.form, one.backend, s, timing.rounds, tokens / s, s / best, one.seconds, one.chosen, note)
