"""Timing: contenders checked against one another, then run in turn, medians; and the machine that they ran on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mixer_ir.errors import MixerError

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""largest difference, in units of the largest entry: roundings add up over thousands of steps and of gradients"""
MOST = 50
"""rounds, however short the runs are"""


class ResultsDiffer(MixerError):
    """Two contenders compute different things: neither is timed."""


@dataclass(frozen=True)
class Timing:
    """Median seconds of so many runs."""

    seconds: float
    rounds: int


def race(
    runs: Mapping[str, Callable[[], Sequence[Tensor]]],
    *,
    budget: float = 0.4,
    long: float = 1.0,
    fresh: Collection[str] = (),
) -> dict[str, Timing]:
    """The time of each contender, the first of which the others' results are compared with.

    They run in turn, so that a slow moment of the machine hits all of them: 3 rounds, without those that have run for
    more than `long` seconds in all, and as many more as fit in `budget` seconds. A contender whose first run, made to
    compare, took longer than `long` is not run again; that run counts, but for the `fresh`, which have something to do
    once.

    Errors: ResultsDiffer names the two, the result and the difference.
    """
    expected: Sequence[Tensor] | None = None
    times: dict[str, list[float]] = {}
    for name, run in runs.items():
        seconds, results = timed(run)
        if expected is None:
            first, expected = name, [x.detach().clone() for x in results]
        else:
            agree(first, expected, name, results)
        times[name] = [seconds] if seconds > long and name not in fresh else []
    expected = results = ()
    begin = time.perf_counter()
    going = [name for name in runs if not times[name]]
    while going:
        for name in going:
            times[name].append(timed(runs[name])[0])
        more = time.perf_counter() - begin < budget
        going = [n for n in going if len(times[n]) < (MOST if more else 3) and (more or sum(times[n]) < long)]
    return {name: Timing(statistics.median(s), len(s)) for name, s in times.items()}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what it returned); what it left a GPU to do is waited for."""
    start = time.perf_counter()
    results = run()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter() - start, results


def agree(first: str, expected: Sequence[Tensor], name: str, results: Sequence[Tensor]) -> None:
    """ResultsDiffer unless the results are the same up to roundings."""
    if len(expected) != len(results):
        raise ResultsDiffer(f"{first} has {len(expected)} results, {name} has {len(results)}")
    for i, (x, y) in enumerate(zip(expected, results, strict=True)):
        if x.shape != y.shape:
            raise ResultsDiffer(f"result {i} of {name} has shape {list(y.shape)}, that of {first} {list(x.shape)}")
        scale = max(float(x.abs().max()), 1e-6)
        difference = float((x - y.detach()).abs().max()) / scale
        if not difference <= TOLERANCE[_real(x.dtype)]:
            raise ResultsDiffer(f"result {i}: {name} differs from {first} by {difference:.2g} of its largest entry")


def _real(dtype: torch.dtype) -> torch.dtype:
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def interleaved(contenders: Mapping[str, Callable[[], object]], *, rounds: int = 5) -> dict[str, float]:
    """Median seconds of each contender, in turn, results unread: at least `rounds` rounds, and of short runs as many
    as fit in half a second, up to 50."""
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    began, done = time.perf_counter(), 0
    while done < rounds or (done < MOST and time.perf_counter() - began < 0.5):
        for name, run in contenders.items():
            seconds[name].append(timed(run)[0])
        done += 1
    return {name: statistics.median(s) for name, s in seconds.items()}


def machine() -> dict[str, str]:
    """Device and versions, to stand beside every result."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    made = {"device": f"{model}, {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        made["gpu"] = torch.cuda.get_device_name()
    made |= {"torch": torch.__version__, "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
    return made | ({"triton": metadata.version("triton")} if find_spec("triton") is not None else {})
