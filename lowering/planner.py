"""The planner: a form, and a chunk where the form has one, for every piece, by predicted time.

Each piece is lowered by itself in every candidate form, its parts standing as inputs, and priced on the device's
profile. The cheapest candidate that fits in memory is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from lowering.context import Choice, SignalType, sizes_of
from lowering.cost import Cost, cost
from lowering.fused import chained
from lowering.kinds import kinds_in
from lowering.lower import lower
from lowering.profile import Profile
from lowering.program import Program, Region, Scan, Solve
from mixer_ir.nodes.expr import TIME, Expr, Literal, Signal, call
from mixer_ir.nodes.matrix import Apply, Resets, Toeplitz
from mixer_ir.nodes.node import Node
from mixer_ir.nodes.process import Process, Read, Run
from mixer_ir.rules.legal import legal
from mixer_ir.rules.pieces import Piece, pieces

SIZED = ("chunked", "flash")
"""the forms that have a chunk: steps, or a block of keys"""
LAGS = 128
"""a filter with more lags is never applied lag by lag unless that is asked for: its program would be long"""
SHORTEST = 16
"""steps of a chunk that are worth trying, however many rows they have"""
STRETCHED = ("chunked", "scan")
"""the forms that hold as much of a sequence at once as the device likes"""


@dataclass(frozen=True)
class Candidate:
    """One way to compute a piece and what it would cost."""

    choice: Choice
    cost: Cost


@dataclass(frozen=True)
class PiecePlan:
    """A piece with, for every form, None or why it is not legal; the priced candidates; and the one chosen."""

    piece: Piece
    legal: Mapping[str, str | None]
    candidates: tuple[Candidate, ...]
    chosen: Choice

    @property
    def forms(self) -> tuple[str, ...]:
        """The names of the legal forms."""
        return tuple(f for f, reason in self.legal.items() if reason is None)


@dataclass(frozen=True)
class Plan:
    """The plans of all pieces; `choices` is what lowering takes."""

    pieces: tuple[PiecePlan, ...]

    @property
    def choices(self) -> dict[Node, Choice]:
        return {p.piece.node: p.chosen for p in self.pieces}


def plan(
    expr: Expr,
    signals: Mapping[str, SignalType],
    profile: Profile,
    *,
    form: str = "auto",
    chunk: int | None = None,
    price_all: bool = False,
    past: int | None = None,
) -> Plan:
    """A form for every piece of `expr`.

    form       taken by every piece that has it; the others, and all with "auto", take their cheapest
    chunk      the chunk of every piece whose form has one; None: the cheapest
    price_all  price every legal form, even where there is nothing to choose (for `explain`)
    past       where states are handed in: how many columns those hold that grow
    """
    return plans(expr, signals, (profile,), form=form, chunk=chunk, price_all=price_all, past=past)[0]


def plans(
    expr: Expr,
    signals: Mapping[str, SignalType],
    profiles: Sequence[Profile],
    *,
    form: str = "auto",
    chunk: int | None = None,
    price_all: bool = False,
    past: int | None = None,
) -> tuple[Plan, ...]:
    """A plan for each profile, as `plan` makes it; what several of them price is lowered once."""
    found = pieces(expr)
    kinds = kinds_in(expr, {n: s.kind for n, s in signals.items()}) if found else {}
    sizes = sizes_of(expr, signals)
    made: list[list[PiecePlan]] = [[] for _ in profiles]
    for piece in found:
        reasons = legal(piece)
        forms = [f for f, reason in reasons.items() if reason is None]
        wanted = [form] if form in forms else forms
        if not price_all and len(wanted) > 1 and _lags(piece, sizes, past) > LAGS:
            wanted = [f for f in wanted if f != "direct"]
        alone: Alone | None = None
        for profile, parts in zip(profiles, made, strict=True):
            own = [f for f in wanted if f != "scan" or profile.composed or not _composes(piece)] or wanted
            tried = _choices(forms if price_all else own, chunk, sizes[TIME], profile, _updates(piece))
            if len(tried) == 1 and not price_all:
                parts.append(PiecePlan(piece, reasons, (), tried[0]))
                continue
            alone = alone or Alone.of(piece, signals, sizes, kinds)
            priced = tuple(Candidate(c, cost(alone.program(c, past), profile)) for c in tried)
            known = alone.programs
            offered = [c for c in priced if c.choice.form in own]
            offered = [c for c in offered if _solved(known[c.choice], profile.solved)] or offered
            tiled = [c for c in offered if c.choice.form != "monarch" or _tiled(piece, known[c.choice], profile)]
            chosen = cheapest(tiled or offered, profile).choice
            parts.append(PiecePlan(piece, reasons, priced, chosen))
    return tuple(Plan(tuple(parts)) for parts in made)


def cheapest(candidates: Sequence[Candidate], profile: Profile) -> Candidate:
    """The fastest of those that fit in memory, or else the smallest."""
    fitting = [c for c in candidates if c.cost.held <= profile.memory]
    if fitting:
        return min(fitting, key=lambda c: c.cost.seconds)
    return min(candidates, key=lambda c: c.cost.held)


def _tiled(piece: Piece, program: Program, profile: Profile) -> bool:
    """Whether transforms as products are known to fit into kernels: those of signals and a given filter are.

    A process forms its filter first, by kernels that wait for each other.
    """
    return not profile.longest or (isinstance(piece.node, Apply) and bool(chained(program, profile.longest)))


def _composes(piece: Piece) -> bool:
    """Whether an associative scan of this piece multiplies matrices: its transition is not diagonal."""
    node = piece.node
    return isinstance(node, Process) and (node.transition.dense is not None or bool(node.transition.low_rank))


@lru_cache(maxsize=1 << 10)
def _solved(program: Program, kinds: frozenset[str]) -> bool:
    """Whether all triangular systems in a program, those in its loops among them, are of numbers of these kinds."""
    return all(
        v.kind in kinds if isinstance(v.op, Solve) else not isinstance(v.op, Scan | Region) or _solved(v.op.body, kinds)
        for v in program.order
    )


def _lags(piece: Piece, sizes: Mapping[str, int], past: int | None) -> int:
    """How many lags a convolution of this piece has."""
    match piece.node:
        case Apply(matrix=Toeplitz(lags=lags) | Resets(of=Toeplitz(lags=lags))) if lags != TIME:
            return sizes[lags]
    return sizes[TIME] + (past or 0)


def _updates(piece: Piece) -> int:
    """How many rows a step has in a chunk's triangular system: pairs of a low rank, together or one after the other."""
    node = piece.node
    return max(1, len(node.transition.low_rank), len(node.factors)) if isinstance(node, Process) else 1


