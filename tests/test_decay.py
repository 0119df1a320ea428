"""Products of transitions: no overflow, no NaN and no lost digits, however strong and however mixed the decays are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backends.autograd import differentiable
from lowering.build import Builder, program
from lowering.decay import Span, tree
from lowering.parts import Options, gather
from lowering.process import lower_process
from lowering.program import Program
from lowering.segment import Column, Row

STEPS, KEYS = 200, 4
STRENGTHS = {
    "weak": lambda x: torch.full_like(x, -1e-6),
    "strong": lambda x: torch.full_like(x, -1e3),
    "mixed": lambda x: -(10 ** (9 * x - 6)),  # −1e-6 … −1e3
    "closing": lambda x: torch.where(x < 0.1, -torch.inf, -(10 ** (6 * x - 6))),
}


def decayed(name: str, *, scalar: bool) -> Tensor:
    shape = (STEPS,) if scalar else (STEPS, KEYS)
    return STRENGTHS[name](torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64))


def lowered(form: str, *, scalar: bool, low_rank: bool, options: Options) -> Program:
    b = Builder()
    log = b.input("log", ("t",) if scalar else ("t", "k"), (STEPS,) if scalar else (STEPS, KEYS))
    q, k, a = (b.input(name, ("t", "k"), (STEPS, KEYS)) for name in "qka")
    v = b.input("v", ("t", "v"), (STEPS, 2))
    parts = gather(
        b,
        over=("k",),
        state=("k", "v"),
        sizes={"t": STEPS, "k": KEYS, "v": 2},
        inputs=[(k, v)],
        queries=[(q, False)],
        log=log,
        low_rank=[(b.map("neg", a), b.mul(a, b.map("exp", log)))] if low_rank else [],
        along="k",
    )
    (y,), state = lower_process(b, parts, form, options)
    return program({"y": y, "state": state}, [log, q, k, a, v])


def inputs(name: str, *, scalar: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = {n: torch.randn(STEPS, 2 if n == "v" else KEYS, generator=generator, dtype=torch.float64) for n in "qkav"}
    x["a"] = torch.nn.functional.normalize(x["a"], dim=-1)
    return {"log": decayed(name, scalar=scalar), **x}


def results(program: Program, arrays: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Values and gradients."""
    x = {n: t.to(dtype).requires_grad_() for n, t in arrays.items()}
    made = differentiable(program)(x)
    grads = torch.autograd.grad(sum(y.square().sum() for y in made.values()), list(x.values()))
    return {**made, **{f"gradient of {n}": g for n, g in zip(x, grads, strict=True)}}


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(("form", "options"), [("chunked", Options(chunk=64)), ("parallel", Options())])
def test_single_precision_keeps_its_digits(
    form: str, options: Options, strength: str, scalar: bool, low_rank: bool
) -> None:
    arrays = inputs(strength, scalar=scalar)
    single = {n: x.float().double() for n, x in arrays.items()}
    exact = results(lowered("recurrent", scalar=scalar, low_rank=low_rank, options=Options()), single, torch.float64)
    made = results(lowered(form, scalar=scalar, low_rank=low_rank, options=options), single, torch.float32)
    for name, x in exact.items():
        assert made[name].isfinite().all(), name
        assert (made[name] - x).abs().max() <= 2e-5 * max(1.0, x.abs().max().item()), name


def test_the_tree_multiplies_exactly_the_steps_between() -> None:
    """Scores of unit vectors are the products themselves: zero, negative and large factors among them."""
    factors = [2.0, 0.0, -3.0, 0.5, 7.0, -1.0, 4.0]
    n = len(factors)
    b = Builder()
    alpha = b.input("alpha", ("_i",), (n,))
    ones = b.full(1.0, {"_i": n})
    late, early, column = Row("late", before=False), Row("early", before=True), Column("")
    made = tree(
        b, Span(alpha, "factor"), n, {late: ones, early: ones}, {column: ones}, [(late, column), (early, column)]
    )
    scores = {"late": made.scores[late, column], "early": made.scores[early, column]}
    ends = {"entering": made.entering[late], "leaving": made.leaving[column], "whole": made.whole.value}
    out = differentiable(program({**scores, **ends}, [alpha]))({"alpha": torch.tensor(factors, dtype=torch.float64)})
    for t in range(n):
        assert out["entering"][t] == torch.tensor(factors[: t + 1]).prod()
        assert out["leaving"][t] == torch.tensor(factors[t + 1 :]).prod()
        for s in range(n):
            assert out["late"][t, s] == (torch.tensor(factors[s + 1 : t + 1]).prod() if s <= t else 0)
            assert out["early"][t, s] == (torch.tensor(factors[s + 1 : t]).prod() if s < t else 0)
    assert out["whole"] == 0


def test_exponents_are_sums_of_spanned_steps() -> None:
    """After a step of −1e3, weak decays keep all their digits: cumulated sums that are subtracted would lose them."""
    log = torch.full((64,), -1e-4)
    log[10] = -1e3
    b = Builder()
    value = b.input("log", ("_i",), (64,))
    row, column, ones = Row("", before=False), Column(""), b.full(1.0, {"_i": 64})
    made = tree(b, Span(value, "log"), 64, {row: ones}, {column: ones}, [(row, column)])
    scores = differentiable(program({"scores": made.scores[row, column]}, [value]))({"log": log})["scores"]
    expected = torch.exp(log[21:64].double().sum())
    assert abs(scores[63, 20].double() / expected - 1) < 3e-7
