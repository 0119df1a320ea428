"""Expressions: signals on named axes, and what may be computed from them entry by entry or along an axis.

An expression's axes are inferred when it is built and kept in `axes`, in order of first appearance; an axis that
one side lacks is broadcast. Nothing here has a size: sizes are bound when a mixer is called.
"""

from __future__ import annotations

import cmath
import numbers
from dataclasses import field
from typing import Any, TypeAlias

from mixer_ir.errors import AxisError, DeclarationError
from mixer_ir.nodes.functions import FUNCTIONS
from mixer_ir.nodes.node import Node, node
from mixer_ir.nodes.tracing import TRACE

Axes: TypeAlias = tuple[str, ...]
Number: TypeAlias = int | float | complex | bool

TIME, SOURCE, BATCH = "t", "s", "b"


def union(*axes: Axes) -> Axes:
    """All axes, in order of first appearance."""
    return tuple(dict.fromkeys(a for group in axes for a in group))


def without(axes: Axes, gone: Axes | str) -> Axes:
    """`axes` less those in `gone` (a string is one axis), in the same order."""
    left_out = (gone,) if isinstance(gone, str) else gone
    return tuple(a for a in axes if a not in left_out)


def parse_axes(text: str, *, of: str) -> Axes:
    """`"b t h k"` as a tuple; axes are distinct lower-case names, perhaps with digits."""
    if not isinstance(text, str):
        raise DeclarationError(f"{of}: axes are named in a string, as in 'k' or 'b t h k', not {text!r}")
    axes = tuple(text.split())
    for a in axes:
        if not (a[0].islower() and a.isalnum() and a.isascii()):
            raise DeclarationError(f"{of}: axis {a!r} is not a lower-case name; write axes as in 'b t h k'")
    if len(set(axes)) != len(axes):
        raise DeclarationError(
            f"{of}: an axis stands twice in {text!r}; name the second one differently (as in 'b t s')"
        )
    return axes


class Expr(Node):
    """The base of all expressions; arithmetic builds nodes."""

    __slots__ = ()
    __array_ufunc__ = None  # numpy's numbers leave arithmetic to the expression
    axes: Axes

    def __add__(self, other: Any) -> Any:
        return call("add", self, other)

    def __radd__(self, other: Any) -> Expr:
        return call("add", other, self)

    def __sub__(self, other: Any) -> Expr:
        return call("sub", self, other)

    def __rsub__(self, other: Any) -> Expr:
        return call("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return NotImplemented if _is_matrix(other) else call("mul", self, other)

    def __rmul__(self, other: Any) -> Expr:
        return call("mul", other, self)

    def __truediv__(self, other: Any) -> Expr:
        return call("div", self, other)

    def __rtruediv__(self, other: Any) -> Expr:
        return call("div", other, self)

    def __pow__(self, other: Any) -> Expr:
        return call("pow", self, other)

    def __rpow__(self, other: Any) -> Expr:
        return call("pow", other, self)

    def __mod__(self, other: Any) -> Expr:
        return call("mod", self, other)

    def __floordiv__(self, other: Any) -> Expr:
        return call("floordiv", self, other)

    def __and__(self, other: Any) -> Expr:
        return call("and", self, other)

    def __or__(self, other: Any) -> Expr:
        return call("or", self, other)

    def __invert__(self) -> Expr:
        return call("not", self)

    def __neg__(self) -> Expr:
        return call("neg", self)

    def __abs__(self) -> Expr:
        return call("abs", self)

    def __lt__(self, other: Any) -> Expr:
        return call("lt", self, other)

    def __le__(self, other: Any) -> Expr:
        return call("le", self, other)

    def __gt__(self, other: Any) -> Expr:
        return call("lt", other, self)

    def __ge__(self, other: Any) -> Expr:
        return call("le", other, self)

    def __matmul__(self, other: Any) -> Expr:
        if _is_matrix(other):
            raise DeclarationError("a matrix acts from the left: write M @ v, or M.T @ v for the transpose")
        return contract(self, other)

    def __eq__(self, other: object) -> bool:
        if TRACE.get() is not None or isinstance(other, numbers.Number):
            raise DeclarationError("a signal is not compared with == or !=; write mx.equal(a, b) or mx.not_equal(a, b)")
        return self is other

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise DeclarationError("a signal has no truth value while a mixer is declared; write mx.where(condition, a, b)")

    def __iter__(self) -> Any:
        raise DeclarationError("a signal cannot be iterated over or unpacked; declare its parts as signals")

    def __getitem__(self, place: Any) -> Any:
        raise DeclarationError(
            "a signal is not indexed with [ ]: an earlier step is mx.delay(x), a row of a table "
            "mx.take(x, i, axis='c'), and parts of a signal are declared as signals of their own"
        )


def _is_matrix(value: Any) -> bool:
    return getattr(value, "is_matrix", False)


def set_axes(self: Node, axes: Axes) -> None:
    """Set the inferred field `axes` of a node that is being made."""
    object.__setattr__(self, "axes", axes)


@node
class Literal(Expr):
    """A number."""

    value: Number
    axes: Axes = field(init=False, default=())


@node
class Signal(Expr):
    """A named input with its axes."""

    name: str
    axes: Axes


@node
class Call(Expr):
    """`fn` applied entry by entry; arguments broadcast over the axes they lack."""

    fn: str
    args: tuple[Expr, ...]
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, union(*(a.axes for a in self.args)))


