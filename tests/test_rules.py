"""Every rule keeps the matrix: both sides by their definitions, on random matrices, for every rule there is."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cache

import pytest
import torch

import mixer_ir as mx
from mixer_ir.definition.oracle import entries, evaluate
from mixer_ir.nodes.expr import Expr, Signal
from mixer_ir.nodes.matrix import (
    Apply,
    Band,
    Cauchy,
    Decay,
    Entrywise,
    Fourier,
    Matrix,
    Product,
    Resets,
    Semiseparable,
    Softmax,
    Toeplitz,
    Vandermonde,
)
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Transition
from mixer_ir.rules.algebra import ONE
from mixer_ir.rules.applied import RULES as APPLY_RULES
from mixer_ir.rules.canonical import Fired, Rewriter, canonicalise
from mixer_ir.rules.collected import RULES as COLLECT_RULES
from mixer_ir.rules.products import RULES as MATRIX_RULES
from mixer_ir.rules.products import SCORES

SIZES = {"b": 2, "t": 5, "s": 5, "h": 2, "k": 3, "n": 2, "v": 2, "c": 4, "l": 3, "m": 2}
COUNT = 2000


def signal(name: str, axes: str) -> Signal:
    return Signal(name=name, axes=tuple(axes.split()))


q, k, q2, k2 = signal("q", "b t k"), signal("k", "b t k"), signal("q2", "t n"), signal("k2", "b t n")
g, f, d, e = signal("g", "b t h"), signal("f", "t"), signal("d", "b t"), signal("e", "b t h")
h, h2, anti, short = signal("h", "h t"), signal("h2", "t"), signal("anti", "h t"), signal("short", "h l")
A, C, B = signal("A", "h n"), signal("C", "n"), signal("B", "n")
z, codebook, reset = signal("z", "b t"), signal("codebook", "c k"), signal("reset", "b t")
bias, mask, v, c, v2 = (
    signal("bias", "t s"),
    signal("mask", "t s"),
    signal("v", "b t v"),
    signal("c", "h"),
    signal("v2", "t n"),
)
W = signal("W", "m n")
p, r, v3 = signal("p", "t k n"), signal("r", "t k n"), signal("v3", "b t k")
"""beside them, k is an axis of the batch or of the values, and summed over in q and k"""
SIZES["m"] = 2


def real(M: Matrix) -> Matrix:
    return mx.real(M) if any(isinstance(n, Fourier) for n in walk(M)) else M


class Draw:
    """Matrices drawn from the whole language."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def one(self, *choices):
        return self.random.choice(choices)

    def time_signal(self) -> Expr:
        return self.one(f, d, e, mx.cumsum(f), mx.delay(d), mx.tanh(e))

    def semiseparable(self) -> Matrix:
        decay = self.one(g, mx.softplus(f) * -1, A, None)
        pair = ((q2, k2),) if self.one(0, 0, 1) else ()
        time_invariant = self.one(0, 0, 1)
        row, key = (C, B) if time_invariant else self.one((q2, k2), (mx.cumsum(q2), k2), (q2, mx.delay(k2)))
        if time_invariant:
            decay, pair = self.one(A, None), self.one((), ((C, B),))
        if self.one(0, 0, 0, 1):
            transition = mx.dense_transition(self.one(W, W * f), row="m", along="n")
        else:
            kind = self.one({"log": decay}, {"factor": decay}) if decay is not None else {}
            transition = Transition(along="n" if pair else None, low_rank=pair, **kind)
        return Semiseparable(C=row, A=transition, B=key, over=("n",), strict=bool(self.one(0, 0, 1)))

    def leaf(self) -> Matrix:
        return self.one(
            lambda: mx.diagonal(self.time_signal()),
            mx.identity,
            lambda: mx.lowrank(q, k),
            lambda: mx.lowrank(mx.cumsum(q), k),
            lambda: mx.lowrank(q2, k2),
            lambda: mx.lowrank(p, r, over="n"),
            self.semiseparable,
            self.semiseparable,
            lambda: Semiseparable(C=ONE, A=Transition(log=g), B=ONE, over=()),
            lambda: Toeplitz(h=self.one(h, h2, mx.exp(h))),
            lambda: Toeplitz(h=h, anti=anti),
            lambda: Toeplitz(h=short, lags="l"),
            lambda: mx.circulant(self.one(h, h2)),
            lambda: mx.dense(bias),
            mx.dft,
            lambda: mx.dft(inverse=True),
            lambda: Cauchy(x=d + 10.0, y=f),
            lambda: Vandermonde(x=d),
            self.codebook,
        )()

    def codebook(self) -> Matrix:
        keys = mx.take(codebook, z, axis="c")
        return self.one(lambda M: M, lambda M: 0.5 * M)(mx.lowrank(q, self.one(keys, keys * 0.7)))

    def matrix(self, depth: int) -> Matrix:
        if depth == 0:
            return self.leaf()
        M = self.matrix(depth - 1)
        return self.one(
            lambda: mx.causal(M),
            lambda: mx.causal(M),
            lambda: Band(of=M, before=self.one(None, 1, 2), after=self.one(None, 0, 0, 1)),
            lambda: mx.mask(M, mask > 0),
            lambda: Decay(of=M, log=self.one(f, d)),
            lambda: Decay(of=M, factor=self.one(f, d)),
            lambda: mx.softmax(real(M)),
            lambda: mx.normalize(mx.exp(real(M)), eps=0.1),
            lambda: mx.normalize(M, floor=1.0),
            lambda: M.T,
            lambda: mx.flip(M),
            lambda: mx.flip(M),
            lambda: mx.shift(M, by=self.one(1, 1, 2, -1, 0)),
            lambda: Resets(of=M, reset=reset > 0),
            lambda: self.one(c, 1, 2.0) * M,
            lambda: M + self.matrix(depth - 1),
            lambda: M - self.matrix(depth - 1),
            lambda: Product(factors=(M, self.matrix(depth - 1))),
            lambda: Product(factors=(self.matrix(0), M)),
            lambda: Product(factors=(mx.diagonal(d), M)),
            lambda: Product(factors=(self.semiseparable(), self.semiseparable())),
            lambda: self.semiseparable() + self.semiseparable(),
            lambda: self.semiseparable() + mx.flip(self.semiseparable()) + mx.diagonal(d),
            lambda: mx.shift(self.leaf(), by=self.one(1, 2)).T,
            lambda: Product(factors=(M, mx.diagonal(f))),
            lambda: Product(factors=(mx.dft(inverse=True), mx.diagonal(f), mx.dft(), M)),
            lambda: Entrywise(fn="mul", args=(M, self.matrix(self.one(0, depth - 1)))),
            lambda: Entrywise(fn="add", args=(M, self.leaf())),
        )()

    def application(self) -> Expr:
        return Apply(
            matrix=self.matrix(self.one(0, 1, 1, 2)),
            of=self.one(v, v, f, d, mx.cumsum(v), v2, v3, mx.reverse(mx.reverse(d))),
        )


