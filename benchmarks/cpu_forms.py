"""Forms on a CPU: what they gain, whether the planner finds the best, and what starting and long sequences cost.

speed    chunked on the eager backend beside the time loop that one would write by hand; fft beside dense
planner  the form that the planner chooses beside every other legal form, over mixers and lengths
start    importing, and the first call of every mixer of the catalog beyond its run time
compile  the first native call of some mixers, forward and backward, with nothing on disk
memory   the gated delta rule on long sequences
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import mixer_ir as mx
from backends import missing
from benchmarks import plain
from benchmarks.measure import peak_memory
from mixer_ir.driver.explain import likely_kinds
from mixer_ir.driver.timing import interleaved, race

Table = list[dict[str, Any]]

SWEEP_LENGTHS = (16, 64, 256, 1024, 4096)
SLOWEST = 10.0
"""a form predicted to take longer than this many times the fastest cannot be the best and is not run"""
IMPORT = "import mixer_ir, after torch"
COMPILED = ("gla", "mamba", "mamba2", "gated_deltanet", "kda", "rwkv7", "softmax_attention")


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


def trained(f: Callable[..., Tensor], s: dict[str, Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward."""
    inputs = {n: x.clone().requires_grad_() for n, x in s.items()}
    return lambda: torch.autograd.grad(f(**inputs).square().mean(), list(inputs.values()))


def once(f: Callable[..., Tensor], s: dict[str, Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Forward."""
    return lambda: (f(**s),)


def speed(t: int = 4096, long: int = 16384) -> Table:
    """Chunked beside the loop, fft beside dense; a loop that takes seconds runs once."""
    rows = []
    for mixer, loop in ((gated_linear, plain.gated_linear), (gated_delta, plain.gated_delta)):
        s, chunked = signals(mixer, t), mx.compile(mixer, form="chunked", backend="eager")
        for what, way in (("forward", once), ("forward + backward", trained)):
            times = race({"chunked": way(chunked, s), "time loop": way(loop, s)}, fresh=("chunked",))
            rows.append(_beside(mixer.name, t, what, {n: timing.seconds for n, timing in times.items()}))
    s = signals(convolution, long, d=4)
    runs = {form: once(mx.compile(convolution, form=form, backend="eager"), s) for form in ("fft", "dense")}
    rows.append(_beside("convolution", long, "forward", {n: timing.seconds for n, timing in race(runs).items()}))
    return rows


def _beside(mixer: str, t: int, work: str, times: dict[str, float]) -> dict[str, Any]:
    (ours, a), (theirs, b) = times.items()
    return {
        "mixer": mixer,
        "T": t,
        "work": work,
        "form": ours,
        "against": theirs,
        "ms": a * 1e3,
        "ms against": b * 1e3,
        "ratio": b / a,
    }


def planner(lengths: tuple[int, ...] = SWEEP_LENGTHS) -> Table:
    """The chosen form's time over that of the fastest legal form."""
    rows = []
    for mixer in (gated_linear, gated_delta, selective, diagonal_ssm, convolution, attention):
        for t in lengths:
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


def start(names: tuple[str, ...] | None = None) -> Table:
    """Seconds by which the first forward and backward pass exceed the second, at T = 1,024; and of importing."""
    code = "import time, torch; t = time.perf_counter(); import mixer_ir; print(time.perf_counter() - t)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    rows: Table = [{"mixer": IMPORT, "forward": float(told), "backward": 0.0}]
    for name in names or mx.catalog.list():
        rows += [_first_calls(mixer, "auto") for mixer in mx.catalog.get(name).mixers.values()]
    return rows


def compile(names: tuple[str, ...] = COMPILED) -> Table:
    """The same on the native backend, with a cache of its own, so that the compiler runs."""
    if missing("native") is not None:
        return []
    before = os.environ.get("MIXER_IR_CACHE")
    with tempfile.TemporaryDirectory() as place:
        os.environ["MIXER_IR_CACHE"] = place
        try:
            return [_first_calls(mx.catalog.get(name).mixer, "native") for name in names]
        finally:
            del os.environ["MIXER_IR_CACHE"]
            if before is not None:
                os.environ["MIXER_IR_CACHE"] = before


def _first_calls(mixer: mx.Mixer, backend: str) -> dict[str, Any]:
    f, s = mx.compile(mixer, backend=backend), _mild(mixer)
    (first, first_back), (again, again_back) = _call(f, s), _call(f, s)
    return {"mixer": mixer.name, "forward": first - again, "backward": first_back - again_back}


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


def memory() -> Table:
    """Peak memory, inputs and gradients included."""
    return [{"work": work.__doc__, "GiB": peak_memory(work)} for work in (train_65536, infer_1048576)]


TABLES: dict[str, Callable[[], Table]] = {f.__name__: f for f in (speed, planner, start, compile, memory)}
