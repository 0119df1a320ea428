"""Named arrays of formulas: what a definition gives when every signal's entry is a symbol.

Truth values and integers stay concrete, so that masks, resets and picked rows are decided and not formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import numpy as np
import sympy

from mixer_ir.definition.named import Array, apply
from mixer_ir.nodes.expr import Axes, union, without
from mixer_ir.nodes.functions import number, part


@dataclass(frozen=True)
class Cells(Array):
    """An array of objects: SymPy expressions, or Python numbers."""

    @classmethod
    def symbols(cls, name: str, axes: Axes, shape: tuple[int, ...]) -> Self:
        """A free real symbol for every entry."""
        data = np.empty(shape, dtype=object)
        for i in np.ndindex(*shape):
            data[i] = sympy.Symbol("_".join([name, *map(str, i)]), real=True)
        return cls(axes, data)

    @classmethod
    def number(cls, value: Any) -> Self:
        return cls((), _array(value if isinstance(value, bool | int) else number(sympy, value)))

    @classmethod
    def places(cls, axis: str, n: int) -> Self:
        return cls((axis,), np.array(range(n), dtype=object))

    @classmethod
    def computed(cls, fn: str, data: Sequence[Any]) -> Any:
        return _array(np.frompyfunc(MEANING[fn], len(data), 1)(*data))

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
        turn = np.frompyfunc(lambda x: sympy.exp(sympy.I * sympy.pi * sympy.Rational(2 * x, n)), 1, 1)
        return type(self)(self.axes, _array(turn(self.data)))

    def detached(self) -> Self:
        return self


def _array(x: Any) -> Any:
    """x as an array of objects, without dimensions if it is one entry."""
    if isinstance(x, np.ndarray):
        return x
    made = np.empty((), dtype=object)
    made[()] = x
    return made


# ---------------------------------------------------------------------------------- functions of entries


def _concrete(*xs: Any) -> bool:
    return not any(isinstance(x, sympy.Basic) and not x.is_number for x in xs)


def _compare(test: Callable[[Any, Any], bool], relation: Any) -> Callable[[Any, Any], Any]:
    def compare(x: Any, y: Any) -> Any:
        return bool(test(x, y)) if _concrete(x, y) else relation(x, y)

    return compare


def _where(condition: Any, yes: Any, no: Any) -> Any:
    if isinstance(condition, bool | np.bool_ | int) or condition in (sympy.true, sympy.false):
        return yes if condition else no
    return sympy.Piecewise((yes, condition), (no, True))


def _mul(x: Any, y: Any) -> Any:
    """x y, where zero times anything is zero: masked entries may be infinite."""
    return 0 if (isinstance(x, int | float) and x == 0) or (isinstance(y, int | float) and y == 0) else x * y


def _div(x: Any, y: Any) -> Any:
    return sympy.sympify(x) / sympy.sympify(y)


MEANING: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": _mul,
    "div": _div,
    "pow": sympy.Pow,
    "neg": lambda x: -x,
    "exp": sympy.exp,
    "log": sympy.log,
    "log1p": lambda x: sympy.log(1 + x),
    "expm1": lambda x: sympy.exp(x) - 1,
    "sqrt": sympy.sqrt,
    "abs": sympy.Abs,
    "sign": sympy.sign,
    "sigmoid": lambda x: 1 / (1 + sympy.exp(-x)),
    "softplus": lambda x: sympy.log(1 + sympy.exp(x)),
    "tanh": sympy.tanh,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "erf": sympy.erf,
    "min": sympy.Min,
    "max": sympy.Max,
    "where": _where,
    "lt": _compare(lambda x, y: x < y, sympy.Lt),
    "le": _compare(lambda x, y: x <= y, sympy.Le),
    "eq": _compare(lambda x, y: x == y, sympy.Eq),
    "ne": _compare(lambda x, y: x != y, sympy.Ne),
    "and": lambda x, y: sympy.And(x, y) if not _concrete(x, y) else bool(x) and bool(y),
    "or": lambda x, y: sympy.Or(x, y) if not _concrete(x, y) else bool(x) or bool(y),
    "not": lambda x: sympy.Not(x) if not _concrete(x) else not bool(x),
    "real": lambda x: part(sympy, x, "re"),
    "imag": lambda x: part(sympy, x, "im"),
    "conj": sympy.conjugate,
    "complex": lambda x, y: x + sympy.I * y,
    "mod": lambda x, y: x % y,
    "floordiv": lambda x, y: x // y,
}
