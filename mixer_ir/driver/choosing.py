"""The refusal of a form that a mixer has not, with the reason and the way on."""

from __future__ import annotations

from mixer_ir.driver.binding import nearest
from mixer_ir.errors import FormError, OptionError, one_of
from mixer_ir.language.mixer import Mixer
from mixer_ir.rules.legal import FORMS, forms, refusal


def checked_mixer(mixer: object, word: str) -> Mixer:
    """What mx.compile, mx.verify … are asked to work on, if it is a mixer."""
    if isinstance(mixer, Mixer):
        return mixer
    raise OptionError(
        f"mx.{word} takes a mixer (a function under @mx.mixer or @mx.recurrence), not {type(mixer).__name__}"
    )


def refused(mixer: Mixer, form: str) -> str | None:
    """Why a mixer has not a form; None where it has."""
    return None if form == "auto" else refusal(mixer.expr, form)


def checked_form(mixer: Mixer, form: str) -> str:
    """`form` if this mixer has it; OptionError for a name that no form has, FormError for one that is not legal."""
    if form == "auto":
        return form
    known = ("auto", *FORMS)
    if form not in known:
        raise OptionError(f"there is no form {form!r}{nearest(form, known)}; forms: {one_of(known)}")
    reason = refused(mixer, form)
    if reason is not None:
        legal = one_of(forms(mixer.expr))
        raise FormError(f"{mixer.name} has no form {form!r}: {reason}; legal forms: {legal}")
    return form
