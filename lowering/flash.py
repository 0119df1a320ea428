"""The form `flash`: softmax over blocks of keys with a running maximum, sum and accumulator; no matrix is kept.

A block of scores x brings the carried (m, l, a) to m' = max(m, max x), l' = e^{m−m'} l + Σ e^{x−m'} and
a' = e^{m−m'} a + e^{x−m'} V; at the end y = a / l. The adjoint computes the probabilities again from m + log l.
Rows are taken in a few groups, each over the keys alone that its masks can leave by their positions, or in blocks as
wide as a narrow band (lowering/window.py); all together where loops leave out by themselves what masks close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowering import window
from lowering.adjoint import adjoint
from lowering.build import Builder, counts, program
from lowering.context import Choice
from lowering.grid import Grid
from lowering.program import Program, Value
from lowering.support import lookahead, lookback
from lowering.tiles import Tiling, masked, score_program, scores
from mixer_ir.errors import FormError
from mixer_ir.nodes.expr import SOURCE, TIME, without
from mixer_ir.nodes.matrix import Apply, Matrix, Resets, Softmax

BLOCK, GROUPS = 128, 4
LOWEST = -1e30
"""below every score, and finite in every precision that is computed in"""
KEYS = "_n"


def lower(e: Apply, on: Grid, choice: Choice) -> Value:
    """y_t = Σ_s exp(x_ts) v_s / Σ_s exp(x_ts), a row with no entry left being 0."""
    M = e.matrix
    while isinstance(M, Resets):
        on, M = on.within(M.reset), M.of
    if not isinstance(M, Softmax):
        raise FormError(f"{type(M).__name__} has no form 'flash': it is not a softmax")
    b, block = on.b, choice.chunk or BLOCK
    tiling = Tiling.of(M.of, on)
    v = b.expand(on.col(e.of), {SOURCE: on.cols.size})
    before, after = (None, None) if on.cross else (lookback(M.of), lookahead(M.of))
    rows, groups = on.rows.size, GROUPS if choice.groups is None else choice.groups
    if groups and before is not None and after is not None and window.pays(tiling, max(before, 0), max(after, 0)):
        return window.lower(tiling, v, max(before, 0), max(after, 0))
    size = -(-rows // groups) if groups and after is not None and rows >= groups * block else rows
    made = []
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        low, high = _columns(on, start, stop, before, after)
        parts = {n: _cut(b, _cut(b, p, TIME, start, stop), SOURCE, low, high) for n, p in tiling.parts.items()}
        made.append(attend(b, tiling.matrix, parts, b.slice(v, SOURCE, low, high), on.ctx.sizes, stop - start, block))
    return b.concat(made, TIME)


def _columns(on: Grid, start: int, stop: int, before: int | None, after: int | None) -> tuple[int, int]:
    """The columns that rows start … stop − 1 can have: at least one."""
    first, n = on.rows.low - on.cols.low, on.cols.size
    low = 0 if before is None else min(max(first + start - before, 0), n - 1)
    high = n if after is None else min(max(first + stop + after, low + 1), n)
    return low, high


def _cut(b: Builder, x: Value, axis: str, start: int, stop: int) -> Value:
    return b.slice(x, axis, start, stop) if axis in x.axes else x


def attend(
    b: Builder,
    M: Matrix,
    parts: Mapping[str, Value],
    v: Value,
    sizes: Mapping[str, int],
    rows: int,
    block: int,
) -> Value:
    """The softmax of a tiled matrix applied to v."""
    block = min(block, v.size(SOURCE))
    loop = Loop.of(b, M, parts, v, {**sizes, TIME: rows, SOURCE: block})
    y, lse = loop.forward(b, list(parts.values()), v)
    args = [*parts.values(), v, y, lse]
    inner = Builder()
    inputs = [inner.input(f"arg{i}", a.axes, a.shape, a.kind) for i, a in enumerate(args)]
    body = program({"y": inputs[-2]}, inputs)
    (result,) = b.region("flash", body, args, loop.backward(args))
    return result


@dataclass(frozen=True)
class Loop:
    """The loop over blocks of keys for one tiled matrix.

    names   of the parts     sizes   of every axis, s being one block     like   the scores of one block
    """

    matrix: Matrix
    names: tuple[str, ...]
    sizes: Mapping[str, int]
    like: Value
    parts: tuple[Value, ...]
    """the parts of one block, as inputs of a program of their own"""

    @classmethod
    def of(cls, b: Builder, M: Matrix, parts: Mapping[str, Value], v: Value, sizes: Mapping[str, int]) -> Loop:
        inner = Builder()
        block = {SOURCE: sizes[SOURCE]}
        made = tuple(
            inner.input(name, p.axes, tuple(block.get(a, n) for a, n in p.sizes.items()), p.kind)
            for name, p in parts.items()
        )
        value, _ = scores(M, inner, dict(zip(parts, made, strict=True)), sizes)
        return cls(M, tuple(parts), sizes, value, made)

    def blocks(self, b: Builder, values: Sequence[Value]) -> tuple[list[Value], list[Value], list[int]]:
        """Values over s in blocks along `_n`, with whether a key is inside; values without; which had s."""
        block = self.sizes[SOURCE]
        cut, plain, where = [], [], []
        for i, x in enumerate(values):
            if SOURCE in x.axes:
                x = b.longer(x, SOURCE, -x.size(SOURCE) % block)
                cut.append(b.split(x, SOURCE, KEYS, SOURCE, block))
                where.append(i)
            else:
                plain.append(x)
        return cut, plain, where

    def inside(self, b: Builder, v: Value) -> list[Value]:
        """Whether a key is one, in blocks, where the last block is filled up."""
        block = self.sizes[SOURCE]
        n = -(-v.size(SOURCE) // block) * block
        if n == v.size(SOURCE):
            return []
        return [b.split(b.map("lt", b.iota(SOURCE, n), v.size(SOURCE)), SOURCE, KEYS, SOURCE, block)]

    def block_scores(self, b: Builder, parts: Sequence[Value], inside: Sequence[Value]) -> Value:
        value, kept = scores(self.matrix, b, dict(zip(self.names, parts, strict=True)), self.sizes)
        for here in inside:
            kept = here if kept is None else b.map("and", kept, here)
        return masked(b, value, kept)

    def forward(self, b: Builder, parts: Sequence[Value], v: Value) -> tuple[Value, Value]:
        """y and log Σ exp x."""
        sizes = {a: n for a, n in self.like.sizes.items() if a != SOURCE}
        wide = {**sizes, **{a: n for a, n in v.sizes.items() if a != SOURCE}}
        cut, plain, where = self.blocks(b, [*parts, v])

        def step(
            i: Builder, carry: Sequence[Value], steps: Sequence[Value], constants: Sequence[Value]
        ) -> tuple[list[Value], list[Value]]:
            *own, here = _together(steps[: len(cut)], constants, where)
            m, total, acc = carry
            with i.named("scores: scores of a block of keys"):
                x = self.block_scores(i, own, steps[len(cut) :])
            with i.named("top: the largest score so far: m' = max(m, max x)"):
                top = i.detach(i.map("max", m, i.reduce("max", x, (SOURCE,))))
            with i.named("weights: weights e^(x − m'), and e^(m − m') for what was summed before"):
                weights = i.map("exp", i.sub(x, top))
                with i.named("scale"):
                    scale = i.map("exp", i.sub(m, top))
            with i.named("total: sum of the weights: l' = e^(m − m') l + Σ e^(x − m')"):
                total = i.add(i.mul(total, scale), i.sum(weights, (SOURCE,)))
            with i.named("acc: weighted values: a' = e^(m − m') a + e^(x − m') V"):
                acc = i.add(i.mul(acc, scale), i.contract(weights, here, (SOURCE,)))
            return [top, total, acc], []

        zero = 0j if v.kind == "complex" else 0.0
        start = [b.full(LOWEST, sizes), b.full(0.0, sizes), b.full(zero, wide)]
        (m, total, acc), _ = b.scan(KEYS, step, start, [*cut, *self.inside(b, v)], plain)
        with b.named("y: y = a / l, a row with no entry left being 0"):
            total = b.where(b.map("eq", total, 0.0), 1.0, total)
            y = b.map("div", acc, total)
        with b.named("lse: log Σ e^x = m + log l"):
            return y, b.add(m, b.map("log", total))

    def backward(self, like: Sequence[Value]) -> Program:
        """From (parts, v, y, lse, ȳ) to the cotangents of the parts and of v; y and lse hand none on."""
        b = Builder()
        given = [b.input(f"arg{i}", a.axes, a.shape, a.kind) for i, a in enumerate(like)]
        *parts, v, y, lse = [b.remade(a, {}) if counts(a) else x for a, x in zip(like, given, strict=True)]
        ct = b.input("d:y", y.axes, y.shape, y.kind)
        rows = without(self.like.axes, SOURCE)
        with b.named("delta: Σ_v ȳ y of each row"):
            delta = b.cast(_row_sum(b, ct, y, rows), "real")
        cut, plain, where = self.blocks(b, [*parts, v])
        alive = [i for i, x in enumerate(parts) if x.differentiable]
        fixed = [i for i in alive if i not in where]
        of = score_program(self.matrix, dict(zip(self.names, self.parts, strict=True)), self.sizes)
        back = adjoint(of, [self.names[i] for i in alive], ["x"])

        def step(
            i: Builder, carry: Sequence[Value], steps: Sequence[Value], constants: Sequence[Value]
        ) -> tuple[list[Value], list[Value]]:
            ct, lse, delta, *rest = constants
            *own, here = _together(steps[: len(cut)], rest, where)
            with i.named("scores: scores of a block of keys, again"):
                x = self.block_scores(i, own, steps[len(cut) :])
            with i.named("weights: probabilities p = e^(x − log Σ e^x)"):
                weights = i.map("exp", i.sub(x, lse))
            with i.named("d_values: gradient of the values: pᵀ ȳ"):
                dv = _row_sum(i, weights, ct, here.axes)
            with i.named("d_weights: gradient of the probabilities: ȳ vᵀ"):
                dp = i.cast(_row_sum(i, ct, i.map("conj", here) if here.kind == "complex" else here, x.axes), "real")
            with i.named("d_scores: gradient of the scores: p (ȳ vᵀ − Σ ȳ y)"):
                dx = i.order(i.mul(weights, i.sub(dp, delta)), of.output("x").axes)
            made = i.inline(back, {**dict(zip(self.names, own, strict=True)), "d:x": dx})
            grads = dict(zip(alive, made, strict=True))
            sums = [i.add(total, grads[n]) for total, n in zip(carry, fixed, strict=True)]
            return sums, [*(grads[n] for n in alive if n in where), i.order(i.expand(dv, here.sizes), here.axes)]

        zeros = [b.full(0j if parts[n].kind == "complex" else 0.0, parts[n].sizes) for n in fixed]
        zeros = [b.order(z, parts[n].axes) for z, n in zip(zeros, fixed, strict=True)]
        sums, stacked = b.scan(KEYS, step, zeros, [*cut, *self.inside(b, v)], [ct, lse, delta, *plain])
        flat = [b.merge(x, KEYS, SOURCE, SOURCE) for x in stacked]
        grads = dict(zip([*fixed, *(n for n in alive if n in where), len(parts)], [*sums, *flat], strict=True))
        outputs = {}
        for n, x in enumerate([*parts, v]):
            if n in grads:
                g = b.slice(grads[n], SOURCE, 0, x.size(SOURCE)) if SOURCE in x.axes else grads[n]
                outputs[f"d:arg{n}"] = b.order(b.expand(g, x.sizes), x.axes)
        for n, x in ((len(parts) + 1, y), (len(parts) + 2, lse)):
            outputs[f"d:arg{n}"] = b.full(0j if x.kind == "complex" else 0.0, x.sizes)
        return program(outputs, [*given, ct])


def _row_sum(b: Builder, x: Value, y: Value, keep: Sequence[str]) -> Value:
    """Σ x y over all axes that are not kept."""
    over = tuple(a for a in dict.fromkeys((*x.axes, *y.axes)) if a not in keep)
    return b.contract(x, y, over)


def _together(cut: Sequence[Value], plain: Sequence[Value], where: Sequence[int]) -> list[Value]:
    """The values that were cut and those that were not, in the order they had."""
    steps, rest = iter(cut), iter(plain)
    return [next(steps) if i in where else next(rest) for i in range(len(cut) + len(plain))]
