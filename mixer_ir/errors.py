"""Every error that mixer-ir raises on purpose: sentences that say what, where, and what to do."""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # said before anything else is imported that an old Python cannot read
    raise ImportError(f"mixer-ir needs Python 3.11 or newer, and this is {sys.version.split()[0]}")


class MixerError(Exception):
    """The base of all errors of mixer-ir."""


class DeclarationError(MixerError):
    """A mixer's declaration cannot be read: an annotation, a return, an operation that the language lacks."""


class AxisError(MixerError):
    """Axes or their sizes do not fit together."""


class SignalError(MixerError):
    """A signal is missing, unknown, or of the wrong dtype or device."""


class FormError(MixerError):
    """A form was asked for that is not legal for this mixer."""


class OptionError(MixerError):
    """An option or the name of a form, backend, mixer or target is not known."""


class BackendError(MixerError):
    """A backend cannot run here, or has no spelling for an operation."""


class MachineError(BackendError):
    """What a backend needs of the machine is not there: a compiler that works, a folder that can be written to."""


class StreamError(MixerError):
    """A state or a step was asked of a mixer that cannot be streamed, or a state does not fit."""


class SpecError(MixerError):
    """A text form of a mixer cannot be read."""


class GradientError(MixerError):
    """A derivative was asked for that is not defined."""


def too_deep(name: str) -> DeclarationError:
    """For a mixer whose expressions Python's own limit does not let be followed."""
    limit = sys.getrecursionlimit()
    return DeclarationError(
        f"{name} is nested too deep for Python's recursion limit of {limit:,}: operations that are repeated are better "
        f"declared as a recurrence or a filter (toeplitz); sys.setrecursionlimit({20 * limit:_}) lets them be followed"
    )


def one_of(names: object) -> str:
    """`a, b, c` for the end of a message."""
    return ", ".join(str(n) for n in names) if isinstance(names, list | tuple | dict | set | frozenset) else str(names)
