"""What a mixer must give on one random input: values and gradients by definition, and how far off is still right.

The tolerance follows from the dtype and from the input: a relative part, and a part for ill-conditioned inputs, which
is measured: how much the definition itself moves when every signal moves by one rounding, and, where that does not
excuse a result, when each operation on the way does: terms may cancel that no signal shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mixer_ir.definition.oracle import evaluate
from mixer_ir.driver import samples
from mixer_ir.driver.binding import bind_sizes, check_names, check_renames
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.expr import TIME, Axes
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Recurrence

RELATIVE: Mapping[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-9, 1e-8),
    torch.float32: (1e-4, 5e-4),
    torch.bfloat16: (2.0**-6, 2.0**-5),
    torch.float16: (2.0**-9, 2.0**-8),
}
"""dtype -> (of values, of gradients), as a part of the largest entry"""
ROUNDINGS = 64.0
"""how many times the measured effect of one rounding of every input may be seen"""
SHARED = 1e-3
"""a signal's gradient is measured against its own largest entry, and this part of the largest of all"""
CANCELLED = 8.0
"""so many roundings of the largest gradient are seen in one whose terms cancel, as where a row is divided by its sum"""
NOTHING = 4e-6
"""a gradient that is smaller than this part of the largest of all is not asked to stand out"""

Signals: TypeAlias = Mapping[str, Tensor]
Initial: TypeAlias = Mapping[str, tuple[Tensor, Axes]]


@dataclass(frozen=True)
class Measured:
    """How far a result is off, as parts of the expected size; `ok` if within the tolerances."""

    value_error: float
    gradient_error: float | None
    tolerance: float
    gradient_tolerance: float
    ok: bool


class Noise(NamedTuple):
    """How far roundings move the values, and the gradient in each signal."""

    values: float
    gradients: Mapping[str, float]


@dataclass
class Expected:
    """One input with the values and gradients that follow from the mixer's definition, in double precision.

    signals    in `dtype` where they are floating point      weights    of the loss Σ Re(conj(w) y)
    initial    states before the first step with their axes (differentiated too), if any
    """

    mixer: Mixer
    signals: Signals
    dtype: torch.dtype = torch.float64
    initial: Initial = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        exact, starts = self._leaves(self.signals, self.initial, 0.0)
        self.values = self._evaluated(exact, starts)
        g = torch.Generator().manual_seed(self.seed)
        self.weights = torch.randn(self.values.shape, generator=g, dtype=torch.float64).to(self.values.dtype)
        self.gradients = self._gradients(self.values, exact, starts)
        self.moved = self._noise(torch.finfo(self.computed).eps)

    @property
    def computed(self) -> torch.dtype:
        """The dtype that is computed in."""
        return self.dtype if self.dtype == torch.float64 else torch.float32

    # ------------------------------------------------------------------ by definition

    def _leaves(self, signals: Signals, initial: Initial, rounding: float) -> tuple[dict[str, Tensor], Initial]:
        g = torch.Generator().manual_seed(self.seed + 1)

        def leaf(x: Tensor) -> Tensor:
            if not differentiable(x):
                return x
            wide = x.detach().to(torch.complex128 if x.is_complex() else torch.float64)
            if rounding:
                turn = torch.randint(0, 2, x.shape, generator=g).to(torch.float64) * 2 - 1
                wide = wide * (1 + rounding * turn)
            return wide.requires_grad_()

        return {n: leaf(x) for n, x in signals.items()}, {n: (leaf(x), a) for n, (x, a) in initial.items()}

    def _evaluated(self, signals: Signals, initial: Initial) -> Tensor:
        mixer = self.mixer
        declared = {s.name for n in walk(mixer.body) if isinstance(n, Recurrence) for s in n.states}
        body = mixer.body if declared.issuperset(initial) else mixer.expr  # where a matrix became a state
        return evaluate(body, signals, mixer.signals, mixer.returns, initial or None)

    def _gradients(self, y: Tensor, signals: Signals, initial: Initial) -> dict[str, Tensor]:
        leaves = {**signals, **{f"state:{n}": x for n, (x, _) in initial.items()}}
        return gradients_of(y, self.weights, leaves)

    def _noise(self, rounding: float) -> Noise:
        moved, starts = self._leaves(self.signals, self.initial, rounding)
        again = self._evaluated(moved, starts)
        gradients = self._gradients(again, moved, starts)
        return Noise(_largest(again - self.values), {n: _largest(gradients[n] - x) for n, x in self.gradients.items()})

    @cached_property
    def inside(self) -> Noise:
        """What one rounding of the result of every operation moves: more than `moved` where terms cancel inside."""
        with _Rounding(torch.finfo(self.computed).eps, self.seed):
            found = self._noise(0.0)
        gradients = {n: max(x, found.gradients[n]) for n, x in self.moved.gradients.items()}
        return Noise(max(self.moved.values, found.values), gradients)

    # ------------------------------------------------------------------ tolerances

    @property
    def scale(self) -> float:
        return _largest(self.values)

    @property
    def noise(self) -> float:
        """How far the values move if every signal moves by one rounding."""
        return self.moved.values

    @property
    def allowed(self) -> float:
        """The largest difference of values that is still right."""
        return self._allowed(self.moved)

    @property
    def cancelled(self) -> bool:
        """Whether the values are nothing but what roundings leave, so that nothing can be told of results."""
        return self.scale <= ROUNDINGS * self.inside.values

    def _allowed(self, noise: Noise) -> float:
        return RELATIVE[self.dtype][0] * self.scale + ROUNDINGS * noise.values

    def gradient_scale(self, name: str) -> float:
        return _largest(self.gradients[name]) + SHARED * max(map(_largest, self.gradients.values()), default=0.0)

    def gradient_allowed(self, name: str, noise: Noise | None = None) -> float:
        moved = (noise or self.moved).gradients[name]
        largest = max(map(_largest, self.gradients.values()), default=0.0)
        rounding = CANCELLED * torch.finfo(self.computed).eps * largest
        return RELATIVE[self.dtype][1] * self.gradient_scale(name) + ROUNDINGS * moved + rounding

    def insensitive(self) -> list[str]:
        """What the tolerances would let pass: a result of zeros, or one that is a step late. Empty if nothing."""
        found = []
        axis = self.mixer.returns.index(TIME)
        if self.scale > 0 and self.scale <= self.allowed:
            found.append("a result of zeros would pass")
        late = torch.roll(self.values, 1, axis)
        distance = _largest(late - self.values)
        if self.scale > 0 and 0 < distance <= self.allowed:
            found.append("a result that is one step late would pass")
        whole = max(map(_largest, self.gradients.values()), default=0.0)
        for name, gradient in self.gradients.items():
            if NOTHING * whole < _largest(gradient) <= self.gradient_allowed(name):
                found.append(f"a gradient of zeros in {name} would pass")
        return found

    # ------------------------------------------------------------------ comparing

    def measure(self, y: Tensor, gradients: Signals | None = None) -> Measured:
        """A result (and its gradients by signal) against the definition; NaN is infinitely far off."""
        if y.shape != self.values.shape:
            return Measured(float("inf"), None, self.allowed, 0.0, False)
        found = self._measured(y, gradients, self.moved)
        return found if found.ok else self._measured(y, gradients, self.inside)

    def _measured(self, y: Tensor, gradients: Signals | None, noise: Noise) -> Measured:
        """Errors as parts of the expected size, of 1 where zeros are expected."""
        off, allowed = _largest(y.to(self.values.dtype) - self.values), self._allowed(noise)
        size = self.scale or 1.0
        ok = off <= allowed
        if gradients is None:
            return Measured(off / size, None, allowed / size, 0.0, ok)
        worst, least = 0.0, float("inf")
        for name, want in self.gradients.items():
            got = gradients[name]
            off_g = _largest(got.to(want.dtype) - want) if got.shape == want.shape else float("inf")
            allowed_g, size_g = self.gradient_allowed(name, noise), self.gradient_scale(name) or 1.0
            worst, least = max(worst, off_g / size_g), min(least, allowed_g / size_g)
            ok = ok and off_g <= allowed_g
        return Measured(off / size, worst, allowed / size, least, ok)

    def run(self, call: Callable[..., Tensor], *, gradients: bool = True) -> Measured:
        """`call(signals, initial)` on this input, measured. Gradients are taken by torch."""
        leaves = {
            n: x.detach().clone().requires_grad_(gradients and differentiable(x)) for n, x in self.signals.items()
        }
        states = {
            n: x.detach().clone().requires_grad_(gradients and differentiable(x)) for n, (x, _) in self.initial.items()
        }
        y = call(leaves, states)
        if not gradients:
            return self.measure(y)
        given = {**leaves, **{f"state:{n}": x for n, x in states.items()}}
        return self.measure(y, gradients_of(y, self.weights.to(y.dtype), given))


