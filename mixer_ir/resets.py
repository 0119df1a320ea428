"""Boundary resets: a mixer on packed sequences, from the same mixer on one."""

from __future__ import annotations

from dataclasses import replace

from mixer_ir.errors import DeclarationError
from mixer_ir.expr import (
    SOURCE,
    TIME,
    Apply,
    Call,
    Cumulate,
    Delay,
    Expr,
    Index,
    Process,
    Recurrence,
    Reverse,
    Run,
    Size,
    call,
)
from mixer_ir.matrix import Resets
from mixer_ir.node import Node, rebuild
from mixer_ir.substitute import refreshed


def with_resets(body: Expr, reset: Expr, *, of: str) -> Expr:
    """`body` with `reset` on everything that remembers: recurrences, matrices, cumulations, delays, positions.

    Raises DeclarationError, naming the mixer `of`, where a node looks at the whole sequence in a way that has no
    meaning for a piece of it.
    """

    def joined(old: Expr | None) -> Expr:
        return reset if old is None or old is reset else call("or", old, reset)

    def change(here: Node) -> Node:
        match here:
            case Recurrence():
                return refreshed(_replace(here, reset=joined(here.reset)))
            case Run():
                return refreshed(here)
            case Process() | Cumulate() | Delay():
                return _replace(here, reset=joined(here.reset))
            case Apply(matrix=matrix, of=operand):
                if SOURCE in operand.axes:
                    raise DeclarationError(
                        f"{of} mixes across two sequences (t and s): boundary resets are of one sequence"
                    )
                return Apply(matrix=Resets(of=matrix, reset=reset), of=operand)
            case Index(axis=axis) if axis == TIME:
                return _position(reset)
            case Size(axis=axis) if axis == TIME:
                raise DeclarationError(f"{of} uses the sequence's length, which a packed piece does not know at each t")
            case Reverse():
                raise DeclarationError(
                    f"{of} reverses a signal in time; for packed sequences use mx.flip(M), which knows pieces"
                )
        return here

    return rebuild(body, change)  # type: ignore[no-any-return]


def _position(reset: Expr) -> Expr:
    """The position inside the packed piece: t less the t of the last reset."""
    t = Index(axis=TIME)
    start = Cumulate(fn="max", of=Call(fn="where", args=(reset, t, call("mul", 0, t))))
    return call("sub", t, start)


def _replace(here: Node, **fields: Expr) -> Node:
    return replace(here, **fields)  # type: ignore[type-var]
