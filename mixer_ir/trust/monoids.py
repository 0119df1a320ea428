"""The laws of two more monoids: a convolution's kernel by induction, and softmax' (max, sum, accumulator).

As in homomorphism.py no length appears: a sum over all steps so far is one symbol, known by its recurrence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mixer_ir.trust.algebra import Algebra
from mixer_ir.trust.block_algebra import ZERO, Polynomial, Symbol
from mixer_ir.trust.formulas import Formula


@dataclass(frozen=True)
class Law:
    """One equation, worked out."""

    statement: str
    ok: bool
    difference: str = ""


def _law(statement: str, left: Polynomial, right: Polynomial) -> Law:
    return Law(statement, left == right, str(left - right))


def convolution(before: tuple[bool, ...], driven: bool) -> Iterator[Law]:
    """A, B, C free of t: y = h * u with h_τ = C A^τ B (h_0 = 0, h_τ = C A^{τ−1} B for a read before the step).

    Let P_t = Σ_{s≤t} A^{t−s} B u_s. Taking the last term out and A out of the others, P_t = A P_{t−1} + B u_t: this is
    the recurrence, from P_{−1} = 0; so S_t = P_t + A^{t+1} S_{−1}.
    """
    if not driven:
        return
    A, B, C = (_symbol(x) for x in "ABC")
    u, P, power, start = _symbol("u_t"), _symbol("P_{t−1}"), _symbol("A^t"), _symbol("S_{−1}")
    state = P + power @ start
    step = A @ state + B @ u
    kernel_step = A @ P + B @ u
    yield _law("Σ_{s≤t} A^{t−s} B u_s + A^{t+1} S₋₁ = A S_{t−1} + B u_t", kernel_step + A @ power @ start, step)
    first = A @ start + B @ u
    yield _law(
        "t = 0: B u_0 + A S₋₁ = A (P₋₁ + S₋₁) + B u_0, as the empty sum P₋₁ is 0", first, A @ (ZERO + start) + B @ u
    )
    for early in dict.fromkeys(before):
        if early:
            yield _law("y_t = C S_{t−1} = Σ_{s<t} C A^{t−1−s} B u_s + C A^t S₋₁", C @ state, C @ P + C @ power @ start)
        else:
            read = C @ (kernel_step + A @ power @ start)
            yield _law("y_t = C S_t = Σ_{s≤t} C A^{t−s} B u_s + C A^{t+1} S₋₁", C @ step, read)


def _symbol(name: str) -> Polynomial:
    return Polynomial.of(Symbol(name))


def softmax() -> Iterator[Law]:
    """(m, l, o) stands for the sums L = l e^m = Σ e^x and O = o e^m = Σ e^x v over some keys; the result is O / L.

    (m₁, l₁, o₁) ⊕ (m₂, l₂, o₂) = (m, l₁ e^{m₁−m} + l₂ e^{m₂−m}, o₁ e^{m₁−m} + o₂ e^{m₂−m}),  m = max(m₁, m₂)
    """
    s = Algebra()
    x, v, y = map(s.Symbol, "xvy")
    ms, ls, outs = ([s.Symbol(f"{n}{i}") for i in (1, 2, 3)] for n in "mlo")
    parts = list(zip(ms, ls, outs, strict=True))

    def sums(part: tuple[Formula, ...]) -> tuple[Formula, Formula]:
        m, l, o = part
        return l * s.exp(m), o * s.exp(m)

    def equal(statement: str, left: tuple[Formula, ...], right: tuple[Formula, ...]) -> Law:
        wrong = [f"{a} ≠ {b}" for a, b in zip(left, right, strict=True) if a != b]
        return Law(statement, not wrong, "; ".join(wrong))

    yield equal("one key: (x, 1, v) stands for (e^x, e^x v)", sums((x, s.read(1), v)), (s.exp(x), s.exp(x) * v))
    both = sums(joined(parts[0], parts[1]))
    apart = tuple(a + b for a, b in zip(sums(parts[0]), sums(parts[1]), strict=True))
    yield equal("⊕ adds the sums: (L, O)(1 ⊕ 2) = (L, O)(1) + (L, O)(2)", both, apart)
    nothing = (y, s.read(0), s.read(0))
    yield equal("no keys: (m, 0, 0) is neutral, whatever m", sums(joined(parts[0], nothing)), sums(parts[0]))
    left = joined(joined(parts[0], parts[1]), parts[2])
    right = joined(parts[0], joined(parts[1], parts[2]))
    yield equal("(1 ⊕ 2) ⊕ 3 = 1 ⊕ (2 ⊕ 3)", left, right)
    _, l, o = parts[0]
    yield equal("the result is O / L, whatever m", (o / l,), (sums(parts[0])[1] / sums(parts[0])[0],))


def joined(first: tuple[Formula, ...], second: tuple[Formula, ...]) -> tuple[Formula, ...]:
    """⊕, as written above."""
    s = first[0].algebra
    m = s.Max(first[0], second[0])
    a, b = s.exp(first[0] - m), s.exp(second[0] - m)
    return m, first[1] * a + second[1] * b, first[2] * a + second[2] * b
