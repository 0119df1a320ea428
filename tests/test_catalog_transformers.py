"""Layers of the catalog against the same layers of `transformers`: same weights, whole sequences and single steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import catalog
from catalog.streaming import MixerLayer

BATCH, T, WIDTH = 2, 13, 32
TOLERANCE = 1e-5  # float32: some tens of roundings of size 1e-7 on values of unit size


def inputs() -> Tensor:
    return torch.randn(BATCH, T, WIDTH, generator=torch.Generator().manual_seed(3))


def in_plain_torch(module: ModuleType, *names: str) -> None:
    """Undo the module's choice of GPU kernels, which it makes as soon as a package with some is installed."""
    for name in names:
        setattr(module, name, inspect.unwrap(getattr(module, name)))


def stirred(module: nn.Module) -> nn.Module:
    """All parameters moved at random, so that none stands at a value (0 or 1) that hides a mistake."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def mamba() -> tuple[MixerLayer, Callable[[Tensor], Tensor]]:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    theirs = stirred(MambaMixer(MambaConfig(hidden_size=WIDTH, state_size=5, num_hidden_layers=1), 0))
    ours = catalog.get("mamba").layer(WIDTH, d_state=5)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def mamba2() -> tuple[MixerLayer, Callable[[Tensor], Tensor]]:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=WIDTH, state_size=6, head_dim=16, num_heads=4, n_groups=2, num_hidden_layers=1, chunk_size=8
    )
    theirs = stirred(Mamba2Mixer(config, 0))
    ours = catalog.get("mamba2").layer(WIDTH, d_state=6, head_dim=16, n_group=2)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def recurrent_gemma() -> tuple[MixerLayer, Callable[[Tensor], Tensor]]:
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    config = RecurrentGemmaConfig(hidden_size=WIDTH, lru_width=24, num_attention_heads=4, num_hidden_layers=3)
    block = RecurrentGemmaRecurrentBlock(config, 0)
    nn.init.normal_(block.rg_lru.recurrent_param)
    for parameter in (block.rg_lru.input_gate_weight, block.rg_lru.recurrent_gate_weight):
        nn.init.normal_(parameter, std=0.5)
    for parameter in (block.rg_lru.input_gate_bias, block.rg_lru.recurrent_gate_bias):
        nn.init.normal_(parameter, std=0.5)
    theirs = stirred(block)
    ours = catalog.get("rg_lru").layer(WIDTH, width=24, blocks=4)
    ours.load_state_dict(theirs.state_dict())
    positions = torch.arange(T)[None].expand(BATCH, T)
    return ours, lambda x: theirs(x, positions, None, use_cache=False)[0]


def qwen3_next() -> tuple[MixerLayer, Callable[[Tensor], Tensor]]:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next import modeling_qwen3_next
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    in_plain_torch(modeling_qwen3_next, "torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")
    in_plain_torch(modeling_qwen3_next, "causal_conv1d_fn", "causal_conv1d_update")

    K, V, keys, values = 8, 6, 2, 4  # sizes of a key and a value head, and how many of them
    config = Qwen3NextConfig(
        hidden_size=WIDTH,
        linear_key_head_dim=K,
        linear_value_head_dim=V,
        linear_num_key_heads=keys,
        linear_num_value_heads=values,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
    )
    theirs = stirred(Qwen3NextGatedDeltaNet(config, 0))
    ours = catalog.get("gated_deltanet").layer(
        WIDTH, n_head=keys, head_dim=K, expand_v=V / K, n_value_head=values, norm_eps=config.rms_norm_eps
    )
    weights = theirs.state_dict()
    serves = values // keys  # rows of in_proj_qkvz and in_proj_ba are grouped by key head
    q, k, v, g = weights["in_proj_qkvz.weight"].unflatten(0, (keys, -1)).split([K, K, serves * V, serves * V], dim=1)
    b, a = weights["in_proj_ba.weight"].unflatten(0, (keys, -1)).split([serves, serves], dim=1)
    projections = {"q": q, "k": k, "v": v, "g": g, "a": a, "b": b}
    convolutions = weights["conv1d.weight"].split([K * keys, K * keys, V * values])
    mapped = {
        **{f"{name}_proj.weight": part.flatten(0, 1) for name, part in projections.items()},
        **{f"{name}_conv1d.weight": part for name, part in zip("qkv", convolutions, strict=True)},
        "A_log": weights["A_log"],
        "dt_bias": weights["dt_bias"],
        "o_norm.weight": weights["norm.weight"],
        "o_proj.weight": weights["out_proj.weight"],
    }
    ours.load_state_dict(mapped)
    return ours, theirs


def xlstm() -> tuple[MixerLayer, Callable[[Tensor], Tensor]]:
    from transformers import xLSTMConfig
    from transformers.models.xlstm.modeling_xlstm import xLSTMLayer

    config = xLSTMConfig(hidden_size=WIDTH, num_heads=2, num_hidden_layers=1, mode="inference", chunk_size=4)
    theirs = stirred(xLSTMLayer(config))
    ours = catalog.get("mlstm").layer(WIDTH, n_head=2)
    ours.load_state_dict(theirs.state_dict())
    return ours, lambda x: theirs(x)[0]


PAIRS = {"mamba": mamba, "mamba2": mamba2, "rg_lru": recurrent_gemma, "gated_deltanet": qwen3_next, "mlstm": xlstm}


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    scale = theirs.abs().max().item()
    assert scale > 1e-2
    assert (ours - theirs).abs().max().item() <= TOLERANCE * max(scale, 1.0)


@pytest.mark.parametrize("name", PAIRS)
def test_layer_equals_transformers(name: str) -> None:
    ours, theirs = PAIRS[name]()
    x = inputs()
    with torch.no_grad():
        assert_near(ours.eval()(x), theirs(x))


@pytest.mark.parametrize("name", PAIRS)
def test_steps_equal_transformers(name: str) -> None:
    ours, theirs = PAIRS[name]()
    x, state, steps = inputs(), None, []
    with torch.no_grad():
        for t in range(T):
            y, state = ours.eval().step(state, x[:, t])
            steps.append(y)
        assert_near(torch.stack(steps, 1), theirs(x))


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_equal_transformers(name: str) -> None:
    ours, theirs = PAIRS[name]()
    mine, yours = inputs().requires_grad_(), inputs().requires_grad_()
    weight = torch.randn(BATCH, T, WIDTH, generator=torch.Generator().manual_seed(4))
    (ours.eval()(mine) * weight).sum().backward()
    (theirs(yours) * weight).sum().backward()
    assert mine.grad is not None
    assert yours.grad is not None
    assert (mine.grad - yours.grad).abs().max() <= 5 * TOLERANCE * max(yours.grad.abs().max().item(), 1.0)
