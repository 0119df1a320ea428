"""The native backend beside what a user has today: `python -m benchmarks.peers [scan] [layer] [mixers] [decode]`.

scan     the selective scan (1,536 channels, 16 states) beside a time loop in PyTorch
layer    a whole Mamba-130m layer beside those of the packages transformers and mambapy
mixers   forward and backward, 8 heads of 64, beside the naive references of fla-core and the eager backend
decode   one step of the same mixers on the native and the eager backend

All contenders of a row run in turn in one process; times are medians. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import mixer_ir as mx
from benchmarks.cpu import gated_delta, gated_linear, selective, signals, trained
from benchmarks.measure import interleaved, write
from catalog import streaming

Row = dict[str, Any]


def peer(module: str, name: str) -> Any | None:
    """Something of a package that may not be there."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


def row(what: str, t: int, work: str, runs: Mapping[str, Callable[[], object]], rounds: int = 3) -> Row:
    """Milliseconds of every contender, and how many times as long as `native` the others take."""
    times = interleaved(runs, rounds=rounds)
    made: Row = {"what": what, "T": t, "work": work, "native ms": times["native"] * 1e3}
    for name, seconds in times.items():
        if name != "native":
            made |= {"against": name, "ms": seconds * 1e3, "ratio": seconds / times["native"]}
            print(
                "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in made.items()), flush=True
            )
            ROWS.append(dict(made))
    return made


ROWS: list[Row] = []


def collected(table: Callable[[], None]) -> list[Row]:
    ROWS.clear()
    table()
    return list(ROWS)


# ------------------------------------------------------------------------------------------------------ the tables


def selective_loop(C: Tensor, B: Tensor, x: Tensor, dt: Tensor, A: Tensor) -> Tensor:
    """What one writes by hand."""
    h, out = x.new_zeros(x.shape[0], *A.shape), []
    factor, drive = torch.exp(dt[..., None] * A), (dt * x)[..., None] * B[:, :, None]
    for t in range(x.shape[1]):
        h = factor[:, t] * h + drive[:, t]
        out.append((h @ C[:, t, :, None])[..., 0])
    return torch.stack(out, 1)


def scan() -> None:
    t, d, n = 2048, 1536, 16
    s = {
        "C": torch.randn(1, t, n),
        "B": torch.randn(1, t, n),
        "x": torch.randn(1, t, d),
        "dt": torch.rand(1, t, d) / 10,
        "A": -torch.rand(d, n),
    }
    f = mx.compile(selective, form="recurrent", backend="native")
    runs = {"native": lambda: f(**s), "torch time loop": lambda: selective_loop(**s)}
    row("selective scan", t, "forward", runs)
    row(
        "selective scan",
        t,
        "forward + backward",
        {"native": trained(f, s), "torch time loop": trained(selective_loop, s)},
    )


def layer() -> None:
    ours = mx.catalog.get("mamba").layer(d_model=768)
    runs: dict[str, torch.nn.Module] = {}
    if (made := peer("transformers.models.mamba.modeling_mamba", "MambaMixer")) is not None:
        config = peer("transformers", "MambaConfig")(hidden_size=768)
        runs["transformers"] = made(config, layer_idx=0)
    if (made := peer("mambapy.mamba", "MambaBlock")) is not None:
        runs["mambapy"] = made(peer("mambapy.mamba", "MambaConfig")(d_model=768, n_layers=1))

    def training(module: torch.nn.Module, x: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(module(x).square().mean(), list(module.parameters()), allow_unused=True)

    with native_layers():
        x = torch.randn(1, 2048, 768)
        with torch.no_grad():
            row(
                "Mamba-130m layer",
                2048,
                "forward",
                {"native": lambda: ours(x), **{n: functools.partial(m, x) for n, m in runs.items()}},
            )
        y = torch.randn(1, 512, 768)
        works = {"native": training(ours, y), **{n: training(m, y) for n, m in runs.items()}}
        row("Mamba-130m layer", 512, "forward + backward", works, rounds=1)


class native_layers:
    """Layers of the catalog run on the native backend."""

    def __enter__(self) -> None:
        self.before = streaming.compiled
        streaming.compiled = functools.cache(
            lambda mixer: mx.compile(
                mixer, form="recurrent" if "recurrent" in mixer.forms() else "direct", backend="native"
            )
        )

    def __exit__(self, *error: object) -> None:
        streaming.compiled = self.before


KDA = ("fla.ops.kda.naive", "naive_recurrent_kda")
NAIVE: dict[str, tuple[mx.Mixer, tuple[str, str], Callable[..., Callable[..., Any]]]] = {
    "GLA": (
        gated_linear,
        ("fla.ops.gla.naive", "naive_recurrent_gla"),
        lambda f: lambda q, k, v, g: f(q, k, v, g)[0],
    ),
    "gated delta": (
        gated_delta,
        ("fla.ops.gated_delta_rule.naive", "naive_recurrent_gated_delta_rule"),
        lambda f: lambda q, k, v, g, beta: f(q, k, v, beta, g)[0],
    ),
    "KDA": (mx.catalog.get("kda").mixer, KDA, lambda f: lambda q, k, v, g, beta: f(q, k, v, g, beta)[0]),
}


def mixers() -> None:
    t = 2048
    for name, (mixer, (module, function), called) in NAIVE.items():
        s = signals(mixer, t)
        for work, way in (("forward", lambda f, s: lambda: f(**s)), ("forward + backward", trained)):
            runs = {b: way(mx.compile(mixer, form="chunked", backend=b), s) for b in ("native", "eager")}
            row(name, t, work, runs)
            if (f := peer(module, function)) is not None:
                row(name, t, work, {"native": runs["native"], "fla-core naive": way(called(f), s)}, rounds=1)


def decode() -> None:
    for name, (mixer, _, _) in NAIVE.items():
        s = signals(mixer, 2)
        one = {n: x[:, 0] for n, x in s.items()}
        runs = {}
        for backend in ("native", "eager"):
            f = mx.compile(mixer, backend=backend)
            _, state = f.prefill(**s)
            runs[backend] = lambda f=f, state=state, one=one: [f.step(state, **one) for _ in range(50)]
        with torch.no_grad():
            row(name, 1, "50 steps", runs)


def main() -> int:
    tables = {"scan": scan, "layer": layer, "mixers": mixers, "decode": decode}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(tables))
    chosen = parser.parse_args().tables or list(tables)
    if unknown := set(chosen) - set(tables):
        parser.error(f"no table {', '.join(sorted(unknown))}; tables: {', '.join(tables)}")
    torch.manual_seed(0)
    made = {name: collected(tables[name]) for name in chosen}
    if len(made) == len(tables):
        print("wrote", write("peers", "The native backend beside what there is", "python -m benchmarks.peers", made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
