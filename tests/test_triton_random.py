"""Generated kernels of random mixers against their definitions, and the small programs that went wrong in some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import mixer_ir as mx
from backends import reference
from backends.triton import launch
from lowering.build import Builder, program
from lowering.program import Value
from mixer_ir.errors import BackendError
from mixer_ir.trust.expected import Expected
from tests import fuzz, random_mixers
from tests.random_mixers import Declaration

QUICK = (2, 9, 20, 23, 93, 105, 111, 123, 142, 149, 151)
SINGLE = (9, 93, 105, 111, 123, 149)
"""seeds, the second in single precision too: every form; delta rules, resets, complex states, coupled and dense
transitions, convolutions, softmax, a grid
"""
SHORT = 4
"""steps of mixers with several states, whose programs are long"""

NOISE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""how far one rounding of the signals may move the values, as a part of them, where there is something to compare"""


def drawn(seed: int) -> Declaration:
    d = random_mixers.draw(seed)
    if len(d.states) < 2 or d.sizes["t"] <= SHORT:
        return d
    return replace(d, sizes={**d.sizes, "t": SHORT, "s": SHORT})


def expected(d: Declaration, mixer: mx.Mixer, dtype: torch.dtype) -> Expected:
    """What the mixer gives for signals of a dtype."""
    want = fuzz.expectation(d, mixer)
    if dtype == torch.float64:
        return want
    narrow = {torch.float64: dtype, torch.complex128: torch.complex64}
    return Expected(mixer, {n: x.to(narrow.get(x.dtype, x.dtype)) for n, x in want.signals.items()}, dtype, seed=d.seed)


def check(seed: int, dtype: torch.dtype = torch.float64) -> int:
    """Every form of a random mixer against its definition, values and gradients; how many forms were compared."""
    d = drawn(seed)
    try:
        mixer = d.build()
        want = expected(d, mixer, dtype)
    except mx.MixerError:
        return 0  # no mixer
    finite = all(bool(torch.isfinite(x).all()) for x in (want.values, *want.gradients.values()))
    if not finite or want.noise > NOISE[dtype] * max(want.scale, 1e-12):
        return 0  # nothing to compare with
    count = 0
    for form in mixer.forms():
        options = {"chunk": d.chunk} if form in ("chunked", "flash") else {}
        f = mx.compile(mixer, form=form, backend="triton", **options)
        try:
            found = want.run(lambda signals, states, f=f: f(**signals), gradients=True)
        except BackendError as error:
            assert "has no spelling of" in str(error), d
            continue
        assert found.ok, f"form {form}: off by {found.value_error}, gradients by {found.gradient_error}\n{d}"
        count += 1
    return count


@pytest.mark.parametrize("seed", QUICK)
def test_some_random_mixers(seed: int) -> None:
    assert check(seed) >= 1  # quick ones; `make test-kernels` draws 200


@pytest.mark.parametrize("seed", SINGLE)
def test_some_random_mixers_in_single_precision(seed: int) -> None:
    assert check(seed, torch.float32) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(i, i + 5) for i in range(0, 200, 5)], ids=lambda r: str(r.start))
def test_random_mixers(seeds: range) -> None:
    assert sum(map(check, seeds)) >= 1


def summed(b: Builder, x: Value) -> Value:
    """A number in some entries of a tile, summed: behind a mask it has the precision of the kernel."""
    return b.mul(x, b.map("exp", b.sum(b.full(-0.3, {"i": 3}), ("i",))))


def contracted(b: Builder, x: Value) -> Value:
    """A product of numbers that Python would work out has the type of a tile."""
    return b.add(x, b.contract(b.full(0.1, {"i": 3}), b.full(0.7, {"i": 3}), ("i",)))


def placed(b: Builder, x: Value) -> Value:
    """A place that is known along both parts of an axis is a number."""
    place = b.at(b.at(b.split(b.iota("n", 2), "n", "o", "i", 1), "i", 0), "o", 1)
    return b.mul(x, b.cast(b.map("mod", place, b.value(8)), "real"))


@pytest.mark.parametrize("made", [summed, contracted, placed], ids=lambda f: f.__name__)
def test_numbers_have_the_kernels_type(made: Callable[[Builder, Value], Value]) -> None:
    b = Builder()
    x = b.input("x", ("t",), (5,))
    of = program({"y": made(b, x)}, [x])
    given = np.linspace(-1.0, 1.0, 5)
    got = launch.prepare(of)({"x": torch.from_numpy(given)})["y"].numpy()
    np.testing.assert_allclose(got, reference.prepare(of)({"x": given})["y"], rtol=1e-14, atol=1e-14)


def test_memory_that_is_not_written_shows() -> None:
    assert torch.empty(3).isnan().all()  # kernels' results are such memory: what they leave out is no number


def test_the_steps_between_two_matrices_have_a_name() -> None:
    b = Builder()
    x, y = b.input("x", ("t", "_"), (5, 20)), b.input("y", ("_", "s"), (20, 3))
    of = program({"y": b.cumulate("sum", b.mul(x, b.sum(y, ("s",))), "_")}, [x, y])
    given = {n: np.random.default_rng(0).standard_normal(v.shape) for n, v in zip("xy", of.inputs, strict=True)}
    got = launch.prepare(of)({n: torch.from_numpy(v) for n, v in given.items()})["y"].numpy()
    np.testing.assert_allclose(got, reference.prepare(of)(given)["y"], rtol=1e-12, atol=1e-12)
