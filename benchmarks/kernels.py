"""The static table of generated kernels: `python -m benchmarks.kernels [--target sm_90] [--quick | --full] [NAME …]`.

Compiles every mixer of the catalog, forward and backward, at B = 8, T = 4096, H = 16 and heads of 64 and of 128, bf16,
for a device that need not be here; then with heads of 64 (--full: of both) for the other targets. It writes
results/static-<target>.md: launches and bytes beside those of flash-linear-attention for the same mixer, registers,
spills, shared memory, tensor-core instructions, occupancy, predicted time, and which demand a mixer fails. Nothing is
run. Plans and what was compiled come from disk where they are known, so that a run which was broken off, or which
--seconds ended, goes on where it was; the table says what it covers. A kernel that takes longer than --limit seconds
counts as not compiled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import triton

import catalog
from backends.triton.devices import DEVICES
from backends.triton.static import BEST, HEAD, Compiled, Kernels, Planned
from benchmarks.gpu_cases import retention, scalar_gla
from mixer_ir.driver.kernels import planned
from mixer_ir.errors import MixerError
from mixer_ir.language.mixer import Mixer

RESULTS = Path(__file__).parent / "results"
QUICK = ("gla", "gated_deltanet", "softmax_attention")
FORMS = ("chunked", "flash", "parallel")
"""what a mixer takes, the first that it has"""
OTHERWISE = dict.fromkeys(("mamba", "rg_lru", "lru", "s4d", "mega_ema"), "scan")
OTHERWISE |= dict.fromkeys(("s4", "s5"), "fft") | {"hyena": "auto"}
"""states without a value axis are scanned; filters as long as the sequence, and dense transitions, are convolutions"""
WIDTHS = (64, 128)
CHUNK = 64
TRANSFORMED, CHANNELS = ("hyena", (1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15)), 48
"""the entry whose transforms by products are compiled at more lengths of the FFT, and a 16th of its channels"""
RETENTION, SIMPLE_GLA = "retention (as fla's)", "simple_gla (as fla's)"
ALIKE = {"retnet": (RETENTION, retention, ("gamma",)), "mamba2": (SIMPLE_GLA, scalar_gla, ())}
"""entry -> what flash-linear-attention computes instead of its mixer: retention without the rotation and with decays
that take no gradient, simple GLA without Δ, A and D; (name, mixer, signals without a gradient)"""
FLA = {
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
forward and in both passes at heads of 128"""
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
        """Forward and backward, calls of a library included."""
        pairs = zip((self.made.forward, self.made.backward), self.made.calls, strict=True)
        first, second = (sum(c.times for c in kernels) + len(calls) for kernels, calls in pairs)
        return first, second

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
        yield from (f"{target}: {x}" for target, made in self.others.items() for x in misses(made))

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
            " ".join(t for t, made in self.others.items() if not any(misses(made))) or "-",
            ", ".join(self.misses()) or "-",
        ]


