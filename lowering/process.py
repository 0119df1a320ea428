"""A process in the form asked for: one row a form."""

from __future__ import annotations

from collections.abc import Callable

from lowering import chunked, impulse, materialise, recurrent, scan
from lowering.build import Builder
from lowering.parts import Options, Parts, named_read, named_state
from lowering.program import Value
from mixer_ir.errors import FormError, one_of

Form = Callable[[Builder, Parts, Options], tuple[list[Value], Value]]

FORMS: dict[str, Form] = {
    "recurrent": recurrent.lower,
    "chunked": chunked.lower,
    "parallel": chunked.parallel,
    "scan": scan.lower,
    "fft": impulse.by_fft,
    "monarch": impulse.by_monarch,
    "direct": impulse.by_lags,
    "dense": materialise.lower,
}

DEFAULT = Options()


def lower_process(b: Builder, parts: Parts, form: str, options: Options = DEFAULT) -> tuple[list[Value], Value]:
    """The reads of a process, in the order of its queries, and the state after the last step.

    reads   axes t, batch, value axes, by the names that `gather` was given
    state   batch axes, then the state's axes as declared

    One step is the update itself in every form. FormError if processes have no such form, or this one has not.
    """
    if form not in FORMS:
        raise FormError(f"a process has no form {form!r}; it has {one_of(FORMS)}")
    lower = recurrent.step if parts.steps == 1 else FORMS[form]
    reads, state = lower(b, parts, options)
    return [named_read(b, parts, y) for y in reads], named_state(b, parts, state)
