"""The state of a stream between two calls: tensors by name, and how many steps they have seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from lowering.context import Lowered
from lowering.stream import StateType
from mixer_ir.driver.binding import DOUBLE, Bound, kind_of, nearest
from mixer_ir.errors import StreamError

LEAST_ROOM = 16


class StreamState(dict[str, Tensor]):
    """The tensors of a state by name, as a call returned them; a plain dictionary otherwise.

    length   steps seen so far
    columns  how many columns the growing states have room for (0: none grows)
    """

    def __init__(self, tensors: Mapping[str, Tensor], length: int = 0, columns: int = 0) -> None:
        super().__init__(tensors)
        self.length = length
        self.columns = columns

    def map(self, change: Callable[[Tensor], Tensor]) -> StreamState:
        """Every tensor changed: `state.map(torch.Tensor.detach)`, `state.map(lambda x: x.cuda())`."""
        return StreamState({n: change(x) for n, x in self.items()}, self.length, self.columns)

    def detach(self) -> StreamState:
        """The same state, cut from the graph of its gradients."""
        return self.map(torch.Tensor.detach)

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamState, (dict(self), self.length, self.columns)


def _taken_apart(state: StreamState) -> tuple[list[Tensor], tuple[tuple[str, ...], int, int]]:
    return list(state.values()), (tuple(state), state.length, state.columns)


def _put_together(tensors: Iterable[Tensor], of: tuple[tuple[str, ...], int, int]) -> StreamState:
    names, length, columns = of
    return StreamState(dict(zip(names, tensors, strict=True)), length, columns)


_pytree.register_pytree_node(  # a state goes in and out of graphs, exports and torch.func as its tensors
    StreamState, _taken_apart, _put_together, serialized_type_name="mixer_ir.StreamState"
)


def columns_of(lowered: Lowered) -> int:
    """How many columns the growing states that a program leaves have room for."""
    return max((t.shape[t.axes.index(t.grows)] for t in lowered.states.values() if t.grows is not None), default=0)


def room_for(steps: int, held: int) -> int:
    """Room for so many columns: what is held if that is enough, else the next power of two."""
    if steps <= held:
        return held
    return max(LEAST_ROOM, 1 << (steps - 1).bit_length())


def entering(mixer: str, types: Mapping[str, StateType], state: Mapping[str, Any], bound: Bound) -> dict[str, Tensor]:
    """The program's state inputs from a state that was handed in; what it leaves out starts from the beginning.

    StreamError names a state that is unknown or does not fit.
    """
    legend = ", ".join(f"{n} ({' '.join(t.axes)})" for n, t in types.items()) or "none"
    for name in state:
        if name not in types:
            raise StreamError(f"{mixer} has no state {name!r}{nearest(name, types)}; its states: {legend}")
    return {f"state:{n}": _fitting(mixer, n, t, state.get(n), bound) for n, t in types.items()}


def _fitting(mixer: str, name: str, like: StateType, given: Any, bound: Bound) -> Tensor:
    if given is None:
        dtype = {"bool": torch.bool, "int": torch.int64, "real": bound.precision}.get(like.kind)
        start = torch.full(like.shape, like.start, dtype=dtype or torch.complex128, device=bound.device)
        return bound.computed(start)
    if not isinstance(given, Tensor):
        raise StreamError(f"the state {name} of {mixer} is {type(given).__name__}, not a tensor")
    if tuple(given.shape) != like.shape:
        wanted = " ".join(like.axes)
        raise StreamError(
            f"the state {name} of {mixer} has axes ({wanted}), here of sizes {_sizes(like.shape)}, "
            f"but was given with sizes {_sizes(tuple(given.shape))}"
        )
    if given.device != bound.device:
        raise StreamError(f"the state {name} is on {given.device}, but the signals are on {bound.device}")
    kind = kind_of(given.dtype)
    if kind in ("real", "complex") and (given.dtype in DOUBLE) != (bound.precision in DOUBLE):
        raise StreamError(
            f"the state {name} is {given.dtype}, but the signals are computed in {bound.precision}; cast one of them"
        )
    if kind == "complex" and like.kind != "complex":
        raise StreamError(f"the state {name} is complex, but {mixer} has a {like.kind} one for these signals")
    if like.kind == "complex" and kind != "complex":
        return bound.computed(given.to(torch.promote_types(given.dtype, torch.complex64)))
    return bound.computed(given.to(bound.precision) if like.kind == "real" else given)


def _sizes(shape: tuple[int, ...]) -> str:
    return f"({' '.join(map(str, shape))})"
