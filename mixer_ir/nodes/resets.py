"""Boundary resets: a mixer on packed sequences, from the same mixer on one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mixer_ir.errors import DeclarationError
from mixer_ir.nodes.expr import SOURCE, TIME, Call, Cumulate, Delay, Expr, Index, Reverse, Size, call
from mixer_ir.nodes.matrix import Apply, Circulant, Flip, Resets, Toeplitz
from mixer_ir.nodes.node import Node, rebuild
from mixer_ir.nodes.process import Process, Recurrence, Run
from mixer_ir.nodes.substitute import refreshed


def with_resets(body: Expr, reset: Expr, *, of: str) -> Expr:
    """`body` with `reset` on everything that remembers: recurrences, matrices, cumulations, delays, positions.

    Raises DeclarationError, naming the mixer `of`, where a node looks at the whole sequence in a way that has no
    meaning for a piece of it.
    """

    result: Expr = _on(body, reset, reset, of)
    return result


def _on(root: Node, start: Expr, reset: Expr, of: str) -> Any:
    """`root` with resets where `start` is true. What counts lags (a filter) has no pieces and stays as it is.

    Inside a flip the signals run backward, and a piece starts behind the reset: there, `start` is the reset delayed.
    """

    def joined(old: Expr | None) -> Expr:
        return start if old is None or old is start else call("or", old, start)

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
                return Apply(matrix=Resets(of=matrix, reset=start), of=operand)
            case Flip(of=matrix):
                behind = Delay(of=reset, by=1) if start is reset else reset
                return Flip(of=_on(matrix, behind, reset, of))
            case Index(axis=axis) if axis == TIME:
                return _position(start)
            case Size(axis=axis) if axis == TIME:
                raise DeclarationError(f"{of} uses the sequence's length, which a packed piece does not know at each t")
            case Reverse():
                raise DeclarationError(
                    f"{of} reverses a signal in time; for packed sequences use mx.flip(M), which knows pieces"
                )
        return here

    return rebuild(root, change, closed=(Flip, Toeplitz, Circulant))


def _position(reset: Expr) -> Expr:
    """The position inside the packed piece: t less the t of the last reset."""
    t = Index(axis=TIME)
    start = Cumulate(fn="max", of=Call(fn="where", args=(reset, t, call("mul", 0, t))))
    return call("sub", t, start)


def _replace(here: Node, **fields: Expr) -> Node:
    return replace(here, **fields)  # type: ignore[type-var]
