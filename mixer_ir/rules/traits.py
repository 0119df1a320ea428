"""What holds of a mixer whatever its signals are, inferred from its nodes: causal, time-invariant, linear-time …"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mixer_ir.nodes.expr import BATCH, SOURCE, TIME, Axes, Call, Cumulate, Expr, Literal, Reverse, Signal, Size, without
from mixer_ir.nodes.matrix import (
    Apply,
    Band,
    Circulant,
    Diagonal,
    Fourier,
    Identity,
    LowRank,
    Matrix,
    Monarch,
    Resets,
    Softmax,
    Toeplitz,
)
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Process, Read, Run
from mixer_ir.rules.canonical import gathered
from mixer_ir.rules.collected import structure_of
from mixer_ir.rules.invariance import is_time_invariant
from mixer_ir.rules.pieces import pieces
from mixer_ir.rules.reach import Reach, reach_of

LINEAR, QUASILINEAR, QUADRATIC = "T", "T log T", "T²"


@dataclass(frozen=True)
class Traits:
    """What holds of y = M v.

    causal            y at t ignores every signal after t
    strictly_causal   causal, and y at t ignores the value signal at t too
    anticausal        y at t ignores every signal before t, and looks at some after it
    bidirectional     y at t looks at both sides
    time_invariant    M[t, s] depends on t − s alone
    data_dependent    M differs with the input, not with parameters alone
    linear_time       work grows like the length (`cost`: T, T log T or T²)
    streamable        a step needs only what came before, so that it can be decoded step by step
    complex           complex numbers occur inside
    affine            every recurrence is affine in its state
    structure         what the matrix is: semiseparable, quasiseparable, Toeplitz … (None where y is no M v)
    rank              its rank or semiseparable order, in sizes of axes (None where it is full)
    state             what is kept between steps, per batch entry, in sizes of axes (None where it grows with t)
    """

    causal: bool
    strictly_causal: bool
    anticausal: bool
    bidirectional: bool
    time_invariant: bool
    data_dependent: bool
    linear_time: bool
    streamable: bool
    complex: bool
    affine: bool
    structure: str | None
    rank: str | None
    state: str | None
    cost: str

    @property
    def state_size(self) -> str | None:
        """What is kept between steps, in sizes of axes."""
        return self.state

    def to_json(self) -> dict[str, Any]:
        """The traits by name."""
        return asdict(self)

    def __str__(self) -> str:
        flags = (
            "strictly_causal",
            "causal",
            "anticausal",
            "bidirectional",
            "time_invariant",
            "data_dependent",
            "linear_time",
            "streamable",
            "complex",
        )
        words = [f.replace("_", "-") for f in flags if getattr(self, f)]
        if self.strictly_causal:
            words.remove("causal")
        if not self.affine:
            words.append("not affine in its state")
        words = [w for w in (self.structure, *words) if w]
        words += [f"rank {self.rank}"] if self.rank else []
        words += [f"state {self.state}"] if self.state else []
        return ", ".join([*words, f"cost {self.cost}"])


def traits(
    body: Expr, expr: Expr, signals: Mapping[str, Axes], value: str | None = None, matrix: Matrix | None = None
) -> Traits:
    """The traits of a mixer.

    body, expr      as it was declared, and in canonical form
    signals         name -> axes
    value, matrix   v and M where y = M v
    """
    value = value or _only_one_over_time(signals)
    everything = reach_of(expr, lambda s: True)
    of_value = Reach.ALL if value is None else reach_of(expr, lambda s: s.name == value)
    causal = Reach.FUTURE not in everything
    found = [p.node for p in pieces(expr)]
    cost = max((_cost(p) for p in found), key=(LINEAR, QUASILINEAR, QUADRATIC).index, default=LINEAR)
    return Traits(
        causal=causal,
        strictly_causal=causal and of_value == Reach.PAST,
        anticausal=Reach.PAST not in everything and Reach.FUTURE in everything,
        bidirectional=Reach.PAST in everything and Reach.FUTURE in everything,
        time_invariant=value is not None and is_time_invariant(expr, value),
        data_dependent=_data_dependent(expr, value),
        linear_time=cost == LINEAR,
        streamable=_streamable(expr),
        complex=any(_complex(n) for n in walk(body)),
        affine=not any(isinstance(p, Run) for p in found),
        structure=None if matrix is None else structure_of(gathered(matrix)),
        rank=_rank(expr),
        state=_state(expr, found),
        cost=cost,
    )


def _streamable(expr: Expr) -> bool:
    """Whether no step waits for later ones or for the length; a sequence that is mixed across from is there whole."""
    of_length = any(isinstance(n, Reverse) or n in (Size(axis=TIME), Size(axis=SOURCE)) for n in walk(expr))
    crossed = any(isinstance(n, Apply) and TIME not in n.of.axes for n in walk(expr))

    def counts(s: Signal) -> bool:
        return not crossed or TIME in s.axes

    return not of_length and Reach.FUTURE not in reach_of(expr, counts, across=False)


def _only_one_over_time(signals: Mapping[str, Axes]) -> str | None:
    """The one signal over time, which takes the value's part where y is no M v along time alone."""
    over_time = [n for n, axes in signals.items() if TIME in axes or SOURCE in axes]
    return over_time[0] if len(over_time) == 1 else None


