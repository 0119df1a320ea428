"""What is timed on a GPU: mixers with random signals, and the same computation by others.

A peer is called with the same tensors and must give the same output; where a library keeps another layout, its tensors
are laid out so beforehand, outside the timed part.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import log2
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize, scaled_dot_product_attention, sigmoid

import mixer_ir as mx

Signals: TypeAlias = dict[str, Tensor]
Shape: TypeAlias = tuple[int, int, int, int]
"""B, T, H, D"""

TABLE: tuple[Shape, ...] = (
    (4, 2048, 16, 128),
    (2, 16384, 16, 128),
    (8, 1024, 8, 64),
    (4, 4096, 64, 128),
    (1, 8192, 96, 128),
    (8, 2048, 32, 256),
)
"""the shapes of the table in flash-linear-attention's README"""
SWEEP = tuple((max(1, 32768 // t), t, 16, 128) for t in (1024, 2048, 4096, 8192, 16384, 32768, 65536))
"""time against T"""


@mx.recurrence
def retention(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", gamma: "h") -> "b t h v":
    """S_t = γ S_{t−1} + k_t v_tᵀ,   y_t = S_tᵀ q_t / √K"""
    S = gamma * S + mx.outer(k, v)
    return S, (q * mx.size("k") ** -0.5) @ S


@mx.recurrence
def scalar_gla(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h") -> "b t h v":
    """S_t = e^{g_t} S_{t−1} + k_t v_tᵀ,   y_t = S_tᵀ q_t"""
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


@dataclass(frozen=True)
class Peer:
    """Another's way to compute a case: `call(function, *tensors)` on what `lay` makes of the signals.

    module, name   where the function is; a peer whose module is not installed is left out
    """

    module: str
    name: str
    call: Callable[..., Tensor]
    lay: Callable[[Signals], Signals] = dict

    def function(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


@dataclass(frozen=True)
class Case:
    """A mixer with the laws of its signals, what it must multiply, and its peers.

    fixed   signals that take no gradient     flops   of the forward pass at a shape: the recurrence's, or the scores'
    """

    mixer: mx.Mixer
    form: str
    laws: Mapping[str, Callable[[Tensor], Tensor]]
    flops: Callable[[Shape], float]
    peers: Mapping[str, Peer] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    sizes: Callable[[Shape], dict[str, int]] = lambda s: dict(zip("bthkv", (*s, s[3]), strict=True))

    def signals(self, shape: Shape, device: torch.device, dtype: torch.dtype) -> Signals:
        """Random signals; of the fixed ones, float32."""
        sizes = self.sizes(shape)
        g = torch.Generator(device).manual_seed(0)
        made = {}
        for name, axes in self.mixer.signals.items():
            size = [sizes.get(a, 1) for a in axes]
            x = self.laws.get(name, _plain)(torch.randn(size, generator=g, device=device))
            made[name] = x if name in self.fixed else x.to(dtype).requires_grad_()
        return made


def _plain(x: Tensor) -> Tensor:
    return x


def _unit(x: Tensor) -> Tensor:
    return normalize(x, dim=-1)


def _gate(x: Tensor) -> Tensor:
    """Log-decays as such layers make them: log σ(x) / 16."""
    return logsigmoid(x) / 16


def _gamma(x: Tensor) -> Tensor:
    """Retention's decays: 1 − 2^(−5−h)."""
    return 1 - torch.exp2(-5.0 - torch.arange(x.shape[0], device=x.device))


def _filter(x: Tensor) -> Tensor:
    """A decaying filter (t d)."""
    return x * torch.exp(-4.0 * torch.linspace(0, 1, x.shape[0], device=x.device))[:, None] / x.shape[0] ** 0.5


def _states(s: Shape) -> float:
    """k vᵀ added to a state, and the state read."""
    b, t, h, d = s
    return 4.0 * b * t * h * d * d


def _low_rank(s: Shape) -> float:
    """The same with a state read and corrected on the way."""
    return 2 * _states(s)


def _scores(s: Shape) -> float:
    """Half of q kᵀ, and of its product with v."""
    b, t, h, d = s
    return 2.0 * b * h * t * t * d


def _transforms(s: Shape) -> float:
    """Three transforms of length 2T."""
    b, t, h, d = s
    return 3 * 2.5 * b * h * d * 2 * t * log2(2 * t)


def _heads_first(s: Signals) -> Signals:
    """(b t h d) as (b h t d); the axis g of softmax_attention has size 1."""
    return {n: x.detach().flatten(2, -2).transpose(1, 2).contiguous().requires_grad_() for n, x in s.items()}


def _attention(f: Any, s: Signals) -> Tensor:
    return f(s["q"], s["k"], s["v"], is_causal=True).transpose(1, 2)


_FLEX: dict[str, Any] = {}
"""the compiled function, and block masks by length"""


def _causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return i >= j


def _flex(f: Any, s: Signals) -> Tensor:
    """FlexAttention, compiled, with the causal block mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    t = s["q"].shape[2]
    key = f"{t} {s['q'].device}"
    if key not in _FLEX:
        _FLEX[key] = create_block_mask(_causal, None, None, t, t, device=str(s["q"].device))
    run = _FLEX.setdefault("run", torch.compile(f))
    return run(s["q"], s["k"], s["v"], block_mask=_FLEX[key]).transpose(1, 2)


def _channels_first(s: Signals) -> Signals:
    return {n: x.detach().transpose(-1, -2).contiguous().requires_grad_() if x.dim() > 1 else x for n, x in s.items()}


def _fft(fft: Any, s: Signals) -> Tensor:
    """The gated causal convolution by torch.fft, in float32, which it needs."""
    n = 2 * s["v"].shape[-1]
    u = (s["k"] * s["v"]).float()
    y = fft.irfft(fft.rfft(u, n) * fft.rfft(s["h"].float(), n), n)[..., : n // 2] + s["D"].float()[:, None] * u
    return (s["q"] * y.to(s["q"].dtype)).transpose(-1, -2)


def _fla(op: str, name: str, *order: str, **options: Any) -> Peer:
    """flash-linear-attention's op, its arguments by our signals' names."""
    return Peer(f"fla.ops.{op}", name, lambda f, s: f(*(s[n] for n in order), **options)[0])


def _rwkv7(f: Any, s: Signals) -> Tensor:
    return f(s["r"], s["w"], s["k"], s["v"], -s["kappa"], s["kappa"] * s["a"], scale=1.0)[0]


def _cases() -> dict[str, Case]:
    get = mx.catalog.get
    attention = {
        "sdpa": Peer("torch.nn.functional", scaled_dot_product_attention.__name__, _attention, _heads_first),
        "flex": Peer("torch.nn.attention.flex_attention", "flex_attention", _flex, _heads_first),
        "fla": Peer("fla.ops.attn", "parallel_attn", lambda f, s: f(s["q"].flatten(2, 3), s["k"], s["v"])),
    }
    beta = {"k": _unit, "beta": sigmoid}
    chunked = {
        "retention": (retention, {"gamma": _gamma}, _states, _fla("retention", "chunk_retention", "q", "k", "v")),
        "gla": (get("gla").mixer, {"g": _gate}, _states, _fla("gla", "chunk_gla", *"qkvg", scale=1.0)),
        "scalar gla": (scalar_gla, {"g": _gate}, _states, _fla("simple_gla", "chunk_simple_gla", *"qkvg", scale=1.0)),
        "deltanet": (
            get("deltanet").mixer,
            beta,
            _low_rank,
            _fla("delta_rule", "chunk_delta_rule", *"qkv", "beta", scale=1.0),
        ),
        "gated deltanet": (
            get("gated_deltanet").mixer,
            {**beta, "g": _gate},
            _low_rank,
            _fla("gated_delta_rule", "chunk_gated_delta_rule", *"qkvg", "beta", scale=1.0),
        ),
        "kda": (
            get("kda").mixer,
            {**beta, "g": _gate},
            _low_rank,
            _fla("kda", "chunk_kda", *"qkvg", "beta", scale=1.0),
        ),
        "rwkv7": (
            get("rwkv7").mixer,
            {"w": _gate, "kappa": _unit, "a": sigmoid},
            _low_rank,
            Peer("fla.ops.rwkv7", "chunk_rwkv7", _rwkv7),
        ),
    }
    made = {
        n: Case(m, "chunked", laws, flops, {"fla": peer}, fixed=("gamma",) if n == "retention" else ())
        for n, (m, laws, flops, peer) in chunked.items()
    }
    made["softmax attention"] = Case(get("softmax_attention").mixer, "flash", {}, _scores, attention)
    made["gated convolution"] = Case(
        get("hyena").mixers["hyena"],
        "auto",
        {"h": _filter},
        _transforms,
        {"torch.fft": Peer("torch", "fft", _fft, _channels_first)},
        sizes=lambda s: {"b": s[0], "t": s[1], "d": min(s[2] * s[3], 1024)},
    )
    return made


CASES = _cases()
FIRST = ("gla", "gated deltanet", "softmax attention", "retention")
"""the cases whose time is measured against T before all others"""
