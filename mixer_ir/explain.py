"""What a compiled mixer would do and why: structure, traits, rules that fired, and every form with its price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowering.context import SignalType
from lowering.planner import Candidate, PiecePlan, plan
from lowering.profile import profile_of
from mixer_ir.binding import bind, kind_of
from mixer_ir.errors import AxisError, one_of
from mixer_ir.expr import TIME, Axes, Cumulate, Delay, Signal, Take, union
from mixer_ir.functions import Kind
from mixer_ir.legal import FORMS
from mixer_ir.matrix import Mask, Resets
from mixer_ir.mixer import Mixer
from mixer_ir.node import walk
from mixer_ir.process import Process, Recurrence

ASSUMED = {"b": 1, "t": 1024, "h": 4}
ASSUMED_ELSE = 64


@dataclass(frozen=True)
class Row:
    """One form of one piece: legal, or why not; and what it would cost with its best chunk."""

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


@dataclass(frozen=True)
class Explanation:
    """Printable; `rows` is the table, `chosen` the form of each piece by name."""

    mixer: Mixer
    sizes: Mapping[str, int]
    assumed: Axes
    device: str
    backend: str
    rows: tuple[Row, ...]

    @property
    def chosen(self) -> dict[str, str]:
        return {r.piece: r.form for r in self.rows if r.chosen}

    def __str__(self) -> str:
        m = self.mixer
        sizes = ", ".join(f"{a} = {n}" for a, n in self.sizes.items())
        lines = [f"{m.name}  ({sizes}; {self.device})"]
        if self.assumed:
            lines.append(f"  sizes assumed: {one_of(self.assumed)}; give others as explain(t=…)")
        lines.append(f"  backend {self.backend}")
        lines += ["", "structure", *_indented(str(m)), "", "traits", *_indented(str(m.traits)), "", "rules that fired"]
        lines += _indented(_rules(m))
        for piece in dict.fromkeys(r.piece for r in self.rows):
            lines += ["", f"forms of {piece}", *_table([r for r in self.rows if r.piece == piece])]
        if not self.rows:
            lines += ["", "nothing mixes along time in a way that has forms: it is computed as it is written"]
        return "\n".join(lines)


def explain(
    mixer: Mixer, form: str, options: Mapping[str, Any], given: Mapping[str, Any], backend: str = "eager"
) -> Explanation:
    """The explanation at the sizes of the signals given, or at the sizes of axes given as whole numbers."""
    types, sizes, assumed, device = _typed(mixer, given)
    profile = profile_of(device)
    chosen = plan(mixer.expr, types, profile, form=form, chunk=options.get("chunk"), price_all=True)
    rows = tuple(row for p in chosen.pieces for row in _rows(p))
    return Explanation(mixer, sizes, assumed, profile.name, backend, rows)


def _typed(
    mixer: Mixer, given: Mapping[str, Any]
) -> tuple[dict[str, SignalType], dict[str, int], tuple[str, ...], str]:
    """(types of the signals, sizes, axes whose size was assumed, kind of device)."""
    if given and not all(type(n) is int for n in given.values()):
        bound = bind(mixer.name, mixer.signals, given)
        types = {n: SignalType(mixer.signals[n], tuple(x.shape), kind_of(x.dtype)) for n, x in bound.tensors.items()}
        return types, bound.sizes, (), bound.device.type
    axes = union(*mixer.signals.values())
    for axis, n in given.items():
        if axis not in axes:
            raise AxisError(f"{mixer.name} has no axis {axis!r}; its axes: {one_of(axes)}")
        if n < 1:
            raise AxisError(f"{axis} = {n}: an axis has at least one entry")
    sizes = {a: given.get(a, ASSUMED.get(a, ASSUMED_ELSE)) for a in axes}
    if "s" in sizes and "s" not in given:
        sizes["s"] = sizes.get(TIME, ASSUMED[TIME])
    kinds = likely_kinds(mixer)
    types = {n: SignalType(a, tuple(sizes[x] for x in a), kinds[n]) for n, a in mixer.signals.items()}
    return types, sizes, tuple(a for a in axes if a not in given), "cpu"


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


def _rows(p: PiecePlan) -> list[Row]:
    rows = []
    for form in FORMS:
        reason = p.legal[form]
        best = _best([c for c in p.candidates if c.choice.form == form], p)
        cost = None if best is None else best.cost
        rows.append(
            Row(
                piece=p.piece.name,
                form=form,
                legal=reason is None,
                why_not=reason or "",
                chunk=None if best is None else best.choice.chunk,
                operations=0.0 if cost is None else cost.operations,
                bytes=0.0 if cost is None else cost.bytes,
                held=0.0 if cost is None else cost.held,
                seconds=0.0 if cost is None else cost.seconds,
                chosen=p.chosen.form == form,
            )
        )
    return rows


def _best(candidates: Sequence[Candidate], p: PiecePlan) -> Candidate | None:
    taken = [c for c in candidates if c.choice == p.chosen]
    return taken[0] if taken else min(candidates, key=lambda c: c.cost.seconds, default=None)


def _table(rows: Sequence[Row]) -> list[str]:
    head = ("", "form", "chunk", "operations", "bytes", "memory", "time", "")
    lines = [head]
    for r in rows:
        mark = "→" if r.chosen else " "
        if r.legal:
            numbers = (_short(r.operations), _short(r.bytes, "B"), _short(r.held, "B"), _duration(r.seconds))
            lines.append((mark, r.form, str(r.chunk or ""), *numbers, "chosen" if r.chosen else ""))
        else:
            lines.append((mark, r.form, "", "", "", "", "", f"no: {r.why_not}"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    left = (0, 1)

    def laid(line: tuple[str, ...]) -> str:
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=False))]
        return "  ".join((*cells, line[-1])).rstrip()

    return [laid(line) for line in lines]


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
