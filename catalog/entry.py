"""An entry of the catalog: a published mixer with its citation, its layer and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

import mixer_ir as mx


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published mixer.

    mixers   its declarations by name, the main one first
    layer    layer(**config): an nn.Module on [batch, time, d_model] with `prefill` and, if the mixer streams, `step`
    model    model(**config): the paper's model; None where this package has none
    facts    published settings and exact parameter counts, and in which words of the paper they differ from its code
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
    small: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mixer(self) -> mx.Mixer:
        """The main declaration."""
        return next(iter(self.mixers.values()))
