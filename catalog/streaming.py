"""The base of all layers: mixers run over a whole sequence, as a prefill, or one step at a time, from one description.

A layer says once, in `mix`, what it computes from its input; `run(mixer, **signals)` stands in it for a mixer applied
along time. Whether that means the whole sequence, a prefill that keeps the state, or the derived decoding step is
decided by who calls: `forward`, `prefill` or `step`.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABCMeta, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

import mixer_ir as mx
from catalog.linear import Linear
from mixer_ir.driver.binding import nearest


@functools.cache
def compiled(mixer: mx.Mixer, backend: str = "auto") -> mx.CompiledMixer:
    """One compiled mixer for all layers that use it, so that they share programs."""
    return mx.compile(mixer, backend=backend)


@dataclass(frozen=True)
class LayerState:
    """What a layer remembers between steps: how many tokens it has seen, and the state of each of its mixers."""

    position: int
    mixers: dict[str, Any]


@dataclass
class Run:
    """One pass through a layer.

    phase      whole: no state is kept; prefill: states are kept; step: one token, from the states in `before`
    position   tokens seen before this pass
    reset      (b t): where a packed piece begins, or None
    backend    what the mixers run on
    """

    phase: Literal["whole", "prefill", "step"]
    position: int = 0
    reset: Tensor | None = None
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    backend: str = "auto"

    def __call__(self, mixer: mx.Mixer, /, *, at: str | None = None, **signals: Any) -> Tensor:
        """The mixer along time; `at` names its state where a layer uses one mixer twice."""
        f, place = compiled(mixer, self.backend), at or mixer.name
        if self.reset is not None:
            signals["reset"] = self.reset
        if self.phase == "whole":
            y: Tensor = f(**signals)
        else:
            y, self.after[place] = f(**signals, initial_state=self.before.get(place), return_state=True)
        return y

    def state(self, length: int) -> LayerState:
        return LayerState(position=self.position + length, mixers=self.after)


class Optioned(ABCMeta):
    """Classes that say which of the options given to them they do not know, or lack."""

    @property
    def __signature__(cls) -> inspect.Signature:  # as `inspect` and `help` look for it
        whole = inspect.signature(cls.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])

    def __call__(cls, *values: Any, **options: Any) -> Any:
        try:
            cls.__signature__.bind(*values, **options)
        except TypeError as wrong:
            names = list(cls.__signature__.parameters)
            unknown = [f"'{n}'{nearest(n, names)}" for n in options if n not in names]
            said = f"has no option {unknown[0]}" if unknown else f"is not made so: {wrong}"
            raise mx.OptionError(f"{cls.__name__} {said}; options: {', '.join(names)}") from None
        return super().__call__(*values, **options)


class MixerLayer(nn.Module, metaclass=Optioned):
    """A layer on x [batch, time, d_model]; its mixers run on `backend`, which may be set at any time."""

    _backend: str = "auto"

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    @property
    def backend(self) -> str:
        """What its mixers run on, the linear maps among them."""
        return self._backend

    @backend.setter
    def backend(self, name: str) -> None:
        self._backend = name
        for part in self.modules():
            if isinstance(part, Linear):
                part.backend = name

    @abstractmethod
    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        """The layer's output for x [batch, time, d_model], with mixers applied by `run`."""

    def forward(self, x: Tensor, *, reset: Tensor | None = None, **also: Tensor) -> Tensor:
        """y [batch, time, d_model]; `reset` [batch, time] is true where a packed piece begins."""
        return self._mixed(x, Run("whole", reset=reset, backend=self.backend), also)

    def prefill(self, x: Tensor, *, reset: Tensor | None = None, **also: Tensor) -> tuple[Tensor, LayerState]:
        """y [batch, time, d_model] and the state from which `step` goes on."""
        run = Run("prefill", reset=reset, backend=self.backend)
        y = self._mixed(x, run, also)
        return y, run.state(x.shape[1])

    def step(
        self, state: LayerState | None, x: Tensor, *, reset: Tensor | None = None, **also: Tensor
    ) -> tuple[Tensor, LayerState]:
        """y [batch, d_model] for one token x [batch, d_model], and the new state; state None: the first token."""
        before = state or LayerState(position=0, mixers={})
        if not isinstance(before, LayerState):
            raise mx.StreamError(
                f"step of {type(self).__name__} takes the state that prefill or a step returned, "
                f"or None at the start, not {type(state).__name__}"
            )
        now = None if reset is None else reset[:, None]
        run = Run("step", position=before.position, reset=now, before=before.mixers, backend=self.backend)
        y = self._mixed(x.unsqueeze(-2), run, {name: value.unsqueeze(-2) for name, value in also.items()})
        return y[:, 0], run.state(1)

    def _mixed(self, x: Tensor, run: Run, also: dict[str, Tensor]) -> Tensor:
        if x.dim() != 3 or x.shape[-1] != self.d_model:
            wanted = "[batch, d_model]" if run.phase == "step" else "[batch, time, d_model]"
            given = list(x.squeeze(-2).shape if run.phase == "step" else x.shape)
            raise mx.AxisError(
                f"{type(self).__name__} takes x as {wanted} with d_model = {self.d_model}, but x has the shape {given}"
            )
        return self.mix(x, run, **also)
