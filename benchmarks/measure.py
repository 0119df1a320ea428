"""Timing: contenders checked against one another, then run in turn, medians; and the peak memory of work by itself."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""largest difference, in units of the largest entry: roundings add up over thousands of steps and of gradients"""
MOST = 50
"""rounds, however short the runs are"""


class ResultsDiffer(RuntimeError):
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
    """(seconds, what it returned)."""
    start = time.perf_counter()
    results = run()
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


def peak_memory(work: Callable[[], object]) -> float:
    """GiB that `work` adds at its peak to a fresh process with torch loaded."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(work, sender))
    process.start()
    sender.close()
    try:
        return float(receiver.recv())
    except EOFError as error:
        raise RuntimeError("the measured process died: too little memory?") from error
    finally:
        process.join()


def _report_peak(work: Callable[[], object], sender: Any) -> None:
    before = _peak()
    work()
    sender.send((_peak() - before) / 2**20)


def _peak() -> int:
    """The most KiB that this program has held (ru_maxrss would count what its parent held before it was started)."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def machine() -> dict[str, str]:
    """Device and versions, to stand beside every result."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "device": f"{model}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
