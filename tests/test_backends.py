"""What every backend promises around its operations: precision, named errors, derivatives of any order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import backends
from backends import eager, reference, symbolic
from backends.autograd import differentiable
from lowering.build import Builder, program
from lowering.program import Program, Value
from mixer_ir.errors import BackendError, GradientError, OptionError
from tests.programs import arrays


def sample() -> Program:
    """Products, a loop, a cumulation, a solve and a transform, of four inputs, one of which is whole numbers."""
    b = Builder()
    x, y = b.input("x", ("b", "t", "k"), (2, 5, 3)), b.input("y", ("t", "k"), (5, 3))
    g, i = b.input("g", ("t",), (5,)), b.input("i", ("t",), (5,), "int")

    def step(b: Builder, c: list[Value], s: list[Value], k: list[Value]) -> tuple[list[Value], list[Value]]:
        h = b.add(b.mul(c[0], k[0]), s[0])
        return [h], [b.contract(h, s[0], ("k",))]

    scores = b.mul(b.contract(x, b.rename(y, "t", "s"), ("k",)), 0.1)
    last, dots = b.scan("t", step, [b.full(0.5, {"b": 2, "k": 3})], [x], [b.sum(y, ("t",))])
    w = b.solve(b.mul(scores, b.map("exp", b.cumulate("sum", g, "t"))), x, "t", "s")
    z = b.transform("irfft", b.mul(b.transform("rfft", w, "t", 5), 2.0), "t", 5)
    return program({"h": last[0], "dots": dots[0], "z": b.mul(z, i), "whole": b.add(i, 1)}, [x, y, g, i])


def tensors(of: Program, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {
        n: torch.from_numpy(x).to(dtype) if x.dtype.kind == "f" else torch.from_numpy(x) for n, x in arrays(of).items()
    }


def test_the_backends_by_name() -> None:
    assert backends.available()[:3] == ("reference", "symbolic", "eager")
    of = sample()
    want = backends.prepare("reference", of)(arrays(of))
    got = backends.prepare("eager", of)(tensors(of))
    for name in want:
        np.testing.assert_allclose(got[name].numpy(), want[name], rtol=1e-10, atol=1e-10)
    with pytest.raises(OptionError, match="no backend 'fortran'; backends: reference, symbolic, eager, native"):
        backends.prepare("fortran", of)


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_eager_computes_in_the_widest_precision_but_at_least_float32(given: torch.dtype, computed: torch.dtype) -> None:
    of = sample()
    got = eager.prepare(of)(tensors(of, given))
    assert got["z"].dtype == computed
    assert got["whole"].dtype == torch.int64


@pytest.mark.parametrize("backend", [reference, symbolic, eager])
def test_what_is_missing_or_of_another_shape_is_named(backend: object) -> None:
    of = sample()
    run = backend.prepare(of)  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=r"the program reads y, g, i, which was not given \(given: x\)"):
        run({"x": torch.zeros(2, 5, 3)})
    bad = {**tensors(of), "y": torch.zeros(5, 4)}
    with pytest.raises(BackendError, match=r"y was planned as \(t:5 k:3\), but has shape \(5, 4\)"):
        run(bad)


def test_a_call_leaves_its_inputs_and_its_constants_alone() -> None:
    """Writing into what a call gave changes neither an input nor a later call."""
    b = Builder()
    x = b.input("x", ("t", "k"), (4, 3))
    of = program({"same": b.rename(x, "t", "s"), "ones": b.full(1.0, {"t": 2}), "iota": b.iota("t", 3)}, [x])
    run, at = eager.prepare(of), torch.zeros(4, 3)
    first = run({"x": at})
    for made in first.values():
        made.fill_(7)
    assert at.eq(0).all()
    again = run({"x": at})
    assert again["ones"].tolist() == [1.0, 1.0]
    assert again["iota"].tolist() == [0, 1, 2]


def test_first_and_second_derivatives() -> None:
    of = sample()
    f = differentiable(of)
    given = tensors(of)
    names = ["x", "y", "g"]

    def run(*a: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = f({**given, **dict(zip(names, a, strict=True))})
        return made["h"], made["dots"], made["z"]

    at = tuple(given[n].clone().requires_grad_() for n in names)
    assert torch.autograd.gradcheck(run, at)
    assert torch.autograd.gradgradcheck(run, at)


def test_whole_numbers_come_back_without_a_gradient() -> None:
    of = sample()
    given = {**tensors(of), "x": tensors(of)["x"].requires_grad_()}
    made = differentiable(of)(given)
    assert made["h"].requires_grad
    assert not made["whole"].requires_grad


def test_only_the_derivatives_asked_for_are_derived() -> None:
    of = sample()
    f = differentiable(of)
    given = tensors(of)
    made = f({**given, "y": given["y"].requires_grad_()})
    made["h"].sum().backward()
    assert list(f._back) == [(("y",), ("h",))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_have_the_dtype_of_what_they_are_of(dtype: torch.dtype) -> None:
    of = sample()
    given = {n: x.requires_grad_() if x.is_floating_point() else x for n, x in tensors(of, dtype).items()}
    differentiable(of)(given)["z"].sum().backward()
    assert given["x"].grad is not None
    assert given["x"].grad.dtype == dtype


def test_functional_transforms() -> None:
    """vjp, jacrev and vmap agree with autograd, and jvp does where nothing is recorded; else it says what to do."""
    of = sample()
    f, given = differentiable(of), tensors(of)

    def loss(x: torch.Tensor) -> torch.Tensor:
        made = f({**given, "x": x})
        return (made["h"] ** 2).sum() + (made["z"] ** 2).sum() + made["dots"].sum()

    x = given["x"].clone().requires_grad_()
    (want,) = torch.autograd.grad(loss(x), x)
    x = x.detach()
    torch.testing.assert_close(torch.func.grad(loss)(x), want)
    torch.testing.assert_close(torch.func.jacrev(loss)(x), want)
    batch = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.func.vmap(loss)(batch), torch.stack([loss(x), loss(2 * x)]))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(batch)[0], want)
    direction = torch.randn_like(x)
    torch.testing.assert_close(torch.func.jvp(loss, (x,), (direction,))[1], (want * direction).sum())
    with pytest.raises(GradientError, match="forward-mode derivatives"):
        torch.func.hessian(loss)(x)


def test_complex_inputs_and_real_ones_that_meet_them() -> None:
    b = Builder()
    a, x = b.input("a", ("k",), (3,), "complex"), b.input("x", ("t", "k"), (6, 3))
    of = program({"h": b.affine_scan(b.expand(a, {"t": 6}), x, "t")}, [a, x])
    f = differentiable(of)
    at = tuple(x.requires_grad_() for x in tensors(of).values())
    assert torch.autograd.gradcheck(lambda a, x: f({"a": a, "x": x})["h"], at)
    assert torch.autograd.gradgradcheck(lambda a, x: f({"a": a, "x": x})["h"], at)


def test_symbols_are_exact() -> None:
    """A third is a third, e^{−∞} is 0, and a geometric sum comes out as one writes it."""
    import sympy

    b = Builder()
    a, x = b.input("a", (), ()), b.input("x", ("t",), (3,))
    of = program(
        {"h": b.affine_scan(b.expand(a, {"t": 3}), x, "t"), "e": b.map("exp", b.mul(x, -float("inf")))}, [a, x]
    )
    names = symbolic.symbols(of)
    made = symbolic.prepare(of)({**names, "x": [1, 1 / 3, 0.1]})
    alpha = names["a"][()]
    assert sympy.expand(made["h"][2] - (alpha**2 + alpha / 3 + sympy.Rational(1, 10))) == 0
    assert list(made["e"]) == [0, 0, 0]
