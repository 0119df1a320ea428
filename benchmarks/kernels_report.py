"""The page that benchmarks/kernels.py writes: rows of mixers, which demands they fail, and every kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import triton

from backends.triton.devices import DEVICES
from backends.triton.static import BEST, HEAD, Compiled, Kernels

RETENTION, SIMPLE_GLA = "retention (as fla's)", "simple_gla (as fla's)"
FLA = {
    "retention": (4, 6, 1.88, 6.98),
    RETENTION: (2, 4, 1.34, 5.91),
    SIMPLE_GLA: (3, 5, 1.35, 5.93),
    "gated_linear_attention": (5, 7, 3.62, 12.35),
    "delta_rule": (5, 6, 2.69, 8.19),
    "gated_delta": (5, 7, 2.43, 7.96),
    "kimi_delta": (6, 7, 4.83, 15.12),
    "rwkv7": (6, 12, 6.85, 24.93),
    "softmax_attention": (1, 3, 0.54, 2.29),
}
"""mixer -> flash-linear-attention 0.6.0's launches forward and backward, and the GB that it passes to its kernels
forward and in both passes at heads of 128; beside retention, its rotary embedding of queries and keys is counted too"""
SHARE = 0.6
"""the most of those bytes that are to be passed here, unless signals, results and gradients alone are more"""
LARGE = 1e6
"""operations of a program's products from which they are to be on the device's own instruction"""


def misses(made: Kernels) -> Iterator[str]:
    """The demands on every device that a mixer's kernels fail."""
    device = DEVICES[made.target]
    kernels = (*made.forward, *made.backward)
    if made.failed:
        yield f"{len(made.failed)} not compiled"
    if spilling := sum(bool(c.spills or c.stack) for c in kernels):
        yield f"{spilling} spill"
    if any(c.shared > device.block_shared for c in kernels):
        yield "shared memory"


def launches(made: Kernels) -> tuple[int, int]:
    """Forward and backward, calls of a library included."""
    pairs = zip((made.forward, made.backward), made.calls, strict=True)
    first, second = (sum(c.times for c in kernels) + len(calls) for kernels, calls in pairs)
    return first, second


def elsewhere(made: Kernels) -> str:
    """What a mixer takes on another device: launches, shared memory, and in bold what must not be."""
    kernels = (*made.forward, *made.backward)
    spills, stack = sum(c.spills or 0 for c in kernels), sum(c.stack or 0 for c in kernels)
    shared = max((c.shared for c in kernels), default=0)
    told = [f"{len(made.failed)} not compiled"] * bool(made.failed)
    told += [f"{spills} B spilled, {stack} B of stack"] * bool(spills or stack)
    told += ["too much"] * (shared > DEVICES[made.target].block_shared)
    text = f"{'+'.join(map(str, launches(made)))}, {shared / 1024:.0f} KB"
    return text + (f", **{', '.join(told)}**" if told else "")


@dataclass
class Row:
    """One mixer at one width: its kernels on the target, and on others as far as they were compiled.

    least   GB that any kernels have to be passed, forward and in both passes
    """

    name: str
    width: int
    made: Kernels
    least: tuple[float, float]
    others: dict[str, Kernels] = field(default_factory=dict)

    @property
    def kernels(self) -> tuple[Compiled, ...]:
        return (*self.made.forward, *self.made.backward)

    @property
    def launches(self) -> tuple[int, int]:
        return launches(self.made)

    @property
    def passed(self) -> tuple[float, float]:
        """GB passed to kernels, forward and in both passes."""
        first, both = (sum(c.moved * c.times for c in of) / 1e9 for of in (self.made.forward, self.kernels))
        return first, both

    @property
    def beside(self) -> list[tuple[float, float, float | None, bool]]:
        """Forward and in both passes: GB here, at least, there; whether even the least is over the share of those."""
        fla = FLA.get(self.name)
        there = fla[2:] if fla and self.width == 128 else (None, None)
        found = zip(self.passed, self.least, there, strict=True)
        return [(x, least, y, y is not None and least > SHARE * y) for x, least, y in found]

    def misses(self) -> Iterator[str]:
        """The demands that it fails."""
        best = BEST[self.made.target]
        yield from misses(self.made)
        each = [sum(c.work.products.values()) / c.kernel.programs for c in self.kernels]
        if slow := sum(n > LARGE and best not in c.tensor for n, c in zip(each, self.kernels, strict=True)):
            yield f"{slow} without {best}"
        if (fla := FLA.get(self.name)) is not None:
            if any(ours > theirs for ours, theirs in zip(self.launches, fla[:2], strict=True)):
                yield "launches"
            if any(y and x > SHARE * y and not free for x, _, y, free in self.beside):
                yield "bytes"

    def cells(self) -> list[str]:
        fla = FLA.get(self.name)
        bytes_ = [
            f"{x:.2f}" + (f" / {y:.2f}" if y else "") + (f" (least {least:.2f})" if free else "")
            for x, least, y, free in self.beside
        ]
        return [
            self.name,
            str(self.width),
            "+".join(map(str, self.launches)) + (f" / {fla[0]}+{fla[1]}" if fla else ""),
            *bytes_,
            ", ".join(f"{x:.2f}" for x in self.least),
            str(sum((c.spills or 0) for c in self.kernels)),
            str(max((c.registers or 0 for c in self.kernels), default=0)),
            f"{max((c.shared for c in self.kernels), default=0) / 1024:.0f}",
            str(sum(c.tensor.get(BEST[self.made.target], 0) for c in self.kernels)),
            f"{sum(c.seconds * c.times for c in self.kernels) * 1e3:.2f}",
            ", ".join(self.misses()) or "-",
        ]