def _choices(forms: Sequence[str], chunk: int | None, length: int, profile: Profile, updates: int) -> list[Choice]:
    """Every form with every chunk worth trying; a chunk longer than the sequence is cut to it."""
    choices: list[Choice] = []
    for form in forms:
        held = profile.kept if form == "recurrent" else profile.held if form in STRETCHED else None
        if form not in SIZED:
            choices.append(Choice(form, None, held))
            continue
        sizes = profile.keys if form == "flash" else profile.chunks
        if form == "chunked" and profile.rows is not None:
            most = max(profile.rows // updates, SHORTEST)
            sizes = tuple(dict.fromkeys(min(c, 1 << most.bit_length() - 1) for c in sizes))
        groups = profile.groups if form == "flash" else None
        chunks = [chunk] if chunk is not None else [c for c in sizes if c < length] or [length]
        filled = form == "chunked" and profile.filled
        choices.extend(Choice(form, min(c, length), held, groups, filled) for c in chunks)
    return choices


@dataclass
class Alone:
    """A piece by itself: its parts are signals."""

    expr: Expr
    node: Node
    signals: dict[str, SignalType]
    programs: dict[Choice, Program] = field(default_factory=dict)

    @classmethod
    def of(
        cls, piece: Piece, signals: Mapping[str, SignalType], sizes: Mapping[str, int], kinds: Mapping[Node, str]
    ) -> Alone:
        types = {"_sizes": SignalType(tuple(sizes), tuple(sizes.values()), "real")}  # of axes that no part may have
        names: dict[Expr, Signal] = {}

        def cut(node: Node) -> Node:
            if not isinstance(node, Expr):
                return node.with_children(cut)
            if isinstance(node, Literal):
                return node
            if node not in names:
                names[node] = Signal(name=f"_{len(names)}", axes=node.axes)
                shape = tuple(sizes[a] for a in node.axes)
                types[names[node].name] = SignalType(node.axes, shape, kinds[node])  # type: ignore[arg-type]
            return names[node]

        match piece.node:
            case Process() as process:
                own = process.with_children(cut)
                reads: list[Expr] = [replace_read(r, own, cut) for r in piece.reads]
                total = reads[0]
                for r in reads[1:]:
                    total = call("add", total, r)
                return cls(total, own, types)
            case Apply() as apply:
                cut_apply = apply.with_children(cut)
                return cls(cut_apply, cut_apply, types)
            case Run() as run:
                return cls(run, run, dict(signals))
        raise AssertionError(f"a piece is a process, an application or a run, not {type(piece.node).__name__}")

    def program(self, choice: Choice, past: int | None) -> Program:
        """The piece in one form, lowered once."""
        if choice not in self.programs:
            self.programs[choice] = self._lowered(choice, past)
        return self.programs[choice]

    def _lowered(self, choice: Choice, past: int | None) -> Program:
        made = lower(
            self.expr,
            returns=self.expr.axes,
            signals=self.signals,
            forms={self.node: choice},
            initial=past is not None,
            final=False,
            past=past or 0,
        )
        return made.program


def replace_read(read: Read, process: Process, cut: object) -> Read:
    """The same read-out of another process, its query cut."""
    return replace(read, process=process, query=cut(read.query))  # type: ignore[operator]
