"""Generated kernels on a GPU, right first, then fast: `python -m benchmarks.gpu [--seconds N] [--resume] [--out DIR]`.

Every mixer of the catalog against its definition in float64 (values and all gradients); then, over shapes and lengths,
the time of the forward pass and of forward and backward beside flash-linear-attention, PyTorch's attention,
FlexAttention and torch.fft, where they are installed. It ends within the seconds it is given (default 470): what is
slow is cut off and named, and so is what was not reached. Results are written as they come: gpu.json, gpu.md, and
gpu.png at the end. With --resume, the results in gpu.json are kept and the rest is measured.

Exit status: 0 done, 1 something is wrong, 2 no GPU here or bad usage.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import mixer_ir as mx
from benchmarks.boxed import Boxes, Result, Work
from benchmarks.gpu_cases import CASES, FIRST, SWEEP, TABLE
from benchmarks.gpu_cells import FULL, OURS, WORKS, Task, installed, measure
from benchmarks.gpu_report import plots, report

RESULTS = Path(__file__).parent / "results"
CHECKS = 0.45
"""of the time goes to correctness, and to the tuning of peers meanwhile"""
EACH = 150.0
"""seconds that one measurement may take, compilation and tuning included"""
LAST = 15.0
"""seconds kept for writing at the end"""
PREFERRED = ("chunked", "flash", "scan", "fft", "parallel", "recurrent", "direct", "monarch", "dense")


def checks() -> Iterator[Task]:
    """The form that is meant for long sequences of every mixer in float32, then in bfloat16, then the other forms."""
    mixers = [(f"{n}/{k}", m) for n in mx.catalog.list() for k, m in mx.catalog.get(n).mixers.items()]
    ranked = {what: sorted(m.forms(), key=PREFERRED.index) for what, m in mixers}
    for dtype in ("float32", "bfloat16"):
        yield from (Task("correct", what, form=forms[0], dtype=dtype) for what, forms in ranked.items())
    for i in range(1, len(PREFERRED)):
        yield from (Task("correct", w, form=forms[i], dtype="float32") for w, forms in ranked.items() if i < len(forms))


def agreements() -> Iterator[Task]:
    """Every peer beside the definition, and once through both passes at each head size, which tunes some of them."""
    for shape in {s[3]: s for s in reversed(TABLE)}.values():
        for name, case in CASES.items():
            for peer in installed(case):
                yield Task("tune", name, peer, shape)
                yield Task("agree", name, peer)


def speeds() -> Iterator[Task]:
    """The table's shapes, then time against T."""
    ordered = [*FIRST, *(n for n in CASES if n not in FIRST)]
    for shape in (*TABLE, *SWEEP):
        for name in ordered if shape in TABLE else FIRST:
            for contender in (OURS, *installed(CASES[name])):
                yield Task("speed", name, contender, shape)


def shown(task: Task, result: Result) -> str:
    """A line on the terminal."""
    if "error" in result:
        told = result["error"].splitlines()[0][:150]
    elif task.kind == "speed":
        told = ", ".join(f"{work} {result[work]['seconds'] * 1e3:.3f} ms" for work in WORKS)
    else:
        told = ", ".join(f"{n} {x:.2e}" if isinstance(x, float) else f"{n} {x}" for n, x in result.items())
    return f"{task.key}: {told}"


class Record:
    """All results so far, on disk after each."""

    def __init__(self, out: Path, machine: dict[str, str], *, resume: bool) -> None:
        self.out, self.machine = out, machine
        self.results: dict[str, Result] = {}
        self.tasks: dict[str, Task] = {}
        self.missing: list[str] = []
        if resume and (out / "gpu.json").exists():
            told = json.loads((out / "gpu.json").read_text(encoding="utf-8"))
            self.results = {k: r for k, r in told["results"].items() if "error" not in r}

    def add(self, task: Task, result: Result) -> None:
        self.results[task.key] = result
        print(shown(task, result), flush=True)
        self.write()

    def write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        told = {"machine": self.machine, "results": self.results, "not reached": self.missing}
        self._replace("gpu.json", json.dumps(told, indent=1) + "\n")
        self._replace("gpu.md", report(self.machine, self.results, self.missing))

    def _replace(self, name: str, text: str) -> None:
        part = self.out / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(self.out / name)

    def new(self, tasks: Iterator[Task]) -> list[Task]:
        """Those that are not measured yet, each once."""
        return [t for t in dict.fromkeys(tasks) if t.key not in self.results]


def run(record: Record, work: Work, seconds: float, workers: int) -> None:
    """All that fits in `seconds`: checks and tuning side by side, then times, one at a time on the device."""
    begin = time.monotonic()
    end = begin + seconds - LAST
    with Boxes(work, workers) as boxes:
        boxes.run(record.new(iter([Task("rates")])), record.add, each=EACH, until=end)
        first = _interleaved(record.new(agreements()), record.new(checks()))
        left = boxes.run(first, record.add, each=EACH, until=begin + CHECKS * seconds)
        rest = boxes.run(record.new(speeds()), record.add, each=EACH, until=end)
        crowded = [t for t in dict.fromkeys(speeds()) if record.results.get(t.key, {}).get("error") == FULL]
        boxes.run(crowded, record.add, each=EACH, until=end, count=1)  # with nothing beside them
        left = boxes.run(left, record.add, each=EACH, until=end)
    record.missing = [t.key for t in (*rest, *left)]
    record.write()


def _interleaved(one: list[Task], other: list[Task]) -> list[Task]:
    """One of each in turn, so that what takes long to tune begins early."""
    n = max(len(one), len(other))
    return [t for i in range(n) for t in (*one[i : i + 1], *other[i : i + 1])]


def machine() -> dict[str, str]:
    """Device and versions."""
    made = {"python": platform.python_version(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    if torch.cuda.is_available():
        made["device"] = torch.cuda.get_device_name()
        made["cuda"] = str(torch.version.cuda or torch.version.hip)
    for package in ("triton", "fla-core"):
        if find_spec(package.partition("-")[0]) is not None:
            made[package] = metadata.version(package)
    return made


def absent() -> str | None:
    """Why nothing can be measured here."""
    if not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    return None if find_spec("triton") is not None else "the package triton is not installed"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=470.0, help="when to end (default 470)")
    parser.add_argument("--workers", type=int, default=max(1, min(12, (os.cpu_count() or 2) - 2)), help="processes")
    parser.add_argument("--resume", action="store_true", help="keep what gpu.json holds and measure the rest")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where results go")
    arguments = parser.parse_args(argv)
    if (reason := absent()) is not None:
        print(f"benchmarks.gpu: {reason}, so there is nothing to measure", file=sys.stderr)
        return 2
    record = Record(arguments.out, machine(), resume=arguments.resume)
    run(record, measure, arguments.seconds, arguments.workers)
    drawn = plots(record.results, arguments.out)
    print(f"wrote {arguments.out / 'gpu.md'}, gpu.json" + (" and gpu.png" if drawn else ""))
    wrong: Any = [k for k, r in record.results.items() if r.get("ok") is False or "error" in r]
    print(f"{len(record.results)} measurements, {len(wrong)} wrong or cut off, {len(record.missing)} not reached")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
