"""A finite field in which formulas of real and complex numbers have values: equal formulas have equal ones.

P = 2¹²⁷ − … is a prime with P ≡ 3 (mod 4), so that of x and −x one is a square: that one is positive. A positive
number has one positive root, and since (P − 1)/2 is a prime too, one positive c-th power for every fraction c. The
norm-1 elements of F_P(ι), ι² = −1, hold the roots of unity whose order divides `TURNS`, with √2, √3 and √5 among their
sums. A complex number is the pair of its value and its conjugate's; a real one, of which both are the same number of
F_P, is an int.

Two different rational functions of degree d have the same value at a random point with a chance of at most d / P.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TypeAlias

P = 170141183460469231731687148031081231999
TURNS = 2**7 * 3**3 * 5**2 * 7 * 11 * 13 * 17 * 19 * 23
_ROOT = (28576666662402639580264554939822976624, 135056946004794667745511336607914714835)  # exp(2πi / TURNS)

Element: TypeAlias = "int | tuple[int, int, int, int]"
"""x, or (a, b, c, d): a + b ι in the field and c + d ι for the conjugate"""
I: Element = (0, 1, 0, P - 1)


def pair(x: Element) -> tuple[int, int, int, int]:
    return (x, 0, x, 0) if isinstance(x, int) else x


def plain(a: int, b: int, c: int, d: int) -> Element:
    """As an int if that is what it is."""
    return a if b == 0 and d == 0 and a == c else (a, b, c, d)


def add(x: Element, y: Element) -> Element:
    if isinstance(x, int) and isinstance(y, int):
        return (x + y) % P
    (a, b, c, d), (e, f, g, h) = pair(x), pair(y)
    return plain((a + e) % P, (b + f) % P, (c + g) % P, (d + h) % P)


def mul(x: Element, y: Element) -> Element:
    if isinstance(x, int) and isinstance(y, int):
        return x * y % P
    (a, b, c, d), (e, f, g, h) = pair(x), pair(y)
    return plain((a * e - b * f) % P, (a * f + b * e) % P, (c * g - d * h) % P, (c * h + d * g) % P)


def inverse(x: Element) -> Element:
    """1 / x; ZeroDivisionError where there is none."""
    if isinstance(x, int):
        if x == 0:
            raise ZeroDivisionError("an inverse of zero")
        return pow(x, -1, P)
    a, b, c, d = x
    n, m = (a * a + b * b) % P, (c * c + d * d) % P
    if not n or not m:
        raise ZeroDivisionError("an inverse of zero")
    n, m = pow(n, -1, P), pow(m, -1, P)
    return plain(a * n % P, -b * n % P, c * m % P, -d * m % P)


def conjugate(x: Element) -> Element:
    return x if isinstance(x, int) else (x[2], x[3], x[0], x[1])


def power(x: Element, n: int) -> Element:
    if n < 0:
        return power(inverse(x), -n)
    if isinstance(x, int):
        return pow(x, n, P)
    made: Element = 1
    while n:
        made = mul(made, x) if n & 1 else made
        x, n = mul(x, x), n >> 1
    return made


def number(x: Fraction | int) -> int:
    return x.numerator * pow(x.denominator, -1, P) % P


def positive(x: int) -> bool:
    """Whether x is a square: of x and −x, one is; a product of positive numbers is positive."""
    return pow(x, (P - 1) // 2, P) == 1


def root(x: Element) -> Element | None:
    """√x, positive where x is, and a real multiple of ι (still its own conjugate) where −x is; None of a complex x."""
    if not isinstance(x, int):
        return None
    if x == 0 or positive(x):
        return pow(x, (P + 1) // 4, P)
    r = pow(P - x, (P + 1) // 4, P)
    return (0, r, 0, r)


def complex(re: int, im: int) -> Element:
    """re + i im of two real numbers."""
    return plain(re, im, re, -im % P)


def fractional(x: int, c: Fraction) -> int:
    """x^c of a positive x."""
    order = (P - 1) // 2
    return pow(x, c.numerator * pow(c.denominator, -1, order) % order, P)


def turn(x: Fraction) -> Element:
    """exp(2πi x); ValueError where the field has no such root."""
    if TURNS % x.denominator:
        raise ValueError(f"roots of unity of order {x.denominator} are not among those of order {TURNS}")
    (a, b), made, n = _ROOT, (1, 0), x.numerator * (TURNS // x.denominator) % TURNS
    while n:
        if n & 1:
            made = ((made[0] * a - made[1] * b) % P, (made[0] * b + made[1] * a) % P)
        (a, b), n = ((a * a - b * b) % P, 2 * a * b % P), n >> 1
    return plain(made[0], made[1], made[0], -made[1] % P)
