"""Mixers on a CPU beside what a user has today: `python -m benchmarks.cpu [PART …] [--quick] [--out DIR]`.

forms    what the forms gain, the planner, starting, compiling, memory
mixers   the catalog forward, forward and backward and decoding, T from 256 to 65,536
wide     keys and values of 128, where matrix products bound the chunked form
long     T = 1,048,576
layers   whole layers, and a language model
profile  where the time of some of these goes

All parts together write cpu.json, cpu.md and plots to benchmarks/results (or DIR): about twenty minutes on two idle
cores. Some parts, or --quick (all parts at small sizes, about two minutes), write only where --out names a folder.

What was measured is written whatever happens after it. Contenders that compute different things are not timed, but
named where their times would stand.

Exit status: 0 done, 1 some contenders compute different things, or an error ended the run; 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import cpu_forms, cpu_layers, cpu_mixers, cpu_profile
from benchmarks.cpu_cases import CASES, LONG, WIDE
from benchmarks.cpu_mixers import FORWARD, TRAINING, Settings
from benchmarks.cpu_report import markdown, plots
from benchmarks.limits import best, measured
from benchmarks.measure import RESULTS
from mixer_ir.driver.timing import ResultsDiffer, machine

QUICK = ("gla", "gated_deltanet", "mamba", "s4d", "hyena", "softmax_attention")
Table = Callable[[], list[dict[str, Any]]]
PARTS = ("forms", "mixers", "wide", "long", "layers", "profile")


def rows(part: str, quick: bool) -> Iterator[dict[str, Any]]:
    """The rows of a part as they are measured."""
    match part:
        case "mixers":
            some = [c for c in CASES if c.name in QUICK]
            settings = Settings(lengths=(256, 1024), cap=0.3, budget=0.1)
            yield from cpu_mixers.rows(some, settings) if quick else cpu_mixers.rows(CASES, Settings())
        case "wide":
            settings = Settings(lengths=(2048,), works=(FORWARD, TRAINING), ours=("native", "eager"), beside=False)
            yield from cpu_mixers.rows(WIDE[:1] if quick else WIDE, settings)
        case "long":
            lengths = (4096, 65_536) if quick else (65_536, 1_048_576)
            settings = Settings(lengths=lengths, works=(FORWARD,), ours=("native",), beside=False, cap=60, budget=3)
            yield from cpu_mixers.rows(LONG, settings)
        case "layers":
            yield from cpu_layers.rows(cpu_layers.Settings(256, 64, 2, 256) if quick else cpu_layers.Settings())


def tables(part: str, quick: bool) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The tables of a part that has tables of its own, by name, as they are measured."""
    if part == "profile":
        yield "profile", cpu_profile.rows(256, 2) if quick else cpu_profile.rows()
        return
    small: dict[str, Table] = {
        "speed": partial(cpu_forms.speed, 512, 2048),
        "planner": partial(cpu_forms.planner, (16, 256)),
        "start": partial(cpu_forms.start, ("gla", "mamba")),
        "compile": partial(cpu_forms.compile, ("gla",)),
        "memory": list,
    }
    for name, run in cpu_forms.TABLES.items():
        yield name, agreeing(small[name] if quick else run)


def agreeing(table: Table) -> list[dict[str, Any]]:
    """A table's rows; one that says so where two contenders differ."""
    try:
        return table()
    except ResultsDiffer as error:
        return [{"differs": str(error)}]


def told(row: dict[str, Any]) -> str:
    """A row in one line."""
    return "  ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())


def run(parts: list[str], quick: bool, found: dict[str, Any]) -> None:
    """Some parts, told as they come; what is found is there at every moment."""
    begin, rates = time.perf_counter(), [measured()]
    found |= {"rates": asdict(best(rates)), "seconds": 0.0, "rows": [], "tables": {}}
    for part in parts:
        if part in ("forms", "profile"):
            for name, made in tables(part, quick):
                found["tables"][name] = made
                for row in made:
                    print(told(row), flush=True)
        else:
            for row in rows(part, quick):
                print(told(row), flush=True)
                found["rows"].append(row)
        rates.append(measured())
        found |= {"rates": asdict(best(rates)), "seconds": time.perf_counter() - begin}


def differing(found: dict[str, Any]) -> list[str]:
    """The cells whose contenders compute different things."""
    cells = [f"{r['mixer']}, T = {r['T']}, {r['work']}: {r['differs']}" for r in found["rows"] if "differs" in r]
    made = [(name, r) for name, table in found["tables"].items() for r in table]
    return cells + [f"table {name}: {r['differs']}" for name, r in made if "differs" in r]


def write(results: dict[str, Any], folder: Path) -> Path:
    """cpu.json, the Markdown made from it, and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    (folder / "cpu.json").write_text(text, encoding="utf-8")
    read = json.loads(text)
    path = folder / "cpu.md"
    path.write_text(markdown(read), encoding="utf-8")
    plots(read, folder)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--out", type=Path, help="the folder to write to")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    whole = not asked.parts and not asked.quick
    folder = asked.out or (RESULTS if whole else None)
    # compiled programs are kept apart from those of other processes
    os.environ.setdefault("MIXER_IR_CACHE", str(Path(tempfile.gettempdir(), "mixer-ir-benchmarks")))
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", module="fla")
    command = " ".join(["python -m benchmarks.cpu", *sys.argv[1:]])
    results: dict[str, Any] = {"command": command, "quick": asked.quick, "machine": machine()}
    try:
        run(asked.parts or list(PARTS), asked.quick, results)
    finally:
        if folder and "rows" in results:
            print("wrote", write(results, folder))
    wrong = differing(results)
    for cell in wrong:
        print(f"not timed: {cell}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