def _cost(node: Process | Apply | Run) -> str:
    if isinstance(node, Process | Run):
        return LINEAR
    match node.matrix:
        case LowRank() | Diagonal() | Identity():
            return LINEAR
        case Toeplitz(lags=lags) | Resets(of=Toeplitz(lags=lags)):
            return QUASILINEAR if lags == TIME else LINEAR
        case Circulant() | Fourier() | Monarch():
            return QUASILINEAR
        case Band(before=int(), after=int()) | Softmax(of=Band(before=int(), after=int())):
            return LINEAR
    return QUADRATIC


def _data_dependent(expr: Expr, value: str | None) -> bool:
    """Whether a signal other than the value, of the batch or over time, shapes the matrix; filters over lags do not."""
    seen: set[Node] = set()
    found: list[Signal] = []

    def look(x: Node) -> None:
        if x in seen:
            return
        seen.add(x)
        if isinstance(x, Signal):
            found.append(x)
        if isinstance(x, Toeplitz | Circulant):
            found.extend(n for n in walk(x) if isinstance(n, Signal) and BATCH in n.axes)
            return
        for child in x.children():
            look(child)

    look(expr)
    moving = [s for s in found if BATCH in s.axes or (TIME in s.axes) != (SOURCE in s.axes)]
    names = {s.name for s in moving if s.name != value}
    return bool(names) or (value is None and bool(moving))


def _complex(n: Node) -> bool:
    match n:
        case Literal(value=complex()) | Fourier() | Call(fn="complex"):
            return True
    return False


def size(axes: tuple[str, ...]) -> str:
    """`k·v` for the axes k and v, `1` for none."""
    return "·".join(axes) if axes else "1"


def _rank(expr: Expr) -> str | None:
    ranks: list[str] = []
    for p in pieces(expr):
        match p.node:
            case Process(over=over):
                ranks.append(size(over))
            case Apply(matrix=LowRank(over=over)):
                ranks.append(size(over))
            case _:
                return None
    return " + ".join(ranks) if ranks else None


def _state(expr: Expr, found: list[Process | Apply | Run]) -> str | None:
    sizes: list[str] = []
    for node in found:
        match node:
            case Process(axes=axes):
                sizes.append(size(axes))
            case Run(recurrence=r):
                sizes += [size(s.axes) for s in r.states]
            case Apply():
                return None
    for n in walk(expr):
        if isinstance(n, Cumulate):
            sizes.append(size(without(n.axes, (BATCH, TIME))))
        elif isinstance(n, Reverse):
            return None
        elif isinstance(n, Read) and not any(n.process is f for f in found):
            raise AssertionError("a read of a process that is no piece")
    return " + ".join(sizes) if sizes else None
