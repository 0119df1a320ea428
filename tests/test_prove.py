"""mx.prove: what is true is proved, what is not is refused with the term at fault; the algebra underneath decides."""

from __future__ import annotations

import pytest
import sympy

import mixer_ir as mx
from mixer_ir.trust.block_algebra import ONE, ZERO, Blocks, Polynomial, Symbol, identity, resolve
from mixer_ir.trust.exact import Ring
from mixer_ir.trust.homomorphism import Shape, claims
from mixer_ir.trust.monoids import convolution, joined, softmax
from mixer_ir.trust.prove import prove


@mx.recurrence
def gated(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t", beta: "b t"):
    S = mx.exp(g) * (S - beta * mx.outer(k, k @ S)) + beta * mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def rotating(h: mx.State("n"), x: "b t", decay: "n", angle: "n", B: "n", C: "n"):
    h = mx.exp(mx.complex(-mx.softplus(decay), angle)) * h + B * x
    return h, mx.real(C @ h)


@mx.recurrence
def normalised(S: mx.State("k v"), n: mx.State("k"), q: "b t k", k: "b t k", v: "b t v", i: "b t"):
    S = 0.9 * S + mx.sigmoid(i) * mx.outer(k, v)
    n = 0.9 * n + mx.sigmoid(i) * k
    return S, n, (q @ S) / mx.maximum(mx.abs(q @ n), 1.0)


@mx.recurrence
def cell(h: mx.State("n"), x: "b t n", W: "m n"):
    h = mx.tanh(mx.rename(W @ h, m="n") + x)
    return h, h


@mx.mixer
def windowed(q: "b t k", k: "b t k", v: "b t v"):
    return mx.softmax(mx.band(mx.lowrank(q, k), 2)) @ v


@mx.mixer
def both_ways(q: "b t k", k: "b t k", v: "b t v", d: "b t", g: "b t"):
    M = mx.semiseparable(q, mx.exp(g), k)
    return (mx.shift(M) + mx.flip(mx.shift(M)) + mx.diagonal(d)) @ v


@mx.mixer
def convolved(f: "t", w: "t", v: "b t"):
    return (mx.toeplitz(f) @ mx.toeplitz(w)) @ v


@pytest.mark.parametrize("mixer", [gated, rotating, normalised, windowed, both_ways, convolved], ids=lambda m: m.name)
def test_true_mixers_are_proved(mixer):
    proof = prove(mixer)
    assert proof.ok, str(proof)
    assert "proved" in str(proof).splitlines()[0] and all(step.because for step in proof.steps)
    assert any("emitted" in step.law for step in proof.steps)


def test_packed_sequences_are_proved():
    assert prove(gated.with_reset()).ok


def test_a_state_update_that_is_not_affine_is_refused_with_its_term():
    proof = prove(cell)
    assert not proof.ok
    (step,) = [s for s in proof.open if "affine" in s.law]
    assert "tanh" in step.statement + step.because
    assert "not proved" in str(proof)


def test_a_time_invariant_process_is_shown_to_be_a_convolution():
    assert any("convolution" in step.law for step in prove(rotating).steps)
    assert not any("convolution" in step.law for step in prove(gated).steps)


# ---------------------------------------------------------------------------------- block algebra


@pytest.mark.parametrize("before", [(False,), (True,), (False, True)])
@pytest.mark.parametrize(
    ("pairs", "low_rank", "shared"), [(1, False, None), (2, True, None), (1, True, 0), (2, True, 1)]
)
def test_the_segment_formula_is_a_homomorphism(before, pairs, low_rank, shared):
    found = list(claims(Shape(before, pairs, low_rank, shared)))
    assert len(found) > 8 and all(c.ok for c in found), [c.statement for c in found if not c.ok]


def symbol(name: str) -> Polynomial:
    return Polynomial.of(Symbol(name))


def test_symbols_do_not_commute():
    x, y = symbol("x"), symbol("y")
    assert x @ y != y @ x
    assert (x + y) @ (x - y) == x @ x - x @ y + y @ x - y @ y
    assert x - x == ZERO and ONE @ x == x


def test_a_block_triangular_matrix_is_inverted():
    L = Blocks(((symbol("L1"), ZERO, ZERO), (symbol("C"), symbol("L2"), ZERO), (symbol("D"), symbol("E"), ZERO)))
    R = resolve(L)
    eye = identity(3)
    assert ((eye - L) @ R - eye).zero() and (R @ (eye - L) - eye).zero()
    with pytest.raises(ValueError, match="not lower triangular"):
        resolve(Blocks(((ZERO, symbol("U")), (ZERO, ZERO))))
    with pytest.raises(ValueError, match="not a symbol"):
        resolve(Blocks.one(symbol("x") @ symbol("y")))


def test_the_monoids_of_convolution_and_softmax():
    assert all(law.ok for law in (*convolution((False, True), True), *softmax()))
    m, *_ = joined(sympy.symbols("m1 l1 o1"), sympy.symbols("m2 l2 o2"))
    assert m == sympy.Max(*sympy.symbols("m1 m2"))


# ---------------------------------------------------------------------------------- exact equality

a, b, x, y = sympy.symbols("a b x y", real=True)
i = sympy.I

TRUE = [
    (sympy.Abs(-x * y / (1 + sympy.exp(a))), sympy.Abs(x) * sympy.Abs(y) / (1 + sympy.exp(a))),
    (sympy.Abs(sympy.Add(x / 2, y / 2, evaluate=False)), sympy.Abs(x + y) / 2),
    (sympy.exp(a + b) * x, x * sympy.exp(a) * sympy.exp(b)),
    (1 / (1 + sympy.exp(-x)), sympy.exp(-sympy.log(1 + sympy.exp(-x)))),
    (1 / (1 + sympy.exp(-x)) + 1 / (1 + sympy.exp(x)), 1),
    (1 / (x + y) + 1 / (x - y), 2 * x / (x**2 - y**2)),
    (sympy.re((x + i * y) * (a + i * b)), x * a - y * b),
    (sympy.cos(x + y), sympy.cos(x) * sympy.cos(y) - sympy.sin(x) * sympy.sin(y)),
    (sympy.exp(i * sympy.pi / 4) * sympy.sqrt(2), 1 + i),
    (sum(sympy.exp(2 * i * sympy.pi * sympy.Rational(k, 5)) for k in range(5)), 0),
    (sympy.exp(a / 2) * sympy.exp(a / 3) * sympy.exp(a / 6), sympy.exp(a)),
    (sympy.Max(x + y, 1), sympy.Max(1, y + x)),
    (sympy.sqrt(x + y) ** 3, sympy.sqrt(x + y) * (x + y)),
    (sympy.Float(0.8), sympy.exp(sympy.log(sympy.Float(0.8)))),
    (1 / (x + i * y), (x - i * y) / (x * x + y * y)),
    (1 / sympy.sqrt(2) * x, sympy.Float(2**-0.5) * x),
]
FALSE = [
    (x, y),
    (sympy.tanh(x / (1 + sympy.exp(a))), sympy.tanh(x)),
    (sympy.Abs(x), x),
    (sympy.exp(a - b), sympy.exp(b - a)),
    (x * sympy.exp(a), x),
    (1 / (x + y), 1 / x + 1 / y),
    (sympy.Max(x, 1), sympy.Min(x, 1)),
    (sympy.re(x + i * y), x + y),
    (sympy.exp(2 * i * sympy.pi / 5), sympy.exp(4 * i * sympy.pi / 5)),
    (sympy.sqrt(x), sympy.sqrt(y)),
]


@pytest.mark.parametrize(("left", "right"), TRUE)
def test_equal_formulas_are_equal(left, right):
    assert Ring().equal(left, right)


@pytest.mark.parametrize(("left", "right"), FALSE)
def test_other_formulas_are_not(left, right):
    assert not Ring().equal(left, right)


def test_roots_of_unity_cancel_in_formulas() -> None:
    """Σ_k exp(2πi k j / n) is n for j = 0 and else 0, in sums of products as in a transform and back."""
    ring, x = Ring(), sympy.symbols("x:6")
    for n in (3, 4, 6):
        roots = [[sympy.exp(2 * sympy.I * sympy.pi * j * k / n) for k in range(n)] for j in range(n)]
        there = [sum(r * x[j] for j, r in enumerate(row)) for row in roots]
        back = [sum(sympy.conjugate(r) * y for r, y in zip(row, there, strict=True)) / n for row in roots]
        for j in range(n):
            assert ring.equal(back[j], x[j])
            assert not ring.equal(back[j], x[j - 1])
            assert not ring.equal(back[j], 2 * x[j])
