"""What a user has today for each mixer: functions of PyTorch, transformers, mambapy and fla-core on our signals.

A peer takes the mixer's signals by name and gives its output, in the mixer's own layout; what it needs to change the
layout is views, or little beside its work. Its package is imported before it is timed.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from benchmarks import plain

FORWARD, TRAINING, DECODING = "forward", "forward + backward", "decode"
Step = Callable[..., Tensor]

FLA, HF = "fla.ops", "transformers.models"
MAMBA, MAMBA2 = f"{HF}.mamba.modeling_mamba", f"{HF}.mamba2.modeling_mamba2"
XLSTM, GRIFFIN = f"{HF}.xlstm.modeling_xlstm", f"{HF}.recurrent_gemma.modeling_recurrent_gemma"
QWEN = f"{HF}.qwen3_next.modeling_qwen3_next"


@dataclass(frozen=True)
class Peer:
    """Another way to a mixer's output.

    module    where it lives, with the package that has to be installed
    run       from signals to output
    longest   the longest sequence whose T × T arrays fit in memory, where it makes some
    step      from the signals up to t, and our state before t, to a function of the signals at t
    goal      the work for which a goal compares with it: there it is run however long it takes
    trains    has a backward pass on a CPU
    """

    name: str
    module: str
    run: Callable[..., Tensor]
    longest: int | None = None
    step: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Step] | None = None
    goal: str = ""
    trains: bool = True


@functools.cache
def of(module: str, name: str) -> Callable[..., Any]:
    """A function of a package, as plain PyTorch: some choose GPU kernels as soon as a package with such is there."""
    return inspect.unwrap(getattr(importlib.import_module(module), name))


def fla(name: str, function: str) -> tuple[str, Callable[..., Any]]:
    """(module, the function imported when it is called) of fla-core's plain references."""
    module = f"{FLA}.{name}.naive"

    def run(*args: Any, **named: Any) -> Any:
        return of(module, function)(*args, **named)

    return module, run


def scaled(q: Tensor) -> Tensor:
    """Queries that undo the factor K^−½ which these packages apply."""
    return q * q.shape[-1] ** 0.5


def swapped(*signals: Tensor) -> list[Tensor]:
    """(b t h …) as (b h t …) or back."""
    return [x.transpose(1, 2) for x in signals]


# ------------------------------------------------------------------------------------------------ linear attention

LINEAR, linear = fla("linear_attn", "naive_recurrent_linear_attn")
LINEAR_CHUNK, linear_chunk = fla("linear_attn", "naive_chunk_linear_attn")
RETENTION, retention = fla("retention", "naive_retention")
SIMPLE, simple = fla("simple_gla", "naive_recurrent_simple_gla")
SIMPLE_CHUNK, simple_chunk = fla("simple_gla", "naive_chunk_simple_gla")
GLA, gla = fla("gla", "naive_recurrent_gla")


