"""The results of benchmarks/gpu.py as a page of tables, and as a picture of time against T."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from math import exp, log
from pathlib import Path
from typing import Any

from benchmarks.boxed import Result
from benchmarks.gpu_cases import CASES, SWEEP, TABLE, Shape
from benchmarks.gpu_cells import OURS, WORKS, Task

Results = Mapping[str, Result]
BACKWARD = {"forward": 1.0, "forward+backward": 3.0}
"""how many times the products of the forward pass a work takes"""


def report(machine: Mapping[str, str], results: Results, missing: list[str]) -> str:
    """The whole page."""
    lines = ["# Generated kernels on a GPU", "", "`python -m benchmarks.gpu`", ""]
    lines += [", ".join(f"{k} {v}" for k, v in machine.items()), ""]
    rates = results.get(Task("rates").key, {})
    if "copy" in rates:
        lines += [f"copy {rates['copy'] / 1e12:.2f} TB/s, bf16 product {rates['matmul'] / 1e12:.0f} TFLOP/s", ""]
    lines += ["Medians of single runs between CUDA events, bf16, the cache emptied before each. 'x' is the peer's time"]
    lines += ["over ours. '% copy' and '% matmul' are what inputs, outputs and gradients (each once), and the products"]
    lines += ["of the recurrence (of attention: of its scores), would take at the measured rates, over our time.", ""]
    for title, body in (
        ("Beside flash-linear-attention", _verdict(results)),
        ("Correctness", _checks(results)),
        ("Peers beside the definition", _agreements(results)),
        *((name, _times(name, results, rates)) for name in CASES),
        ("Cut off or failed", [f"- {k}: {r['error'].splitlines()[0]}" for k, r in results.items() if "error" in r]),
        ("Not reached", [f"- {key}" for key in missing]),
    ):
        if body:
            lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)] if rows else []


def ratios(results: Results, peer: str = "fla") -> Iterator[tuple[str, Shape, float]]:
    """(case, shape, the peer's time over ours) of forward and backward."""
    for name in CASES:
        for shape in dict.fromkeys((*TABLE, *SWEEP)):
            ours, theirs = (_seconds(results, name, c, shape, WORKS[1]) for c in (OURS, peer))
            if ours and theirs:
                yield name, shape, theirs / ours


def _verdict(results: Results) -> list[str]:
    found = [*ratios(results)]
    if not found:
        return []
    mean = exp(sum(log(r) for _, _, r in found) / len(found))
    slower = [f"{name} at {_shape(shape)}: {r:.2f}x" for name, shape, r in found if r < 1]
    lines = [f"Forward and backward, {len(found)} pairs: {mean:.2f}x their speed in the geometric mean."]
    return [*lines, "", "Slower than they are: " + ("; ".join(slower) or "none") + "."]


def _checks(results: Results) -> list[str]:
    rows = []
    for key, r in results.items():
        if key.startswith("correct|") and "error" not in r:
            _, what, _, form, dtype = key.split("|")
            allowed = [f"{r['allowed']:.1e}", f"{r['allowed gradient']:.1e}"]
            errors = [f"{r['value']:.1e}", "-" if r["gradient"] is None else f"{r['gradient']:.1e}"]
            rows.append([what, form, dtype, errors[0], allowed[0], errors[1], allowed[1], "ok" if r["ok"] else "WRONG"])
    return _table(["mixer", "form", "dtype", "values", "allowed", "gradients", "allowed", ""], rows)


def _agreements(results: Results) -> list[str]:
    rows = [
        [*key.split("|")[1:3], f"{r['difference']:.1e}", "ok" if r["ok"] else "WRONG"]
        for key, r in results.items()
        if key.startswith("agree|") and "error" not in r
    ]
    return _table(["case", "peer", "difference", ""], rows)


def _times(name: str, results: Results, rates: Result) -> list[str]:
    case = CASES[name]
    peers = [n for n in case.peers if any(_seconds(results, name, n, s, WORKS[0]) for s in (*TABLE, *SWEEP))]
    rows = []
    for shape in dict.fromkeys((*TABLE, *SWEEP)):
        for work in WORKS:
            ours = _seconds(results, name, OURS, shape, work)
            theirs = [_seconds(results, name, n, shape, work) for n in peers]
            if ours is None and not any(theirs):
                continue
            row = [_shape(shape), work, _ms(ours)]
            for t in theirs:
                row += [_ms(t), f"{t / ours:.2f}x" if t and ours else "-"]
            rows.append([*row, *_shares(name, shape, work, ours, results, rates)])
    head = ["B,T,H,D", "work", "ours ms", *(x for n in peers for x in (f"{n} ms", "x")), "% copy", "% matmul"]
    return _table(head, rows)


def _shares(name: str, shape: Shape, work: str, ours: float | None, results: Results, rates: Result) -> tuple[str, str]:
    if ours is None or "copy" not in rates:
        return "-", "-"
    moved = results[Task("speed", name, OURS, shape).key]["bytes"][work]
    flops = CASES[name].flops(shape) * BACKWARD[work]
    return f"{moved / rates['copy'] / ours:.0%}", f"{flops / rates['matmul'] / ours:.0%}"


def _seconds(results: Results, name: str, contender: str, shape: Shape, work: str) -> float | None:
    found: Any = results.get(Task("speed", name, contender, shape).key, {}).get(work)
    return None if found is None else float(found["seconds"])


def _shape(shape: Shape) -> str:
    return ",".join(map(str, shape))


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"


def plots(results: Results, out: Path) -> bool:
    """gpu.png: milliseconds of both passes against T, a panel for each case; whether there was something to draw."""
    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, case in CASES.items():
        for contender in (OURS, *case.peers):
            points = [(s[1], _seconds(results, name, contender, s, WORKS[1])) for s in SWEEP]
            if known := [(t, y * 1e3) for t, y in points if y is not None]:
                lines.setdefault(name, {})[contender] = known
    if not lines or find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(lines), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, (name, of) in zip(figure.subplots(1, len(lines), squeeze=False)[0], lines.items(), strict=True):
        for contender, points in of.items():
            ax.loglog(*zip(*points, strict=True), marker="o", label=contender)
        ax.set(title=name, xlabel="T (B · T constant, then B = 1)", ylabel="ms, forward + backward")
        ax.legend()
    figure.savefig(out / "gpu.png", dpi=120)
    return True
