"""One more than e^x − 1 is an exponential where nothing else needs the difference."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton")

from backends import reference
from backends.triton.exponentials import exponentials
from lowering import program as p
from lowering.build import Builder, program
from lowering.program import Program


def functions(of: Program) -> list[str]:
    return [v.op.fn for v in of.order if isinstance(v.op, p.Map)]


@pytest.mark.parametrize(("use", "raised"), [("features", True), ("difference", False), ("result", False)])
def test_one_more_than_a_choice_of_differences_is_a_choice_of_powers(use: str, raised: bool) -> None:
    b = Builder()
    x = b.input("x", ("t", "k"), (5, 3))
    chosen = b.where(b.map("lt", 0.0, x), x, b.map("expm1", b.map("min", x, 0.0)))
    more = b.map("mul", b.add(chosen, b.full(1.0, {"k": 3, "t": 5})), x)
    others = {"features": {}, "difference": {"z": b.map("mul", chosen, x)}, "result": {"z": chosen}}
    of = program({"y": more, **others[use]}, [x])
    made = exponentials(of)
    assert ("expm1" in functions(made)) != raised and ("exp" in functions(made)) == raised
    given = {"x": np.linspace(-3, 3, 15).reshape(5, 3)}
    want, got = (reference.prepare(one)(given) for one in (of, made))
    assert all(np.abs(got[n] - y).max() <= 1e-15 * 30 for n, y in want.items())
