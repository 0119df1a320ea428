"""The results of a run as Markdown and plots, made from what was written to JSON and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.cpu_goals import Results, goals
from benchmarks.cpu_mixers import FORWARD, OURS, TRAINING

Rows = Sequence[Mapping[str, Any]]

HOW = """Contenders of a cell run in turn in one process and the median counts; before that, their results (and
gradients) are compared; a cell in which two differ is not timed and says so. `native`, `eager` and `auto` are this
package's backends; `auto` is timed where it has settled. What takes more than a second (layers: six) runs once; what is
predicted to take more than the cap (2.5 s) is left out, unless a goal compares with it. Others are given as their time
over that of `native`: 3x took three times as long.

*Of the limit*: time at the machine's limit over the time taken. The limit is the larger of bytes / copy bandwidth and
operations / matmul rate, both measured in this run, the best of several times. Bytes are every signal and result once
(what stays in the cache may go beyond 100 %); operations are those of the products in the program that runs
(`benchmarks/limits.py`). Weights are read and not written, so that decoding a model may go beyond 100 %, too."""


def markdown(data: Mapping[str, Any]) -> str:
    """The report of a run."""
    rates, machine = data["rates"], data["machine"]
    lines = [
        "# Mixers on a CPU",
        "",
        f"`{data['command']}`, {data['seconds'] / 60:.1f} minutes",
        "",
        ", ".join(f"{k} {v}" for k, v in machine.items()),
        "",
        f"Copy bandwidth {rates['copy'] / 1e9:.3g} GB/s, matmul rate {rates['matmul'] / 1e9:.3g} Gflop/s (float32).",
        "",
        "## Goals",
        "",
        *(["Of a full run only."] if data["quick"] else table(("goal", "wanted", "measured", ""), _goals(data))),
        "",
        "## How it is measured",
        "",
        HOW,
        "",
    ]
    for family in families(data):
        rows = [r for r in data["rows"] if r["family"] == family]
        lines += [f"## {family[0].upper()}{family[1:]}", ""]
        if plotted(rows):
            lines += [f"![time against length]({picture(family)})", ""]
        lines += [
            *table(("", "T", "", "tokens/s", "ms", "of the limit", *OURS[1:], "others"), _cells(rows, Results(data))),
            "",
        ]
    for name, rows in data["tables"].items():
        if rows:
            lines += [
                f"## Table: {name}",
                "",
                *table(tuple(rows[0]), ([_text(v) for v in r.values()] for r in rows)),
                "",
            ]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> list[str]:
    """A table's lines."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def families(data: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(r["family"] for r in data["rows"]))


def _goals(data: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    results = Results(data)
    for goal in goals():
        value = goal.found(results)
        sign = "≤" if goal.most else "≥"
        told = "not measured" if value is None else "reached" if goal.reached(value) else "**not reached**"
        yield goal.text, f"{sign} {goal.target:g}", "" if value is None else f"{value:.3g}", told


def _cells(rows: Rows, results: Results) -> Iterator[Sequence[str]]:
    """One row for every mixer, length and work: native in full, the others by how much longer they took."""
    cells: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for r in rows:
        cells.setdefault((r["mixer"], r["T"], r["work"]), {})[r["contender"]] = r
    for (mixer, t, work), found in cells.items():
        base = found.get("native", {}).get("seconds")
        others = "; ".join(f"{name} {_beside(r, base)}" for name, r in found.items() if name not in OURS)
        ours = [_beside(found[name], base) if name in found else "" for name in OURS[1:]]
        yield mixer, f"{t:,}", work, *_native(found.get("native", {}), results), *ours, others


def _native(row: Mapping[str, Any], results: Results) -> tuple[str, str, str]:
    if "seconds" not in row:
        return _untimed(row), "", ""
    seconds, bound = results.limit(row)
    return f"{row['tokens']:,.0f}", f"{row['seconds'] * 1e3:.3g}", f"{seconds / row['seconds']:.1%} ({bound})"


def _beside(row: Mapping[str, Any], base: float | None) -> str:
    """A contender's time over that of native; in ms where there is no native."""
    if "seconds" not in row:
        return f"({_untimed(row)})"
    once = ", 1 run" if row["rounds"] == 1 else ""
    return f"{row['seconds'] * 1e3:.3g} ms{once}" if base is None else f"{row['seconds'] / base:.3g}x{once}"


def _untimed(row: Mapping[str, Any]) -> str:
    """Why there is no time."""
    return f"**not timed: {row['differs']}**" if "differs" in row else str(row.get("skipped", ""))


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------------------- the plots


def picture(family: str) -> str:
    """The file name of a family's plot."""
    return f"cpu-{family.replace(' ', '-')}.png"


def plotted(rows: Rows) -> list[str]:
    """The mixers of which there is more than one length."""
    lengths: dict[tuple[str, str], set[int]] = {}
    for r in rows:
        if "seconds" in r and r["work"] in (FORWARD, TRAINING):
            lengths.setdefault((r["mixer"], r["work"]), set()).add(r["T"])
    return list(dict.fromkeys(mixer for (mixer, _), ts in lengths.items() if len(ts) > 1))


def plots(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Time against length, log-log: a figure for each family, a column for each mixer, forward above training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = []
    for family in families(data):
        rows = [r for r in data["rows"] if r["family"] == family and "seconds" in r]
        mixers = plotted(rows)
        if not mixers:
            continue
        names = list(dict.fromkeys(r["contender"] for r in rows))
        works = [w for w in (FORWARD, TRAINING) if any(r["work"] == w for r in rows)]
        figure = Figure(figsize=(3 * len(mixers), 3 * len(works)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(works), len(mixers), sharex=True, squeeze=False)
        for (i, work), (j, mixer) in product(enumerate(works), enumerate(mixers)):
            panel = axes[i, j]
            for n, name in enumerate(names):
                at = (mixer, work, name)
                points = sorted((r["T"], r["seconds"]) for r in rows if (r["mixer"], r["work"], r["contender"]) == at)
                line = "-" if name in OURS else "--"
                if points:
                    panel.loglog(*zip(*points, strict=True), line, marker="o", markersize=3, color=f"C{n}", label=name)
            panel.set_xscale("log", base=2)
            panel.set_title(f"{mixer}, {work}", fontsize=8)
            panel.grid(alpha=0.3)
            if j == 0:
                panel.set_ylabel("seconds")
            if i == len(works) - 1:
                panel.set_xlabel("T")
        lines = {label: h for a in axes.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2 * len(mixers), fontsize=8)
        figure.savefig(folder / picture(family), dpi=100)
        made.append(folder / picture(family))
    return made
