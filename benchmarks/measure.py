"""Timing: contenders run in turn, the median of each; and the peak memory of work in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(contenders: Mapping[str, Callable[[], object]], *, rounds: int = 5) -> dict[str, float]:
    """Median seconds of each contender; they run in turn, so that a slow moment of the machine hits all of them.

    At least `rounds` rounds, and of short runs as many as fit in half a second, up to 50.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    began, done = time.perf_counter(), 0
    while done < rounds or (done < 50 and time.perf_counter() - began < 0.5):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
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


def write(name: str, title: str, command: str, tables: Mapping[str, list[dict[str, Any]]]) -> Path:
    """benchmarks/results/NAME.json and .md: the tables, the machine, and the command that made them."""
    RESULTS.mkdir(exist_ok=True)
    facts = machine()
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"command": command, "machine": facts, "tables": tables}, indent=1) + "\n", encoding="utf-8"
    )
    lines = [f"# {title}", "", f"`{command}`", "", ", ".join(f"{k} {v}" for k, v in facts.items()), ""]
    for heading, rows in tables.items():
        columns = list(rows[0])
        lines += [f"## {heading}", "", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
        lines += [f"| {' | '.join(_cell(row[c]) for c in columns)} |" for row in rows]
        lines.append("")
    path = RESULTS / f"{name}.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
