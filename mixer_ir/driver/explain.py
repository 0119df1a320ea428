"""What a compiled mixer would do and why: structure, traits, rules that fired, and every form with its price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from math import isqrt
from textwrap import wrap
from typing import Any

from lowering.context import SignalType
from lowering.cost import Cost
from lowering.planner import Candidate, PiecePlan, plans
from mixer_ir.driver.binding import bind, check_renames, kind_of
from mixer_ir.driver.running import in_words, profiles_of
from mixer_ir.errors import AxisError, one_of
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.expr import TIME, Axes, Cumulate, Delay, Rename, Signal, Take, union
from mixer_ir.nodes.functions import Kind
from mixer_ir.nodes.matrix import Mask, Monarch, Resets
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Process, Recurrence
from mixer_ir.rules.legal import FORMS

ASSUMED = {"b": 1, "t": 1024, "h": 4}
ASSUMED_ELSE = 64
WIDTH = 120
"""of lines of text"""


@dataclass(frozen=True)
class Row:
    """One form of one piece: legal, or why not; and what it would cost with its best chunk.

    compiled   where programs may rise to compiled C: the predicted seconds there, and `rises` if it is chosen there
    """

    piece: str
    form: str
    legal: bool
    why_not: str
    chunk: int | None
    operations: float
    bytes: float
    held: float
    seconds: float
    chosen: bool
    compiled: float = 0.0
    compiled_chunk: int | None = None
    rises: bool = False


@dataclass(frozen=True)
class Explanation:
    """Printable; `rows` is the table, `chosen` the form of each piece by name, `programs` what became of those made."""

    mixer: Mixer
    sizes: Mapping[str, int]
    assumed: Axes
    device: str
    backend: str
    rows: tuple[Row, ...]
    programs: tuple[str, ...] = ()

    @property
    def chosen(self) -> dict[str, str]:
        return {r.piece: r.form for r in self.rows if r.chosen}

    @property
    def compiled(self) -> dict[str, str]:
        """The form of each piece in programs that rise to compiled C."""
        return {r.piece: r.form for r in self.rows if r.rises}

    def __str__(self) -> str:
        m = self.mixer
        sizes = ", ".join(f"{a} = {n}" for a, n in self.sizes.items())
        lines = [f"{m.name}  ({sizes}; {self.device})"]
        if self.assumed:
            lines.append(f"  sizes assumed: {one_of(self.assumed)}; give others as explain(t=…)")
        lines += wrap(f"backend {self.backend}", WIDTH, initial_indent="  ", subsequent_indent="    ")
        for program in self.programs:
            lines += wrap(program, WIDTH, initial_indent="    ", subsequent_indent="      ")
        lines += ["", "structure", *_indented(str(m)), "", "traits", *_indented(str(m.traits)), "", "rules that fired"]
        lines += _indented(_rules(m))
        for piece in dict.fromkeys(r.piece for r in self.rows):
            lines += ["", f"forms of {piece}", *_table([r for r in self.rows if r.piece == piece])]
        if not self.rows:
            lines += ["", "nothing mixes along time in a way that has forms: it is computed as it is written"]
        return "\n".join(lines)


def explain(
    mixer: Mixer,
    form: str,
    options: Mapping[str, Any],
    given: Mapping[str, Any],
    backend: str = "eager",
    programs: Sequence[str] = (),
) -> Explanation:
    """The explanation at the sizes of the signals given, or at the sizes of axes given as whole numbers.

    programs   what has become of the programs that were made so far, a line each
    """
    types, sizes, assumed, device = _typed(mixer, given)
    profiles = profiles_of(backend, device)
    made = plans(mixer.expr, types, profiles, form=form, chunk=options.get("chunk"), price_all=True)
    pairs = zip(made[0].pieces, made[-1].pieces if len(made) > 1 else repeat(None), strict=False)
    rows = tuple(row for p, other in pairs for row in _rows(p, other))
    return Explanation(mixer, sizes, assumed, profiles[0].name, in_words(backend, device), rows, tuple(programs))


def _typed(
    mixer: Mixer, given: Mapping[str, Any]
) -> tuple[dict[str, SignalType], dict[str, int], tuple[str, ...], str]:
    """(types of the signals, sizes, axes whose size was assumed, kind of device)."""
    axes = union(*mixer.signals.values())
    if any(hasattr(x, "shape") or (n in mixer.signals and n not in axes) for n, x in given.items()):
        for n in given:
            if n in axes and n not in mixer.signals:
                raise AxisError(f"explain takes signals, or sizes of axes, not both: {n} is an axis of {mixer.name}")
        bound = bind(mixer.name, mixer.signals, given)
        types = {n: SignalType(mixer.signals[n], tuple(x.shape), kind_of(x.dtype)) for n, x in bound.tensors.items()}
        return types, bound.sizes, (), bound.device.type
    for axis, n in given.items():
        if axis not in axes:
            raise AxisError(f"{mixer.name} has no axis {axis!r}; its axes: {one_of(axes)}")
        if type(n) is not int or n < 1:
            raise AxisError(f"{axis} = {n!r}: the size of an axis is a whole number from 1")
    sizes = {a: given.get(a, ASSUMED.get(a, ASSUMED_ELSE)) for a in axes}
    if "s" in sizes and "s" not in given:
        sizes["s"] = sizes.get(TIME, ASSUMED[TIME])
    _agree(mixer, sizes, given)
    check_renames(mixer.name, mixer.body, sizes)
    kinds = likely_kinds(mixer)
    types = {n: SignalType(a, tuple(sizes[x] for x in a), kinds[n]) for n, a in mixer.signals.items()}
    return types, sizes, tuple(a for a in axes if a not in given), "cpu"


def _agree(mixer: Mixer, sizes: dict[str, int], given: Mapping[str, int]) -> None:
    """Assumed sizes that follow from others: what is renamed is as long, and a Monarch matrix' grid has T places."""
    for node in walk(mixer.body):
        match node:
            case Rename(old=old, new=new) if TIME not in (old, new) and {old, new} <= sizes.keys():
                kept, other = (old, new) if old in given else (new, old)
                if other not in given:
                    sizes[other] = sizes[kept]
            case Monarch(grid=(i, l), rows=(k, j)) if not {i, j, k, l} & given.keys():
                outer = max(n for n in range(1, isqrt(sizes[TIME]) + 1) if sizes[TIME] % n == 0)
                sizes.update({i: outer, k: outer, j: sizes[TIME] // outer, l: sizes[TIME] // outer})


def likely_kinds(mixer: Mixer) -> dict[str, Kind]:
    """What each signal most likely holds: integers where it is an index, truth values where it masks or resets."""
    kinds: dict[str, Kind] = dict.fromkeys(mixer.signals, "real")
    for node in (*walk(mixer.body), *walk(mixer.expr)):
        match node:
            case Take(index=Signal(name=name)):
                kinds[name] = "int"
            case Mask(mask=Signal(name=name)) | Resets(reset=Signal(name=name)):
                kinds[name] = "bool"
            case Cumulate(reset=Signal(name=name)) | Delay(reset=Signal(name=name)):
                kinds[name] = "bool"
            case Process(reset=Signal(name=name)) | Recurrence(reset=Signal(name=name)):
                kinds[name] = "bool"
    return kinds


def _rows(p: PiecePlan, compiled: PiecePlan | None) -> list[Row]:
    rows = []
    for form in FORMS:
        reason = p.legal[form]
        best = _best([c for c in p.candidates if c.choice.form == form], p)
        other = None if compiled is None else _best([c for c in compiled.candidates if c.choice.form == form], compiled)
        cost = Cost() if best is None else best.cost
        rows.append(
            Row(
                piece=p.piece.name,
                form=form,
                legal=reason is None,
                why_not=reason or "",
                chunk=None if best is None else best.choice.chunk,
                operations=cost.operations,
                bytes=cost.bytes,
                held=cost.held,
                seconds=cost.seconds,
                chosen=p.chosen.form == form,
                compiled=0.0 if other is None else other.cost.seconds,
                compiled_chunk=None if other is None else other.choice.chunk,
                rises=compiled is not None and compiled.chosen.form == form,
            )
        )
    return rows


def _best(candidates: Sequence[Candidate], p: PiecePlan) -> Candidate | None:
    taken = [c for c in candidates if c.choice == p.chosen]
    return taken[0] if taken else min(candidates, key=lambda c: c.cost.seconds, default=None)


def _table(rows: Sequence[Row]) -> list[str]:
    both = any(r.compiled for r in rows)
    head = ("", "form", "chunk", "operations", "bytes", "memory", "time", *(["compiled"] if both else []), "")
    lines = [head]
    for r in rows:
        if r.legal:
            numbers = [_short(r.operations), _short(r.bytes, "B"), _short(r.held, "B"), _duration(r.seconds)]
            numbers += [_duration(r.compiled)] if both else []
            lines.append(("→" if r.chosen else " ", r.form, str(r.chunk or ""), *numbers, _note(r)))
        else:
            lines.append((" ", r.form, *[""] * (len(head) - 3), f"no: {r.why_not}"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    left = (0, 1)

    def laid(line: tuple[str, ...]) -> str:
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=False))]
        return "  ".join((*cells, line[-1])).rstrip()

    return [laid(line) for line in lines]


def _note(r: Row) -> str:
    if not r.rises:
        return "chosen" if r.chosen else ""
    chunk = f" with chunks of {r.compiled_chunk}" if r.compiled_chunk != r.chunk else ""
    return f"chosen{' on operators and' if r.chosen else ''} compiled{chunk}"


def _rules(mixer: Mixer) -> str:
    """The rules that fired, each once with its identity and how often."""
    counted: dict[str, int] = {}
    identities: dict[str, str] = {}
    for fired in mixer.rules:
        counted[fired.rule] = counted.get(fired.rule, 0) + 1
        identities[fired.rule] = " ".join(fired.identity.split())
    lines = [f"{rule}{f' ({n} times)' if n > 1 else ''}:  {identities[rule]}" for rule, n in counted.items()]
    return "\n".join(lines) or "none: the declaration is canonical"


def _short(x: float, unit: str = "") -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g} {prefix}{unit}"
    return f"{x:.3g} {unit}".rstrip()


def _duration(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.2g} µs"


def _indented(text: str) -> list[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]
