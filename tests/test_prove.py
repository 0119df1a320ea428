"""mx.prove: what is true is proved, what is not is refused with the term at fault; the algebra underneath decides."""

from __future__ import annotations

import math
import time

import pytest

import mixer_ir as mx
from backends import symbolic
from mixer_ir.trust import exponents
from mixer_ir.trust.algebra import Algebra
from mixer_ir.trust.block_algebra import ONE, ZERO, Blocks, Polynomial, Symbol, identity, resolve
from mixer_ir.trust.formulas import Formula
from mixer_ir.trust.homomorphism import Shape, claims
from mixer_ir.trust.monoids import convolution, joined, softmax
from mixer_ir.trust.prove import prove
from tests.declared import cross, grid
from tests.random_mixers import draw


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


@mx.mixer
def in_series(q: "b t k", k: "b t k", v: "b t v", g: "b t", beta: "b t"):
    """One recurrence on top of another of the same name, whose states have the same name too."""
    below = gated(q=q, k=k, v=v, g=g, beta=beta)
    return gated(q=k, k=q, v=mx.sigmoid(below), g=2 * g, beta=beta) + below


def test_a_recurrence_over_another_is_proved():
    proof = prove(in_series)
    assert proof.ok, str(proof)


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


@mx.recurrence
def read_in_turn(p: mx.State("n v"), x: "b t v", A: "n", B: "n", C: "n"):
    p = mx.exp(A) * p + B * x
    return p, mx.sigmoid(C @ p)


@mx.mixer
def normalised_keys(q: "b t k", k: "b t k", v: "b t v", beta: "b t", g: "b t k"):
    """Two delta rules a step, on normalised keys, beside gates: products of many sums."""
    k = mx.l2norm(k, over="k")
    A = mx.transition(mx.exp(-mx.softplus(g)), low_rank=[(-beta * k, k), (-mx.sigmoid(beta) * k, mx.tanh(k))])
    return mx.semiseparable(mx.l2norm(q, over="k"), A, beta * k, over="k") @ v


@mx.mixer
def circulants(f: "t", w: "t", x: "t", v: "b t"):
    return (mx.circulant(f) @ mx.toeplitz(w) @ mx.circulant(x)) @ v


@mx.mixer
def twice_cached(q: "b t k", k: "b t k", v: "b t v"):
    return mx.softmax(mx.causal(mx.lowrank(q, k))) @ mx.cumsum(v)


@pytest.mark.parametrize("mixer", [read_in_turn, normalised_keys, circulants, twice_cached], ids=lambda m: m.name)
def test_proofs_do_not_multiply_out(mixer):
    start = time.process_time()
    proof = prove(mixer)
    assert proof.ok, str(proof)
    assert time.process_time() - start < 3


@mx.mixer
def same_document(q: "b t k", k: "b t k", v: "b t v", z: "b t"):
    return mx.softmax(mx.causal(mx.mask(mx.lowrank(q, k), mx.equal(z, mx.source(z))))) @ v


@mx.mixer
def near_or_marked(q: "b t k", k: "b t k", v: "b t v", g: "b t"):
    near = mx.abs(mx.index("t") - mx.source(mx.index("t"))) <= 1
    return mx.softmax(mx.mask(mx.lowrank(q, k), (near & ~(g > 0)) | (mx.source(g) < 1))) @ v


COMPARING = [same_document, near_or_marked, cross, grid]


@pytest.mark.parametrize("mixer", COMPARING, ids=lambda m: m.name)
def test_masks_made_of_signals_are_proved(mixer):
    proof = prove(mixer)
    assert proof.ok, str(proof)
    assert all("comparisons of signals" in s.statement for s in proof.steps if "emitted" in s.law)


@pytest.mark.parametrize(
    ("mixer", "right", "wrong"),
    [(same_document, "eq", "ne"), (same_document, "eq", "le"), (near_or_marked, "lt", "le"), (cross, "lt", "le"),
     (near_or_marked, "and", "or"), (grid, "and", "or"), (grid, "lt", "le")],
)  # fmt: skip
def test_a_wrong_comparison_is_seen(mixer, right, wrong, monkeypatch):
    """The program alone compares by another relation, of formulas and not of positions."""
    old, other = symbolic.MAPS[right], symbolic.MAPS[wrong]

    def mutant(s, x, y):
        signals = right == "and" or not (s.read(x).is_number and s.read(y).is_number)
        return other(s, x, y) if signals else old(s, x, y)

    monkeypatch.setitem(symbolic.MAPS, right, mutant)
    assert not prove(mixer).ok