def detail(row: Row) -> str:
    """One mixer's kernels."""
    passes = {"forward": row.made.forward, "backward": row.made.backward}
    lines = tabled(["pass", *HEAD], ([name, *c.row()] for name, kernels in passes.items() for c in kernels))
    every = (row.made, *row.others.values())
    failed = [f"- {x.splitlines()[0]}" for made in every for x in made.failed]
    form = row.made.title.splitlines()[-1]
    return "\n".join([f"### {row.name}, heads of {row.width}", "", form, "", *lines, "", *failed, ""])


def coverage(target: str, found: list[Row], wanted: int) -> str:
    """What was compiled for which device."""
    others = {t: sum(t in r.others for r in found) for t in DEVICES if t != target}
    each = [f"{target} {len(found)}", *(f"{t} {n}" for t, n in others.items())]
    return f"Of {wanted} rows (a mixer of the catalog at one head size) are compiled here: {', '.join(each)}."


def page(target: str, found: list[Row], refused: list[str], wanted: int) -> str:
    """The whole file. `wanted`: rows of the whole catalog."""
    device = DEVICES[target]
    head = [
        f"# Generated kernels compiled for {target} ({device.name})",
        "",
        "`python -m benchmarks.kernels`: B = 8, T = 4096, H = 16, heads of 64 and 128 (without heads: 16 times as many",
        f"channels, 16 states), bfloat16 signals, triton {triton.__version__}. Static counts from compiled code and",
        "predictions from published rates; **nothing was run**. 'a / b' is ours beside flash-linear-attention 0.6.0's,",
        "measured the same way. Launches: forward + backward, calls of cuFFT and the like included. GB: arrays passed",
        "to kernels, each once a kernel; least: what any kernels have to be passed, forward and in both passes",
        "(signals and results once; signals, cotangents and gradients once). Spilled: bytes, each instruction once.",
        f"ms: predicted, both passes. 'fails': spills or stack, shared memory over {device.block_shared // 1024} KB,",
        f"products of more than {LARGE / 1e6:.0f} Mflop a program without {BEST[target]}, more launches than theirs,",
        f"more than {SHARE:.0%} of their bytes (where even the least is more, nothing is demanded, and the cell names",
        "the least). Beside retention its rotary embedding is counted too, two launches a pass. Rows marked (as fla's)",
        "are what its retention without that, and its simple GLA, compute; state_space_dual also has Δ, A and D, and",
        "stands beside nothing.",
        "",
        coverage(target, found, wanted),
        "",
    ]
    columns = [
        "mixer",
        "D",
        "launches",
        "GB forward",
        "GB both",
        "least",
        "spilled B",
        "registers",
        "shared KB",
        BEST[target],
    ]
    lines = tabled([*columns, "ms", "fails"], [r.cells() for r in found])
    failing = sum(any(True for _ in r.misses()) for r in found)
    verdict = f"{len(found)} rows, {failing} fail a demand."
    no = ["## Without kernels", "", *(f"- {x}" for x in refused), ""] if refused else []
    others = [*other_devices(target, found), ""] if any(r.others for r in found) else []
    return "\n".join([*head, *lines, "", verdict, "", *others, *no, "## Every kernel", "", *map(detail, found)])


def other_devices(target: str, found: list[Row]) -> Iterator[str]:
    """A table of a cell for each other device."""
    rest = [t for t in DEVICES if t != target]
    limits = [f"{t} {DEVICES[t].name}, {DEVICES[t].block_shared // 1024} KB" for t in rest]
    yield from ("## Other devices", "")
    yield "Launches (forward + backward), the largest kernel's shared memory, and in bold what must not be: spills,"
    yield f"stack, more shared memory than a block has ({'; '.join(limits)}), what was not"
    yield "compiled. '-': not tried here."
    yield ""
    cells = [[elsewhere(r.others[t]) if t in r.others else "-" for t in rest] for r in found]
    yield from tabled(["mixer", "D", *rest], [[r.name, str(r.width), *x] for r, x in zip(found, cells, strict=True)])
    yield ""
    for t in rest:
        tried = [r.others[t] for r in found if t in r.others]
        yield f"{t}: {len(tried)} rows, {sum(any(misses(made)) for made in tried)} fail.  "


def tabled(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """The lines of a table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
