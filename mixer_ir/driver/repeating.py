"""Calls like one before: on tensors of the same shapes and dtypes nothing is checked, bound or chosen again.

What is known of a call is kept by what it hangs on but the values. It serves once the program is a library that takes
memory (compiled C); a call that autograd, a transform or a mode looks at is made the whole way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from backends.autograd import Differentiable
from backends.results import STATE
from lowering.context import Lowered
from mixer_ir.driver.binding import Bound
from mixer_ir.driver.streaming import StreamState, columns_of

Straight: TypeAlias = Callable[[Sequence[Tensor]], list[Tensor]]
PLAIN = frozenset((Tensor, Parameter))
MOST = 512
"""calls that are known of one compiled mixer, at most"""


def watched(tensors: Iterable[Any]) -> bool:
    """Whether something else looks at what is done with these: a mode, a transform, or a type of their own."""
    if (
        torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.are_deterministic_algorithms_enabled()
    ):
        return True
    return not PLAIN.issuperset(map(type, tensors))


def key_of(signals: Mapping[str, Any], state: Mapping[str, Any] | None, leave: bool) -> Hashable | None:
    """What a call hangs on but the values of its tensors; None for one that has to be made the whole way."""
    if (state is not None and type(state) is not StreamState) or watched(signals.values()):
        return None
    facts: list[Any] = [leave]
    for name, x in signals.items():
        facts += (name, x.dtype, x.shape, x.device)
    if type(state) is StreamState:
        if watched(state.values()):
            return None
        facts.append(state.columns)
        for name, x in state.items():
            facts += (name, x.dtype, x.shape, x.device)
    return tuple(facts)


class Repeat:
    """A call as it was made: the program, and what became of its inputs and results.

    run    the program as it ran      inputs   the dtypes that it took
    steps  how many it took           y        the dtype of its result
    """

    def __init__(
        self, run: Differentiable, lowered: Lowered, bound: Bound, inputs: Sequence[Tensor], steps: int, leave: bool
    ) -> None:
        program = run.program
        self.run, self._steps, self._leave = run, steps, leave
        self._dtypes = tuple(x.dtype for x in inputs)
        self._inputs = [(n.startswith(STATE), n.removeprefix(STATE)) for n in program.input_names]
        self._y = program.names.index("y")
        self._states = [(n, program.names.index(f"{STATE}{n}")) for n in lowered.states] if leave else []
        self._columns = columns_of(lowered) if leave else 0
        self._made = run.dtypes(inputs)
        self._made[self._y] = bound.returned(torch.empty((), dtype=self._made[self._y])).dtype
        self._straight: Straight | None = None

    def again(self, signals: Mapping[str, Tensor], state: StreamState | None) -> Any:
        """The results of the call on these tensors; None where it has to be made the whole way."""
        straight = self._straight
        if straight is None:
            straight = self._straight = self.run.straight(self._dtypes)
            if straight is None:
                return None
        used = 0 if state is None else state.length
        if self._columns and state is not None and used + self._steps > state.columns:
            return None
        inputs = [state[n] if carried else signals[n] for carried, n in self._inputs]  # type: ignore[index]
        if torch.is_grad_enabled():
            for x in inputs:
                if x.requires_grad:
                    return None
        made = straight(inputs)
        for i, dtype in enumerate(self._made):
            if made[i].dtype is not dtype:
                made[i] = made[i].to(dtype)
        if not self._leave:
            return made[self._y]
        return made[self._y], StreamState({n: made[i] for n, i in self._states}, used + self._steps, self._columns)


class Repeats:
    """The calls that are known of a compiled mixer; when there are too many, it starts anew."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Repeat] = {}

    def get(self, key: Hashable) -> Repeat | None:
        return self._known.get(key)

    def keep(self, key: Hashable, call: Repeat) -> None:
        if len(self._known) >= MOST:
            self._known = {}
        self._known[key] = call
