"""Fourier transforms as products of matrices, in generated kernels with the gates around them."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import catalog
import mixer_ir as mx
from backends import reference
from backends.triton import chains, launch
from backends.triton.evaluate import Buffer
from backends.triton.kernel import Setting
from backends.triton.levels import levels
from backends.triton.partition import plan
from backends.triton.real import real
from backends.triton.steps import Call, Plan
from lowering import program as p
from lowering.build import Builder, program
from lowering.filters import LAG, Filter
from lowering.monarch import convolved, fourier
from mixer_ir.driver import samples
from mixer_ir.driver.kernels import lowered, planned

GATED = catalog.get("hyena").mixers["hyena"]


@pytest.mark.parametrize("n", [512, 600, 1024, 2048])
def test_the_two_ways_of_a_transform_split_the_same_axis(n: int) -> None:
    """F⁻¹ F = 1, and F is NumPy's, where n has two unequal factors and where it has two equal ones."""
    b = Builder()
    x = b.input("x", ("t",), (n,))
    spectrum = fourier(b, x, "t")
    again = fourier(b, spectrum, "t", inverse=True)
    given = np.random.default_rng(0).standard_normal(n)
    out = reference.prepare(program({"X": spectrum, "x2": again}, [x]))({"x": given})
    np.testing.assert_allclose(out["X"], np.fft.fft(given), atol=1e-9 * n)
    np.testing.assert_allclose(out["x2"], given, atol=1e-12 * n)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 37, 64])
@pytest.mark.parametrize("ahead", [1, 3])
def test_a_real_convolution_takes_transforms_of_half_the_length(n: int, ahead: int) -> None:
    """Modulo X^m − i a product of real polynomials of degree below 2m loses nothing, looking ahead or not."""
    b = Builder()
    v, h, g = b.input("v", ("t",), (n,)), b.input("h", (LAG,), (n,)), b.input("g", (LAG,), (min(ahead, n),))
    of = program({"y": convolved(b, Filter(v, h, g, False, 0, n))}, [v, h, g])
    rng = np.random.default_rng(0)
    given = {x.op.name: rng.standard_normal(x.shape) for x in of.inputs if isinstance(x.op, p.Input)}
    wanted = np.convolve(given["v"], given["h"])[:n]
    for lag in range(1, min(ahead, n)):
        wanted[: n - lag] += given["g"][lag] * given["v"][lag:]
    np.testing.assert_allclose(reference.prepare(of)(given)["y"], wanted, atol=1e-12)
    lengths = {x.args[0].size(a) for x in of.order if isinstance(x.op, p.Contract) for a in x.op.over}
    assert prod(lengths) <= max(2 * n, 4)


def _plans(t: int, b: int = 2) -> list[Plan]:
    """Forward and backward."""
    made = planned(GATED, "monarch", None, {"b": b, "t": t, "d": 4})[1].programs
    return [plan(real(levels(x)), Setting(dot="tf32")) for x in made]


@pytest.mark.parametrize("t", [512, 1024])
def test_gradients_of_a_filter_are_one_loop_over_sequences(t: int) -> None:
    """Its parts, real and imaginary, sum products of the same transforms: each is taken once for a sequence."""
    first, second = _plans(t, b=8)[1].kernels()
    lines = first.text.splitlines()
    loops = [i for i, line in enumerate(lines) if line.startswith("    for ")]
    inside = [line for i, line in enumerate(lines) if i > loops[0] and (len(loops) == 1 or i < loops[1])]
    assert "".join(inside).count("tl.dot(") == first.text.count("tl.dot(") - 8 == 16
    assert sum(line.startswith("        acc_") for line in inside) == 4
    assert "tl.dot(" in second.text


@pytest.mark.parametrize("t", [512, 1024, 2048])
def test_a_gated_convolution_is_one_kernel(t: int) -> None:
    """Gate, transform, filter, transform back, gate; the filter's transform, one for all sequences, is in memory."""
    made = _plans(t)[0]
    spectrum, kernel = made.kernels()
    assert {b.name for b in spectrum.reads} == {"h"} and dict(spectrum.grid) == {"d": 4}
    assert len(made.steps) == 2 and dict(kernel.grid) == {"b": 2, "d": 4}
    assert kernel.source.count("tl.dot(") == 16 and "tl.atomic" not in kernel.source


@pytest.mark.parametrize("t", [4096, 8192, 16384])
def test_longer_ones_go_through_memory_twice(t: int) -> None:
    """The outer products are kernels of their own: the tiles of what lies between are a small part of a transform."""
    forward, backward = _plans(t)
    assert len(forward.steps) == 4 and len(backward.steps) <= 5
    assert all("tl.dot(" in k.source for of in (forward, backward) for k in of.kernels())
    assert not any(isinstance(step, Call) for of in (forward, backward) for step in of.steps)


