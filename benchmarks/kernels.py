"""The static table of generated kernels: `python -m benchmarks.kernels [--target sm_90] [--quick] [NAME …]`.

Compiles every mixer of the catalog, forward and backward, at B = 8, T = 4096, H = 16 and heads of 64 and of 128, bf16,
for a device that need not be here; then, but for --quick, for the other targets. It writes
results/static-<target>.md: launches and bytes beside those of flash-linear-attention for the same mixer, registers,
spills, shared memory, tensor-core instructions, occupancy, predicted time, and which demand a mixer fails; for the
other targets launches, spills and shared memory. Nothing is run. Plans and what was compiled come from disk where they
are known, so that a run which was broken off, or which --seconds ended, goes on where it was; the table says what it
covers. A kernel that takes longer than --limit seconds counts as not compiled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import catalog
from backends.triton.devices import DEVICES
from backends.triton.static import Kernels, Planned
from benchmarks.gpu_cases import retention, scalar_gla
from benchmarks.kernels_report import RETENTION, SIMPLE_GLA, Row, elsewhere, page
from mixer_ir.driver.kernels import planned
from mixer_ir.errors import MixerError
from mixer_ir.language.mixer import Mixer

RESULTS = Path(__file__).parent / "results"
QUICK = ("gla", "gated_deltanet", "softmax_attention")
WIDTHS = (64, 128)
CHUNK = 64
TRANSFORMED, CHANNELS = ("hyena", (1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15)), 48
"""the entry whose transforms by products are compiled at more lengths of the FFT, and a 16th of its channels"""
ALIKE = {"retnet": (RETENTION, retention, ("gamma",)), "mamba2": (SIMPLE_GLA, scalar_gla, ())}
"""entry -> what flash-linear-attention computes instead of its mixer: retention without the rotation and with decays
that take no gradient, simple GLA without Δ, A and D; (name, mixer, signals without a gradient)"""
BUFFERS = {"retnet": ("gamma", "theta")}
"""entry -> signals that its layer keeps in buffers, so that no gradient is asked for"""


def sizes(mixer: Mixer, width: int) -> dict[str, int]:
    """B = 8, T = 4096, H = 16 and heads of `width`; without heads, 16 · width channels with 16 states."""
    axes = {a for of in mixer.signals.values() for a in of}
    made = {"b": 8, "t": 4096, "s": 4096, "h": 16, "g": 1, "c": 512}
    if axes & set("kvp"):
        made |= {"k": width // 2 if "r" in axes else width, "v": width, "p": width, "n": width}
    else:
        made |= {"d": 16 * width, "n": 16}
    return {a: n for a, n in made.items() if a in axes}


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
    mixers = [(entry, *x, BUFFERS.get(entry, ())) for entry in names for x in catalog.get(entry).mixers.items()]
    alike = [(entry, *ALIKE[entry]) for entry in names if entry in ALIKE]
    of = sorted([*mixers, *alike], key=lambda x: names.index(x[0]))
    made = [Case(name, w, "auto", mixer, fixed) for entry, name, mixer, fixed in of for w in WIDTHS]
    entry, lengths = TRANSFORMED
    if entry in names:
        mixer = catalog.get(entry).mixer
        made += [Case(f"{entry}, FFT {n}", CHANNELS, "monarch", mixer, length=n // 2) for n in lengths]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of the catalog (default: all)")
    parser.add_argument("--target", default="sm_90", choices=DEVICES)
    parser.add_argument("--quick", action="store_true", help=f"no other target; without names: {', '.join(QUICK)}")
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
            if not own and key not in found:
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
            told = found[key].cells() if own else [case.name, str(case.width), elsewhere(made)]
            print(f"{time.monotonic() - began:5.0f} s  {target}  " + "  ".join(told), flush=True)
            path.write_text(page(arguments.target, [*found.values()], refused, wanted), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
