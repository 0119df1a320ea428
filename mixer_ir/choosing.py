"""Which forms a mixer has, and the refusal of one that it has not, with the reason and the way on."""

from __future__ import annotations

from mixer_ir.binding import nearest
from mixer_ir.errors import FormError, OptionError, one_of
from mixer_ir.legal import FORMS, forms, legal
from mixer_ir.mixer import Mixer
from mixer_ir.pieces import pieces


def checked_form(mixer: Mixer, form: str) -> str:
    """`form` if this mixer has it; OptionError for a name that no form has, FormError for one that is not legal."""
    if form == "auto":
        return form
    if form not in FORMS:
        known = ("auto", *FORMS)
        raise OptionError(f"there is no form {form!r}{nearest(str(form), known)}; forms: {one_of(known)}")
    have = forms(mixer.expr)
    if form not in have:
        raise FormError(f"{mixer.name} has no form {form!r}: {why_not(mixer, form)}; legal forms: {one_of(list(have))}")
    return form


def why_not(mixer: Mixer, form: str) -> str:
    """Why no piece of the mixer can be computed in this form: the reason of each piece, once."""
    reasons = [reason for p in pieces(mixer.expr) if (reason := legal(p)[form]) is not None]
    if not reasons:
        return "nothing in it mixes along time in a way that has forms"
    return "; ".join(dict.fromkeys(reasons))