def expected(
    mixer: Mixer,
    length: int,
    *,
    dtype: torch.dtype = torch.float64,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    given: Signals | None = None,
) -> Expected:
    """Random signals of this length that suit the mixer, and what it must give on them.

    Raises SignalError or AxisError where the given signals do not fit the mixer.
    """
    check_names(mixer.name, mixer.signals, {**mixer.signals, **(given or {})})
    drawn = samples.draw(mixer, samples.sizes_for(mixer, length, sizes), seed, given)
    bound = bind_sizes(mixer.name, mixer.signals, {n: tuple(x.shape) for n, x in drawn.items()})
    check_renames(mixer.name, mixer.body, bound)
    return Expected(mixer, {n: samples.rounded(x, dtype) for n, x in drawn.items()}, dtype, seed=seed)


def differentiable(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def gradients_of(y: Tensor, weights: Tensor, leaves: Signals) -> dict[str, Tensor]:
    """The gradients of Σ Re(conj(w) y) in every differentiable leaf; zeros where it does not depend on one."""
    wanted = {n: x for n, x in leaves.items() if x.requires_grad}
    if not wanted or not y.requires_grad:
        return {n: torch.zeros_like(x) for n, x in wanted.items()}
    loss = (weights.conj() * y).real.sum() if y.is_complex() else (weights * y).sum()
    found = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    return {n: g.detach() for n, g in zip(wanted, found, strict=True)}


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every new floating-point result of an operation is moved by one rounding, up or down by chance."""

    def __init__(self, rounding: float, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounding, self.generator = rounding, torch.Generator().manual_seed(seed + 2)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(r.alias_info is not None for r in func._schema.returns):  # a view, or written in place
            return out
        return tree_map_only(Tensor, self._moved, out)

    def _moved(self, x: Tensor) -> Tensor:
        if not differentiable(x):
            return x
        turn = torch.randint(0, 2, x.shape, generator=self.generator) * 2 - 1
        return x * (1 + self.rounding * turn.to(torch.float64))


def _largest(x: Tensor) -> float:
    if not x.numel():
        return 0.0
    found = float(x.detach().abs().max())
    return float("inf") if math.isnan(found) else found