@node
class Contract(Expr):
    """Σ_over left · right."""

    left: Expr
    right: Expr
    over: Axes
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, without(union(self.left.axes, self.right.axes), self.over))


@node
class Reduce(Expr):
    """`fn` (sum, max or min) over the axes `over`."""

    fn: str
    of: Expr
    over: Axes
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, without(self.of.axes, self.over))


@node
class Cumulate(Expr):
    """y_t = fn(x_0 … x_t) along t, fn one of sum, max, prod; starts anew where `reset` (over t) is true."""

    fn: str
    of: Expr
    reset: Expr | None = None
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, self.of.axes if self.reset is None else union(self.of.axes, self.reset.axes))


@node
class Delay(Expr):
    """y_t = x_{t−by}, zero where t−by is outside the sequence (or in another packed piece); `by` may be negative."""

    of: Expr
    by: int
    reset: Expr | None = None
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, self.of.axes if self.reset is None else union(self.of.axes, self.reset.axes))


@node
class Reverse(Expr):
    """y_t = x_{T−1−t}."""

    of: Expr
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, self.of.axes)


@node
class Rename(Expr):
    """The same values with axis `old` called `new`."""

    of: Expr
    old: str
    new: str
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, tuple(self.new if a == self.old else a for a in self.of.axes))


@node
class Index(Expr):
    """The position 0, 1, 2 … along an axis (an integer)."""

    axis: str
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, (self.axis,))


@node
class Size(Expr):
    """The length of an axis (an integer)."""

    axis: str
    axes: Axes = field(init=False, default=())


@node
class Take(Expr):
    """y[…] = table[index[…]] along `axis`: rows of a table chosen by an integer signal."""

    table: Expr
    axis: str
    index: Expr
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, union(self.index.axes, without(self.table.axes, self.axis)))


@node
class Join(Expr):
    """The parts laid end to end along a new axis `axis`; `along` says what that axis is called in each part.

    A part for which it says "" is one entry.
    """

    parts: tuple[Expr, ...]
    along: Axes
    axis: str
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        others = (without(p.axes, (a,)) for p, a in zip(self.parts, self.along, strict=True))
        set_axes(self, union(*others, (self.axis,)))


@node
class Detach(Expr):
    """The same values; no gradient passes."""

    of: Expr
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, self.of.axes)


def as_expr(value: Any) -> Expr:
    """A number as a literal; an expression as it is; anything else is refused."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, numbers.Number):
        return Literal(value=_number(value))
    if _is_matrix(value):
        raise DeclarationError("a matrix stands where a signal is expected; apply it first: M @ v")
    raise DeclarationError(
        f"{value!r} of type {type(value).__name__} stands where a signal or a number is expected; "
        "a declaration holds signals, numbers and mx functions, and tensors are passed when it is called"
    )


def _number(value: Any) -> Number:
    """A Python number, whatever library `value` came from."""
    kinds: tuple[tuple[type, type[Any]], ...] = (
        (bool, bool), (numbers.Integral, int), (numbers.Real, float), (numbers.Complex, complex),
    )  # fmt: skip
    for kind, of in kinds:
        if isinstance(value, kind):
            found: Number = of(value)
            if cmath.isnan(found):
                raise DeclarationError("nan stands where a number is expected")
            return found
    raise DeclarationError(f"{value!r} of type {type(value).__name__} is not a real or complex number")


def call(fn: str, *args: Any) -> Expr:
    """`fn` entry by entry, with numbers folded in where both sides are literals of + − × ÷."""
    function = FUNCTIONS[fn]
    if len(args) != function.arity:
        raise DeclarationError(f"mx.{fn} takes {function.arity} arguments, not {len(args)}")
    return Call(fn=fn, args=tuple(as_expr(a) for a in args))


def contract(left: Any, right: Any, over: str | Axes | None = None) -> Expr:
    """Σ left · right over the axes `over`.

    By default over all state axes that both sides share, inside a recurrence; else over the last axis of `left`, which
    `right` must share and which is none of b, t, s.
    """
    a, b = as_expr(left), as_expr(right)
    axes = _shared(a.axes, b.axes) if over is None else parse_axes(over, of="over") if isinstance(over, str) else over
    for axis in axes:
        if axis not in a.axes or axis not in b.axes:
            raise AxisError(
                f"cannot contract over {axis!r}: the sides have axes ({' '.join(a.axes)}) and ({' '.join(b.axes)})"
            )
    return Contract(left=a, right=b, over=axes)


def _shared(left: Axes, right: Axes) -> Axes:
    """The axes that `left @ right` contracts."""
    trace = TRACE.get()
    states = tuple(x for x in left if x in right and trace is not None and x in trace.state_axes)
    if states:
        return states
    if not left or left[-1] not in right or left[-1] in (BATCH, TIME, SOURCE):
        own = [x for x in left if trace is not None and x in trace.state_axes and x not in right]
        rows = [x for x in right if x not in (*left, BATCH, TIME, SOURCE)]
        hint = ""
        if own and rows:
            hint = f"; or call what a matrix left on {rows[0]} by the state's axis: mx.rename(x, {rows[0]}='{own[0]}')"
        raise AxisError(
            f"({' '.join(left)}) @ ({' '.join(right)}): the left side's last axis is not one to contract with the "
            f"right side; name the axes to sum over with mx.contract(a, b, over='k'){hint}"
        )
    if trace is not None:
        trace.contracted.append(left[-1])
    return left[-1:]
