"""Forms on a CPU, side by side in one run: `python -m benchmarks.cpu [speed] [planner] [start] [memory]`.

speed    chunked against the time loop that one would write by hand; fft against dense
planner  the form that the planner chooses against every other legal form, over mixers and lengths
start    importing, and the first call of every mixer of the catalog beyond its run time
memory   the gated delta rule on long sequences
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import mixer_ir as mx
from benchmarks.measure import interleaved, peak_memory, write
from mixer_ir.explain import likely_kinds

SWEEP_LENGTHS = (16, 64, 256, 1024, 4096)
SLOWEST = 10.0
"""a form predicted to take longer than this many times the fastest cannot be the best and is not run"""


@mx.recurrence
def gated_linear(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h k"):
    """S_t = diag(exp(g_t)) S_{t−1} + k_t v_tᵀ,   y_t = S_tᵀ q_t"""
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def gated_delta(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h", beta: "b t h"):
    """S_t = e^{g_t} (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ,   y_t = S_tᵀ q_t"""
    S = mx.exp(g) * (S - beta * mx.outer(k, k @ S)) + beta * mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def selective(h: mx.State("n"), C: "b t n", B: "b t n", x: "b t d", dt: "b t d", A: "d n"):
    """h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_t,   y_t = C_tᵀ h_t"""
    h = mx.exp(dt * A) * h + dt * B * x
    return h, C @ h


@mx.recurrence
def diagonal_ssm(h: mx.State("n"), x: "b t d", a: "d n", B: "d n", C: "d n"):
    """h_t = exp(a) h_{t−1} + B x_t,   y_t = Cᵀ h_t"""
    h = mx.exp(a) * h + B * x
    return h, C @ h


@mx.mixer
def convolution(h: "t d", x: "b t d"):
    """y_t = Σ_s h_{t−s} x_s"""
    return mx.toeplitz(h) @ x


@mx.mixer
def attention(q: "b t h k", k: "b t h k", v: "b t h v"):
    """causal softmax attention"""
    return mx.softmax(mx.causal(mx.lowrank(q, k))) @ v


def signals(mixer: mx.Mixer, t: int, **others: int) -> dict[str, Tensor]:
    """Inputs of unit scale: batch 1, 8 heads of 64, 256 channels with 16 states, or other sizes where given."""
    sizes = {"b": 1, "t": t, "h": 8, "k": 64, "v": 64, "d": 256, "n": 16, **others}
    made = {name: torch.randn([sizes[a] for a in axes]) for name, axes in mixer.signals.items()}
    for name, x in made.items():
        if name in ("g", "a", "A"):
            made[name] = -x.abs()
        elif name in ("beta", "dt"):
            made[name] = x.sigmoid()
        elif name == "k":
            made[name] = normalize(x, dim=-1)
    return made


def gated_linear_loop(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """What one writes by hand."""
    b, t, h, n = k.shape
    S, out = k.new_zeros(b, h, n, v.shape[-1]), []
    for i in range(t):
        S = g[:, i].exp()[..., None] * S + k[:, i, :, :, None] * v[:, i, :, None, :]
        out.append((q[:, i, :, None] @ S)[:, :, 0])
    return torch.stack(out, 1)


def gated_delta_loop(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """What one writes by hand."""
    b, t, h, n = k.shape
    S, out = k.new_zeros(b, h, n, v.shape[-1]), []
    for i in range(t):
        S = g[:, i].exp()[..., None, None] * S
        u = beta[:, i, :, None] * (v[:, i] - (k[:, i, :, None] @ S)[:, :, 0])
        S = S + k[:, i, :, :, None] * u[:, :, None]
        out.append((q[:, i, :, None] @ S)[:, :, 0])
    return torch.stack(out, 1)


def trained(f: Callable[..., Tensor], s: dict[str, Tensor]) -> Callable[[], object]:
    """Forward and backward."""
    inputs = {n: x.clone().requires_grad_() for n, x in s.items()}
    return lambda: torch.autograd.grad(f(**inputs).square().mean(), list(inputs.values()))


def speed() -> list[dict[str, Any]]:
    """Chunked against the loop at T = 4,096; fft against dense at T = 16,384."""
    rows = []
    for mixer, loop in ((gated_linear, gated_linear_loop), (gated_delta, gated_delta_loop)):
        s, chunked = signals(mixer, 4096), mx.compile(mixer, form="chunked", backend="eager")
        works = {
            "forward": (lambda s=s, f=chunked: f(**s), lambda s=s, f=loop: f(**s)),
            "forward + backward": (trained(chunked, s), trained(loop, s)),
        }
        for what, (ours, theirs) in works.items():
            times = interleaved({"chunked": ours, "loop": theirs}, rounds=5 if what == "forward" else 1)
            rows.append(_row(mixer.name, 4096, what, "chunked", "time loop", times["chunked"], times["loop"]))
    s = signals(convolution, 16384, d=4)
    fft, dense = (mx.compile(convolution, form=form, backend="eager") for form in ("fft", "dense"))
    times = interleaved({"fft": lambda: fft(**s), "dense": lambda: dense(**s)}, rounds=1)
    rows.append(_row("convolution", 16384, "forward", "fft", "dense", times["fft"], times["dense"]))
    return rows


def _row(mixer: str, t: int, what: str, ours: str, theirs: str, a: float, b: float) -> dict[str, Any]:
    return {
        "mixer": mixer,
        "T": t,
        "work": what,
        "form": ours,
        "against": theirs,
        "ms": a * 1e3,
        "ms against": b * 1e3,
        "ratio": b / a,
    }


def planner() -> list[dict[str, Any]]:
    """The chosen form's time over that of the fastest legal form."""
    rows = []
    for mixer in (gated_linear, gated_delta, selective, diagonal_ssm, convolution, attention):
        for t in SWEEP_LENGTHS:
            s = signals(mixer, t)
            table = mx.compile(mixer, backend="eager").explain(**s)
            (choice,) = table.chosen.values()
            predicted = {f: sum(r.seconds for r in table.rows if r.form == f) for f in mixer.forms()}
            forms = [f for f, seconds in predicted.items() if seconds <= SLOWEST * min(predicted.values())]
            contenders = {form: mx.compile(mixer, form=form, backend="eager") for form in forms}
            runs: dict[str, Callable[[], object]] = {f: (lambda g=g, s=s: g(**s)) for f, g in contenders.items()}
            times = interleaved(runs)
            best = min(times, key=times.__getitem__)
            ratio = times[choice] / times[best]
            rows.append(
                {
                    "mixer": mixer.name,
                    "T": t,
                    "chosen": choice,
                    "ms": times[choice] * 1e3,
                    "best": best,
                    "ms best": times[best] * 1e3,
                    "ratio": ratio,
                    "within 1.3": ratio <= 1.3,
                }
            )
    return rows


def start() -> list[dict[str, Any]]:
    """Seconds by which the first forward and backward pass exceed the second, at T = 1,024; and of importing."""
    code = "import time, torch; t = time.perf_counter(); import mixer_ir; print(time.perf_counter() - t)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    rows = [{"mixer": "import mixer_ir, after torch", "forward": float(told), "backward": 0.0}]
    for name in mx.catalog.list():
        for mixer in mx.catalog.get(name).mixers.values():
            f, s = mx.compile(mixer, backend="eager"), _mild(mixer)
            (first, first_back), (again, again_back) = _call(f, s), _call(f, s)
            rows.append({"mixer": mixer.name, "forward": first - again, "backward": first_back - again_back})
    return rows


def _mild(mixer: mx.Mixer) -> dict[str, Tensor]:
    """Small signals, so that little of a call is its run time: 1 sequence, 2 heads, 4 of everything else."""
    made, kinds = {}, likely_kinds(mixer)
    for name, axes in mixer.signals.items():
        shape = [1024 if a in "ts" else {"b": 1, "h": 2}.get(a, 4) for a in axes]
        real = kinds[name] == "real"
        made[name] = (-0.1 * torch.rand(shape)).requires_grad_() if real else torch.randint(2, shape)
    return made


def _call(f: mx.CompiledMixer, s: dict[str, Tensor]) -> tuple[float, float]:
    """Seconds of a forward and of a backward pass."""
    begin = time.perf_counter()
    y = f(**s)
    middle = time.perf_counter()
    torch.autograd.backward(y.abs().square().sum())
    return middle - begin, time.perf_counter() - middle


def _delta_inputs(t: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return signals(gated_delta, t, h=4)


def train_65536() -> None:
    """Forward and backward at T = 65,536, 4 heads of 64, float32."""
    trained(mx.compile(gated_delta, form="chunked", backend="eager"), _delta_inputs(65_536))()


def infer_1048576() -> None:
    """Forward at T = 1,048,576, 4 heads of 64, float32."""
    with torch.no_grad():
        mx.compile(gated_delta, form="chunked", backend="eager")(**_delta_inputs(1_048_576))


def memory() -> list[dict[str, Any]]:
    """Peak memory, inputs and gradients included."""
    works = ((train_65536, 2.5), (infer_1048576, 6.0))
    return [{"work": work.__doc__, "GiB": peak_memory(work), "goal": goal} for work, goal in works]


def main() -> int:
    tables = {"speed": speed, "planner": planner, "start": start, "memory": memory}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(tables))
    chosen = parser.parse_args().tables or list(tables)
    if unknown := set(chosen) - set(tables):
        parser.error(f"no table {', '.join(sorted(unknown))}; tables: {', '.join(tables)}")
    torch.manual_seed(0)
    made = {}
    for name in chosen:
        made[name] = tables[name]()
        for row in made[name]:
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    if len(made) == len(tables):
        print("wrote", write("cpu", "Forms on a CPU", "python -m benchmarks.cpu", made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