@cache
def values() -> tuple[dict[str, torch.Tensor], dict[str, tuple[str, ...]]]:
    torch.manual_seed(1)
    signals = {s.name: s for s in globals().values() if isinstance(s, Signal)}
    made = {}
    for name, s in signals.items():
        shape = [SIZES[a] for a in s.axes]
        made[name] = (
            torch.randint(0, SIZES["c"], shape) if name == "z" else 0.6 * torch.randn(shape, dtype=torch.float64)
        )
    return made, {name: s.axes for name, s in signals.items()}


@cache
def fired() -> dict[str, list[Fired]]:
    """What every rule did on random matrices, and on their applications to a signal."""
    found: dict[str, list[Fired]] = defaultdict(list)
    for seed in range(COUNT):
        draw = Draw(seed)
        rewriter = Rewriter(MATRIX_RULES, APPLY_RULES)
        rewriter.rewrite(draw.application())
        collector = Rewriter((*MATRIX_RULES, *COLLECT_RULES), APPLY_RULES)
        collector.rewrite(draw.matrix(draw.one(1, 2)))
        for one in (*rewriter.fired, *collector.fired):
            found[one.rule].append(one)
    return found


RULES = [rule.__name__ for rule in (*MATRIX_RULES, *COLLECT_RULES, *APPLY_RULES)]


def assert_same(before: object, after: object) -> None:
    signals, axes = values()
    if isinstance(before, Matrix):
        x, order = entries(before, signals, axes)
        y, other = entries(after, signals, axes)
    else:
        order, other = before.axes, after.axes
        x, y = (evaluate(side, signals, axes) for side in (before, after))
    both = tuple(dict.fromkeys((*order, *other)))
    x, y = (laid_out(tensor, own, both) for tensor, own in ((x, order), (y, other)))
    x, y = torch.broadcast_tensors(x, y)
    kind = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float64)
    torch.testing.assert_close(y.to(kind), x.to(kind), rtol=1e-9, atol=1e-9, equal_nan=True)


def laid_out(x: torch.Tensor, own: tuple[str, ...], order: tuple[str, ...]) -> torch.Tensor:
    x = x.permute([own.index(a) for a in order if a in own])
    for i, a in enumerate(order):
        x = x if a in own else x.unsqueeze(i)
    return x


@pytest.mark.parametrize("rule", [r for r in RULES if r != "affine_recurrence_is_read"])  # tests/test_affine.py
def test_rule_keeps_the_matrix(rule: str) -> None:
    assert fired()[rule], f"{rule} never fired on {COUNT} random matrices"
    distinct = list(dict.fromkeys((one.before, one.after) for one in fired()[rule]))
    for before, after in distinct[:25]:
        assert_same(before, after)


@pytest.mark.parametrize("rule", [rule.__name__ for rule in SCORES])
def test_rule_inside_a_softmax_keeps_the_masks(rule: str) -> None:
    done = 0
    for before, after in dict.fromkeys((one.before, one.after) for one in fired()[rule]):
        if done < 15 and not any(isinstance(n, Fourier) for n in walk(before)):
            assert_same(Softmax(of=before), Softmax(of=after))
            done += 1
    assert done, f"{rule} never fired on {COUNT} random matrices"


@pytest.mark.parametrize("seed", range(60))
def test_canonical_form_keeps_the_values(seed: int) -> None:
    body = Draw(10_000 + seed).application()
    assert_same(body, canonicalise(body).expr)


def test_canonical_form_is_canonical() -> None:
    for seed in range(200):
        once = canonicalise(Draw(seed).application()).expr
        assert canonicalise(once).expr is once


def test_the_docstring_of_a_rule_is_an_identity() -> None:
    for rule in (*MATRIX_RULES, *COLLECT_RULES, *APPLY_RULES):
        assert rule.__doc__ and ("=" in rule.__doc__ or ";" in rule.__doc__ or ":" in rule.__doc__), rule.__name__


def test_no_structure_that_a_rule_takes_apart_is_left() -> None:
    for seed in range(200):
        for node in walk(canonicalise(Draw(seed).application()).expr):
            if isinstance(node, Apply):
                assert type(node.matrix).__name__ not in ("Sum", "Product", "Scale", "Flip", "Shift", "Semiseparable")
