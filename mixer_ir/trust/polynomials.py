"""Polynomials as dictionaries from monomials to coefficients: sums, whole numbers, and what a float stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias

Key: TypeAlias = int
"""a monomial Π g_i^{n_i} as Σ n_i · 2^(20 i): products of monomials are sums of keys"""
Terms: TypeAlias = dict[Key, Fraction | int]
BITS = 20
SIMPLE, LONG = 1000, 10**13
"""denominators of exponents that are simple fractions, and of numbers that can only come from a float"""


def add(x: Terms, y: Terms) -> Terms:
    out = dict(x)
    for k, c in y.items():
        new = out.get(k, 0) + c
        if new:
            out[k] = new
        else:
            out.pop(k, None)
    return out


def whole(x: Terms) -> tuple[Terms, int]:
    """x times the least number that makes its coefficients whole, and that number."""
    below = math.lcm(*(c.denominator for c in x.values()))
    return {k: c.numerator * (below // c.denominator) for k, c in x.items()}, below


def exponents(key: Key) -> dict[int, int]:
    out, half, i = {}, 1 << (BITS - 1), 0
    while key:
        zeros = ((key & -key).bit_length() - 1) // BITS  # generators that do not occur, which are most of them
        key, i = key >> (zeros * BITS), i + zeros
        low = key & ((1 << BITS) - 1)
        n = low - (1 << BITS) if low >= half else low
        if n:
            out[i] = n
        key, i = (key - n) >> BITS, i + 1
    return out


def scaled(x: Mapping[Key, Fraction | int], c: Any) -> Terms:
    return {k: v * c for k, v in x.items()}


def total(parts: Any) -> Terms:
    out: Terms = {}
    get = out.get
    for part in parts:
        for k, c in part.items():
            out[k] = get(k, 0) + c
    return {k: c for k, c in out.items() if c}


def part_of_pi(c: Fraction) -> Fraction | None:
    """c / π, if that is a simple fraction."""
    part = Fraction(float(c) / math.pi).limit_denominator(SIMPLE)
    return part if abs(float(part) * math.pi - float(c)) < 1e-12 * max(1.0, abs(float(c))) else None


def decimal(x: float) -> Fraction:
    """The decimal number that a float stands for: 0.1 is one tenth."""
    return Fraction(f"{x:.14g}")
