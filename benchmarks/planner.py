"""How good the planner's choices are: every legal form and chunk timed, against what was predicted and chosen.

    python -m benchmarks.planner [name …] [--lengths 64 256 1024 4096] [--slowest SECONDS]

Candidates that are predicted to take longer than `--slowest` are left out. The last line is the share of cases in which
the choice is within 1.3 times the best.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import median
from time import perf_counter

import torch

import mixer_ir as mx
from lowering.context import SignalType
from lowering.planner import plan
from lowering.profile import CPU
from mixer_ir.explain import likely_kinds
from mixer_ir.mixer import Mixer

SIZES = {"b": 2, "h": 4}
OTHER = 64
CLOSE = 1.3


def mixers(names: list[str]) -> Iterator[tuple[str, Mixer]]:
    for name in names or mx.catalog.list():
        entry = mx.catalog.get(name)
        several = getattr(entry, "mixers", None) or {}
        yield name, getattr(entry, "mixer", None) or next(iter(several.values()))


def signals(mixer: Mixer, length: int) -> dict[str, torch.Tensor]:
    """Mild signals of the usual sizes."""
    kinds = likely_kinds(mixer)
    made = {}
    for name, axes in mixer.signals.items():
        shape = [length if a in "ts" else SIZES.get(a, OTHER) for a in axes]
        made[name] = torch.randint(2, shape) if kinds[name] != "real" else -0.1 * torch.rand(shape)
    return made


def seconds(f: mx.CompiledMixer, given: dict[str, torch.Tensor]) -> float:
    f(**given)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.3 and len(times) < 30):
        start = perf_counter()
        f(**given)
        times.append(perf_counter() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--lengths", type=int, nargs="*", default=[64, 256, 1024, 4096])
    parser.add_argument("--slowest", type=float, default=1.0)
    arguments = parser.parse_args()
    good = cases = 0
    for name, mixer in mixers(arguments.names):
        for length in arguments.lengths:
            ratio = compare(name, mixer, length, arguments.slowest)
            good, cases = good + (ratio <= CLOSE), cases + 1
    print(f"within {CLOSE} of the best in {good} of {cases} cases ({good / cases:.0%}); torch {torch.__version__}")


def compare(name: str, mixer: Mixer, length: int, slowest: float) -> float:
    """Time of the planner's choice over that of the best candidate."""
    given = signals(mixer, length)
    kinds = likely_kinds(mixer)
    types = {n: SignalType(mixer.signals[n], tuple(x.shape), kinds[n]) for n, x in given.items()}
    pieces = plan(mixer.expr, types, CPU, price_all=True).pieces
    chosen = seconds(mx.compile(mixer), given)
    results = [(chosen, "auto", ", ".join(f"{p.chosen.form} {p.chosen.chunk or ''}".strip() for p in pieces), 0.0)]
    tried = {c.choice: 0.0 for p in pieces for c in p.candidates}
    for choice in tried:
        predicted = sum(c.cost.seconds for p in pieces for c in p.candidates if c.choice == choice)
        if predicted <= slowest and choice.form in mixer.forms():
            f = mx.compile(mixer, form=choice.form, **({"chunk": choice.chunk} if choice.chunk else {}))
            results.append((seconds(f, given), choice.form, str(choice.chunk or ""), predicted))
    best = min(t for t, *_ in results)
    print(f"{name}  T = {length}:  {chosen / best:.2f} times the best")
    for t, form, detail, predicted in sorted(results):
        told = f"predicted {predicted * 1e3:9.3f} ms" if predicted else ""
        print(f"    {t * 1e3:9.3f} ms  {form:10s} {detail:16s} {told}")
    return chosen / best


if __name__ == "__main__":
    main()
