"""The peak memory of work by itself, and where results lie; times are measured by mixer_ir/driver/timing.py."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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