@pytest.mark.parametrize(
    ("t", "tolerance"),
    [(300, 1e-9), (600, 1e-9), *(pytest.param(t, 1e-9, marks=pytest.mark.slow) for t in (1100, 4096))],
)
def test_its_values_and_gradients(t: int, tolerance: float) -> None:
    signals = samples.draw(GATED, {"b": 2, "t": t, "d": 1}, seed=0)
    results = []
    for form, backend in (("fft", "eager"), ("monarch", "triton")):
        given = {n: x.clone().requires_grad_() for n, x in signals.items()}
        y = mx.compile(GATED, form=form, backend=backend)(**given)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        results.append([y, *torch.autograd.grad((y * weight).sum(), list(given.values()))])
    for theirs, ours in zip(*results, strict=True):
        assert (theirs - ours).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("t", [4096, 16384])
def test_bfloat16_signals_lose_their_own_rounding_alone(t: int) -> None:
    signals = {n: x.bfloat16() for n, x in samples.draw(GATED, {"b": 1, "t": t, "d": 1}, seed=0).items()}
    exact = mx.compile(GATED, form="fft", backend="eager")(**{n: x.double() for n, x in signals.items()})
    made = mx.compile(GATED, form="monarch", backend="triton")(**signals)
    assert (made.double() - exact).abs().max() <= 1e-2 * exact.abs().max()


def test_chains_of_products_do_not_round_to_bfloat16() -> None:
    of = lowered(GATED, "monarch", None, {"b": 2, "t": 512, "d": 4})
    assert launch.factors(of, [torch.bfloat16] * len(of.inputs), torch.float32) == "tf32"
    gla = lowered(catalog.get("gla").mixer, "chunked", 16, {"b": 1, "t": 64, "h": 1, "k": 16, "v": 16})
    assert launch.factors(gla, [torch.bfloat16] * len(gla.inputs), torch.float32) == "bf16"


def test_what_is_real_costs_no_complex_product() -> None:
    """A real array times a matrix of complex numbers is two products, not four."""
    b = Builder()
    x, m = b.input("x", ("t",), (8,)), b.input("m", ("t", "k"), (8, 4), "complex")
    of = real(program({"y": b.contract(x, m, ("t",))}, [x, m]))
    assert sum(isinstance(v.op, p.Contract) for v in of.order) == 2
    given = {"x": torch.randn(8, dtype=torch.float64), "m": torch.randn(8, 4, dtype=torch.complex128)}
    made = launch.prepare(program({"y": b.contract(x, m, ("t",))}, [x, m]))(given)["y"]
    torch.testing.assert_close(made, given["x"].to(torch.complex128) @ given["m"])


def test_angles_of_a_few_turns_are_reduced_in_single_precision() -> None:
    """exp(2πi j k / n) is as exact as float32 can be, without arithmetic in double precision."""
    b = Builder()
    n = 4096
    angle = b.mul(b.cast(b.map("mod", b.mul(b.iota("t", n), b.iota("k", 3)), n), "real"), 2 * np.pi / n)
    of = program({"c": b.map("cos", angle), "s": b.map("sin", angle)}, [])
    (kernel,) = plan(of, Setting()).kernels()
    assert "_near_sin" in kernel.source and "float64" not in kernel.source
    out = launch.prepare(of, alone=torch.float32)({})
    exact = (np.arange(n)[:, None] * np.arange(3)[None]) % n * (2 * np.pi / n)
    rounding = 8 * np.finfo(np.float32).eps
    assert np.abs(out["c"].numpy() - np.cos(exact)).max() < rounding
    assert np.abs(out["s"].numpy() - np.sin(exact)).max() < rounding


def test_angles_of_any_size_are_not() -> None:
    b = Builder()
    x = b.input("x", ("t",), (8,))
    (kernel,) = plan(program({"y": b.map("sin", x)}, [x]), Setting()).kernels()
    assert "_near" not in kernel.source


def test_an_axis_made_of_two_is_a_tile_under_its_other_names() -> None:
    """A filter made by doubling, h[64 i + j] = q_i · k_j, that is called t and padded before it is transformed."""
    b = Builder()
    q, k = b.input("q", ("d", "i", "k"), (2, 64, 16)), b.input("k", ("d", "j", "k"), (2, 64, 16))
    h = b.rename(b.merge(b.contract(q, k, ("k",)), "i", "j", "lag"), "lag", "t")
    (kernel,) = plan(program({"h": b.pad(h, "t", 0, 4096)}, [q, k]), Setting()).kernels()
    assert kernel.programs <= 2 * 8192 // 64


def test_what_lacks_a_part_of_the_axis_that_programs_lie_along_is_computed_again() -> None:
    b = Builder()
    q, k, w = (b.input(n, axes, (4, 4, 4)) for n, axes in (("q", "dik"), ("k", "djk"), ("w", "dlk")))
    made = b.contract(q, b.rename(b.rename(w, "k", "m"), "l", "k"), ("k",))
    both = b.contract(b.rename(made, "m", "k"), k, ("k",))
    y = b.merge(both, "i", "j", "t")
    known = {v: Buffer(v.op.name, v) for v in (q, k, w)}
    for programs, single in ((16, True), (8, False)):
        found = list(chains.repeated(y, {"d": 4, "t": programs}, known))
        assert [v for v, _, _ in found if isinstance(v.op, p.Contract | p.Rename)]
        assert all(v is not both and times == programs // 4 and one == single for v, times, one in found)
    assert not list(chains.repeated(y, {"d": 4}, known))