def phi(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def turned(x: Tensor, theta: Tensor) -> Tensor:
    """(b t h r k) turned by the angles t θ, as (b t h 2k)."""
    angle = torch.arange(x.shape[1])[:, None, None] * theta
    sin, cos = angle.sin(), angle.cos()
    a, b = x.unbind(-2)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def retained(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, theta: Tensor) -> Tensor:
    q, k, v = swapped(turned(q, theta), turned(k, theta), v)
    return retention(scaled(q), k, v).transpose(1, 2)


def simply_retained(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, theta: Tensor) -> Tensor:
    q, k = turned(q, theta), turned(k, theta)
    g = gamma.log().expand(q.shape[:3])
    return simple_chunk(q, k, v, g, scale=1.0)[0]


def dual(f: Callable[..., Any]) -> Callable[..., Tensor]:
    """Mamba-2 by a function for a scalar decay of each head: q = C, k = B, v = Δ x, g = Δ A."""

    def run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        q, k = (part[:, :, 0, None].expand(*x.shape[:2], x.shape[3], -1) for part in (C, B))
        y = f(q, k, (dt[..., None] * x)[:, :, 0], (dt * A)[:, :, 0], scale=1.0)[0]
        return y[:, :, None] + D[..., None] * x

    return run


def transformers_dual(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    scan = of(MAMBA2, "mamba2_chunk_scan")
    return scan(x[:, :, 0], dt[:, :, 0], A[0], B, C, chunk_size=256, D=D[0])[:, :, None]


def transformers_dual_step(past: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Step:
    update = of(MAMBA2, "mamba2_selective_state_update")
    S = next(iter(state.values()))[:, 0].transpose(-1, -2).clone()

    def step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        now = x[:, 0]
        return update(S, now, dt[:, 0, :, None].expand(now.shape), A[0, :, None, None], B, C, D=D[0, :, None])[:, None]

    return step


def quasiseparable(
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, dtr: Tensor, Br: Tensor, Cr: Tensor, A: Tensor, D: Tensor
) -> Tensor:
    """Hydra by two Mamba-2 scans, one on the sequence turned round."""
    scan = of(MAMBA2, "mamba2_chunk_scan")

    def before(x: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> Tensor:
        y = scan(x, dt, A, B[:, :, None], C[:, :, None], chunk_size=256)
        return F.pad(y[:, :-1], (0, 0, 0, 0, 1, 0))

    back = before(*(part.flip(1) for part in (x, dtr, Br, Cr))).flip(1)
    return before(x, dt, B, C) + back + D[..., None] * x


def chunked_mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    run = of(XLSTM, "mlstm_chunkwise_native_autograd")
    q, k, v, i, f = (part.contiguous() for part in swapped(scaled(q), k, v, i, f))
    return run(q, k, v, i, f, chunk_size=min(64, q.shape[2])).transpose(1, 2)


# ----------------------------------------------------------------------------------------------------- delta rules

DELTA, delta = fla("delta_rule", "delta_rule_recurrence")
DELTA_CHUNK, delta_chunk = fla("delta_rule", "delta_rule_chunkwise")
GATED, gated = fla("gated_delta_rule", "naive_recurrent_gated_delta_rule")
KDA, kda = fla("kda", "naive_recurrent_kda")
DPLR, dplr = fla("generalized_delta_rule.dplr", "dplr_recurrence")


def transformers_delta(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    return of(QWEN, "torch_chunk_gated_delta_rule")(scaled(q), k, v, g, beta)[0]


def transformers_delta_step(past: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Step:
    S = next(iter(state.values()))

    def step(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        run = of(QWEN, "torch_recurrent_gated_delta_rule")
        now = (x[:, None] for x in (scaled(q), k, v, g, beta))
        return run(*now, initial_state=S, output_final_state=True)[0][:, 0]

    return step


def swapping(f: Callable[..., Any]) -> Callable[..., Tensor]:
    """A delta rule on (b h t …)."""
    return lambda q, k, v, beta: f(*swapped(scaled(q), k, v, beta))[0].transpose(1, 2)


def goose(r: Tensor, w: Tensor, k: Tensor, v: Tensor, kappa: Tensor, a: Tensor) -> Tensor:
    """RWKV-7: S ← diag(e^w) S + k vᵀ + β αᵀ S with α = κ and β = −a κ."""
    return dplr(*swapped(scaled(r), k, v, kappa, -a * kappa, w))[0].transpose(1, 2)


# ---------------------------------------------------------------------------------------------------- state spaces


def transformers_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    scan = of(MAMBA, "mamba_selective_scan")
    return scan(*(part.transpose(1, 2) for part in (x, dt)), A, B.mT, C.mT, D=D).transpose(1, 2)


def transformers_scan_step(past: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Step:
    update = of(MAMBA, "mamba_selective_state_update")
    h = next(iter(state.values())).clone()
    return lambda x, dt, A, B, C, D: update(h, x, dt, A, B, C, D=D)


def mambapy_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    return of("mambapy.mamba", "MambaBlock").selective_scan(None, x, dt, A, B, C, D)


def transformers_rg_lru(x: Tensor, r: Tensor, i: Tensor, Lambda: Tensor, start: Tensor) -> Tensor:
    log_a, reset = -8.0 * r * F.softplus(Lambda), start[..., None]
    root = of(GRIFFIN, "SqrtBoundDerivative").apply(1 - torch.exp(2 * log_a))
    driven = x * i * (reset + ~reset * root)
    scan = of(GRIFFIN, "RecurrentGemmaRglru")._rnn_scan
    return scan(None, driven, torch.exp(log_a), reset, None)[0]


# --------------------------------------------------------------------------------------- convolutions and attention


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    y = F.scaled_dot_product_attention(*swapped(q[:, :, :, 0], k, v), is_causal=True)
    return y.transpose(1, 2)[:, :, :, None]


def sdpa_step(past: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Step:
    """One query on a cache of keys and values, the last of which is written in place."""
    keys, values = (F.pad(x, (0, 0, 0, 1)) for x in swapped(past["k"], past["v"]))

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[:, :, -1], values[:, :, -1] = k, v
        return F.scaled_dot_product_attention(q, keys, values).reshape(q.shape)

    return step


@functools.cache
def causal_blocks(t: int) -> BlockMask:
    return create_block_mask(lambda b, h, i, j: i >= j, None, None, t, t, device="cpu")


def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    blocks = causal_blocks(q.shape[1])
    return flex_attention(*swapped(q[:, :, :, 0], k, v), block_mask=blocks).transpose(1, 2)[:, :, :, None]


def sdpa_codes(q: Tensor, codebook: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """Every key written out."""
    return F.scaled_dot_product_attention(q, codebook[z], v, is_causal=True, scale=1.0)


PEERS: dict[str, tuple[Peer, ...]] = {
    "linear_attention": (
        Peer("fla-core", LINEAR, lambda q, k, v: linear(phi(q), phi(k), v, scale=1.0, normalize=True)[0]),
        Peer("fla-core chunks", LINEAR, lambda q, k, v: linear_chunk(phi(q), phi(k), v, scale=1.0, normalize=True)),
    ),
    "retnet": (
        Peer("fla-core", RETENTION, retained, longest=2048),
        Peer("fla-core chunks", SIMPLE, simply_retained),
    ),
    "gla": (Peer("fla-core", GLA, lambda q, k, v, g: gla(scaled(q), k, v, g)[0], goal=TRAINING),),
    "mamba2": (
        Peer("fla-core", SIMPLE, dual(simple), goal=TRAINING),
        Peer("transformers", MAMBA2, transformers_dual, longest=16384, step=transformers_dual_step),
    ),
    "mlstm": (Peer("transformers", XLSTM, chunked_mlstm),),
    "hydra": (Peer("transformers", MAMBA2, quasiseparable, longest=16384),),
    "deltanet": (
        Peer("fla-core", DELTA, swapping(delta)),
        Peer("fla-core chunks", DELTA, swapping(functools.partial(delta_chunk, chunk_size=32))),
    ),
    "gated_deltanet": (
        Peer("fla-core", GATED, lambda q, k, v, g, beta: gated(q, k, v, beta, g, scale=1.0)[0], goal=TRAINING),
        Peer("transformers", QWEN, transformers_delta, step=transformers_delta_step),
    ),
    "kda": (Peer("fla-core", KDA, lambda q, k, v, g, beta: kda(q, k, v, g, beta, scale=1.0)[0], goal=TRAINING),),
    "rwkv7": (Peer("fla-core", DPLR, goose, goal=TRAINING),),
    "mamba": (
        Peer("torch loop", "torch", plain.selective_scan, longest=16384, goal=FORWARD),
        Peer("transformers", MAMBA, transformers_scan, longest=16384, step=transformers_scan_step),
        Peer("mambapy", "mambapy.mamba", mambapy_scan, longest=4096),
    ),
    "rg_lru": (Peer("transformers", GRIFFIN, transformers_rg_lru),),
    "s4d": (Peer("torch.fft", "torch", plain.s4d, longest=16384),),
    "s5": (Peer("torch loop", "torch", plain.s5),),
    "lru": (Peer("torch loop", "torch", plain.lru),),
    "mega_ema": (Peer("torch.fft", "torch", plain.damped_ema),),
    "hyena": (Peer("torch.fft", "torch", plain.long_convolution),),
    "softmax_attention": (
        Peer("SDPA", "torch", sdpa, step=sdpa_step),
        Peer("FlexAttention", "torch", flex, longest=4096, trains=False),
    ),
    "transformer_vq": (Peer("SDPA", "torch", sdpa_codes),),
}
"""for each case, those that stand beside it; s4 has none but a dense state matrix"""
