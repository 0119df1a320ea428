"""The kernels of a mixer for a device that need not be here: planned, lowered and compiled at typical sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from backends.triton.levels import levels
from backends.triton.static import Kernels, Planned
from lowering.adjoint import adjoint
from lowering.context import SignalType
from lowering.lower import lower
from lowering.planner import Plan, plan
from lowering.profile import KERNELS
from lowering.program import Program
from mixer_ir.driver import samples
from mixer_ir.driver.binding import kind_of
from mixer_ir.errors import OptionError, one_of
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.expr import TIME

TYPICAL = {"b": 8, "t": 4096, "s": 4096, "h": 16} | dict.fromkeys("kvndm", 64)


def kernels(mixer: Mixer, form: str, chunk: int | None, target: str, sizes: Mapping[str, int]) -> Kernels:
    """The kernels of one form, forward and backward, for every floating signal."""
    title, made = planned(mixer, form, chunk, sizes)
    return made.compiled(title, target)


def planned(
    mixer: Mixer, form: str, chunk: int | None, sizes: Mapping[str, int], fixed: Collection[str] = ()
) -> tuple[str, Planned]:
    """(equation, forms and sizes in words; the kernels, to be compiled for any device).

    fixed   signals that take no gradient
    """
    chosen, signals = _chosen(mixer, form, chunk, sizes)
    program = _lowered(mixer, chosen, signals)
    inputs = [
        n for n, v in zip(program.input_names, program.inputs, strict=True) if v.differentiable and n not in fixed
    ]
    back = adjoint(program, inputs) if inputs and program.output("y").differentiable else None
    forms = dict.fromkeys(c.form + (f" in chunks of {c.chunk}" if c.chunk else "") for c in chosen.choices.values())
    at = " ".join(f"{a}={n}" for a, n in _sizes(mixer, sizes).items())
    title = f"{mixer}\n\nform {', '.join(forms) or form}; {at}; bfloat16 signals"
    return title, Planned(program, back)


def lowered(mixer: Mixer, form: str, chunk: int | None, given: Mapping[str, int]) -> Program:
    """The program that a GPU is given, at some sizes: a sequence is not cut into stretches."""
    return _lowered(mixer, *_chosen(mixer, form, chunk, given))


def _chosen(mixer: Mixer, form: str, chunk: int | None, given: Mapping[str, int]) -> tuple[Plan, dict[str, SignalType]]:
    sizes = _sizes(mixer, given)
    small = samples.draw(mixer, samples.sizes_for(mixer, 2), seed=0)
    signals = {
        n: SignalType(axes, tuple(sizes[a] for a in axes), kind_of(small[n].dtype))
        for n, axes in mixer.signals.items()
        if n in small
    }
    return plan(mixer.expr, signals, KERNELS, form=form, chunk=chunk), signals


def _lowered(mixer: Mixer, chosen: Plan, signals: Mapping[str, SignalType]) -> Program:
    made = lower(mixer.expr, returns=mixer.returns, signals=signals, forms=chosen.choices, initial=False, final=False)
    return levels(made.program)


def _sizes(mixer: Mixer, given: Mapping[str, int]) -> dict[str, int]:
    axes = list(dict.fromkeys(a for of in mixer.signals.values() for a in of))
    if unknown := [a for a in given if a not in axes]:
        raise OptionError(f"{mixer.name} has no axis {unknown[0]!r}; its axes: {one_of(axes)}")
    wanted = {a: n for a, n in TYPICAL.items() if a in axes} | dict(given)
    return samples.sizes_for(mixer, wanted.get(TIME, TYPICAL[TIME]), wanted)
