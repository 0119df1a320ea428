"""Softmax over blocks of keys: values and gradients, bands that skip blocks, and memory that grows with the length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backends import eager, reference
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.context import Choice
from lowering.lower import lower
from lowering.program import Program
from mixer_ir.definition import oracle
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import Signal
from mixer_ir.nodes.matrix import Apply
from tests.test_matrix_forms import (
    BIAS,
    CROSS,
    CROSSES,
    MATRICES,
    QK,
    RESET,
    VS,
    C,
    V,
    assert_close,
    axes_of,
    computed,
    data_of,
    signals_in,
    type_of,
)

SOFTMAXES = {n: M for n, M in MATRICES.items() if isinstance(M, m.Softmax)}
WIDE = m.Softmax(of=m.Band(of=m.Scale(factor=C, of=QK), before=20, after=3))


def made(e: Apply, data: dict[str, torch.Tensor], form: str, chunk: int | None = None) -> Program:
    types = {s.name: type_of(s, data[s.name]) for s in signals_in(e)}
    return lower(e, returns=e.axes, signals=types, forms={e: Choice(form, chunk)}).program


def gradients(of: Program, data: dict[str, torch.Tensor], ct: torch.Tensor, wrt: list[str]) -> dict[str, np.ndarray]:
    back = adjoint(of, wrt)
    return reference.prepare(back)({**{n: x.numpy() for n, x in data.items()}, "d:y": ct.numpy()})


def expected(e: Apply, data: dict[str, torch.Tensor], ct: torch.Tensor) -> dict[str, torch.Tensor]:
    wrt = {n: x.clone().requires_grad_() if x.is_floating_point() else x for n, x in data.items()}
    y = oracle.evaluate(e, wrt, axes_of(e))
    names = [n for n, x in wrt.items() if x.requires_grad]
    found = torch.autograd.grad(y, [wrt[n] for n in names], ct, allow_unused=True)
    return {n: torch.zeros_like(data[n]) if g is None else g for n, g in zip(names, found, strict=True)}


def assert_gradients(e: Apply, data: dict[str, torch.Tensor], form: str, chunk: int | None = None) -> None:
    of = made(e, data, form, chunk)
    ct = torch.randn(of.output("y").shape, dtype=torch.float64)
    want = expected(e, data, ct)
    got = gradients(of, data, ct, list(want))
    for name, g in want.items():
        assert_close(got[f"d:{name}"], g)


@pytest.mark.parametrize("form", ("flash", "dense"))
@pytest.mark.parametrize("T", (1, 6, 19))
@pytest.mark.parametrize("name", SOFTMAXES)
def test_gradients_are_those_of_the_definition(name: str, T: int, form: str) -> None:
    e = Apply(matrix=SOFTMAXES[name], of=V)
    assert_gradients(e, data_of(e, T), form, 4)


@pytest.mark.parametrize("name", [n for n, M in CROSSES.items() if isinstance(M, m.Softmax)])
def test_gradients_of_cross_mixing(name: str) -> None:
    e = Apply(matrix=CROSSES[name], of=VS)
    assert_gradients(e, data_of(e, 7, 10), "flash", 4)


@pytest.mark.parametrize("T", (300, 601))
@pytest.mark.parametrize(("before", "after"), ((20, 3), (1, 0), (5, 40), (70, 0)))
def test_a_narrow_band(T: int, before: int, after: int) -> None:
    e = Apply(matrix=m.Softmax(of=m.Band(of=QK, before=before, after=after)), of=V)
    data = data_of(e, T)
    assert_close(computed(e, data, "flash"), oracle.evaluate(e, data, axes_of(e)))


def test_gradients_of_a_narrow_band() -> None:
    e = Apply(matrix=WIDE, of=V)
    assert_gradients(e, data_of(e, 290), "flash")


def test_gradients_where_rows_are_taken_in_groups() -> None:
    e = Apply(matrix=m.Softmax(of=m.Causal(of=m.Sum(terms=(QK, m.Dense(m=BIAS))))), of=V)
    assert_gradients(e, data_of(e, 33), "flash", 8)


def test_second_derivatives() -> None:
    """The adjoint of the adjoint: the saved log-sum-exp passes its own cotangent on."""
    e = Apply(matrix=SOFTMAXES["softmax, causal"], of=V)
    data = data_of(e, 6)
    of = made(e, data, "flash", 4)
    ct, u = (torch.randn(of.output("y").shape, dtype=torch.float64) for _ in range(2))
    ct.requires_grad_()
    u = torch.randn_like(data["q"])
    wrt = {n: x.clone().requires_grad_() for n, x in data.items()}
    y = oracle.evaluate(e, wrt, axes_of(e))
    (first,) = torch.autograd.grad(y, [wrt["q"]], ct, create_graph=True)
    want = torch.autograd.grad(first, [wrt["q"], wrt["k"], wrt["v"]], u)
    twice = adjoint(adjoint(of, ["q"]), ["q", "k", "v"], ["d:q"])
    given = {n: x.numpy() for n, x in data.items()} | {"d:y": ct.detach().numpy(), "d:d:q": u.numpy()}
    got = reference.prepare(twice)(given)
    for name, g in zip(("q", "k", "v"), want, strict=True):
        assert_close(got[f"d:{name}"], g)


def test_rows_with_no_entry_are_zero_and_hand_on_no_gradient() -> None:
    e = Apply(matrix=MATRICES["softmax, masked"], of=V)
    data = data_of(e, 6)
    data["mask"][2] = False
    for form in ("flash", "dense"):
        y = computed(e, data, form, 4)
        assert not y[:, 2].any() and np.isfinite(y).all()
        assert_gradients(e, data, form, 4)


def test_large_scores_neither_overflow_nor_become_nan() -> None:
    e = Apply(matrix=SOFTMAXES["softmax, causal"], of=V)
    data = {n: x.float() * 300 for n, x in data_of(e, 40).items()}
    of = made(e, data, "flash", 8)
    back = adjoint(of, ["q", "k", "v"])
    ct = torch.randn(of.output("y").shape)
    for values in (eager.prepare(of)(data), eager.prepare(back)({**data, "d:y": ct})):
        assert all(torch.isfinite(torch.as_tensor(x)).all() for x in values.values())


def largest(of: Program) -> int:
    """The entries of the largest array of a program, loops included."""
    sizes = [int(np.prod(v.shape, dtype=np.int64)) for v in of.order]
    inner = [largest(v.op.body) for v in of.order if isinstance(v.op, p.Scan | p.Region)]
    return max(sizes + inner)


@pytest.mark.parametrize(
    "M",
    (SOFTMAXES["softmax, causal"], SOFTMAXES["softmax"], SOFTMAXES["softmax, relative"], WIDE, m.Softmax(of=CROSS)),
)
def test_memory_grows_with_the_length_not_with_its_square(M: m.Matrix) -> None:
    sizes = []
    for T in (2048, 4096):
        e = Apply(matrix=M, of=VS if M.of is CROSS else V)
        of = made(e, data_of(e, T), "flash", 64)
        sizes.append([largest(of), largest(adjoint(of, ["q"]))])
    assert all(long <= 2.1 * short for short, long in zip(*sizes, strict=True))


def test_the_forward_loop_is_not_run_backward() -> None:
    """First derivatives come from the region's own adjoint: two loops in all, one forward and one backward."""
    e = Apply(matrix=SOFTMAXES["softmax"], of=V)
    back = adjoint(made(e, data_of(e, 64), "flash", 16), ["q", "k", "v"])
    assert sum(isinstance(v.op, p.Scan) for v in back.order) == 2


def test_a_masked_score_stays_masked_in_a_sum() -> None:
    """softmax(causal(A) + B) = softmax(causal(A + B)): −∞ + b is −∞"""
    outside, inside = (
        oracle.entries(M, data_of(M, 7), axes_of(M))[0]
        for M in (MATRICES["softmax, causal plus bias"], MATRICES["softmax, bias"])
    )
    assert torch.equal(outside.triu(1), torch.zeros_like(outside))
    torch.testing.assert_close(outside, inside, rtol=0, atol=1e-15)


def test_packed_pieces_may_differ_over_an_axis_that_scores_and_values_lack() -> None:
    q, v = (Signal(name=n, axes=("t", "k")) for n in ("q_alone", "v_alone"))
    M = m.Resets(of=m.Softmax(of=m.Causal(of=m.LowRank(q=q, k=q, over=("k",)))), reset=RESET)
    assert RESET.axes == ("b", "t")
    for form in ("flash", "dense"):
        e = Apply(matrix=M, of=v)
        data = data_of(e, 9)
        assert_close(computed(e, data, form, 4), oracle.evaluate(e, data, axes_of(e)))
        assert_gradients(e, data, form, 4)
