"""Brings "auto" to where it ends: it rises to compiled C when that has paid, which a measurement does not wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backends import rising
from backends.native.jobs import BACKGROUND

ROUNDS = 3
"""on operators, on trial, and once more for programs that are met late"""


def settle(run: Callable[[], object]) -> None:
    """Runs it until its programs have been compiled, tried, and taken or not; the decision is auto's own."""
    with impatient():
        for _ in range(ROUNDS):
            for _ in range(rising.TRIALS):
                run()
            while BACKGROUND.busy:
                time.sleep(0.005)


@contextmanager
def impatient() -> Iterator[None]:
    """Compiling costs nothing in the eyes of "auto", and two calls are enough to see what is faster."""
    before = rising.LEAST, rising.TRIALS, rising.price
    rising.LEAST, rising.TRIALS, rising.price = 0.0, 2, lambda program: 0.0
    try:
        yield
    finally:
        rising.LEAST, rising.TRIALS, rising.price = before
