"""Language models around a layer: embedding, residual blocks with norms, perhaps feed-forward parts, a head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from catalog.linear import Linear


class FeedForward(nn.Module):
    """SwiGLU: down(SiLU(gate(x)) · up(x)), as wide as `ratio`·⅔ d_model rounded up to a multiple of 256."""

    def __init__(self, d_model: int, ratio: float = 4) -> None:
        super().__init__()
        inner = 256 * math.ceil(d_model * ratio * 2 / 3 / 256)
        self.gate_proj = Linear(d_model, inner, bias=False)
        self.up_proj = Linear(d_model, inner, bias=False)
        self.down_proj = Linear(inner, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """x + layer(norm(x)), then x + feed_forward(norm(x)) where there is one; `name` is the layer's key."""

    def __init__(self, d_model: int, layer: nn.Module, *, name: str, feed_forward: float | None, eps: float) -> None:
        super().__init__()
        self.name = name
        with_mlp = feed_forward is not None
        self.add_module("attn_norm" if with_mlp else "norm", nn.RMSNorm(d_model, eps=eps))
        self.add_module(name, layer)
        if feed_forward is not None:
            self.mlp_norm = nn.RMSNorm(d_model, eps=eps)
            self.mlp = FeedForward(d_model, feed_forward)

    def forward(self, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        parts = dict(self.named_children())
        norm = parts.get("norm", parts.get("attn_norm"))
        x = x + run(parts[self.name], norm(x))  # type: ignore[misc]
        return x + self.mlp(self.mlp_norm(x)) if "mlp" in parts else x


class LanguageModel(nn.Module):
    """Tokens [batch, time] to logits [batch, time, vocab]; `prefill` and `step` decode with the layers' states."""

    def __init__(self, blocks: list[Block], d_model: int, vocab: int, *, tied: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab, d_model)
        self.layers = nn.ModuleList(blocks)
        self.norm_f = nn.RMSNorm(d_model, eps=eps)
        self.lm_head = Linear(d_model, vocab, bias=False)
        if tied:
            self.lm_head.weight = self.embeddings.weight
        nn.init.normal_(self.embeddings.weight, std=0.02)

    def _run(self, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor], last: int | None = None) -> Tensor:
        for block in self.layers:
            x = block(x, run)
        return self.lm_head(self.norm_f(x if last is None else x[:, -last:]))

    def forward(self, tokens: Tensor) -> Tensor:
        return self._run(self.embeddings(tokens), lambda layer, x: layer(x))

    def prefill(self, tokens: Tensor, *, last: int | None = None) -> tuple[Tensor, list[Any]]:
        """Logits at every position, or at the `last` so many, and the layers' states."""
        states: list[Any] = []

        def run(layer: nn.Module, x: Tensor) -> Tensor:
            y, state = layer.prefill(x)  # type: ignore[operator]
            states.append(state)
            return y

        return self._run(self.embeddings(tokens), run, last), states

    def step(self, states: list[Any], token: Tensor) -> tuple[Tensor, list[Any]]:
        """Logits [batch, vocab] for one token [batch], and the new states."""
        before, after = iter(states), []

        def run(layer: nn.Module, x: Tensor) -> Tensor:
            y, state = layer.step(next(before), x)  # type: ignore[operator]
            after.append(state)
            return y

        return self._run(self.embeddings(token), run), after


def language_model(
    layer_class: Callable[..., nn.Module],
    d_model: int,
    n_layer: int,
    vocab: int,
    *,
    layer: Mapping[str, Any],
    feed_forward: float | None = None,
    tied: bool = False,
    name: str = "mixer",
) -> LanguageModel:
    """Pre-norm residual blocks; with a feed-forward part, all linear weights are drawn from N(0, 0.02²)."""
    blocks = [
        Block(d_model, layer_class(d_model, **layer), name=name, feed_forward=feed_forward, eps=1e-5)
        for _ in range(n_layer)
    ]
    model = LanguageModel(blocks, d_model, vocab, tied=tied)
    if feed_forward is not None:
        for part in model.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
    return model


@torch.no_grad()
def shrink_outputs(model: LanguageModel, key: str = "out_proj") -> LanguageModel:
    """Output projections divided by √(number of layers), so that the residual stream starts small (GPT-2)."""
    for block in model.layers:
        for name, part in block.named_modules():
            if name.endswith(key) and isinstance(part, nn.Linear):
                nn.init.kaiming_uniform_(part.weight, a=math.sqrt(5))
                part.weight /= math.sqrt(len(model.layers))
    return model
