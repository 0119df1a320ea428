"""What is measured: the catalog's mixers at sizes of a small model, with signals as their layers would make them.

Signals over time are drawn by name, for a name means the same in the whole catalog; those without time are parameters,
taken as the mixer's own layer initialises them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

import mixer_ir as mx
from catalog.streaming import Run

Shape = tuple[int, ...]
Law = Callable[[Shape], Tensor]

HEADS = {"b": 1, "h": 8, "k": 64, "v": 64, "g": 1}
CHANNELS = {"b": 1, "d": 256}


def unit(shape: Shape) -> Tensor:
    return torch.rand(shape)


def open_gate(shape: Shape) -> Tensor:
    """Uniform in [0.1, 1): near 0 the peer bounds the derivative of a square root, and ours is the derivative."""
    return 0.1 + 0.9 * torch.rand(shape)


def direction(shape: Shape) -> Tensor:
    return normalize(torch.randn(shape), dim=-1)


def log_decay(shape: Shape) -> Tensor:
    return logsigmoid(torch.randn(shape)) / 16


def step_size(shape: Shape) -> Tensor:
    return 0.1 * torch.rand(shape)


def kept(shape: Shape) -> Tensor:
    """Before a sigmoid that says how much of a memory stays."""
    return 4 + torch.randn(shape)


def closed(shape: Shape) -> Tensor:
    """Logarithms of weights, as xLSTM's input gates begin: the normaliser stays on one side of its max."""
    return torch.randn(shape) - 10


def first(shape: Shape) -> Tensor:
    return torch.arange(shape[1]).expand(shape) == 0


def harmonics(shape: Shape) -> Tensor:
    """The poles −1 … −n that a diagonal state space model begins with, the same for every channel."""
    return -torch.arange(1.0, shape[-1] + 1).expand(shape).clone()


def filters(shape: Shape) -> Tensor:
    """Lags by channels, dying away over the sequence."""
    return torch.randn(shape) * torch.exp(-4 * torch.linspace(0, 1, shape[0]))[:, None] / shape[0] ** 0.5


LAWS: dict[str, Law] = {
    "k": direction,
    "kappa": direction,
    "beta": unit,
    "a": unit,
    "i": unit,
    "g": log_decay,
    "w": log_decay,
    "f": kept,
    "dt": step_size,
    "dtr": step_size,
    "start": first,
    "h": filters,
}
"""the law of a signal over time; others are normal"""


@dataclass(frozen=True)
class Case:
    """A mixer of the catalog at some sizes.

    layer   the configuration of the entry's layer whose initial parameters are the signals without time
    laws    where a name means something else in this mixer
    form    the form that the eager backend is held to: the one that its users would name
    fixed   signals without gradients: constants of the model
    """

    name: str
    family: str
    sizes: Mapping[str, int]
    mixer: str = ""
    layer: Mapping[str, Any] = field(default_factory=dict)
    laws: Mapping[str, Law] = field(default_factory=dict)
    form: str = "auto"
    fixed: tuple[str, ...] = ()

    @property
    def declared(self) -> mx.Mixer:
        """The declaration."""
        entry = mx.catalog.get(self.name)
        return entry.mixers[self.mixer] if self.mixer else entry.mixer

    def signals(self, length: int, seed: int = 0) -> dict[str, Tensor]:
        """Single-precision signals for a sequence of this length; the same for the same seed."""
        torch.manual_seed(seed)
        made = self.parameters()
        for name, axes in self.declared.signals.items():
            if name not in made:
                law = self.laws.get(name) or LAWS.get(name, torch.randn)
                made[name] = law(tuple(length if a == "t" else self.sizes[a] for a in axes))
        return made

    def parameters(self) -> dict[str, Tensor]:
        """The signals without time, as the layer has them before training."""
        if not self.layer:
            return {}
        layer = mx.catalog.get(self.name).layer(**self.layer)
        noted = Noted("whole")
        with torch.no_grad():
            layer.eval().mix(torch.randn(1, 2, layer.d_model), noted)
        axes = self.declared.signals
        return {n: x.detach() for n, x in noted.signals[self.declared].items() if "t" not in axes[n]}


@dataclass
class Noted(Run):
    """A pass through a layer that notes the signals of its mixers."""

    signals: dict[mx.Mixer, dict[str, Tensor]] = field(default_factory=dict)

    def __call__(self, mixer: mx.Mixer, /, *, at: str | None = None, **signals: Tensor) -> Tensor:
        self.signals[mixer] = signals
        return super().__call__(mixer, at=at, **signals)


def codes(shape: Shape) -> Tensor:
    return torch.randint(256, shape)


SCAN: dict[str, Law] = {"A": harmonics, "D": torch.ones}

CASES = (
    Case("linear_attention", "linear attention", HEADS, form="chunked"),
    Case(
        "retnet",
        "linear attention",
        {**HEADS, "r": 2, "k": 32},
        layer={"d_model": 512, "n_head": 8},
        form="chunked",
        fixed=("gamma", "theta"),
    ),
    Case("gla", "linear attention", HEADS, form="chunked"),
    Case(
        "mamba2",
        "linear attention",
        {**HEADS, "p": 64, "n": 64},
        layer={"d_model": 256, "d_state": 64},
        form="chunked",
    ),
    Case("mlstm", "linear attention", HEADS, laws={"i": closed}, form="chunked"),
    Case("hydra", "linear attention", {**HEADS, "p": 64, "n": 64}, layer={"d_model": 256}, form="chunked"),
    Case("deltanet", "delta rules", HEADS, form="chunked"),
    Case("gated_deltanet", "delta rules", HEADS, form="chunked"),
    Case("kda", "delta rules", HEADS, form="chunked"),
    Case("rwkv7", "delta rules", HEADS, form="chunked"),
    Case("mamba", "state spaces", {"b": 1, "d": 1536, "n": 16}, laws=SCAN),
    Case("rg_lru", "state spaces", {"b": 1, "d": 1024}, layer={"d_model": 1024, "blocks": 8}, laws={"r": open_gate}),
    Case("s4", "state spaces", CHANNELS, layer={"d_model": 256}),
    Case("s4d", "state spaces", CHANNELS, layer={"d_model": 256}),
    Case("s5", "state spaces", CHANNELS, layer={"d_model": 256}),
    Case("lru", "state spaces", CHANNELS, layer={"d_model": 256, "d_state": 128}),
    Case("mega_ema", "state spaces", CHANNELS, layer={"d_model": 256}),
    Case("hyena", "convolutions and attention", CHANNELS, mixer="long_convolution", laws={"D": torch.randn}),
    Case("softmax_attention", "convolutions and attention", HEADS),
    Case(
        "transformer_vq",
        "convolutions and attention",
        {"b": 1, "k": 64, "v": 64, "c": 256},
        laws={"z": codes, "codebook": direction},
    ),
)
WIDE = tuple(
    replace(c, family="heads of 128", sizes={a: 128 if a in "kvpn" else n for a, n in c.sizes.items()})
    for c in CASES
    if c.name in ("gla", "mamba2", "gated_deltanet", "kda", "rwkv7")
)
"""the same with keys and values of 128, where matrix products bound the chunked form"""
LONG = (
    Case("gla", "a million steps", {**HEADS, "h": 2}),
    Case("gated_deltanet", "a million steps", {**HEADS, "h": 2}),
    Case("mamba", "a million steps", {"b": 1, "d": 128, "n": 16}, laws=SCAN),
)
"""narrow ones, whose signals fit in memory at T = 1,048,576"""
