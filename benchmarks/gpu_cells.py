"""One measurement on a GPU: kernels held against the definition, a device's rates, or the time of a contender."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import Tensor

import mixer_ir as mx
from benchmarks.boxed import Alone, Result
from benchmarks.gpu_cases import CASES, Case, Shape, Signals
from mixer_ir.trust.expected import expected

OURS = "mixer-ir"
WORKS = ("forward", "forward+backward")
LENGTH = 200
"""steps of a correctness check: some chunks and a part of one"""
SIZES = {"b": 2, "h": 2, "g": 2, "k": 32, "v": 48, "n": 16, "d": 24, "p": 32, "c": 20}
SMALL = (1, 300, 2, 64)
"""the shape at which a peer must agree"""
AGREE = 2e-2
FLUSH = 1 << 28
"""bytes written between two runs, so that none finds its tensors in the cache"""
FULL = "out of memory"
BUDGET, LEAST, MOST = 0.3, 7, 100
"""seconds of a measurement, and how many runs it takes"""

Timer: TypeAlias = Callable[[Callable[[], object]], list[float]]


@dataclass(frozen=True)
class Task:
    """What to measure.

    kind    "correct": `form` of the mixer `what` (entry/mixer), in `dtype`        "rates": of the device
            "agree": a peer of the case `what` beside the definition               "tune": a peer, both passes once
            "speed": the time of a contender of the case
    """

    kind: str
    what: str = ""
    contender: str = OURS
    shape: Shape = (0, 0, 0, 0)
    form: str = ""
    dtype: str = ""

    @property
    def key(self) -> str:
        shape = "x".join(map(str, self.shape)) if any(self.shape) else ""
        return "|".join(x for x in (self.kind, self.what, self.contender, self.form, self.dtype, shape) if x)


def measure(task: Task, alone: Alone, timer: Timer | None = None, device: str = "cuda") -> Result:
    """The result of a task; what went wrong is its result too: {"error": …}."""
    on = torch.device(device)
    try:
        match task.kind:
            case "correct":
                return correct(task, on)
            case "rates":
                with alone():
                    return rates(timer or _timer(), on)
            case "agree":
                return agree(task, on)
            case "tune":
                _both(task, on)
                return {"ok": True}
        return speed(task, alone, timer or _timer(), on)
    except torch.OutOfMemoryError:
        return {"error": FULL}
    except Exception as error:  # the result of this cell: the table shows it, the others go on
        return {"error": f"{type(error).__name__}: {error}"[:400]}
    finally:
        gc.collect()
        if on.type == "cuda":
            torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------------- time


@cache
def _timer() -> Timer:
    cold = torch.empty(FLUSH, dtype=torch.int8, device="cuda")

    def seconds(run: Callable[[], object]) -> list[float]:
        """Of each run, between two events, the cache emptied before."""
        run()
        first = _once(run, cold)
        return [_once(run, cold) for _ in range(min(MOST, max(LEAST, int(BUDGET / max(first, 1e-6)))))]

    return seconds


def _once(run: Callable[[], object], cold: Tensor) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    cold.zero_()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def rates(timer: Timer, device: torch.device) -> Result:
    """Bytes a second of copying 1 GiB, and operations a second of a bf16 product of 8192 × 8192 matrices."""
    n = 8192 if device.type == "cuda" else 64
    x = torch.randn(8 * n, n, dtype=torch.bfloat16, device=device)
    y = torch.empty_like(x)
    copied = statistics.median(timer(lambda: y.copy_(x)))
    a, b = x[:n], x[n : 2 * n]
    product = statistics.median(timer(lambda: a @ b))
    return {"copy": 2 * x.numel() * x.element_size() / copied, "matmul": 2 * n**3 / product}


# ---------------------------------------------------------------------------------------------------- right


def correct(task: Task, device: torch.device) -> Result:
    """Values and all gradients against the definition, in float64 on the processor."""
    entry, _, key = task.what.partition("/")
    mixer = mx.catalog.get(entry).mixers[key]
    axes = {a for of in mixer.signals.values() for a in of}
    want = expected(
        mixer, LENGTH, dtype=getattr(torch, task.dtype), sizes={a: n for a, n in SIZES.items() if a in axes}
    )
    f = mx.compile(mixer, form=task.form, backend="triton")
    found = want.run(lambda s, _: f(**{n: x.to(device) for n, x in s.items()}).cpu())
    return {
        "value": found.value_error,
        "gradient": found.gradient_error,
        "allowed": found.tolerance,
        "allowed gradient": found.gradient_tolerance,
        "ok": found.ok,
    }


def agree(task: Task, device: torch.device) -> Result:
    """A peer's output beside the mixer's own in float32: it must be the same computation."""
    case = CASES[task.what]
    signals = case.signals(SMALL, device, torch.bfloat16)
    with torch.no_grad():
        theirs = _peer(case, task.contender, signals)()[0].float()
        ours = mx.compile(case.mixer, backend="eager")(**{n: x.float() for n, x in signals.items()})
    off = float((theirs.reshape(ours.shape) - ours).abs().max() / ours.abs().max())
    return {"difference": off, "ok": off <= AGREE}


# ---------------------------------------------------------------------------------------------------- fast


def speed(task: Task, alone: Alone, timer: Timer, device: torch.device) -> Result:
    """Median seconds of both works, compiled and tuned before; and the bytes that they cannot do without."""
    runs, moved = _both(task, device)
    made: Result = {"bytes": moved}
    with alone():
        for work, run in runs.items():
            seconds = timer(run)
            made[work] = {"seconds": statistics.median(seconds), "least": min(seconds), "runs": len(seconds)}
    return made


def _both(task: Task, device: torch.device) -> tuple[dict[str, Callable[[], None]], dict[str, int]]:
    """Both works, run once, and the bytes of their tensors: inputs, output, gradients."""
    case = CASES[task.what]
    signals = case.signals(task.shape, device, torch.bfloat16)
    make = _own(case, signals) if task.contender == OURS else _peer(case, task.contender, signals)
    y, _ = make()
    moved = sum(x.nbytes for x in signals.values()) + y.nbytes
    back = moved + sum(x.nbytes for x in signals.values() if x.requires_grad)
    weights = torch.randn_like(y)

    def forward() -> None:
        with torch.no_grad():
            make()

    def both() -> None:
        y, inputs = make()
        torch.autograd.grad(y, inputs, weights)

    both()
    return dict(zip(WORKS, (forward, both), strict=True)), dict(zip(WORKS, (moved, moved + back), strict=True))


Make: TypeAlias = Callable[[], tuple[Tensor, list[Tensor]]]
"""the output, and the tensors that it is differentiated in"""


def _own(case: Case, signals: Signals) -> Make:
    f = mx.compile(case.mixer, form=case.form, backend="triton")
    inputs = [x for x in signals.values() if x.requires_grad]
    return lambda: (f(**signals), inputs)


def _peer(case: Case, name: str, signals: Signals) -> Make:
    peer = case.peers[name]
    function: Any = peer.function()
    laid = peer.lay(signals)
    inputs = [x for x in laid.values() if x.requires_grad]
    return lambda: (peer.call(function, laid), inputs)


def installed(case: Case) -> list[str]:
    """The peers that are here."""
    return [n for n, peer in case.peers.items() if find_spec(peer.module.partition(".")[0]) is not None]
