"""Arrays with named axes whose entries are formulas: what a definition gives when every signal's entry is a symbol.

Truth values and integers stay concrete, so that masks, resets and picked rows are decided and not formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy

from mixer_ir.expr import Axes, union, without
from mixer_ir.functions import FUNCTIONS


@dataclass(frozen=True)
class Cells:
    """Entries (SymPy expressions, or Python numbers) along named axes."""

    axes: Axes
    data: Any

    @cached_property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.axes, self.data.shape, strict=True))

    def aligned(self, axes: Axes) -> Any:
        """The entries laid out as `axes`, of size 1 along those that are lacking."""
        data = self.data.transpose([self.axes.index(a) for a in axes if a in self.axes])
        return data.reshape([self.sizes.get(a, 1) for a in axes])

    def to(self, axes: Axes, sizes: dict[str, int]) -> Any:
        return np.broadcast_to(self.aligned(axes), [self.sizes.get(a, sizes.get(a, 1)) for a in axes])

    def at(self, axis: str, i: int) -> Cells:
        """Entry i along `axis`; itself where it lacks that axis."""
        if axis not in self.axes:
            return self
        return Cells(without(self.axes, (axis,)), _array(self.data.take(i, axis=self.axes.index(axis))))

    def named(self, old: str, new: str) -> Cells:
        return Cells(tuple(new if a == old else a for a in self.axes), self.data)

    def flip(self, *axes: str) -> Cells:
        return Cells(self.axes, np.flip(self.data, tuple(self.axes.index(a) for a in axes if a in self.axes)))

    def fold(self, fn: str, over: Axes) -> Cells:
        """`fn` (add, mul, max …) of all entries along `over`."""
        made = self
        for axis in over:
            if axis in made.axes:
                slices = [made.at(axis, i) for i in range(made.sizes[axis])]
                made = slices[0]
                for x in slices[1:]:
                    made = apply(fn, made, x)
        return made


def _array(x: Any) -> Any:
    """x as an array of objects, without dimensions if it is one entry."""
    if isinstance(x, np.ndarray):
        return x
    made = np.empty((), dtype=object)
    made[()] = x
    return made


def number(value: Any) -> Cells:
    """One entry: a number, or a formula."""
    if isinstance(value, complex):
        value = sympy.sympify(value.real) + sympy.I * sympy.sympify(value.imag)
    return Cells((), _array(value))


def symbols(name: str, axes: Axes, shape: tuple[int, ...]) -> Cells:
    """A free real symbol for every entry."""
    data = np.empty(shape, dtype=object)
    for i in np.ndindex(*shape):
        data[i] = sympy.Symbol("_".join([name, *map(str, i)]), real=True)
    return Cells(axes, data)


def apply(fn: str, *args: Any) -> Cells:
    """A function of mixer_ir.functions, entry by entry."""
    cells = [a if isinstance(a, Cells) else number(a) for a in args]
    function = FUNCTIONS[fn]
    if function.meaning is not None:
        made = function.meaning(apply, *cells)
        return made if isinstance(made, Cells) else number(made)
    axes = union(*(c.axes for c in cells))
    rule = np.frompyfunc(MEANING[fn], len(cells), 1)
    return Cells(axes, _array(rule(*(c.aligned(axes) for c in cells))))


def mul(*factors: Cells) -> Cells:
    total = factors[0]
    for f in factors[1:]:
        total = apply("mul", total, f)
    return total


def contract(x: Cells, y: Cells, over: Axes) -> Cells:
    """Σ_over x y."""
    return mul(x, y).fold("add", over)


def stack(parts: list[Cells], axis: str) -> Cells:
    """The parts along a new last axis."""
    axes = union(*(p.axes for p in parts))
    sizes = {a: n for p in parts for a, n in p.sizes.items()}
    data = np.empty([*(sizes[a] for a in axes), len(parts)], dtype=object)
    for i, p in enumerate(parts):
        data[..., i] = p.to(axes, sizes)
    return Cells((*axes, axis), data)


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
    "real": sympy.re,
    "imag": sympy.im,
    "conj": sympy.conjugate,
    "complex": lambda x, y: x + sympy.I * y,
    "mod": lambda x, y: x % y,
    "floordiv": lambda x, y: x // y,
}
