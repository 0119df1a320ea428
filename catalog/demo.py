"""The demonstration: train two mixers on handwritten digits, decode step by step, and draw mixing matrices."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog import gated_deltanet, gla, hydra, hyena, s4d, softmax_attention
from catalog.entry import Entry

GOAL = 0.9
WIDTH, LAYERS, EPOCHS, BATCH = 48, 2, 14, 50
CLASSIFIERS: tuple[tuple[Entry, dict[str, Any]], ...] = (
    (hydra.ENTRY, {"expand": 2, "d_state": 16, "head_dim": 24}),
    (gated_deltanet.ENTRY, {"n_head": 2, "head_dim": 16, "expand_v": 2}),
)
DRAWN = tuple(module.ENTRY for module in (softmax_attention, gla, gated_deltanet, hydra, s4d, hyena))


class Classifier(nn.Module):
    """Digits as sequences of 64 pixels: embedding, `LAYERS` residual mixer layers, mean over time, linear read-out."""

    def __init__(self, entry: Entry, config: dict[str, Any]) -> None:
        super().__init__()
        self.pixel = nn.Linear(1, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(64, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(LAYERS))
        self.mixers = nn.ModuleList(entry.layer(d_model=WIDTH, **config) for _ in range(LAYERS))
        self.out = nn.Linear(WIDTH, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (b t) -> logits (b, 10)"""
        x = self.pixel(pixels[..., None]) + self.place
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        y: Tensor = self.out(x.mean(1))
        return y


def demo(out: Path) -> int:
    """The whole demonstration; 0 if everything that it shows is true, 1 if not."""
    from rich.console import Console

    torch.manual_seed(0)
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    fine = [_train(entry, config, console) for entry, config in CLASSIFIERS]
    fine.append(_decode(console))
    _draw(out, console)
    return 0 if all(fine) else 1


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Handwritten digits of scikit-learn, 8 × 8 pixels in reading order: a fixed split into training and test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise mx.BackendError("the demonstration needs scikit-learn: pip install 'mixer-ir[demo]'") from error
    data: Any = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return x[train], y[train], x[test], y[test]


def _train(entry: Entry, config: dict[str, Any], console: Any) -> bool:
    from rich.progress import Progress

    x, y, x_test, y_test = _digits()
    model, name = Classifier(entry, config), entry.name
    steps = EPOCHS * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    started = time.perf_counter()
    with Progress(console=console) as progress:
        bar = progress.add_task(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters", total=steps)
        for _ in range(EPOCHS):
            order = torch.randperm(len(x))
            for i in range(len(x) // BATCH):
                rows = order[i * BATCH : (i + 1) * BATCH]
                loss = F.cross_entropy(model(x[rows]), y[rows])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                progress.advance(bar)
    with torch.no_grad():
        accuracy = float((model(x_test).argmax(-1) == y_test).float().mean())
    seconds = time.perf_counter() - started
    console.print(
        f"{name}: test accuracy {accuracy:.1%} on {len(x_test)} digits after {EPOCHS} epochs, {seconds:.0f} s"
    )
    return accuracy >= GOAL


def _decode(console: Any) -> bool:
    """A layer over a whole sequence against the same layer stepping from a prefill."""
    entry, config = CLASSIFIERS[-1]
    layer: Any = entry.layer(d_model=WIDTH, **config).double()
    x = torch.randn(2, 64, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        whole = layer(x)
        y, state = layer.prefill(x[:, :40])
        parts = [y]
        for t in range(40, 64):
            y_t, state = layer.step(state, x[:, t])
            parts.append(y_t[:, None])
    error = float((torch.cat(parts, 1) - whole).abs().max())
    console.print(f"{entry.name}: prefill of 40 and 24 decoding steps equal the whole up to {error:.1e}")
    return error < 1e-9


def _draw(out: Path, console: Any) -> None:
    for entry in DRAWN:
        path = out / f"{entry.name}.png"
        mx.plot(entry.mixer, out=path)
        console.print(f"wrote {path}")
