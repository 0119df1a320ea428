"""An entry of the catalog: a published mixer with its citation, its layer and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import nn

import mixer_ir as mx


class Count(NamedTuple):
    """How many parameters the layer or the model of a configuration has."""

    of: Literal["layer", "model"]
    config: Mapping[str, Any]
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published mixer.

    mixers   its declarations by name, the main one first
    layer    layer(**config): an nn.Module on [batch, time, d_model] with `prefill` and, if the mixer streams, `step`
    model    model(**config): the paper's model; None where this package has none
    facts    what is published beside the equation, and where the paper and its authors' code differ
    counts   exact parameter counts, from the authors' shapes
    small    a configuration of `layer` in which tests and examples run in a moment
    """

    name: str
    title: str
    paper: str
    year: int
    mixers: Mapping[str, mx.Mixer]
    layer: Callable[..., nn.Module]
    model: Callable[..., nn.Module] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    counts: tuple[Count, ...] = ()
    small: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mixer(self) -> mx.Mixer:
        """The main declaration."""
        return next(iter(self.mixers.values()))