def sizes(mixer: Mixer, width: int) -> dict[str, int]:
    """B = 8, T = 4096, H = 16 and heads of `width`; without heads, 16 · width channels with 16 states."""
    axes = {a for of in mixer.signals.values() for a in of}
    made = {"b": 8, "t": 4096, "s": 4096, "h": 16, "g": 1, "c": 512}
    if axes & set("kvp"):
        made |= {"k": width // 2 if "r" in axes else width, "v": width, "p": width, "n": width}
    else:
        made |= {"d": 16 * width, "n": 16}
    return {a: n for a, n in made.items() if a in axes}


def form_of(entry: str, mixer: Mixer) -> str:
    wanted = (OTHERWISE.get(entry, ""), *FORMS)
    return next((f for f in wanted if f in ("auto", *mixer.forms())), "auto")


@dataclass
class Case:
    """A mixer at one width in the form that it takes, planned once for all targets."""

    name: str
    width: int
    form: str
    mixer: Mixer
    fixed: tuple[str, ...] = ()
    length: int = 4096

    @cached_property
    def planned(self) -> tuple[str, Planned]:
        return planned(self.mixer, self.form, CHUNK, sizes(self.mixer, self.width) | {"t": self.length}, self.fixed)

    @property
    def least(self) -> tuple[float, float]:
        """GB, forward and in both passes, of signals and results, then of signals, cotangents and gradients."""
        first, *back = (n / 1e9 for n in self.planned[1].least())
        return first, first + sum(back)

    def compiled(self, target: str, limit: float) -> Kernels:
        title, of = self.planned
        return of.compiled(title, target, strict=False, limit=limit)


def cases(names: Sequence[str]) -> list[Case]:
    mixers = [(entry, *x, ()) for entry in names for x in catalog.get(entry).mixers.items()]
    alike = [(entry, *ALIKE[entry]) for entry in names if entry in ALIKE]
    of = sorted([*mixers, *alike], key=lambda x: names.index(x[0]))
    made = [Case(name, w, form_of(entry, mixer), mixer, fixed) for entry, name, mixer, fixed in of for w in WIDTHS]
    entry, lengths = TRANSFORMED
    if entry in names:
        mixer = catalog.get(entry).mixer
        made += [Case(f"{entry}, FFT {n}", CHANNELS, "monarch", mixer, length=n // 2) for n in lengths]
    return made


def detail(row: Row) -> str:
    """One mixer's kernels."""
    table = [["pass", *HEAD], ["---"] * (len(HEAD) + 1)]
    table += [["forward", *c.row()] for c in row.made.forward] + [["backward", *c.row()] for c in row.made.backward]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
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
        "the least); on the other targets spills, stack, shared memory over theirs, or what does not compile. A",
        "target is named under 'also fits' where none of these is. Rows marked (as fla's) are what its retention and",
        "its simple GLA compute: the catalog's retention also rotates queries and keys and has gradients for its",
        "decays, and state_space_dual has Δ, A and D, so these two stand beside nothing.",
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
    table = [[*columns, "ms", "also fits", "fails"], ["---"] * (len(columns) + 4), *(r.cells() for r in found)]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    failing = sum(any(True for _ in r.misses()) for r in found)
    verdict = f"{len(found)} rows, {failing} fail a demand."
    no = ["## Without kernels", "", *(f"- {x}" for x in refused), ""] if refused else []
    return "\n".join([*head, *lines, "", verdict, "", *no, "## Every kernel", "", *map(detail, found)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of the catalog (default: all)")
    parser.add_argument("--target", default="sm_90", choices=DEVICES)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}, and no other target")
    parser.add_argument("--full", action="store_true", help="the other targets with heads of 128 too")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one kernel (default 120)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="what is not begun by then is left out")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    names = arguments.names or (QUICK if arguments.quick else catalog.list())
    rest = [] if arguments.quick else [t for t in DEVICES if t != arguments.target]
    path = arguments.out / f"static-{arguments.target}.md"
    arguments.out.mkdir(parents=True, exist_ok=True)
    wanted = len(cases(catalog.list()))
    found: dict[tuple[str, int], Row] = {}
    refused: list[str] = []
    began = time.monotonic()
    todo = cases(names)
    for target in (arguments.target, *rest):
        for case in todo:
            key, own = (case.name, case.width), target == arguments.target
            if (not own and key not in found) or not (own or arguments.full or case.width == WIDTHS[0]):
                continue
            if time.monotonic() - began > arguments.seconds:
                break
            try:
                made = case.compiled(target, arguments.limit)
            except MixerError as error:
                refused.append(f"{case.name}, heads of {case.width}, {case.form}, {target}: {error}")
                print(refused[-1], flush=True)
                continue
            if own:
                found[key] = Row(case.name, case.width, made, case.least)
            else:
                found[key].others[target] = made
            print(f"{time.monotonic() - began:5.0f} s  {target}  " + "  ".join(found[key].cells()), flush=True)
            path.write_text(page(arguments.target, [*found.values()], refused, wanted), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
