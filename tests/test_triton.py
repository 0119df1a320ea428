"""Generated kernels compute what the reference does, forward and backward, in Triton's interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

import catalog
import mixer_ir as mx
from backends import reference
from backends.triton import launch
from backends.triton.kernel import Setting
from backends.triton.partition import plan
from backends.triton.real import real
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.driver import samples
from mixer_ir.driver.kernels import lowered
from mixer_ir.errors import BackendError
from tests.programs import DRAWN, PRIMITIVE, Drawn, arrays, mapped

QUICK = settings(
    max_examples=4,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CASES = [
    (name, key, form) for name in catalog.list() for key, m in catalog.get(name).mixers.items() for form in m.forms()
]
FAST = [
    ("gla", "chunked"),
    ("gla", "recurrent"),
    ("retnet", "chunked"),
    ("retnet", "scan"),
    ("deltanet", "chunked"),
    ("linear_attention", "parallel"),
]


def agree(of: Program, given: dict[str, np.ndarray], tolerance: float = 1e-7) -> None:
    """The kernels' results are the reference's, infinities and all."""
    want = reference.prepare(of)(given)
    got = launch.prepare(of)({n: torch.from_numpy(np.asarray(x)) for n, x in given.items()})
    for name, w in want.items():
        assert tuple(got[name].shape) == w.shape
        scale = max(1.0, np.abs(w, where=np.isfinite(w), out=np.zeros(w.shape)).max(initial=0.0))
        np.testing.assert_allclose(got[name].numpy(), w, rtol=tolerance, atol=tolerance * scale)


def both_ways(of: Program, given: dict[str, np.ndarray]) -> None:
    """A program and its adjoint."""
    agree(of, given)
    inputs = [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable]
    outputs = [n for n, v in zip(of.names, of.outputs, strict=True) if v.differentiable]
    if inputs and outputs:
        back = adjoint(of, inputs, outputs)
        agree(back, {**arrays(back, seed=1), **given})


def unspelled(of: Program) -> bool:
    """Whether it has what the triton backend refuses by name, in either direction."""
    try:
        inputs = [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable]
        outputs = [n for n, v in zip(of.names, of.outputs, strict=True) if v.differentiable]
        real(of)
        if inputs and outputs:
            real(adjoint(of, inputs, outputs))
    except BackendError as error:
        assert "has no spelling of" in str(error)
        return True
    return False


@pytest.mark.parametrize("op", DRAWN, ids=lambda op: op.__name__)
def test_every_operation_and_its_adjoint(op: type) -> None:
    @QUICK
    @given(st.data())
    def law(data: st.DataObject) -> None:
        of = DRAWN[op](Drawn(data.draw))
        if not unspelled(of):
            both_ways(of, arrays(of))

    law()


@pytest.mark.parametrize("fn", PRIMITIVE)
def test_every_function(fn: str) -> None:
    @QUICK
    @given(st.data())
    def law(data: st.DataObject) -> None:
        of = mapped(Drawn(data.draw), fn)
        if unspelled(of):
            return
        given = arrays(of)
        if fn in ("log", "log1p", "sqrt", "pow"):
            given = {n: np.abs(x) + 0.5 if x.dtype.kind == "f" else x for n, x in given.items()}
        if fn in ("mod", "floordiv"):
            given = {n: x + 2.5 if x.dtype.kind == "f" else x + 1 for n, x in given.items()}
        agree(of, given)

    law()


def run_both(mixer: mx.Mixer, form: str, length: int, tolerance: float, chunk: int | None = None) -> None:
    """Values and gradients of the triton and the eager backend."""
    options = {"chunk": chunk} if chunk and form in ("chunked", "flash") else {}
    signals = samples.draw(mixer, samples.sizes_for(mixer, length), seed=0)
    results = []
    for backend in ("eager", "triton"):
        given = {n: x.clone().requires_grad_(x.is_floating_point() or x.is_complex()) for n, x in signals.items()}
        y = mx.compile(mixer, form=form, backend=backend, **options)(**given)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        wanted = [x for x in given.values() if x.requires_grad]
        grads = torch.autograd.grad((y * weight).real.sum(), wanted, allow_unused=True)
        results.append([y.detach(), *(g for g in grads if g is not None)])
    for ours, theirs in zip(results[1], results[0], strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        assert (ours - theirs).abs().max() <= tolerance * scale


@pytest.mark.parametrize(("name", "form"), FAST)
def test_some_mixers(name: str, form: str) -> None:
    run_both(next(iter(catalog.get(name).mixers.values())), form, 9, 1e-7, chunk=4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key", "form"), CASES)
def test_every_form_of_the_catalog(name: str, key: str, form: str) -> None:
    run_both(catalog.get(name).mixers[key], form, 9, 1e-6, chunk=4)


def kernels_at(name: str, form: str, chunk: int | None = 64, **sizes: int) -> tuple[list[str], list[str]]:
    """The text of the forward and the backward kernels."""
    mixer = next(iter(catalog.get(name).mixers.values()))
    of = lowered(mixer, form, chunk, sizes)
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])
    passes = [plan(real(x), Setting(dot="bf16")).kernels() for x in (of, back)]
    return [k.source for k in passes[0]], [k.source for k in passes[1]]


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [("gla", 2, 3), ("linear_attention", 2, 4), ("deltanet", 3, 6), ("gated_deltanet", 3, 6)],
)
def test_launches(name: str, forward: int, backward: int) -> None:
    """As many as the structure asks for: states and reads; with a low-rank part, its systems as well.

    What the gradient of linear attention's normaliser carries from chunk to chunk is summed before its loop.
    """
    made = kernels_at(name, "chunked", k=128, v=128)
    assert len(made[0]) <= forward
    assert len(made[1]) <= backward


def test_products_stay_products_where_registers_are_few() -> None:
    """However short the blocks that are summed, what tensor cores can take is no sum entry by entry."""
    for text in kernels_at("gla", "chunked", k=64, v=64)[0]:
        assert not re.search(r"tl\.sum\(\(?\w+\[:, None, :\] \* \w+\[None, :, :\]", text)


def test_equal_programs_give_equal_text() -> None:
    assert kernels_at("gla", "chunked") == kernels_at("gla", "chunked")


def test_resets_as_infinite_decays_stay_exact() -> None:
    """A log-decay of −inf drops the state: no NaN in values or gradients."""
    mixer = next(iter(catalog.get("gla").mixers.values())).with_reset()
    signals = samples.draw(mixer, samples.sizes_for(mixer, 9), seed=0)
    signals["reset"] = torch.arange(9).remainder(4).eq(3).expand(2, 9)
    results = []
    for backend in ("eager", "triton"):
        given = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in signals.items()}
        y = mx.compile(mixer, form="chunked", backend=backend, chunk=8)(**given)
        y.square().sum().backward()
        results.append([y.detach(), *(x.grad for x in given.values() if x.requires_grad)])
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert theirs is not None and ours is not None
        assert (ours - theirs).abs().max() <= 1e-8 * max(1.0, float(theirs.abs().max()))


def test_offsets_are_64_bit() -> None:
    """An axis whose stride times its size passes 2³¹ is addressed with 64-bit numbers."""
    b = Builder()
    x = b.input("x", ("t", "k"), (1 << 21, 2048))
    (kernel,) = plan(real(program({"y": b.mul(x, 2.0)}, [x])), Setting()).kernels()
    assert "tl.program_id(0).to(tl.int64)" in kernel.source


def test_what_has_no_spelling_is_named() -> None:
    b = Builder()
    x = b.input("x", ("t",), (3,), "complex")
    with pytest.raises(BackendError, match="no spelling of tanh for complex numbers"):
        launch.prepare(program({"y": b.map("tanh", x)}, [x]))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("kinds", [("complex", "complex"), ("real", "complex"), ("complex", "real")])
def test_complex_systems_are_real_systems_of_their_parts(kinds: tuple[str, str], upper: bool) -> None:
    b = Builder()
    x, r = b.input("x", ("t", "b", "s"), (7, 2, 7), kinds[0]), b.input("r", ("b", "t", "v"), (2, 7, 3), kinds[1])
    of = program({"y": b.solve(x, r, "t", "s", upper=upper)}, [x, r])
    agree(of, arrays(of))
    back = adjoint(of, ["x", "r"])
    agree(back, {**arrays(back, seed=1), **arrays(of)})


def test_complex_arrays_are_filled_with_one_number() -> None:
    b = Builder()
    x = b.input("x", ("t", "k"), (5, 3), "complex")
    of = program({"y": b.mul(b.pad(x, "t", 1, 2, 1.0), b.pad(x, "t", 3, 0, 2.0 - 3.0j))}, [x])
    both_ways(of, arrays(of))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own that sees no GPU, as kernels are compiled where the interpreter is off."""
    clean = {n: x for n, x in os.environ.items() if n != "TRITON_INTERPRET"}
    clean |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=clean, check=False)


def test_without_a_gpu_the_backend_says_so() -> None:
    done = command("-c", "import catalog, mixer_ir as mx; mx.compile(catalog.get('gla').mixer, backend='triton')")
    assert "needs a GPU" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_the_command_line_shows_kernels(target: str) -> None:
    done = command("-m", "mixer_ir.cli", "kernels", "gla", "--form", "recurrent", "--target", target)
    assert done.returncode == 0, done.stderr
    assert "@triton.jit" in done.stdout and "registers" in done.stdout
