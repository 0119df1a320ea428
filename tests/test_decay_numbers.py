"""The region `decay of numbers`: PyTorch's spelling and the adjoint against the program that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from backends.autograd import differentiable
from backends.eager import prepare as eagerly
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.decay import EVERY, Span, scalars
from lowering.decay_numbers import LABEL, numbers
from lowering.program import Program, Region
from lowering.segment import Column, Row

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "mixed": lambda x: -(10 ** (9 * x - 6)),  # −1e-6 … −1e3
    "closing": lambda x: torch.where(x < 0.1, -torch.inf, torch.where(x > 0.9, 0.0, -3 * x)),
    "rising": lambda x: 2 * x - 1,
}
SIZES = {"b": 2, "h": 3}
AXES = ("_i", "b _i h", "h")


def grown(make: Callable[..., object], axes: str, length: int, rule: str = "log", kind: str = "real") -> Program:
    """All results of the region, or of the program that it stands for."""
    b, sizes = Builder(), {**SIZES, "_i": length}
    x = b.input("x", tuple(axes.split()), tuple(sizes[a] for a in axes.split()), kind)  # type: ignore[arg-type]
    made = make(b, Span(x, rule), length)  # type: ignore[arg-type]
    results = {f"entering {row}": y for row, y in made.entering.items()}  # type: ignore[attr-defined]
    results |= {f"leaving {column}": y for column, y in made.leaving.items()}  # type: ignore[attr-defined]
    results |= {f"scores {pair}": y for pair, y in made.scores.items()}  # type: ignore[attr-defined]
    results["whole"] = made.whole.factor(b)  # type: ignore[attr-defined]
    return program(results, [x])


def region(b: Builder, step: Span, length: int, updates: int = 1) -> object:
    names = ("", EVERY) if updates > 1 else ("",)
    return numbers(b, step, length, [Row(name, before) for name in names for before in (False, True)], updates)


def drawn(of: Program, change: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"x": change(torch.rand(of.inputs[0].shape, dtype=dtype))}


def close(made: dict[str, Tensor], want: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert set(made) == set(want)
    for name, y in want.items():
        torch.testing.assert_close(made[name], y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("length", [1, 2, 5, 16, 33, 64])
def test_the_spelling_and_the_adjoint_are_those_of_the_program(length: int, axes: str, gates: str) -> None:
    ours, plain = grown(region, axes, length), grown(scalars, axes, length)
    assert any(isinstance(v.op, Region) and v.op.label == LABEL for v in ours.order)
    x = drawn(ours, GATES[gates])
    made = eagerly(ours)(x)
    close(made, eagerly(plain)(x))
    given = {**x, **{f"d:{n}": torch.randn_like(y) for n, y in made.items()}}
    gradients = [eagerly(adjoint(of, ["x"]))(given) for of in (ours, plain)]
    close(*gradients, tolerance=1e-10)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize(("length", "updates"), [(2, 2), (6, 3), (34, 2)])
def test_rows_of_several_steps_are_some_of_all_rows(length: int, updates: int, gates: str) -> None:
    several = grown(partial(region, updates=updates), "b _i h", length)
    plain = grown(partial(scalars, updates=updates), "b _i h", length)
    made = eagerly(several)(drawn(several, GATES[gates]))
    close(made, eagerly(plain)(drawn(several, GATES[gates])))
    axes = {name: v.axes for name, v in zip(several.names, several.outputs, strict=True)}
    for before in (False, True):
        at = slice(0 if before else updates - 1, None, updates)
        for of in (lambda row: f"entering {row}", lambda row: f"scores {(row, Column(''))}"):
            some, every = of(Row(EVERY, before)), of(Row("", before))
            place = (slice(None),) * axes[some].index("_i") + (at,)
            torch.testing.assert_close(made[some], made[every][place], rtol=1e-12, atol=1e-12)
    given = {**drawn(several, GATES[gates]), **{f"d:{n}": torch.randn_like(y) for n, y in made.items()}}
    close(*(eagerly(adjoint(of, ["x"]))(given) for of in (several, plain)), tolerance=1e-10)


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize(("rule", "kind"), [("factor", "real"), ("factor", "complex"), ("log", "complex")])
def test_factors_may_be_zero_negative_or_complex(rule: str, kind: str, length: int) -> None:
    ours, plain = (grown(make, "b _i", length, rule, kind) for make in (region, scalars))
    x = torch.where(torch.rand(2, length) < 0.1, 0.0, torch.rand(2, length) * 2 - 1).double()
    x = torch.complex(x, x.flip(0)) if kind == "complex" else x
    close(eagerly(ours)({"x": x}), eagerly(plain)({"x": x}))
    leaf = x.requires_grad_()
    made, want = (
        torch.autograd.grad(sum(y.abs().square().sum() for y in differentiable(of)({"x": leaf}).values()), leaf)
        for of in (ours, plain)
    )
    torch.testing.assert_close(made, want, rtol=1e-10, atol=1e-10)


def test_slow_decays_keep_their_digits_over_long_segments() -> None:
    """One factor of 1 − 10⁻⁶ has a rounding error of its own; a thousand of them must not add up to a thousand."""
    of = grown(region, "_i", 1024)
    made = eagerly(of)({"x": torch.full((1024,), -1e-6)})
    want = eagerly(of)({"x": torch.full((1024,), -1e-6, dtype=torch.float64)})
    for name, y in want.items():
        assert (made[name] - y).abs().max() < 2e-6, name
