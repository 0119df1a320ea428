"""Laws of every layer in the catalog: shape, causality, step = forward, packing, gradients, parameter counts."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import catalog
import mixer_ir as mx
from catalog.page import page
from catalog.streaming import MixerLayer

T = 9
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("softmax_attention", {"rotary": False}),
    ("softmax_attention", {"causal": False, "n_kv_head": 4}),
    ("linear_attention", {"causal": False}),
    ("hyena", {"order": 2}),
    ("mega_ema", {"bidirectional": True}),
    ("rwkv7", {"index": 2}),
]
CASES = [(name, {}) for name in catalog.list()] + VARIANTS
TWO_WAY = {"hydra"}


def named(case: Any) -> str:
    return "-".join(f"{k}={v}" for k, v in case.items()) or "small" if isinstance(case, dict) else str(case)


def is_causal(name: str, config: dict[str, Any]) -> bool:
    return name not in TWO_WAY and config.get("causal", True) and not config.get("bidirectional", False)


def made(name: str, config: dict[str, Any], seed: int = 0) -> MixerLayer:
    """A small layer in float64, its parameters moved a little so that none is zero."""
    torch.manual_seed(seed)
    layer = catalog.get(name).layer(**{**catalog.get(name).small, **config}).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return layer.eval()


def inputs(name: str, length: int = T, batch: int = 2, seed: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    width = catalog.get(name).small["d_model"]
    return torch.randn(batch, length, width, generator=g, dtype=torch.float64)


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    scale = max(theirs.abs().max().item(), 1e-3)
    assert (ours - theirs).abs().max().item() <= 1e-10 * scale


@pytest.mark.parametrize(("name", "config"), CASES, ids=named)
def test_output_has_the_input_shape_and_depends_on_it(name: str, config: dict[str, Any]) -> None:
    layer, x = made(name, config), inputs(name)
    y = layer(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert (layer(x + 1) - y).abs().max() > 1e-6


@pytest.mark.parametrize(("name", "config"), CASES, ids=named)
def test_causal_layers_and_only_they_do_not_look_ahead(name: str, config: dict[str, Any]) -> None:
    layer, x = made(name, config), inputs(name)
    cut = 5
    changed = x.clone()
    changed[:, cut:] += torch.randn(x[:, cut:].shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    moved = (layer(changed)[:, :cut] - layer(x)[:, :cut]).abs().max()
    assert moved <= 1e-12 if is_causal(name, config) else moved > 1e-6


@pytest.mark.parametrize(("name", "config"), [c for c in CASES if is_causal(*c)], ids=named)
@pytest.mark.parametrize("split", [0, 1, 4])
def test_prefill_and_steps_are_the_whole(name: str, config: dict[str, Any], split: int) -> None:
    layer, x = made(name, config), inputs(name)
    whole, parts, state = layer(x), [], None
    if split:
        y, state = layer.prefill(x[:, :split])
        parts.append(y)
    for t in range(split, T):
        y, state = layer.step(state, x[:, t])
        parts.append(y[:, None])
    assert_near(torch.cat(parts, 1), whole)


@pytest.mark.parametrize(("name", "config"), [c for c in CASES if not is_causal(*c)], ids=named)
def test_two_way_layers_refuse_to_step(name: str, config: dict[str, Any]) -> None:
    layer, x = made(name, config), inputs(name)
    with pytest.raises(mx.StreamError):
        layer.prefill(x)


@pytest.mark.parametrize(("name", "config"), CASES, ids=named)
def test_packed_pieces_do_not_meet(name: str, config: dict[str, Any]) -> None:
    layer, x = made(name, config), inputs(name)
    reset = torch.zeros(x.shape[:2], dtype=torch.bool)
    reset[:, 4] = True
    apart = torch.cat((layer(x[:, :4]), layer(x[:, 4:])), 1)
    assert_near(layer(x, reset=reset), apart)


@pytest.mark.parametrize(("name", "config"), CASES, ids=named)
def test_gradients_reach_every_parameter(name: str, config: dict[str, Any]) -> None:
    layer, x = made(name, config).train(), inputs(name).requires_grad_()
    also = {"v_first": torch.zeros_like(x)} if config.get("index") else {}
    (layer(x, **also).square().sum() + getattr(layer, "commitment", 0)).backward()
    for parameter_name, parameter in [*layer.named_parameters(), ("x", x)]:
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", catalog.list())
def test_layers_run_in_bfloat16(name: str) -> None:
    layer, x = made(name, {}), inputs(name)
    wanted, y = layer(x), layer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    allowed = 0.3 if name == "hyena" else 0.05  # rounded weights inside sin(14 …) move the filter itself
    assert (y.double() - wanted).abs().mean() <= allowed * wanted.abs().mean()


@pytest.mark.parametrize(("name", "count"), [(e.name, c) for e in catalog.ENTRIES.values() for c in e.counts], ids=str)
def test_parameter_counts(name: str, count: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # memory filled with NaN would have to be there, and these models are to cost none
    entry = catalog.get(name)
    make = entry.layer if count.of == "layer" else entry.model
    assert make is not None
    with torch.device("meta"):
        built: nn.Module = make(**count.config)
    assert sum(p.numel() for p in built.parameters()) == count.parameters


@pytest.mark.parametrize("name", [n for n in catalog.list() if catalog.get(n).model])
def test_models_decode_as_they_read(name: str) -> None:
    entry = catalog.get(name)
    assert entry.model is not None
    torch.manual_seed(0)
    model = entry.model(n_layer=2, vocab=11, **entry.small).double()
    tokens = torch.randint(11, (2, 6))
    whole = model(tokens)
    start, states = model.prefill(tokens[:, :3])
    rest = []
    for t in range(3, 6):
        logits, states = model.step(states, tokens[:, t])
        rest.append(logits)
    assert whole.shape == (2, 6, 11)
    assert_near(torch.cat((start, torch.stack(rest, 1)), 1), whole)


def test_every_entry_cites_a_paper() -> None:
    for name in catalog.list():
        entry = catalog.get(name)
        assert entry.name == name
        assert entry.paper.startswith("arXiv ")
        assert 2017 <= entry.year <= 2026
        assert entry.mixer is next(iter(entry.mixers.values()))
        assert all(mixer.doc and mixer.paper for mixer in entry.mixers.values())


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(mx.OptionError, match="did you mean 'gated_deltanet'"):
        catalog.get("gated_delta_net")
    with pytest.raises(mx.OptionError, match="there are: softmax_attention"):
        catalog.get("zzz")


def test_the_page_is_up_to_date() -> None:
    written = Path(__file__).parent.parent / "docs" / "catalog.md"
    assert written.read_text(encoding="utf-8") == page(), "run: python -m catalog.page > docs/catalog.md"


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("deltanet", {"d_model": 32, "n_head": 5}, "d_model among n_head: 32 cannot be shared equally by 5"),
        ("gated_deltanet", {"d_model": 32, "n_head": 2, "n_value_head": 3}, "n_value_head among n_head: 3"),
        ("softmax_attention", {"d_model": 12, "n_head": 4}, "the coordinates of a head by pairs: 3"),
        ("mamba2", {"d_model": 20, "head_dim": 64}, "expand · d_model by head_dim: 40"),
        ("s4", {"d_model": 4, "d_state": 7}, "d_state by conjugate pairs: 7"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(mx.OptionError, match=message):
        catalog.get(name).layer(**config)


def test_options_that_a_layer_has_not_are_named() -> None:
    gla = catalog.get("gla").layer
    with pytest.raises(mx.OptionError, match=r"no option 'd_modle' \(did you mean 'd_model'\?\); options: d_model, "):
        gla(d_modle=32)
    with pytest.raises(mx.OptionError, match="missing a required argument: 'd_model'"):
        gla()
    assert "d_model" in inspect.signature(gla).parameters


def test_inputs_that_do_not_fit_are_refused() -> None:
    layer = made("gla", {})
    with pytest.raises(mx.AxisError, match=r"takes x as \[batch, time, d_model\] with d_model = 32, .* \[2, 9, 31\]"):
        layer(torch.zeros(2, 9, 31, dtype=torch.float64))
    with pytest.raises(mx.AxisError, match=r"takes x as \[batch, d_model\] with d_model = 32, .* \[2, 31\]"):
        layer.step(None, torch.zeros(2, 31, dtype=torch.float64))
    with pytest.raises(mx.SignalError, match=r"weights is given torch.float32: .* x.to\(torch.float64\)"):
        layer(torch.zeros(2, 9, 32))
    with pytest.raises(mx.StreamError, match=r"takes the state that prefill or a step returned, .* not dict"):
        layer.step({"S": 0}, torch.zeros(2, 32, dtype=torch.float64))
    hyena = made("hyena", {})
    with pytest.raises(mx.AxisError, match="l_max = 32 lags, but lag 32 is asked for"):
        hyena(inputs("hyena", length=33))
