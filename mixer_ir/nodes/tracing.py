"""What is known while a declaration's body runs: the state axes, which `@` contracts first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Trace:
    """One run of a declaration's body.

    state_axes   the axes of the recurrence's states; `@` contracts all of them that both sides share
    contracted   other axes that some `@` contracted; they must not turn out to be batch axes
    """

    state_axes: tuple[str, ...] = ()
    contracted: list[str] = field(default_factory=list)


TRACE: ContextVar[Trace | None] = ContextVar("mixer_ir_trace", default=None)


@contextmanager
def untraced() -> Iterator[None]:
    """The library's own work in the midst of a declaration: rules compare expressions and contract by name."""
    token = TRACE.set(None)
    try:
        yield
    finally:
        TRACE.reset(token)
