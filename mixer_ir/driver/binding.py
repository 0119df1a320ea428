"""Binding: the tensors of one call checked against the declared axes, and what follows: sizes, precision, device.

Precision: a call runs in one of two, single (float32, complex64) or double (float64, complex128). bfloat16 and
float16 run in single and the result goes back to the dtype that all floating signals promote to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mixer_ir.errors import AxisError, OptionError, SignalError
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Rename, Signal
from mixer_ir.nodes.functions import Kind
from mixer_ir.nodes.matrix import Apply, Monarch
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.text import formula

WORDS = ("initial_state", "return_state", "reset", "cu_seqlens")
"""what a call takes beside signals"""
DOUBLE = frozenset({torch.float64, torch.complex128})
COMPLEX_OF = {torch.float32: torch.complex64, torch.float64: torch.complex128}


@dataclass(frozen=True)
class Bound:
    """The checked tensors of one call.

    sizes      the size of every axis
    precision  the real dtype that the program runs in, float32 or float64
    result     the dtype that floating results are returned in
    """

    tensors: dict[str, Tensor]
    sizes: dict[str, int]
    precision: torch.dtype
    result: torch.dtype
    device: torch.device

    @property
    def key(self) -> tuple[Any, ...]:
        """What a program depends on: equal keys, equal programs."""
        shapes = tuple((n, shape_of(x), kind_of(x.dtype)) for n, x in self.tensors.items())
        return (shapes, self.device.type, self.precision)

    def computed(self, x: Tensor) -> Tensor:
        """x in the precision that the program runs in; bfloat16 and float16 are widened where they are read."""
        if x.dtype in (torch.bfloat16, torch.float16) and self.precision == torch.float32:
            return x
        if x.is_complex():
            return x.to(COMPLEX_OF[self.precision])
        return x.to(self.precision) if x.is_floating_point() else x

    def returned(self, x: Tensor) -> Tensor:
        """A result in the dtype that the signals came in."""
        if x.is_complex():
            low = self.result not in COMPLEX_OF and not self.result.is_complex
            return x.to(torch.complex64) if low else x.to(COMPLEX_OF.get(self.result, self.result))
        return x.to(_real(self.result)) if x.is_floating_point() else x


def bind(mixer: str, declared: Mapping[str, Axes], given: Mapping[str, Any]) -> Bound:
    """Checks names, dimensions, sizes, dtypes and devices; SignalError or AxisError says what does not fit."""
    check_names(mixer, declared, given)
    tensors = {name: as_tensor(name, given[name]) for name in declared}
    sizes = bind_sizes(mixer, declared, {name: shape_of(x) for name, x in tensors.items()})
    device = _one_device(tensors)
    _check_layouts(tensors)
    precision, result = _precision(tensors)
    return Bound(tensors, sizes, precision, result, device)


def shape_of(x: Tensor) -> tuple[int, ...]:
    """The sizes as numbers, also where a graph is traced with symbols for them: a program is made for sizes."""
    return tuple(map(int, x.shape))


def visible(tensors: Iterable[Tensor]) -> bool:
    """Whether the tensors have values to look at: not while a graph is traced."""
    return all(type(x) in (Tensor, Parameter) for x in tensors)


def check_names(mixer: str, declared: Mapping[str, Axes], given: Iterable[str]) -> None:
    """Every declared signal is there, and nothing else."""
    names = set(given)
    signature = ", ".join(f"{n} ({' '.join(a)})" for n, a in declared.items())
    for name in sorted(names - set(declared)):
        near = nearest(name, [*declared, *WORDS])
        raise SignalError(f"{mixer} has no signal {name!r}{near}; its signals: {signature}")
    missing = [n for n in declared if n not in names]
    if missing:
        raise SignalError(f"{mixer} is called without {_listed(missing)}; its signals: {signature}")


def _check_layouts(tensors: Mapping[str, Tensor]) -> None:
    """Raise SignalError for a tensor that has no values, or keeps them in another way than one after the other."""
    for name, x in tensors.items():
        if x.device.type == "meta":
            raise SignalError(f"{name} is on the device meta, where a tensor has no values; give it on cpu or on a GPU")
        if x.layout != torch.strided or x.is_quantized:
            kind = "quantized" if x.is_quantized else str(x.layout).removeprefix("torch.")
            raise SignalError(f"{name} is a {kind} tensor; a signal is dense: {name}.to_dense(), or dequantize()")


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor as it is; a number or a NumPy array as a tensor."""
    if isinstance(value, Tensor):
        if value.is_nested:
            raise SignalError(f"{name} is a nested tensor; lay its pieces end to end and say where with cu_seqlens=")
        return value
    if isinstance(value, bool | int | float | complex):
        return torch.tensor(value)
    if type(value).__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "biufc":
        return torch.as_tensor(value)
    raise SignalError(f"{name} is {type(value).__name__}; a signal is a tensor (or a number, or a NumPy array)")


