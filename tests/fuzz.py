"""Random mixers, every legal form on every backend against the definition: python -m tests.fuzz --count 5000 --seed 1

A mismatch is shrunk and printed as a declaration that can be run, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

import mixer_ir as mx
from mixer_ir.driver import samples
from mixer_ir.errors import StreamError
from mixer_ir.nodes.expr import TIME
from mixer_ir.trust.expected import Expected, Measured
from tests.random_mixers import Declaration, draw

GRADIENTS_EVERY = 2
CUT_EVERY = 4
REFERENCE_EVERY = 3
SYMBOLIC_EVERY = 40
MAIN = ("eager", "native")


@dataclass(frozen=True)
class Mismatch:
    """One form on one backend that does not give what the definition gives."""

    declaration: Declaration
    form: str
    backend: str
    what: str

    def __str__(self) -> str:
        d = self.declaration
        sizes = " ".join(f"{a}={n}" for a, n in d.sizes.items())
        resets = "\nwith drawn.with_reset()" if d.resets else ""
        return (
            f"seed {d.seed}: form {self.form} on {self.backend}: {self.what}\n"
            f"sizes {sizes}, chunk {d.chunk}, signals as samples.draw(mixer, sizes, {d.seed})\n\n{d}{resets}"
        )


@dataclass(frozen=True)
class Unfit:
    """A draw that is no mixer, or whose values or gradients are not finite: nothing to compare."""

    why: str


def mismatches(d: Declaration, backend: str = "eager") -> Iterator[Mismatch | Unfit]:
    """Every way in which a declaration does not do what it says; an Unfit alone if it says nothing.

    backend   the one that is looked at most closely
    """
    try:
        mixer = d.build()
    except mx.MixerError as error:
        yield Unfit(f"{type(error).__name__}: {error}")
        return
    try:
        want = expectation(d, mixer)
    except Exception as error:
        yield Mismatch(d, "definition", "oracle", f"{type(error).__name__}: {error}")
        return
    finite = all(bool(torch.isfinite(x).all()) for x in (want.values, *want.gradients.values()))
    if not finite or want.noise > 1e-6 * max(want.scale, 1e-12):
        yield Unfit("its values or gradients are not finite, or hang on the last digits of its signals")
        return
    try:
        forms = mixer.forms()
    except Exception as error:
        yield Mismatch(d, "canonical", "rules", f"{type(error).__name__}: {error}")
        return
    yield from compared(d, mixer, forms, want, backend)


def expectation(d: Declaration, mixer: mx.Mixer) -> Expected:
    sizes = samples.sizes_for(mixer, d.sizes["t"], d.sizes)
    given = {
        n: torch.randn([sizes[x] for x in a], dtype=torch.complex128) for n, a in mixer.signals.items() if n[0] == "Z"
    }
    return Expected(mixer, samples.draw(mixer, sizes, d.seed, given), torch.float64, seed=d.seed)


def compared(d: Declaration, mixer: mx.Mixer, forms: list[str], want: Expected, main: str) -> Iterator[Mismatch]:
    """Values of each form on the main backend; its gradients, the others, and a sequence cut in two in turns."""
    backends = ["reference"] if d.seed % REFERENCE_EVERY == 0 else []
    backends += ["symbolic"] if d.seed % SYMBOLIC_EVERY == 0 and d.sizes["t"] <= 3 else []
    for i, form in enumerate(forms):
        options = {"chunk": d.chunk} if form in ("chunked", "flash") else {}
        for backend in [main, *backends]:

            def call(signals: dict, states: dict, form=form, backend=backend, options=options) -> torch.Tensor:
                return mx.compile(mixer, form=form, backend=backend, **options)(**signals)

            wanted = backend == main and (d.seed + i) % GRADIENTS_EVERY == 0
            yield from judged(d, form, backend, "whole", want, call, gradients=wanted)
        if d.sizes["t"] > 1 and not d.grid and (d.seed + i) % CUT_EVERY == 0:
            yield from judged(d, form, main, "cut in two", want, cut(d, mixer, form, main, options), gradients=True)


def cut(d: Declaration, mixer: mx.Mixer, form: str, backend: str, options: dict):
    at = 1 + d.seed % (d.sizes["t"] - 1)

    def call(signals: dict, states: dict) -> torch.Tensor:
        f = mx.compile(mixer, form=form, backend=backend, **options)
        first = {n: part(x, mixer.signals[n], 0, at, d.cross) for n, x in signals.items()}
        rest = {n: part(x, mixer.signals[n], at, d.sizes["t"], d.cross) for n, x in signals.items()}
        y, state = f.prefill(**first)
        z = f(**rest, initial_state=state)
        return torch.cat([y, z], mixer.returns.index(TIME))

    return call


def part(x: torch.Tensor, axes: tuple[str, ...], start: int, stop: int, cross: bool) -> torch.Tensor:
    """A signal at some steps: of columns (s), all up to the last step, or all of another sequence."""
    x = x.narrow(axes.index("s"), 0, stop) if "s" in axes and not cross else x
    return x.narrow(axes.index(TIME), start, stop - start) if TIME in axes else x


def judged(
    d: Declaration, form: str, backend: str, what: str, want: Expected, call, *, gradients: bool
) -> Iterator[Mismatch]:
    try:
        found: Measured = want.run(call, gradients=gradients)
    except StreamError:
        return  # a mixer that cannot be cut says so
    except Exception as error:
        yield Mismatch(d, form, backend, f"{what}: {type(error).__name__}: {error}")
        return
    if not found.ok:
        gradient = "" if found.gradient_error is None else f", gradients by {found.gradient_error:.1e}"
        yield Mismatch(d, form, backend, f"{what}: values off by {found.value_error:.1e}{gradient}")


def first(d: Declaration, backend: str = "eager") -> Mismatch | None:
    """The first mismatch of a declaration, if there is any."""
    return next((m for m in mismatches(d, backend) if isinstance(m, Mismatch)), None)


def shrunk(found: Mismatch, seconds: float = 60.0) -> Mismatch:
    """The smallest declaration found that still goes wrong in the same way."""
    end = time.monotonic() + seconds
    backend = found.backend if found.backend in MAIN else MAIN[0]
    while time.monotonic() < end:
        for smaller in found.declaration.smaller():
            again = first(smaller, backend)
            if again is not None and kind(again) == kind(found):
                found = again
                break
            if time.monotonic() > end:
                break
        else:
            break
    return found


def kind(m: Mismatch) -> str:
    """How something went wrong, without its numbers."""
    return m.what.split("off by")[0].split(":")[1].strip() if "off by" not in m.what else "values"


@dataclass
class Tally:
    """What a run of the fuzzer has seen."""

    mixers: int = 0
    unfit: int = 0
    wrong: int = 0


def fuzz(
    count: int, seed: int, *, stop: int = 1, quiet: bool = False, shrink: bool = True, backend: str = "eager"
) -> Tally:
    """`count` mixers from `seed` on; ends at the `stop`-th mismatch."""
    tally, start = Tally(), time.monotonic()
    number = seed * 1_000_003
    while tally.mixers < count and tally.wrong < stop:
        d = draw(number)
        number += 1
        found = list(mismatches(d, backend))
        if any(isinstance(m, Unfit) for m in found):
            tally.unfit += 1
            continue
        tally.mixers += 1
        wrong = [m for m in found if isinstance(m, Mismatch)]
        if wrong:
            tally.wrong += 1
            print(f"\nMISMATCH {shrunk(wrong[0]) if shrink else wrong[0]}\n", flush=True)
        if not quiet and tally.mixers % 100 == 0:
            rate = tally.mixers / (time.monotonic() - start)
            print(f"{tally.mixers} of {count} mixers, {tally.unfit} unfit draws, {rate:.1f} mixers/s", flush=True)
    return tally


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare random mixers in every form with their definition.")
    parser.add_argument("--count", type=int, default=5000, help="how many mixers")
    parser.add_argument("--seed", type=int, default=0, help="which mixers")
    parser.add_argument("--stop", type=int, default=1, help="end at this many mismatches")
    parser.add_argument("--no-shrink", action="store_true", help="print mismatches as they were drawn")
    parser.add_argument("--backend", default=MAIN[0], choices=MAIN, help="the one that is tried most")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    shrink = not options.no_shrink
    tally = fuzz(options.count, options.seed, stop=options.stop, shrink=shrink, backend=options.backend)
    print(f"{tally.mixers} mixers, {tally.unfit} unfit draws, {tally.wrong} mismatches")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
