"""Random signals that suit a mixer: what a signal may be is read off from how the declaration uses it.

Integers where a signal picks a row, truth values where it resets or masks, positive numbers under a logarithm. What
makes a state grow is found by trial: a log-decay is made ≤ 0 and a transition no longer than 1 by drawing the signals
that they are made of from the mildest laws that keep them so.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from mixer_ir.definition.named import apply, contract
from mixer_ir.definition.oracle import Oracle, oracle_on
from mixer_ir.definition.tensors import Tensors
from mixer_ir.driver.indices import rows_needed
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes import expr as e
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Expr
from mixer_ir.nodes.matrix import Apply
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Transition

Law: TypeAlias = Callable[[tuple[int, ...], torch.Generator], Tensor]
SIZES = {"b": 2, "h": 2, "k": 3, "v": 2, "n": 3, "d": 2, "c": 5, "m": 3}
TRIALS = 250


def _normal(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64)


def _between(low: float, high: float) -> Law:
    return lambda shape, g: low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)


def _decaying(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Negative, from −0.001 to −5: weak and strong at once."""
    return -torch.exp(_between(-7.0, 1.6)(shape, g))


def _direction(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    x = _normal(shape, g)
    return x / x.norm(dim=-1, keepdim=True) if shape else x


def _contraction(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Small enough that a matrix of such entries is no longer than 1."""
    return _between(-1.0, 1.0)(shape, g) / max(1, *shape[-1:])


def _booleans(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=g) < 0.2


def _below(size: int) -> Law:
    return lambda shape, g: torch.randint(0, size, shape, generator=g)


NORMAL: Law = _normal
POSITIVE, UNIT = _between(0.5, 1.5), _between(0.05, 0.95)
LOGS: tuple[Law, ...] = (_decaying, POSITIVE, NORMAL)
SCALARS: tuple[Law, ...] = (UNIT, NORMAL, _decaying, _between(-0.9, 0.9))
VECTORS: tuple[Law, ...] = (_direction, UNIT, _contraction, NORMAL)


def sizes_for(mixer: Mixer, length: int, given: Mapping[str, int] | None = None) -> dict[str, int]:
    """A size for every axis of the mixer's signals, small, with those that must agree agreeing."""
    axes = e.union(*mixer.signals.values())
    sizes = {a: SIZES.get(a, 2) for a in axes} | {TIME: length}
    if SOURCE in axes:
        cross = any(isinstance(n, Apply) and TIME not in n.of.axes for n in walk(mixer.body))
        sizes[SOURCE] = length + 1 if cross else length
    sizes |= dict(given or {}) | {TIME: length}
    for n in walk(mixer.body):
        match n:
            case Transition(row=str(row), along=str(along)):
                sizes[row] = sizes[along] = sizes.get(along, 3)
            case m.Monarch(grid=(i, l), rows=(k, j)):
                outer = max(d for d in range(1, length + 1) if length % d == 0 and d * d <= length)
                sizes |= {i: outer, k: outer, j: length // outer, l: length // outer}
            case e.Rename(old=old, new=new) if old in sizes and new in sizes and TIME not in (old, new):
                sizes[old] = sizes[new]
            case e.Take(axis=axis, index=index) if axis in sizes and not isinstance(index, e.Signal):
                sizes[axis] = max(sizes[axis], rows_needed(index, sizes) or 1)
    for n in walk(mixer.body):
        if isinstance(n, e.Rename) and n.new not in sizes:  # an axis that no signal has, as of a k ⊗ k
            sizes[n.new] = sizes[n.old]
    return sizes


def draw(
    mixer: Mixer, sizes: Mapping[str, int], seed: int = 0, given: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """A float64 (or integer, or boolean) tensor for every signal of the mixer, in the axis order of its annotation.

    The same seed gives the same laws and numbers; `given` signals are kept as they are.
    """
    laws = laws_of(mixer, sizes)
    made = dict(given or {})
    for name, axes in mixer.signals.items():
        if name not in made:
            made[name] = _draw(laws[name], name, axes, sizes, seed)
    return made


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in `dtype` if it is real, in the complex dtype that goes with it if complex."""
    if x.is_complex():
        return x.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return x.to(dtype) if x.is_floating_point() else x


def discrete(mixer: Mixer, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Tensors for those signals alone that are whole numbers or truth values."""
    drawn = {n: _draw(law, n, mixer.signals[n], sizes, seed) for n, law in _fixed(mixer.body, sizes)}
    return {n: x for n, x in drawn.items() if not x.is_floating_point()}


def _draw(law: Law, name: str, axes: Axes, sizes: Mapping[str, int], seed: int) -> Tensor:
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()) + 7919 * seed)
    return law(tuple(sizes[a] for a in axes), g)


# ---------------------------------------------------------------------------------- laws


def laws_of(mixer: Mixer, sizes: Mapping[str, int]) -> dict[str, Law]:
    """How to draw each signal."""
    laws: dict[str, Law] = dict.fromkeys(mixer.signals, NORMAL)
    fixed = dict(_fixed(mixer.body, sizes))
    laws |= fixed
    few = {**sizes, TIME: min(sizes[TIME], 3)}
    if SOURCE in few:
        few[SOURCE] = min(few[SOURCE], few[TIME])
    for expected, candidates in _constraints(mixer):
        free = {n: c for n, c in candidates.items() if n in laws and n not in fixed}
        if free:
            chosen = _tried(mixer, few, laws, free, expected)
            laws |= chosen
            fixed |= chosen
    return laws


def _fixed(body: Expr, sizes: Mapping[str, int]) -> Iterator[tuple[str, Law]]:
    """Signals whose nature their use gives away."""
    for n in walk(body):
        match n:
            case e.Take(axis=axis, table=table, index=e.Signal(name=name)):
                yield name, _below(_size(table, axis, sizes))
            case e.Call(fn="eq" | "ne", args=(e.Index(axis=axis), e.Signal(name=name))):
                yield name, _below(sizes.get(axis, 2))
            case e.Call(fn="eq" | "ne", args=(e.Signal(name=name), e.Index(axis=axis))):
                yield name, _below(sizes.get(axis, 2))
            case e.Call(fn="where", args=(e.Signal(name=name), _, _)):
                yield name, _booleans
            case e.Call(fn="and" | "or" | "not", args=args):
                yield from ((x.name, _booleans) for x in args if isinstance(x, e.Signal))
            case e.Call(fn="log" | "sqrt", args=(e.Signal(name=name),)):
                yield name, POSITIVE
            case e.Call(fn="div", args=(_, e.Signal(name=name))):
                yield name, POSITIVE
            case e.Call(fn="pow", args=(e.Signal(name=name), e.Literal(value=v))) if v != int(abs(v)):
                yield name, POSITIVE
            case m.Mask(mask=e.Signal(name=name)):
                yield name, _mostly
            case m.Vandermonde(x=e.Signal(name=name)):
                yield name, _between(-0.95, 0.95)
            case m.Cauchy(x=e.Signal(name=x), y=e.Signal(name=y)):
                yield x, _between(1.0, 2.0)
                yield y, _between(-2.0, -1.0)
        reset = getattr(n, "reset", None)
        if isinstance(reset, e.Signal):
            yield reset.name, _booleans


def _mostly(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Truth values, mostly true."""
    return torch.rand(shape, generator=g) < 0.8


def _size(x: Expr, axis: str, sizes: Mapping[str, int]) -> int:
    """The size of an axis of a table, through renamings."""
    while isinstance(x, e.Rename):
        axis = x.old if x.new == axis else axis
        x = x.of
    return sizes.get(axis, 2)


Excess: TypeAlias = Callable[[Oracle], float]


def _constraints(mixer: Mixer) -> Iterator[tuple[Excess, dict[str, tuple[Law, ...]]]]:
    """What must not exceed zero, and laws to try for the signals that it depends on, mildest first."""
    seen: set[Node] = set()
    for n in itertools.chain(walk(mixer.expr), walk(mixer.body)):
        if n in seen:
            continue
        seen.add(n)
        match n:
            case Transition(log=log) if log is not None and not n.low_rank:
                yield _largest(log), dict.fromkeys(_signals(log), LOGS)
            case Transition():
                yield _stretch(n), {x: SCALARS if _scalar(mixer, x, n) else VECTORS for x in _signals(n)}
            case m.Decay(log=log) if log is not None:
                yield _largest(log), dict.fromkeys(_signals(log), LOGS)
            case m.Decay(factor=factor) if factor is not None:
                yield _longest(factor), dict.fromkeys(_signals(factor), SCALARS)
            case m.Normalize(floor=None):
                yield _cancellation(n), dict.fromkeys(_signals(n), (NORMAL, POSITIVE))


def _scalar(mixer: Mixer, name: str, A: Transition) -> bool:
    return A.along not in mixer.signals.get(name, ())


def _signals(n: Node) -> list[str]:
    return list(dict.fromkeys(x.name for x in walk(n) if isinstance(x, e.Signal)))


def _tried(
    mixer: Mixer, sizes: Mapping[str, int], laws: Mapping[str, Law], free: Mapping[str, tuple[Law, ...]], excess: Excess
) -> dict[str, Law]:
    """The first combination of laws with no excess, else the one with the least."""
    best, least = dict.fromkeys(free, NORMAL), float("inf")
    for combination in itertools.islice(itertools.product(*free.values()), TRIALS):
        chosen = dict(zip(free, combination, strict=True))
        found = _excess(mixer, sizes, {**laws, **chosen}, excess, 1)
        if found <= 1e-9:
            found = _excess(mixer, sizes, {**laws, **chosen}, excess, 2)
        if found < least:
            best, least = chosen, found
        if least <= 1e-9:
            break
    return best


def _excess(mixer: Mixer, sizes: Mapping[str, int], laws: Mapping[str, Law], excess: Excess, seed: int) -> float:
    signals = {n: _draw(laws[n], n, axes, sizes, seed) for n, axes in mixer.signals.items()}
    with torch.no_grad():
        found = excess(oracle_on(signals, mixer.signals))
    return float("inf") if math.isnan(found) else found


def _largest(x: Expr) -> Excess:
    return lambda oracle: float(oracle.value(x).data.real.max())


def _longest(x: Expr) -> Excess:
    return lambda oracle: float(oracle.value(x).data.abs().max()) - 1.0


def _stretch(A: Transition) -> Excess:
    """How much longer than 1 a transition is at its longest, as a matrix on the state."""

    def excess(oracle: Oracle) -> float:
        if A.dense is not None and A.row and A.along:
            D = oracle.value(A.dense)
            rest = e.without(D.axes, (A.row, A.along))
            return float(torch.linalg.matrix_norm(D.aligned((*rest, A.row, A.along)), 2).max()) - 1.0
        axis = A.along
        if axis is None or not any(axis in x.axes for x in A.exprs):
            given = A.factor if A.factor is not None else A.log
            return _longest(given)(oracle) if given is not None else 0.0
        n = next(oracle.value(x).sizes[axis] for x in A.exprs if axis in x.axes)
        eye = Tensors((axis, "_"), torch.eye(n, dtype=torch.float64))
        ends = []
        for t in range(oracle.sizes[TIME]):
            S = oracle.step(A, eye, t)
            rest = e.without(S.axes, (axis, "_"))
            ends.append(float(torch.linalg.matrix_norm(S.aligned((*rest, axis, "_")), 2).max()))
        return max(ends) - 1.0 - 1e-6

    return excess


def _cancellation(M: m.Normalize) -> Excess:
    """How far the row sums fall below a tenth of the sums of absolute values."""

    def excess(oracle: Oracle) -> float:
        x = oracle.entries(M.of)
        ones = Tensors((SOURCE,), torch.ones(x.sizes.get(SOURCE, 1), dtype=torch.float64))
        signed, whole = contract(x, ones, (SOURCE,)), contract(apply("abs", x), ones, (SOURCE,))
        ratio = signed.data.abs() / whole.aligned(signed.axes).clamp(min=1e-300)
        return 0.1 - float(torch.where(whole.aligned(signed.axes) > 0, ratio, torch.ones_like(ratio)).min())

    return excess
