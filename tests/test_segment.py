"""The segment formula as data: one step of it is the update, and two segments laid end to end compose."""

from __future__ import annotations

import numpy as np
import pytest

from lowering.segment import (
    Column,
    Dot,
    Entering,
    Given,
    Incoming,
    Leaving,
    Plus,
    Resolve,
    Row,
    Scores,
    Segment,
    Term,
    Whole,
    segment,
)

K, V = 3, 2
FORMULAS = [
    segment(before=before, pairs=pairs, low_rank=low_rank, shared=shared)
    for before in ((False,), (True,), (False, True))
    for pairs in (1, 2)
    for low_rank, shared in ((False, None), (True, None), (True, 0), (True, pairs - 1))
]


class Steps:
    """A random process with dense transitions, and the formula's terms evaluated on its steps low … high − 1."""

    def __init__(self, formula: Segment, n: int) -> None:
        rng = np.random.default_rng(0)
        self.formula, self.n = formula, n
        self.phi = rng.normal(size=(n, K, K)) * 0.6
        names = {x.name for x in symbols(formula)}
        self.vectors = {name: rng.normal(size=(n, K)) * (0.4 if name in "ab" else 1) for name in sorted(names)}
        self.values = {name: rng.normal(size=(n, V)) for name in sorted(names)}

    def span(self, low: int, high: int) -> np.ndarray:
        product = np.eye(K)
        for t in range(low, high):
            product = self.phi[t] @ product
        return product

    def term(self, term: Term, state: np.ndarray, low: int, high: int) -> np.ndarray:
        match term:
            case Incoming():
                return state
            case Given(column=column):
                return self.values[column.name][low:high]
            case Plus(terms=terms):
                return sum(self.term(x, state, low, high) for x in terms)
            case Dot(block=block, of=of):
                return self.block(block, low, high) @ self.term(of, state, low, high)

    def block(self, block: object, low: int, high: int) -> np.ndarray:
        x, steps = self.vectors, range(low, high)
        match block:
            case Whole():
                return self.span(low, high)
            case Entering(row=row):
                return np.stack([x[row.name][t] @ self.span(low, t + (not row.before)) for t in steps])
            case Leaving(column=column):
                return np.stack([self.span(s + 1, high) @ x[column.name][s] for s in steps], 1)
            case Scores(row=row, column=column):
                scores = np.zeros((high - low, high - low))
                for t in steps:
                    for s in range(low, t + (not row.before)):
                        scores[t - low, s - low] = (
                            x[row.name][t] @ self.span(s + 1, t + (not row.before)) @ x[column.name][s]
                        )
                return scores
            case Resolve(row=row, column=column):
                return np.linalg.inv(np.eye(high - low) - self.block(Scores(row, column), low, high))
        raise AssertionError(block)

    def run(self, state: np.ndarray, low: int, high: int) -> tuple[list[np.ndarray], np.ndarray]:
        reads = [self.term(y, state, low, high) for y in self.formula.reads]
        return reads, self.term(self.formula.state, state, low, high)


def symbols(formula: Segment) -> set[Row | Column]:
    found: set[Row | Column] = set()

    def visit(x: object) -> None:
        match x:
            case Row() | Column():
                found.add(x)
            case Dot(block=block, of=of):
                visit(block)
                visit(of)
            case Plus(terms=terms):
                for term in terms:
                    visit(term)
            case Entering(row=row):
                visit(row)
            case Leaving(column=column) | Given(column=column):
                visit(column)
            case Scores(row=row, column=column) | Resolve(row=row, column=column):
                visit(row)
                visit(column)

    for term in (formula.state, *formula.reads):
        visit(term)
    return found


@pytest.mark.parametrize("formula", FORMULAS)
def test_one_step_is_the_update(formula: Segment) -> None:
    steps = Steps(formula, 1)
    state = np.random.default_rng(1).normal(size=(K, V))
    reads, after = steps.run(state, 0, 1)
    expected = steps.phi[0] @ state
    names = {x.name for x in symbols(formula)}
    writer = resolved(formula)
    for name in names:
        if name.startswith("k"):
            expected = expected + np.outer(steps.vectors[name][0], steps.values[name][0])
    if writer is not None:
        expected = expected + np.outer(steps.vectors[writer][0], steps.vectors["b"][0] @ state)
    np.testing.assert_allclose(after, expected, atol=1e-13)
    for y, before in zip(reads, (x.before for x in rows(formula)), strict=True):
        name = next(r.name for r in rows(formula) if r.before is before)
        np.testing.assert_allclose(y[0], steps.vectors[name][0] @ (state if before else expected), atol=1e-13)


def rows(formula: Segment) -> list[Row]:
    return sorted((x for x in symbols(formula) if isinstance(x, Row) and x.name != "b"), key=lambda x: x.name)


def resolved(formula: Segment) -> str | None:
    match formula.auxiliary:
        case Dot(block=Resolve(column=column)):
            return column.name
    return None


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("cut", [1, 3, 6])
def test_segments_compose(formula: Segment, cut: int) -> None:
    steps = Steps(formula, 7)
    state = np.random.default_rng(1).normal(size=(K, V))
    reads, after = steps.run(state, 0, 7)
    first, between = steps.run(state, 0, cut)
    second, last = steps.run(between, cut, 7)
    np.testing.assert_allclose(last, after, atol=1e-11)
    for whole, x, y in zip(reads, first, second, strict=True):
        np.testing.assert_allclose(np.concatenate([x, y]), whole, atol=1e-11)
