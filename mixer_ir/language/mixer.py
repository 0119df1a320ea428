"""A mixer: named signals, and the one expression that it is of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from mixer_ir.errors import AxisError, DeclarationError, SignalError, one_of, too_deep
from mixer_ir.nodes.expr import BATCH, SOURCE, TIME, Axes, Expr, Signal, as_expr, union
from mixer_ir.nodes.linear import depends, matrix_of, value_signal
from mixer_ir.nodes.matrix import Matrix
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Run
from mixer_ir.nodes.resets import with_resets
from mixer_ir.nodes.substitute import substitute
from mixer_ir.nodes.text import mixer_text
from mixer_ir.nodes.tracing import untraced
from mixer_ir.rules.canonical import Canonical, Fired, canonicalise
from mixer_ir.rules.legal import forms
from mixer_ir.rules.traits import Traits, traits

RESET = "reset"


@dataclass(frozen=True)
class Mixer:
    """y = body(signals), an expression with the axes `returns`.

    signals   name -> axes, in the order of the declaration
    body      the expression as it was declared; `expr` is its canonical form
    """

    name: str
    signals: Mapping[str, Axes]
    body: Expr
    returns: Axes
    doc: str = ""
    paper: str = ""
    year: int | None = None
    declared_value: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signals", MappingProxyType(dict(self.signals)))

    def __hash__(self) -> int:
        return hash((self.name, self.body, self.returns))

    def __copy__(self) -> Mixer:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Mixer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        facts = (self.doc, self.paper, self.year, self.declared_value)
        return Mixer, (self.name, dict(self.signals), self.body, self.returns, *facts)

    def __repr__(self) -> str:
        return f"<Mixer {self.name}({', '.join(self.signals)})>"

    def __str__(self) -> str:
        return mixer_text(self.name, self.signals, self.body, self.returns, self.doc)

    # ------------------------------------------------------------------------------- what is known of it

    @cached_property
    def _canonical(self) -> Canonical:
        with untraced():
            return canonicalise(self.body)

    @property
    def expr(self) -> Expr:
        """The canonical form: element-wise nodes around the pieces that mix along time."""
        return self._canonical.expr

    @property
    def rules(self) -> tuple[Fired, ...]:
        """The rules that fired on the way to the canonical form, in order."""
        return self._canonical.fired

    @cached_property
    def value(self) -> str | None:
        """The name of the signal that the matrix is applied to; None where the mixer is linear in no one signal."""
        with untraced():
            return self.declared_value or value_signal(self._linear, dict(self.signals), self.returns)

    @property
    def _linear(self) -> Expr:
        return self.expr if any(isinstance(n, Run) for n in walk(self.body)) else self.body

    @cached_property
    def _matrix(self) -> Matrix | None:
        try:
            return None if self.value is None else matrix_of(self.expr, self.value)
        except RecursionError as error:
            raise too_deep(self.name) from error

    @property
    def matrix_expr(self) -> Matrix:
        """M with y = M v, read off the canonical form.

        Raises DeclarationError where the mixer is linear in no one signal along time alone.
        """
        return self._found(self._matrix)

    def _found(self, matrix: Matrix | None) -> Matrix:
        if matrix is None:
            raise DeclarationError(
                f"{self.name} is not a matrix applied to one of its signals ({', '.join(self.signals)}); "
                "if it is, name that signal with value='v' in the decorator"
            )
        return matrix

    @cached_property
    def traits(self) -> Traits:
        """What holds of the mixer whatever the signals are: causal, time-invariant, linear-time …"""
        try:
            return traits(self.body, self.expr, self.signals, self.value, self._matrix)
        except RecursionError as error:
            raise too_deep(self.name) from error

    def forms(self) -> list[str]:
        """The names of the forms that are legal for it."""
        return list(forms(self.expr))

    # ------------------------------------------------------------------------------- using it in another

    def __call__(self, *positional: Any, **signals: Any) -> Expr:
        """The mixer's result for other expressions in the place of its signals."""
        with untraced():
            self._by_name(positional, "")
            given = self._given(signals, needed=list(self.signals))
            result: Expr = substitute(self.body, given)
        return result

    def M(self, *positional: Any, **signals: Any) -> Matrix:
        """The mixer's matrix for other expressions in the place of its signals; the value signal is left out."""
        with untraced():
            self._by_name(positional, ".M")
            matrix = self._found(None if self.value is None else matrix_of(self._linear, self.value))
            given = self._given(signals, needed=[n for n in self.signals if depends(matrix, n)])
            result: Matrix = substitute(matrix, given)
        return result

    def _by_name(self, positional: tuple[Any, ...], word: str) -> None:
        if positional:
            names = ", ".join(f"{n}=…" for n in self.signals if not word or n != self.value)
            raise SignalError(f"signals are given by name: {self.name}{word}({names})")

    def _given(self, signals: Mapping[str, Any], needed: list[str]) -> dict[str, Expr]:
        unknown = [n for n in signals if n not in needed]
        if unknown:
            raise SignalError(f"{self.name} takes no {unknown[0]!r} here; it takes {one_of(needed)}")
        missing = [n for n in needed if n not in signals]
        if missing:
            raise SignalError(f"{self.name} is missing the signal {missing[0]!r}; it takes {one_of(needed)}")
        for name, value in signals.items():
            if not isinstance(value, Expr | bool | int | float | complex):
                raise DeclarationError(
                    f"{self.name}({name}=…) takes expressions, inside another declaration; to run it on tensors, "
                    f"compile it first: mx.compile({self.name})(…)"
                )
        given = {name: as_expr(value) for name, value in signals.items()}
        own = union(*self.signals.values(), *(n.axes for n in walk(self.body) if isinstance(n, Expr)))
        for name, e in given.items():
            declared = self.signals[name]
            foreign = [a for a in e.axes if a not in declared and a in own]
            if foreign:
                raise AxisError(
                    f"{self.name} declares {name} with axes ({' '.join(declared)}), but got ({' '.join(e.axes)}): "
                    f"{foreign[0]} has another meaning in it; call it differently with mx.rename"
                )
        return given

    def with_reset(self) -> Mixer:
        """The same mixer with a signal `reset` (b t): where it is true, a packed piece begins, and nothing is
        remembered from before. A mixer that declares `reset` already is returned as it is."""
        if RESET in self.signals:
            return self
        batched = any(BATCH in axes for axes in self.signals.values())
        axes = (BATCH, TIME) if batched else (TIME,)
        body = with_resets(self.body, Signal(name=RESET, axes=axes), of=self.name)
        return replace(self, signals={**self.signals, RESET: axes}, body=body)


def result_axes(signals: Mapping[str, Axes], axes: Axes) -> Axes:
    """The order of a result's axes: that of the last signal with just these (s read as t), else of first appearance."""
    found = tuple(axes)
    for own in signals.values():
        read = tuple(TIME if a == SOURCE and TIME not in own else a for a in own)
        if sorted(read) == sorted(axes):
            found = read
    if found != tuple(axes) or found in signals.values():
        return found
    seen = union(*signals.values())
    return union(tuple(a for a in seen if a in axes), axes)
