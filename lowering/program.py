"""The array program: a DAG of operations on arrays whose axes have names and sizes.

A program is what lowering emits and a backend runs. It knows nothing of mixers. Every operation has a shape rule (in
lowering/build.py), an adjoint (lowering/adjoint.py) and one evaluation per backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from mixer_ir.nodes.expr import Axes, Number
from mixer_ir.nodes.functions import Kind

Shape: TypeAlias = tuple[int, ...]
AdjointRule: TypeAlias = "Callable[[Program], Program]"


@dataclass(frozen=True, slots=True)
class Input:
    """A named argument of the program."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """One number."""

    value: Number


@dataclass(frozen=True, slots=True)
class Iota:
    """0, 1, 2 … along its only axis (int)."""


@dataclass(frozen=True, slots=True)
class Map:
    """`fn` (a primitive of mixer_ir.nodes.functions) entry by entry; arguments broadcast over axes they lack."""

    fn: str


@dataclass(frozen=True, slots=True)
class Expand:
    """The argument repeated along the axes it lacks."""


@dataclass(frozen=True, slots=True)
class Order:
    """The argument with its axes in another order; `packed`: and stored in that order, where a backend stores."""

    packed: bool = False


@dataclass(frozen=True, slots=True)
class Cast:
    """The argument as another kind of number; complex to real keeps the real part."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Detach:
    """The argument; no gradient passes."""


@dataclass(frozen=True, slots=True)
class Contract:
    """Σ_over x · y (no conjugation); axes that both have and that are not summed are batch axes."""

    over: Axes


@dataclass(frozen=True, slots=True)
class Reduce:
    """sum, max or min over axes."""

    fn: str
    over: Axes


@dataclass(frozen=True, slots=True)
class Cumulate:
    """sum, prod or max of all entries up to here along `axis`; from the end with `reverse`.

    With `exclusive`, of all entries strictly before (after) this one: the first is the neutral element.
    """

    fn: str
    axis: str
    reverse: bool = False
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class AffineScan:
    """h_i = a_i h_{i−1} + x_i along `axis` from h_{−1} = 0 (arguments a, x); from the end with `reverse`."""

    axis: str
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Solve:
    """w = r + L w, that is (I − L)⁻¹ r, for arguments L (… row col) and r (… row …); w has the axis `row`.

    L is strictly lower triangular: entries with col ≥ row are not read. With `upper`, it is strictly upper.
    """

    row: str
    col: str
    upper: bool = False


@dataclass(frozen=True, slots=True)
class Transform:
    """A discrete Fourier transform along `axis`: fft or ifft of its length, rfft to n//2 + 1, irfft to n entries."""

    which: str
    axis: str
    n: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Entries start, start+step, … below stop along `axis`."""

    axis: str
    start: int
    stop: int
    step: int = 1


@dataclass(frozen=True, slots=True)
class Pad:
    """`before` and `after` entries of `value` put around the argument along `axis`."""

    axis: str
    before: int
    after: int
    value: Number = 0


@dataclass(frozen=True, slots=True)
class Concat:
    """The arguments one after the other along `axis`."""

    axis: str


@dataclass(frozen=True, slots=True)
class Flip:
    """The argument in reverse order along `axis`."""

    axis: str


@dataclass(frozen=True, slots=True)
class Rename:
    """The argument with axis `old` called `new`."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Split:
    """Axis `axis` as two, position = outer · size(inner) + inner."""

    axis: str
    outer: str
    inner: str


@dataclass(frozen=True, slots=True)
class Merge:
    """Two axes as one: the inverse of Split."""

    outer: str
    inner: str
    axis: str


@dataclass(frozen=True, slots=True)
class Take:
    """y[index axes, rest] = table[axis = index]: arguments table, index; shared axes are matched entry by entry."""

    axis: str


@dataclass(frozen=True, slots=True)
class Put:
    """The adjoint of Take: zeros of `size` along `axis`, plus every update added where its index says.

    Arguments update, index; the result has the axes `keep` and `axis`, all other axes are summed away.
    """

    axis: str
    size: int
    keep: Axes


@dataclass(frozen=True, slots=True)
class Scan:
    """A loop over the axis `axis` of the per-step arguments.

    Arguments: carries, then per-step arrays (having `axis`), then constants. The body takes them in this order
    (per-step ones without `axis`) and returns the new carries, then the per-step results. Results: the last
    carries, then the per-step results stacked along `axis`. With `reverse`, from the last step to the first.
    """

    axis: str
    length: int
    body: Program
    carries: int
    steps: int
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Region:
    """A named part: the same as running `body` on the arguments. A backend may spell the whole by its label.

    adjoint   where the derived adjoint is not good enough: a program that takes the arguments, then the cotangents
              of all results, and returns the cotangents of all arguments of float kind (in their order); or a rule
              that makes this program of `body` once it is wanted
    """

    label: str
    body: Program
    adjoint: Program | AdjointRule | None = None


@dataclass(frozen=True, slots=True)
class Pick:
    """One result of a Scan or a Region."""

    index: int


Op: TypeAlias = (
    Input | Constant | Iota | Map | Expand | Order | Cast | Detach | Contract | Reduce | Cumulate | AffineScan | Solve
    | Transform | Slice | Pad | Concat | Flip | Rename | Split | Merge | Take | Put | Scan | Region | Pick
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """The result of one operation: its axes, their sizes, and the kind of its numbers.

    A Scan or a Region has several results; its own value stands for all of them and is only ever picked from.

    label   "name: the step of the derivation that it belongs to", for whoever reads what a backend writes; or ""
    """

    op: Op
    args: tuple[Value, ...]
    axes: Axes
    shape: Shape
    kind: Kind
    label: str = ""

    def size(self, axis: str) -> int:
        """The size of one axis."""
        return self.shape[self.axes.index(axis)]

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.axes, self.shape, strict=True))

    @property
    def differentiable(self) -> bool:
        return self.kind in ("real", "complex")

    def __repr__(self) -> str:
        dims = " ".join(f"{a}:{n}" for a, n in self.sizes.items())
        return f"<{type(self.op).__name__} {self.kind} ({dims})>"


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Named results of named inputs. `inputs` may hold names that no result reads."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    names: tuple[str, ...]
    """the names of the outputs"""
    order: tuple[Value, ...] = field(init=False)
    """every value that an output reads, arguments before results"""
    input_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", tuple(_sorted(self.outputs)))
        object.__setattr__(self, "input_names", tuple(v.op.name for v in self.inputs if isinstance(v.op, Input)))

    def output(self, name: str) -> Value:
        return self.outputs[self.names.index(name)]


def _sorted(roots: tuple[Value, ...]) -> Iterator[Value]:
    seen: set[Value] = set()
    stack: list[tuple[Value, bool]] = [(v, False) for v in reversed(roots)]
    while stack:
        value, ready = stack.pop()
        if ready:
            yield value
        elif value not in seen:
            seen.add(value)
            stack.append((value, True))
            stack.extend((a, False) for a in reversed(value.args) if a not in seen)


def positions(program: Program) -> Mapping[Value, int]:
    """Where each value stands in `program.order`."""
    return {v: i for i, v in enumerate(program.order)}