def bind_sizes(mixer: str, declared: Mapping[str, Axes], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The size of every axis, which all signals must agree on."""
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}
    for name, axes in declared.items():
        shape = shapes[name]
        if len(shape) != len(axes):
            raise AxisError(
                f"{name} has axes ({' '.join(axes)}), that is {_count(len(axes), 'dimension')}, but was given "
                f"{_count(len(shape), 'dimension')}: {_shape(shape)}{_hint(axes, shape)}"
            )
        for axis, n in zip(axes, shape, strict=True):
            if n != sizes.setdefault(axis, n):
                raise AxisError(
                    f"{name} has axes ({' '.join(axes)}) with {axis} = {n}, but {origin[axis]} gives "
                    f"{axis} = {sizes[axis]} (both must agree)"
                )
            origin.setdefault(axis, name)
            if n == 0:
                what = "the sequence is empty; it needs at least one step" if axis == TIME else "no axis may be empty"
                raise AxisError(f"{name} has axes ({' '.join(axes)}) with {axis} = 0: {what}")
    if TIME not in sizes:
        raise AxisError(f"no signal of {mixer} has the time axis t, so the length of the sequence is not known")
    return sizes


def _hint(axes: Axes, shape: tuple[int, ...]) -> str:
    if len(shape) == len(axes) - 1:
        return f"; a missing axis is put in with unsqueeze, so that the dimensions are ({' '.join(axes)})"
    return ""


def _one_device(tensors: Mapping[str, Tensor]) -> torch.device:
    """The device of all tensors with a dimension; single numbers may lie on the CPU."""
    where = {n: x.device for n, x in tensors.items() if x.dim()} or {n: x.device for n, x in tensors.items()}
    first, device = next(iter(where.items()))
    for name, here in where.items():
        if here != device:
            raise SignalError(f"{name} is on {here}, but {first} is on {device} (all signals must be on one device)")
    return device


def _precision(tensors: Mapping[str, Tensor]) -> tuple[torch.dtype, torch.dtype]:
    """(precision to run in, dtype of results)."""
    floating = {n: x.dtype for n, x in tensors.items() if x.is_floating_point() or x.is_complex()}
    for name, dtype in floating.items():
        if dtype.is_floating_point and dtype.itemsize == 1:
            raise SignalError(f"{name} is {dtype}; signals are bfloat16, float16, float32, float64, complex or integer")
        if dtype == torch.complex32:
            raise SignalError(f"{name} is complex32; complex signals are complex64 or complex128")
    shaped = {n: d for n, d in floating.items() if tensors[n].dim()} or floating
    if not shaped:
        default = torch.get_default_dtype()
        return (torch.float64 if default in DOUBLE else torch.float32), default
    first = next(iter(shaped))
    double = shaped[first] in DOUBLE
    for name, dtype in shaped.items():
        if (dtype in DOUBLE) != double:
            raise SignalError(
                f"{name} is {_name(dtype)}, but {first} is {_name(shaped[first])}; cast one of them "
                f"({name}.to({shaped[first]}), say): signals are all of single or all of double precision"
            )
    result = shaped[first]
    for dtype in shaped.values():
        result = torch.promote_types(result, dtype)
    return (torch.float64 if double else torch.float32), _real(result)


def check_indices(bound: Bound, indices: Mapping[str, str]) -> None:
    """Signals that choose rows of a table hold whole numbers that the table has; `indices` names the table's axis."""
    for name, axis in indices.items():
        x = bound.tensors[name]
        if kind_of(x.dtype) != "int":
            raise SignalError(
                f"{name} is {_name(x.dtype)}, but it is an index along {axis}: give whole numbers of an integer dtype, "
                f"as in {name}.long()"
            )
        if axis in bound.sizes and visible([x]) and (x.min() < 0 or x.max() >= bound.sizes[axis]):
            raise SignalError(
                f"{name} goes from {int(x.min())} to {int(x.max())}, but it is an index along {axis}: "
                f"it must lie in 0 … {bound.sizes[axis] - 1}"
            )


def check_renames(mixer: str, root: Node, sizes: Mapping[str, int]) -> None:
    """What is called by the name of another axis has that axis' size, in the sizes of one call; grids have T places."""
    for here in walk(root):
        if isinstance(here, Monarch):
            _same_places(mixer, here, sizes)
        if isinstance(here, Rename) and TIME not in (here.old, here.new):
            _same_size(mixer, here, sizes, "")
        if isinstance(here, Apply) and TIME not in here.of.axes:
            for part in walk(here.matrix):
                if isinstance(part, Rename) and (part.old, part.new) == (TIME, SOURCE):
                    _same_size(mixer, part, sizes, "; for the position of the source write mx.index('s')")


def given_columns(root: Node) -> tuple[tuple[str, str], ...]:
    """What matrices are applied to that are given column by column, and the signal that gives the columns."""
    square = (n for n in walk(root) if isinstance(n, Apply) and TIME in n.of.axes)
    sources = ((n.of, x.name) for n in square for x in walk(n.matrix) if isinstance(x, Signal) and SOURCE in x.axes)
    return tuple(dict.fromkeys((formula(of), name) for of, name in sources))


def check_columns(mixer: str, columns: tuple[tuple[str, str], ...], sizes: Mapping[str, int], before: int = 0) -> None:
    """A matrix that is given column by column has as many as the steps so far, those `before` this call among them."""
    steps = before + sizes[TIME]
    for of, name in columns:
        if sizes.get(SOURCE, steps) != steps:
            so_far = f" after {before} steps" if before else ""
            raise AxisError(
                f"{mixer} applies a matrix to {of} over t = {sizes[TIME]}{so_far}, but {name} has s = {sizes[SOURCE]} "
                f"columns: give s = {steps}{', one for every step so far' if before else ''}, or apply it to a value "
                "over s"
            )


def _same_places(mixer: str, M: Monarch, sizes: Mapping[str, int]) -> None:
    (i, l), (k, j) = M.grid, M.rows
    for a, c in ((i, j), (k, l)):
        if a in sizes and c in sizes and sizes[a] * sizes[c] != sizes[TIME]:
            raise AxisError(
                f"{mixer} lays its t = {sizes[TIME]} steps out on a grid {a} × {c} of {sizes[a]} · {sizes[c]} places; "
                f"a Monarch matrix needs as many places as steps, so pad the sequence or give blocks of other sizes"
            )


def _same_size(mixer: str, e: Rename, sizes: Mapping[str, int], hint: str) -> None:
    old, new = sizes.get(e.old), sizes.get(e.new)
    if old is not None and new is not None and old != new:
        raise AxisError(
            f"{mixer} renames the axis {e.old} of {formula(e.of)} to {e.new}, "
            f"but {e.old} = {old} and {e.new} = {new}{hint}"
        )


def kind_of(dtype: torch.dtype) -> Kind:
    """The kind of number that a dtype holds."""
    if dtype.is_complex:
        return "complex"
    if dtype.is_floating_point:
        return "real"
    return "bool" if dtype == torch.bool else "int"


def checked_options(
    options: Mapping[str, Any], known: Mapping[str, tuple[str, Callable[[Any], bool]]]
) -> dict[str, Any]:
    """The options with their values checked; `known` holds for each name what it must be, in words and as a test."""
    for name, value in options.items():
        if name not in known:
            raise OptionError(f"there is no option {name!r}{nearest(name, known)}; options: {', '.join(known)}")
        words, fine = known[name]
        if not fine(value):
            raise OptionError(f"{name} = {value!r}: {name} is {words}")
    return dict(options)


def nearest(name: Any, names: Iterable[str]) -> str:
    """` (did you mean 'x'?)` where a name comes close."""
    close = get_close_matches(str(name), list(names), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _real(dtype: torch.dtype) -> torch.dtype:
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
