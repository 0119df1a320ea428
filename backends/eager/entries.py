"""PyTorch spellings of what works entry by entry, and of what only moves entries."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backends.eager.setting import Setting, View, op_of, view
from backends.plan import Call
from lowering import program as p
from lowering.program import Value


def _softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x)) if x.is_complex() else torch.logaddexp(x, x.new_zeros(()))


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x)) if x.is_complex() else torch.sigmoid(x)


MAPS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "neg": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "sign": torch.sgn,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "tanh": torch.tanh,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "min": torch.minimum,
    "max": torch.maximum,
    "where": torch.where,
    "lt": torch.lt,
    "le": torch.le,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "real": torch.real,
    "imag": lambda x: torch.imag(x) if x.is_complex() else torch.zeros_like(x),
    "conj": torch.conj_physical,
    "complex": torch.complex,
    "mod": torch.remainder,
    "floordiv": torch.floor_divide,
}


def entrywise(v: Value, setting: Setting) -> Call:
    fn = MAPS[op_of(v, p.Map).fn]
    views = [_argument(a, v, setting) for a in v.args]
    if not any(views):
        return fn
    if len(views) == 2:
        left, right = views
        if right is None:
            return lambda x, y: fn(left(x), y)  # type: ignore[misc]
        if left is None:
            return lambda x, y: fn(x, right(y))
    return lambda *args: fn(*(x if as_ is None else as_(x) for x, as_ in zip(args, views, strict=True)))


def written(v: Value, setting: Setting) -> Call:
    """The same with one more argument, which the result is written into."""
    fn = MAPS[op_of(v, p.Map).fn]
    views = [_argument(a, v, setting) for a in v.args]
    if not any(views):
        if len(views) == 2:
            return lambda x, y, out: fn(x, y, out=out)
        return lambda *args: fn(*args[:-1], out=args[-1])
    return lambda *args: fn(
        *(x if as_ is None else as_(x) for x, as_ in zip(args[:-1], views, strict=True)), out=args[-1]
    )


def _argument(a: Value, v: Value, setting: Setting) -> View | None:
    """How an argument is read; a whole number that makes a real one first takes the precision of the call."""
    viewed, dtype = view(a.axes, v.axes), setting.real
    if a.kind != "int" or v.kind not in ("real", "complex"):
        return viewed
    return (lambda x: x.to(dtype)) if viewed is None else (lambda x: viewed(x.to(dtype)))


def constant(v: Value, setting: Setting) -> Call:
    number = torch.tensor(op_of(v, p.Constant).value, dtype=setting.dtype(v.kind), device=setting.device)
    return lambda: number


def iota(v: Value, setting: Setting) -> Call:
    return lambda: torch.arange(v.shape[0], device=setting.device)


def cast(v: Value, setting: Setting) -> Call:
    dtype = setting.dtype(v.kind)
    if v.args[0].kind == "complex":
        return lambda x: x.real.to(dtype)
    return lambda x: x.to(dtype)


def expand(v: Value, setting: Setting) -> Call:
    shape = v.shape
    as_ = view(v.args[0].axes, v.axes)
    return (lambda x: x.expand(shape)) if as_ is None else (lambda x: as_(x).expand(shape))


def order(v: Value, setting: Setting) -> Call:
    permutation = [v.args[0].axes.index(a) for a in v.axes]
    if op_of(v, p.Order).packed:
        return lambda x: x.permute(permutation).contiguous()
    return lambda x: x.permute(permutation)


def detach(v: Value, setting: Setting) -> Call:
    return torch.detach


def same(v: Value, setting: Setting) -> Call:
    return lambda x: x


def window(v: Value, setting: Setting) -> Call:
    op = op_of(v, p.Slice)
    at, n = v.axes.index(op.axis), v.size(op.axis)
    if op.step == 1:
        return lambda x: x.narrow(at, op.start, n)
    index = (*[slice(None)] * at, slice(op.start, op.stop, op.step))
    return lambda x: x[index]


def pad(v: Value, setting: Setting) -> Call:
    op = op_of(v, p.Pad)
    widths = [0, 0] * (len(v.axes) - 1 - v.axes.index(op.axis)) + [op.before, op.after]
    return lambda x: torch.constant_pad_nd(x, widths, op.value)


def concat(v: Value, setting: Setting) -> Call:
    at = v.axes.index(op_of(v, p.Concat).axis)
    return lambda *parts: torch.cat(parts, dim=at)


def flip(v: Value, setting: Setting) -> Call:
    at = v.axes.index(op_of(v, p.Flip).axis)
    return lambda x: torch.flip(x, (at,))


def reshape(v: Value, setting: Setting) -> Call:
    shape = v.shape
    return lambda x: x.reshape(shape)


def take(v: Value, setting: Setting) -> Call:
    """Without shared axes, rows of the table; else by one index an axis."""
    op, (table, index) = op_of(v, p.Take), v.args
    at = table.axes.index(op.axis)
    if not set(index.axes) & set(table.axes) - {op.axis}:
        rows = (*index.axes, *(a for a in table.axes if a != op.axis))
        permutation = [rows.index(a) for a in v.axes]
        return lambda x, i: x.movedim(at, 0)[i].permute(permutation)
    places = _places(v.axes, table.sizes, op.axis, setting)
    as_ = view(index.axes, v.axes)

    def taken(x: Tensor, i: Tensor) -> Tensor:
        i = i if as_ is None else as_(i)
        return x[tuple(i if place is None else place for place in places)].expand(v.shape)

    return taken


def put(v: Value, setting: Setting) -> Call:
    """Added at linear positions: Σ place · stride."""
    op, (update, index) = op_of(v, p.Put), v.args
    sizes = {**index.sizes, **update.sizes}
    axes = tuple(sizes)
    shape, count = tuple(sizes.values()), torch.Size(v.shape).numel()
    stride = torch.empty(v.shape, device="meta").stride()
    places = _places(axes, v.sizes, op.axis, setting)
    kept = sum((place * n for place, n in zip(places, stride, strict=True) if place is not None), torch.tensor(0))
    step = stride[v.axes.index(op.axis)]
    as_update, as_index = view(update.axes, axes), view(index.axes, axes)

    def added(x: Tensor, i: Tensor) -> Tensor:
        x = x if as_update is None else as_update(x)
        i = i if as_index is None else as_index(i)
        where = (i * step + kept.to(i.device)).expand(shape).reshape(-1)
        return x.new_zeros(count).index_add(0, where, x.expand(shape).reshape(-1)).view(v.shape)

    return added


def _places(onto: tuple[str, ...], sizes: dict[str, int], but: str, setting: Setting) -> list[Tensor | None]:
    """For each axis its positions, lying along that axis of `onto`; None for the axis `but`."""
    places: list[Tensor | None] = []
    for a, n in sizes.items():
        as_ = view((a,), onto) if a != but else None
        positions = torch.arange(n, device=setting.device)
        places.append(None if a == but else positions if as_ is None else as_(positions))
    return places


def pick(v: Value, setting: Setting) -> Call:
    i = op_of(v, p.Pick).index
    return lambda results: results[i]


ENTRIES: dict[type, Callable[[Value, Setting], Call]] = {
    p.Constant: constant,
    p.Iota: iota,
    p.Map: entrywise,
    p.Cast: cast,
    p.Expand: expand,
    p.Order: order,
    p.Detach: detach,
    p.Rename: same,
    p.Slice: window,
    p.Pad: pad,
    p.Concat: concat,
    p.Flip: flip,
    p.Split: reshape,
    p.Merge: reshape,
    p.Take: take,
    p.Put: put,
    p.Pick: pick,
}
