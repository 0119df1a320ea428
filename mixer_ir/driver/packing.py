"""Packed sequences: pieces of any lengths, end to end along t in one row, told apart by where they end.

`cu_seqlens` holds the cumulated lengths: 0, then where each piece ends; piece i is steps cu[i] … cu[i + 1] − 1. It
becomes the signal `reset` on its device. States are one for each piece, along b: then pieces of one length run
together as a batch, which takes the lengths to the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from lowering.stream import StateType
from mixer_ir.driver.binding import Bound, bind, visible
from mixer_ir.driver.streaming import StreamState, entering
from mixer_ir.errors import AxisError, SignalError, StreamError
from mixer_ir.language.mixer import RESET, Mixer
from mixer_ir.nodes.expr import BATCH, TIME, Axes


class Compiled(Protocol):
    """What runs a mixer: a CompiledMixer."""

    mixer: Mixer

    def __call__(self, **signals: Any) -> Any: ...

    def states(self, bound: Bound) -> Mapping[str, StateType]:
        """The states that a call takes."""
        ...


def packed(
    f: Compiled,
    cu_seqlens: object,
    signals: Mapping[str, Any],
    initial_state: Mapping[str, Tensor] | None = None,
    return_state: bool = False,
) -> Any:
    """The mixer's output on every piece, end to end; with `return_state`, (output, states after the pieces)."""
    name, declared = f.mixer.name, {n: a for n, a in f.mixer.signals.items() if n != RESET}
    if RESET in signals:
        raise SignalError(f"{name} is given reset and cu_seqlens: both say where pieces begin; give one of them")
    bound = bind(name, declared, signals)
    cu = checked(name, cu_seqlens, bound)
    if initial_state is None and not return_state:
        return f(**signals, reset=begins(cu, f.mixer.with_reset().signals[RESET], bound))
    f.mixer.with_reset()  # a mixer that has no meaning for pieces says so
    if RESET in f.mixer.signals:  # by themselves, pieces have no borders inside
        none = torch.zeros_like(begins(cu, f.mixer.signals[RESET], bound))
        bound = bind(name, f.mixer.signals, {**signals, RESET: none})
    return Pieces(f, cu, bound).run(initial_state, return_state)


def checked(name: str, given: object, bound: Bound) -> Tensor:
    """cu_seqlens on the signals' device. SignalError or AxisError says what does not fit.

    Its numbers are looked at where they lie: on a GPU a wrong one stops the device, without a wait here.
    """
    if not isinstance(given, Tensor) or given.dim() != 1 or given.dtype not in (torch.int32, torch.int64):
        found = f"{given.dtype} of {given.dim()} dimensions" if isinstance(given, Tensor) else type(given).__name__
        raise SignalError(
            f"cu_seqlens is {found}; it is a tensor of one dimension, int32 or int64: 0, then ends of pieces"
        )
    if len(given) < 2:
        raise SignalError("cu_seqlens names no piece: it holds 0, then where each piece ends")
    if bound.sizes.get(BATCH, 1) != 1:
        raise AxisError(
            f"{name} is given cu_seqlens and b = {bound.sizes[BATCH]}: pieces lie end to end along t, in one row (b=1)"
        )
    length, steps = bound.sizes[TIME], given.diff()
    if visible([given]) and given.device.type == "cpu":
        if given[0] != 0 or given[-1] != length or bool((steps < 0).any()):
            raise SignalError(
                f"cu_seqlens is {_shown(given)}: it must start at 0, never fall, and end at the length of the "
                f"sequence, t = {length}"
            )
    else:
        fine = (given[0] == 0) & (given[-1] == length) & (steps >= 0).all()
        torch._assert_async(fine, "cu_seqlens must start at 0, never fall, and end at the length of the sequence")
    return given.to(bound.device)


def _shown(x: Tensor, most: int = 8) -> str:
    numbers = [str(int(n)) for n in x[:most]]
    return f"[{', '.join(numbers)}{', …' if len(x) > most else ''}]"


def begins(cu: Tensor, axes: Axes, bound: Bound) -> Tensor:
    """The signal `reset`: true where a piece begins. An empty piece begins where the next one does."""
    length = bound.sizes[TIME]
    marks = torch.zeros(length + 1, dtype=torch.bool, device=bound.device)
    marks = marks.index_fill(0, cu[:-1].long(), True)[:length]
    return marks.unsqueeze(axes.index(BATCH)) if BATCH in axes else marks


