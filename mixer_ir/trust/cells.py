"""Named arrays of formulas: what a definition gives when every signal's entry is a symbol.

Truth values and integers stay concrete, so that masks, resets and picked rows are decided and not formulas. Comparisons
of formulas are drawn (comparisons.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any, ClassVar, Self

import numpy as np

from mixer_ir.definition.named import Array, apply
from mixer_ir.nodes.expr import Axes, union, without
from mixer_ir.nodes.functions import Kind
from mixer_ir.trust.algebra import Algebra
from mixer_ir.trust.formulas import Formula


@dataclass(frozen=True)
class Cells(Array):
    """An array of objects: formulas of one algebra, or Python numbers."""

    algebra: ClassVar[Algebra]

    @classmethod
    def symbols(cls, name: str, axes: Axes, shape: tuple[int, ...], kind: Kind = "real") -> Self:
        """A free symbol for every entry, real or complex."""
        data = np.empty(shape, dtype=object)
        for i in np.ndindex(*shape):
            data[i] = cls.algebra.Symbol("_".join([name, *map(str, i)]), complex=kind == "complex")
        return cls(axes, data)

    @classmethod
    def number(cls, value: Any) -> Self:
        return cls((), _array(value if isinstance(value, bool | int) else cls.algebra.read(value)))

    @classmethod
    def places(cls, axis: str, n: int) -> Self:
        return cls((axis,), np.array(range(n), dtype=object))

    @classmethod
    def computed(cls, fn: str, data: Sequence[Any]) -> Any:
        meaning = MEANING[fn]
        return _array(np.frompyfunc(lambda *entries: meaning(cls.algebra, *entries), len(data), 1)(*data))

    @classmethod
    def stacked(cls, data: Sequence[Any]) -> Any:
        return np.stack(data, -1)

    @staticmethod
    def repeated(data: Any, shape: Sequence[int]) -> Any:
        return np.broadcast_to(data, shape)

    def permuted(self, order: Sequence[int]) -> Any:
        return self.data.transpose(order)

    def flip(self, *axes: str) -> Self:
        return type(self)(self.axes, np.flip(self.data, tuple(self.axes.index(a) for a in axes if a in self.axes)))

    def folded(self, fn: str, over: Axes) -> Self:
        made, join = self, {"sum": "add"}.get(fn, fn)
        for axis in (a for a in over if a in self.axes):
            made = reduce(lambda x, y: apply(join, x, y), [made.at(axis, i) for i in range(made.sizes[axis])])
        return made

    def picked(self, axis: str, index: Self) -> Self:
        rows, axes = self.named(axis, "_row"), union(index.axes, without(self.axes, (axis,)))
        sizes = {**rows.sizes, **index.sizes}
        found, chosen = rows.to((*axes, "_row"), sizes), index.to(axes, sizes)
        data = np.empty(chosen.shape, dtype=object)
        for i in np.ndindex(*chosen.shape):
            data[i] = found[(*i, int(chosen[i]))]
        return type(self)(axes, data)

    def peak(self, axis: str) -> Self:
        """Zero: a formula does not overflow."""
        return self.number(0)

    def root(self, n: int) -> Self:
        s = self.algebra
        turn = np.frompyfunc(lambda x: s.exp(s.I * s.pi * s.read(Fraction(2 * int(x), n))), 1, 1)
        return type(self)(self.axes, _array(turn(self.data)))

    def detached(self) -> Self:
        return self


def over(algebra: Algebra) -> type[Cells]:
    """Arrays of formulas of one algebra."""
    return type("Cells", (Cells,), {"algebra": algebra})


def _array(x: Any) -> Any:
    """x as an array of objects, without dimensions if it is one entry."""
    if isinstance(x, np.ndarray):
        return x
    made = np.empty((), dtype=object)
    made[()] = x
    return made


# ---------------------------------------------------------------------------------- functions of entries


def _concrete(*xs: Any) -> bool:
    return not any(isinstance(x, Formula) and not x.is_number for x in xs)


def _compare(test: Callable[[Any, Any], bool], relation: str) -> Callable[[Algebra, Any, Any], Any]:
    def compare(s: Algebra, x: Any, y: Any) -> Any:
        return bool(test(_known(x), _known(y))) if _concrete(x, y) else getattr(s, relation)(x, y)

    return compare


def _known(x: Any) -> Any:
    return x.number if isinstance(x, Formula) else x


def _mul(s: Algebra, x: Any, y: Any) -> Any:
    """x y, where zero times anything is zero: masked entries may be infinite."""
    return 0 if (isinstance(x, int | float) and x == 0) or (isinstance(y, int | float) and y == 0) else x * y


MEANING: dict[str, Callable[..., Any]] = {
    "add": lambda s, x, y: x + y,
    "sub": lambda s, x, y: x - y,
    "mul": _mul,
    "div": lambda s, x, y: s.read(x) / s.read(y),
    "pow": lambda s, x, y: s.read(x) ** y,
    "neg": lambda s, x: -x,
    "exp": lambda s, x: s.exp(x),
    "log": lambda s, x: s.log(x),
    "log1p": lambda s, x: s.log(1 + x),
    "expm1": lambda s, x: s.exp(x) - 1,
    "sqrt": lambda s, x: s.sqrt(x),
    "abs": lambda s, x: s.Abs(x),
    "sign": lambda s, x: s.sign(x),
    "sigmoid": lambda s, x: 1 / (1 + s.exp(-x)),
    "softplus": lambda s, x: s.log(1 + s.exp(x)),
    "tanh": lambda s, x: s.tanh(x),
    "sin": lambda s, x: s.sin(x),
    "cos": lambda s, x: s.cos(x),
    "erf": lambda s, x: s.erf(x),
    "min": lambda s, x, y: s.Min(x, y),
    "max": lambda s, x, y: s.Max(x, y),
    "where": lambda s, condition, yes, no: s.Piecewise((yes, condition), (no, True)),
    "lt": _compare(lambda x, y: x < y, "Lt"),
    "le": _compare(lambda x, y: x <= y, "Le"),
    "eq": _compare(lambda x, y: x == y, "Eq"),
    "ne": _compare(lambda x, y: x != y, "Ne"),
    "and": lambda s, x, y: s.And(x, y),
    "or": lambda s, x, y: s.Or(x, y),
    "not": lambda s, x: s.Not(x),
    "real": lambda s, x: s.re(x),
    "imag": lambda s, x: s.im(x),
    "conj": lambda s, x: s.conjugate(x),
    "complex": lambda s, x, y: x + s.I * y,
    "mod": lambda s, x, y: _known(x) % _known(y) if _concrete(x, y) else s.Mod(x, y),
    "floordiv": lambda s, x, y: _known(x) // _known(y) if _concrete(x, y) else s.floor(x / y),
}
