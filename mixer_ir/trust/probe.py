"""The traits that a mixer claims, probed with numbers on its definition: a trait that does not show is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mixer_ir.definition.oracle import entries, evaluate
from mixer_ir.errors import DeclarationError
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.expr import SOURCE, TIME
from mixer_ir.trust.expected import Expected, differentiable


@dataclass(frozen=True)
class Probe:
    """One trait: how far it is from holding, as a part of the largest entry."""

    what: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


TOLERANCE = 1e-11


def probes(mixer: Mixer, want: Expected) -> Iterator[Probe]:
    """Every claimed trait that numbers can deny."""
    traits = mixer.traits
    T = want.values.shape[mixer.returns.index(TIME)]
    if T < 2:
        return
    cut = T // 2
    if traits.causal:
        moved = _kept(mixer, want, changed(mixer, want, cut, T), slice(0, cut))
        yield Probe("trait causal: steps before t do not see signals from t on", moved, TOLERANCE)
    if traits.anticausal:
        moved = _kept(mixer, want, changed(mixer, want, 0, cut), slice(cut, T))
        yield Probe("trait anticausal: steps from t on do not see signals before t", moved, TOLERANCE)
    if traits.strictly_causal and mixer.value is not None:
        late = changed(mixer, want, cut, T, only=mixer.value)
        yield Probe(
            "trait strictly causal: a step does not see its own value",
            _kept(mixer, want, late, slice(0, cut + 1)),
            TOLERANCE,
        )
    if traits.time_invariant:
        yield from _time_invariant(mixer, want)


def changed(mixer: Mixer, want: Expected, start: int, stop: int, only: str | None = None) -> dict[str, Tensor]:
    """The signals with other numbers at start ≤ t < stop."""
    g = torch.Generator().manual_seed(11)
    made = dict(want.signals)
    for name, axes in mixer.signals.items():
        x = made[name]
        if TIME not in axes or not differentiable(x) or (only is not None and name != only):
            continue
        at = axes.index(TIME)
        scale = 1 + 0.2 * torch.rand(x.shape, generator=g, dtype=torch.float64)
        inside = torch.zeros(x.shape[at], dtype=torch.bool)
        inside[start:stop] = True
        shape = [-1 if i == at else 1 for i in range(x.dim())]
        made[name] = torch.where(inside.reshape(shape), x * scale, x)
    return made


def _kept(mixer: Mixer, want: Expected, signals: dict[str, Tensor], where: slice) -> float:
    """How much the values in `where` move when the signals do."""
    with torch.no_grad():
        y = evaluate(mixer.body, signals, mixer.signals, mixer.returns)
    at = mixer.returns.index(TIME)
    part = (slice(None),) * at + (where,)
    moved = (y - want.values.detach())[part]
    return float(moved.abs().max()) / max(want.scale, 1e-300) if moved.numel() else 0.0


def _time_invariant(mixer: Mixer, want: Expected) -> Iterator[Probe]:
    """M[t + 1, s + 1] = M[t, s]."""
    try:
        M = mixer.matrix_expr
    except DeclarationError:
        return
    with torch.no_grad():
        found, axes = entries(M, want.signals, mixer.signals)
    found = found.movedim((axes.index(TIME), axes.index(SOURCE)), (-2, -1))
    off = (found[..., 1:, 1:] - found[..., :-1, :-1]).abs().max()
    size = max(float(found.abs().max()), 1e-300)
    yield Probe("trait time-invariant: M[t + 1, s + 1] = M[t, s]", float(off) / size, TOLERANCE)