class Pieces:
    """The pieces of one call, those of one length as a batch."""

    def __init__(self, f: Compiled, cu: Tensor, bound: Bound) -> None:
        if not visible([cu]):
            raise StreamError(
                "states of packed pieces hang on their lengths, which a graph does not know: leave them out"
            )
        self.f, self.bound, self.declared = f, bound, f.mixer.signals
        self.spans = list(pairwise(cu.tolist()))
        self.types = f.states(bound)
        self._check_states()
        alone = any(TIME in a and BATCH not in a for a in self.declared.values())
        self.groups: dict[tuple[int, int], list[int]] = {}
        for i, (start, end) in enumerate(self.spans):
            if end > start:
                self.groups.setdefault((end - start, i if alone else 0), []).append(i)

    def _check_states(self) -> None:
        name, lengths = self.f.mixer.name, {end - start for start, end in self.spans}
        way = "call each piece by itself, or leave the states out"
        if grown := [n for n, t in self.types.items() if t.grows is not None]:
            raise StreamError(
                f"the state {grown[0]} of {name} grows with the sequence, so that the states of pieces differ in size: "
                f"{way}"
            )
        for n, t in self.types.items():
            if BATCH not in t.axes and len(self.spans) > 1 and not (t.kind == "int" and len(lengths) == 1):
                raise StreamError(f"the state {n} of {name} has no axis b, along which the pieces' states lie: {way}")

    def run(self, initial: Mapping[str, Tensor] | None, leave: bool) -> Any:
        """(output, states) or the output."""
        before = self._entering(initial)
        outputs: dict[int, Tensor] = {}
        after: dict[int, Mapping[str, Tensor]] = {i: self._part(before, [i]) for i in range(len(self.spans))}
        b, t = (self.f.mixer.returns.index(a) if a in self.f.mixer.returns else None for a in (BATCH, TIME))
        assert t is not None
        for members in self.groups.values():
            given = {n: self._signal(n, x, members) for n, x in self.bound.tensors.items()}
            state = None if initial is None else StreamState(self._part(before, members), _length(initial))
            made = self.f(**given, initial_state=state, return_state=leave)
            y, left = made if leave else (made, {})
            for j, i in enumerate(members):
                outputs[i] = y if b is None else y.narrow(b, j, 1)
                after[i] = {
                    n: x.narrow(_batch(self.types[n]), j, 1) if _batched(self.types[n]) else x for n, x in left.items()
                }
        y = torch.cat([outputs[i] for i in sorted(outputs)], dim=t)
        if not leave:
            return y
        joined = {n: self._joined(n, [after[i][n] for i in range(len(self.spans))]) for n in self.types}
        longest = max(end - start for start, end in self.spans)
        return y, StreamState(joined, _length(initial) + longest)

    def _entering(self, initial: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The states before the pieces, whole."""
        count = len(self.spans)
        types = {n: _of(t, count) for n, t in self.types.items()}
        found = entering(self.f.mixer.name, types, initial or {}, self.bound)
        return {n: found[f"state:{n}"] for n in types}

    def _part(self, states: Mapping[str, Tensor], members: Sequence[int]) -> dict[str, Tensor]:
        """The states of some pieces."""
        return {
            n: torch.cat([x.narrow(_batch(self.types[n]), i, 1) for i in members], dim=_batch(self.types[n]))
            if _batched(self.types[n])
            else x
            for n, x in states.items()
        }

    def _joined(self, name: str, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=_batch(self.types[name])) if _batched(self.types[name]) else parts[-1]

    def _signal(self, name: str, x: Tensor, members: Sequence[int]) -> Tensor:
        """A signal for some pieces: along t their steps, along b one after the other."""
        axes = self.declared[name]
        if TIME not in axes:
            sizes = [len(members) if a == BATCH else n for a, n in zip(axes, x.shape, strict=True)]
            return x.expand(sizes)
        t = axes.index(TIME)
        parts = [x.narrow(t, self.spans[i][0], self.spans[i][1] - self.spans[i][0]) for i in members]
        return torch.cat(parts, dim=axes.index(BATCH)) if len(parts) > 1 else parts[0]


def _batched(of: StateType) -> bool:
    return BATCH in of.axes


def _batch(of: StateType) -> int:
    return of.axes.index(BATCH)


def _of(t: StateType, count: int) -> StateType:
    shape = tuple(count if a == BATCH else n for a, n in zip(t.axes, t.shape, strict=True))
    return StateType(t.axes, shape, t.kind, t.start, t.grows)


def _length(state: Mapping[str, Tensor] | None) -> int:
    return state.length if isinstance(state, StreamState) else 0