@mx.recurrence
def unitary(h: mx.State("n"), x: "b t", lam: "n", B: "n", C: "n"):
    """A diagonal state-space model whose parameters are complex numbers as they stand."""
    h = lam * h + mx.tanh(B) * x
    return h, mx.real(mx.conj(C) @ h)


@mx.recurrence
def hermitian(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t"):
    """A complex memory with a complex log-decay, written by conjugate keys."""
    S = mx.exp(g) * S + mx.outer(mx.conj(k), v)
    return S, mx.l2norm(q, over="k") @ S


@mx.mixer
def turned(q: "b t k", k: "b t k", v: "b t v"):
    return mx.real(mx.normalize(mx.causal(mx.lowrank(mx.conj(q), k))).T @ v)


@pytest.mark.parametrize("mixer", [unitary, hermitian, turned], ids=lambda m: m.name)
def test_mixers_of_complex_signals_are_proved(mixer):
    proof = prove(mixer)
    assert proof.ok, str(proof)
    programs = [s.statement for s in proof.steps if "emitted" in s.law]
    assert programs and all(f"with complex {', '.join(mixer.signals)}" in s for s in programs)


@pytest.mark.parametrize(
    ("mixer", "fn", "mutant"),
    [(unitary, "conj", lambda s, x: x),
     (hermitian, "conj", lambda s, x: x),
     (hermitian, "exp", lambda s, x: s.exp(s.re(x))),
     (turned, "real", lambda s, x: x),
     (turned, "conj", lambda s, x: s.re(x)),
     (unitary, "tanh", lambda s, x: s.tanh(s.conjugate(x)))],
)  # fmt: skip
def test_a_program_that_is_wrong_for_complex_signals_alone_is_seen(mixer, fn, mutant, monkeypatch):
    """Of real numbers each of these is right, but in transforms."""
    monkeypatch.setitem(symbolic.MAPS, fn, mutant)
    proof = prove(mixer)
    open = [step.because for step in proof.open if "form monarch" not in step.statement]
    assert open and all("of complex" in because for because in open), str(proof)


def test_what_asks_for_real_numbers_is_not_tried_with_complex_ones():
    assert "with complex v" in str(prove(windowed)) and "with complex x, B, C" in str(prove(rotating))


@mx.mixer
def largest(x: "b t", y: "b t", v: "b t"):
    return mx.diagonal(mx.maximum(mx.complex(x, y), 1.0)) @ v


def test_an_order_of_complex_numbers_is_not_proved():
    proof = prove(largest)
    assert not proof.ok and "takes the max of complex numbers" in str(proof)


def test_a_proof_that_would_not_end_is_refused(monkeypatch):
    monkeypatch.setattr(exponents, "WORK", 500)
    proof = prove(normalised_keys)
    assert not proof.ok and "too large" in proof.open[-1].because
    assert "NOT proved" in str(proof).splitlines()[-1]


def test_the_last_line_is_the_verdict():
    assert str(prove(gated)).splitlines()[-1].startswith("gated is proved")
    last = str(prove(cell)).splitlines()[-1]
    assert "NOT proved" in last and "not affine" in last


def test_a_proof_says_what_it_has_tried():
    def programs(mixer):
        return [s.statement for s in prove(mixer).steps if "emitted" in s.law]

    assert all("from any state" in s for s in programs(gated))
    assert all("cut at 1" in s for s in programs(twice_cached))
    assert all("reset in up to 4 patterns" in s for s in programs(gated.with_reset()))


@pytest.mark.parametrize("start", [0, pytest.param(100, marks=pytest.mark.slow)])
def test_random_mixers_are_proved_or_said_not_to_be_affine(start):
    for seed in range(start, start + (8 if start == 0 else 60)):
        d = draw(seed)
        try:
            mixer = d.build()
        except mx.DeclarationError:
            continue
        begun = time.process_time()
        proof = prove(mixer)
        assert proof.ok == mixer.traits.affine, f"{d}\n{proof}"
        assert time.process_time() - begun < 20


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
    s = Algebra()
    m, *_ = joined(tuple(map(s.Symbol, ("m1", "l1", "o1"))), tuple(map(s.Symbol, ("m2", "l2", "o2"))))
    assert m == s.Max(s.Symbol("m2"), s.Symbol("m1"))


# ---------------------------------------------------------------------------------- equal formulas

s = Algebra()
a, b, x, y = map(s.Symbol, "abxy")
i, half = s.I, s.Rational(1, 2)
z, w = s.Symbol("z", complex=True), s.Symbol("w", complex=True)

TRUE = {
    "abs of a product": (s.Abs(-x * y / (1 + s.exp(a))), s.Abs(x) * s.Abs(y) / (1 + s.exp(a))),
    "abs of half a sum": (s.Abs(x / 2 + y / 2), s.Abs(x + y) / 2),
    "abs of a square": (s.sqrt(x**2), s.Abs(-x)),
    "abs of a complex number": (s.Abs(x + i * y) ** 2, x**2 + y**2),
    "exp of a sum": (s.exp(a + b) * x, x * s.exp(a) * s.exp(b)),
    "exp of a log": (1 / (1 + s.exp(-x)), s.exp(-s.log(1 + s.exp(-x)))),
    "powers of exp": (s.exp(3 * (a * b + a)) / s.exp(a) ** 2, s.exp(a * b) ** 3 * s.exp(a)),
    "log of exps": (s.log(s.exp(a) * s.exp(b)), a + b),
    "sigmoids": (1 / (1 + s.exp(-x)) + 1 / (1 + s.exp(x)), 1),
    "partial fractions": (1 / (x + y) + 1 / (x - y), 2 * x / (x**2 - y**2)),
    "real part": (s.re((x + i * y) * (a + i * b)), x * a - y * b),
    "imaginary part": (s.im(s.conjugate(x + i * y)), -y),
    "real part under a root": (s.re(s.sqrt(x + y) * (a + i * b)), s.sqrt(x + y) * a),
    "angles": (s.cos(x + y), s.cos(x) * s.cos(y) - s.sin(x) * s.sin(y)),
    "an eighth turn": (s.exp(i * s.pi / 4) * s.sqrt(2), 1 + i),
    "fifths of a turn": (sum(s.exp(2 * i * s.pi * k / 5) for k in range(5)), 0),
    "sixths of an exponent": (s.exp(a / 2) * s.exp(a / 3) * s.exp(a / 6), s.exp(a)),
    "max in any order": (s.Max(x + y, s.Max(1, a)), s.Max(a, s.Max(1, y + x))),
    "min": (s.Min(x, y), -s.Max(-y, -x)),
    "root cubed": (s.sqrt(x + y) ** 3, s.sqrt(x + y) * (x + y)),
    "exp of the log of a float": (s.read(0.8), s.exp(s.log(s.read(0.8)))),
    "exp of twice a float": (s.exp(s.read(-0.2)), s.exp(s.read(-0.1)) ** 2),
    "a float that exp was worked out in": (s.read(math.exp(-0.3)) * s.exp(a), s.exp(a - s.read(0.3))),
    "a float that log was worked out in": (s.exp(3 * s.read(math.log(0.8)) + a), s.read(0.8) ** 3 * s.exp(a)),
    "an inverse": (1 / (x + i * y), (x - i * y) / (x * x + y * y)),
    "half the root of 2": (1 / s.sqrt(2) * x, s.read(2**-0.5) * x),
    "a function of equals": (s.tanh((x + y) ** 2), s.tanh(x * x + 2 * x * y + y * y)),
    "a choice of sums": (s.Piecewise((x + y, s.Lt(a, b)), (y, True)), y + s.Piecewise((x, s.Lt(0, b - a)), (0, True))),
    "exp of an angle's cosine": (s.exp(s.cos(x + y)) * s.exp(s.sin(x) * s.sin(y)), s.exp(s.cos(x) * s.cos(y))),
    "exp of a complex number's parts": (s.exp(s.re(s.exp(i * x) * s.exp(a))), s.exp(s.exp(a) * s.cos(x))),
    "a mask twice": (s.Piecewise((s.Piecewise((x, s.Lt(0, a)), (-s.oo, True)), s.Lt(0, a)), (-s.oo, True)),
                     s.Piecewise((x, s.Lt(0, a)), (-s.oo, True))),
    "a positive sum is not zero": (s.Eq(s.exp(a) + s.exp(b), 0), False),
    "a mask in an exponent": (s.exp(s.Piecewise((x, s.Lt(0, a)), (-s.oo, True)) + y),
                              s.Piecewise((s.exp(x + y), s.Lt(0, a)), (0, True))),
    "a conjugate product": (s.conjugate(z * w / (1 + z)), s.conjugate(z) * s.conjugate(w) / (1 + s.conjugate(z))),
    "parts of a complex symbol": (z, s.re(z) + i * s.im(z)),
    "abs of complex sums": (sum(s.Abs((k + w) * z + (k + w) * x) for k in range(9)),
                            sum(s.Abs(k + w) * s.Abs(z + x) for k in range(9))),
    "abs of complex factors": (s.Abs(z * w / (x + y)), s.Abs(w) * s.Abs(z) / s.Abs(y + x)),
    "abs and conjugate": (s.Abs(s.conjugate(z + w)) ** 2, (z + w) * s.conjugate(w + z)),
    "exp of complex sums": (s.exp(z + w), s.exp(w) * s.exp(z)),
    "exp of parts": (s.exp(z), s.exp(s.re(z)) * (s.cos(s.im(z)) + i * s.sin(s.im(z)))),
    "complex angles": (s.sin(z + w), s.sin(z) * s.cos(w) + s.cos(z) * s.sin(w)),
    "a conjugate function": (s.conjugate(s.tanh(z + w)), s.tanh(s.conjugate(w) + s.conjugate(z))),
    "exp of a conjugate log": (s.exp(s.conjugate(s.log(z))), s.conjugate(z)),
    "a conjugate root in an exponent": (s.exp(s.conjugate(s.sqrt(z)) + x),
                                        s.exp(s.sqrt(s.conjugate(z))) * s.exp(x)),
    "sign of a complex number": (s.sign(z) * s.Abs(z), z),
}  # fmt: skip
FALSE = {
    "two symbols": (x, y),
    "a factor inside": (s.tanh(x / (1 + s.exp(a))), s.tanh(x)),
    "abs": (s.Abs(x) + x, 0),
    "a difference turned": (s.exp(a - b), s.exp(b - a)),
    "a decay": (x * s.exp(a), x),
    "a sum of inverses": (1 / (x + y), 1 / x + 1 / y),
    "min for max": (s.Max(x, 1), s.Min(x, 1)),
    "no real part": (s.re(x + i * y), x + y),
    "other turns": (s.exp(2 * i * s.pi / 5), s.exp(4 * i * s.pi / 5)),
    "other roots": (s.sqrt(x), s.sqrt(y)),
    "a number": (s.read(0.1), s.read(0.1000001)),
    "exp of a product": (s.exp(a * b), s.exp(a) * s.exp(b)),
    "the other branch": (s.Piecewise((x, s.Lt(a, b)), (y, True)), s.Piecewise((y, s.Lt(a, b)), (x, True))),
    "a conjugate": (z, s.conjugate(z)),
    "a complex symbol and its real part": (z, s.re(z)),
    "tanh of a real part": (s.tanh(z), s.tanh(s.re(z))),
    "tanh of a conjugate": (s.tanh(z), s.tanh(s.conjugate(z))),
    "log of an exp, which may have turned": (s.log(s.exp(z)), z),
    "log of a complex product": (s.log(z * w), s.log(z) + s.log(w)),
    "root of a complex square": (s.sqrt(z * z), z),
    "the other root": (s.sqrt(z * z), -z),
    "abs of a complex number": (s.Abs(z) ** 2, z * z),
    "exp of a real part": (s.exp(z), s.exp(s.re(z))),
    "undefined": (1 / (x - x), 1 / (y - y)),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUE)
def test_equal_formulas_are_equal(name):
    left, right = TRUE[name]
    assert left == right


@pytest.mark.parametrize("name", FALSE)
def test_other_formulas_are_not(name):
    left, right = FALSE[name]
    assert left != right


def test_roots_of_unity_cancel_in_formulas() -> None:
    """Σ_k exp(2πi k j / n) is n for j = 0 and else 0, in sums of products as in a transform and back."""
    xs = [s.Symbol(f"x{k}") for k in range(6)]
    for n in (3, 4, 6):
        roots = [[s.exp(2 * i * s.pi * j * k / n) for k in range(n)] for j in range(n)]
        there = [sum(r * xs[j] for j, r in enumerate(row)) for row in roots]
        back = [sum(s.conjugate(r) * y for r, y in zip(row, there, strict=True)) / n for row in roots]
        for j in range(n):
            assert back[j] == xs[j] and back[j] != xs[j - 1] and back[j] != 2 * xs[j]


def test_a_real_power_of_i_is_not_taken_for_positive() -> None:
    turned = s.exp(i * s.pi)
    assert turned == -1 and s.Abs(turned * x) == s.Abs(x) and not s.Lt(0, 1 + turned)
    assert s.sqrt((1 + turned) ** 2 + x) == s.sqrt(x)


def test_a_long_formula_keeps_its_short_text() -> None:
    long: Formula = x
    for k in range(200):
        long = s.tanh(long) * y + k
    assert len(str(long)) < 200 and str(x + y * 2) == "(x + (y*2))"
