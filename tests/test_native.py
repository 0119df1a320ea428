"""The native backend: the same numbers as the reference, and a cache that nothing can spoil."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mixer_ir as mx
from backends import eager, native, reference
from backends.autograd import differentiable
from backends.native import compiler, emission, outlining, sharing
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program, Value
from mixer_ir.errors import BackendError
from mixer_ir.trust.verify import Verification
from tests.programs import DRAWN, PRIMITIVE, Drawn, arrays, largest, mapped

pytestmark = pytest.mark.skipif(native.missing() is not None, reason="no C compiler")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache of this run's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXER_IR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def nan_in_the_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was never written is NaN."""
    monkeypatch.setattr(native.ARENAS, "of", lambda n: torch.full((n + 64,), 255, dtype=torch.uint8))


@pytest.fixture(params=["whole", "shared out"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With small programs left whole, and shared out among threads like large ones."""
    if request.param == "shared out":
        monkeypatch.setattr(sharing, "WORTH", 1)
        monkeypatch.setattr(sharing, "TILE", 8)
        monkeypatch.setattr(outlining, "LONG", 1)
        monkeypatch.setattr(outlining, "LINES", 8)
    return request.param


def agree(of: Program, *, single: bool = True) -> None:
    """As the reference, in both precisions."""
    given_ = arrays(of)
    want = reference.prepare(of)(given_)
    for real, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5))[: 2 if single else 1]:
        cast = {"real": real, "complex": torch.complex128 if real == torch.float64 else torch.complex64}
        tensors = {n: torch.from_numpy(np.array(x)) for n, x in given_.items()}
        kinds = {n: v.kind for n, v in zip(of.input_names, of.inputs, strict=True)}
        got = native.prepare(of)({n: x.to(cast.get(kinds[n], x.dtype)) for n, x in tensors.items()})
        for name in want:
            assert tuple(got[name].shape) == want[name].shape
            np.testing.assert_allclose(
                got[name].numpy(), want[name], rtol=tolerance, atol=tolerance * largest(want[name])
            )


@pytest.mark.parametrize("op", DRAWN, ids=lambda op: op.__name__)
@settings(max_examples=4)
@given(data=st.data())
def test_operations(op: type, data: st.DataObject) -> None:
    agree(DRAWN[op](Drawn(data.draw)))


@pytest.mark.parametrize("fn", PRIMITIVE)
@settings(max_examples=2)
@given(data=st.data())
def test_functions(fn: str, data: st.DataObject) -> None:
    agree(mapped(Drawn(data.draw), fn), single=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_of_two_bytes_are_read_and_written_as_such(dtype: torch.dtype) -> None:
    """Every one of them, and every product with a few others, to the last bit; nothing is converted outside."""
    b = Builder()
    x, w = b.input("x", ("n",), (1 << 16,)), b.input("w", ("m",), (5,))
    of = program({"same": b.map("neg", x), "y": b.mul(w, x), "sum": b.sum(b.mul(x, x), ("n",))}, [x, w])
    every = torch.arange(1 << 16).to(torch.uint16).view(dtype)
    factors = torch.tensor([1.0, 0.3, -7.7, 1e-4, 300.0]).to(dtype)
    made = native.prepare(of)({"x": every, "w": factors})
    want = {"same": -every, "y": (factors.float()[:, None] * every.float()).to(dtype)}
    assert native.Types.of(of, [dtype, dtype]).inputs == (dtype, dtype)
    for name, y in want.items():
        assert made[name].dtype == dtype
        assert torch.equal(made[name].isnan(), y.isnan())
        assert torch.equal(made[name].nan_to_num(0.0).view(torch.uint16), y.nan_to_num(0.0).view(torch.uint16))
    text = emission.emit(of, 4, ("bfloat16",) * 5).text
    assert "uint16_t *in0" in text and "uint16_t *out2" in text


POINTS = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, 40.0, -40.0, 800.0, -800.0, math.inf, -math.inf, math.nan, 1e-12, 1e-40)
SINGLE = sorted({"exp", "log", "log1p", "expm1", "sigmoid", "softplus", "tanh", "sqrt", "abs", "sign", "erf", "sin"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_at_the_edges_and_in_between(dtype: torch.dtype) -> None:
    """Infinities, NaN, zeros and denormals; elsewhere within a few units in the last place, in long vector loops."""
    b = Builder()
    x = torch.cat([torch.tensor(POINTS, dtype=dtype), torch.linspace(-110, 110, 20011, dtype=dtype)])
    x = torch.cat([x, torch.linspace(-1.5, 1.5, 20011, dtype=dtype), torch.tensor([-103.0, -745.0], dtype=dtype)])
    v = b.input("x", ("i",), tuple(x.shape))
    got = native.prepare(program({fn: b.map(fn, v) for fn in SINGLE}, [v]))({"x": x})
    unit = torch.finfo(dtype).eps
    exact = x.double()
    for fn in SINGLE:
        want = {"softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)), "sign": torch.sgn}.get(
            fn, getattr(torch, fn, None)
        )(exact)
        want = torch.where(exact.isnan(), exact, want).to(dtype)
        assert torch.equal(got[fn].isnan(), want.isnan()), fn
        fine = want.isfinite()
        assert torch.equal(got[fn][~fine & ~want.isnan()], want[~fine & ~want.isnan()]), fn
        smallest = torch.finfo(dtype).smallest_normal * unit
        off = (got[fn][fine] - want[fine]).abs() / (want[fine].abs() * unit + 2 * smallest)
        assert float(off.max()) <= 3, (fn, float(off.max()), float(x[fine][off.argmax()]))


def test_angles_of_every_size() -> None:
    """Sines and cosines of whatever a float32 holds, and exponentials of complex numbers as PyTorch's."""
    b = Builder()
    x, z = b.input("x", ("i",), (50_000,)), b.input("z", ("j",), (50_000,), "complex")
    of = program({"sin": b.map("sin", x), "cos": b.map("cos", x), "exp": b.map("exp", z)}, [x, z])
    torch.manual_seed(0)
    angles = torch.exp2(torch.rand(50_000) * 150 - 22) * torch.randn(50_000).sign()
    edges = [0, 89 + 1.57j, -1e3 + 2j, 1 - 0.0j, *(complex(re, im) for re in (-math.inf, 1) for im in (3, math.inf))]
    powers = torch.complex(torch.rand(50_000) * 180 - 95, torch.randn(50_000) * 100)
    powers[: len(edges)] = torch.tensor(edges)
    got = native.prepare(of)({"x": angles, "z": powers})
    for fn in ("sin", "cos"):
        want = getattr(torch, fn)(angles.double())
        assert float((got[fn] - want).abs().max()) < 1e-7, fn
    want, made = torch.exp(powers.to(torch.complex128)), got["exp"]
    fine = want.isfinite() & (want.abs() < 3e38)
    off = (made[fine] - want[fine]).abs() / (want[fine].abs() + 1e-37)
    assert float(off.max()) < 4e-7
    assert torch.equal(made[fine.logical_not()].isfinite(), torch.exp(powers)[fine.logical_not()].isfinite())


def mixing() -> tuple[Program, dict[str, torch.Tensor]]:
    """A loop with a state, a product, a solve and sums over shared axes."""
    b = Builder()
    n, h, k = 37, 6, 13
    x, w = b.input("x", ("t", "h", "k"), (n, h, k)), b.input("w", ("k", "v"), (k, 24))
    g = b.input("g", ("t", "h"), (n, h))

    def step(b: Builder, c: list[Value], s: list[Value], f: list[Value]) -> tuple[list[Value], list[Value]]:
        new = b.add(b.mul(c[0], b.map("sigmoid", s[1])), s[0])
        return [new], [b.contract(new, f[0], ("k",))]

    last, ys = b.scan("t", step, [b.full(0.0, {"h": h, "k": k})], [x, g], [w])
    y = b.mul(ys[0], b.map("exp", b.map("neg", b.map("abs", g))))
    of = program({"y": y, "last": last[0], "mean": b.sum(y, ("h",))}, [x, w, g])
    return of, {name: torch.from_numpy(z) for name, z in arrays(of).items()}


def test_first_and_second_derivatives(ways: str) -> None:
    of, given_ = mixing()
    f = differentiable(of, native.prepare)
    at = {n: x.clone().requires_grad_() for n, x in given_.items()}
    e = differentiable(of)
    twin = {n: x.clone().requires_grad_() for n, x in given_.items()}
    found = []
    for run, inputs in ((f, at), (e, twin)):
        made = run(inputs)
        first = torch.autograd.grad(
            (made["y"] ** 2).sum() + made["mean"].sin().sum() + made["last"].sum(), list(inputs.values()),
            create_graph=True,
        )  # fmt: skip
        second = torch.autograd.grad(sum((z**2).sum() for z in first), list(inputs.values()))
        found.append((*made.values(), *first, *second))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_parts_of_a_sum_are_added_up() -> None:
    """An adjoint has sums over axes that are shared out among threads; any number of threads gives the same."""
    of, given_ = mixing()
    back = adjoint(of, ["x", "w", "g"], ["y"])
    inputs = {**given_, "d:y": torch.ones(37, 6, 24, dtype=torch.float64)}
    want = reference.prepare(back)({n: x.numpy() for n, x in inputs.items()})
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "WORTH", 1)
        assert "OWN(thread_number())" in emission.emit(back, 8).text
        try:
            for n in (1, 2, 5):
                torch.set_num_threads(n)
                got = native.prepare(back)(inputs)
                for name in want:
                    np.testing.assert_allclose(got[name].numpy(), want[name], rtol=1e-10, atol=1e-10)
        finally:
            torch.set_num_threads(threads)


@mx.mixer
def attention(q: "b t h k", k: "b t h k", v: "b t h v"):
    return mx.softmax(mx.causal(mx.lowrank(q, k))) @ v


def test_a_sum_that_threads_share_may_lie_in_another_order(ways: str) -> None:
    """Gradients are sums over rows, which heads share out; each thread's part lies as the sum does, not the result."""
    g = torch.Generator().manual_seed(0)
    signals = {n: torch.randn(1, 5, 3, 4, dtype=torch.float64, generator=g) for n in attention.signals}
    found = []
    for backend in ("eager", "native"):
        at = {n: x.clone().requires_grad_() for n, x in signals.items()}
        y = mx.compile(attention, form="dense", backend=backend)(**at)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
        found.append([x.grad for x in at.values()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_what_has_no_entries_is_neither_read_nor_written() -> None:
    """The steps before the only one are none: what is joined to them lies alone, and sums over them are 0."""
    b = Builder()
    x, first = b.input("x", ("k", "t"), (5, 1)), b.input("first", ("k",), (5,))
    none = b.slice(x, "t", 0, 0)
    joined = b.concat([b.expand(first, {"t": 1}), none], "t")
    of = program({"joined": b.mul(joined, x), "sum": b.sum(b.map("exp", none), ("t",))}, [x, first])
    agree(of)


def test_what_is_padded_along_an_outer_loop_is_read_without_a_condition() -> None:
    """gcc 12 vectorises such loads wrongly: of the entry before, where the step before is missing."""
    b = Builder()
    x, y = b.input("x", ("b", "i", "s"), (3, 2, 2)), b.input("y", ("b", "i", "s"), (3, 2, 2))
    earlier = b.pad(b.slice(x, "i", 0, 1), "i", 1, 0)
    off = b.map("eq", b.iota("i", 2), b.add(b.iota("s", 2), b.const(1)))
    of = program({"y": b.sum(b.map("where", off, b.const(0.0), b.mul(earlier, y)), ("i",))}, [x, y])
    text = emission.emit(of, 8).text
    assert " ? in0[" not in text and " ? 0 : in0[" not in text, text
    agree(of)


def test_equal_programs_have_equal_texts() -> None:
    assert emission.emit(mixing()[0], 4) == emission.emit(mixing()[0], 4)


@pytest.mark.parametrize("name", ["gla", "mamba", "gated_deltanet", "softmax_attention", "s5", "hydra"])
def test_mixers_in_every_form(name: str) -> None:
    """Values and gradients against the definition."""
    mixer = mx.catalog.get(name).mixer
    check = Verification(mixer, (3,), None, None, None, None, None, 0)
    want = check.expected(7, torch.float32)
    for form in mixer.forms():
        for row in check.whole(form, "native", want, 7, every_chunk=False):
            assert row.ok, row


@pytest.mark.slow
@pytest.mark.parametrize("name", mx.catalog.list())
@pytest.mark.parametrize("length", [1, 2, 33])
def test_the_whole_catalog(name: str, length: int, ways: str) -> None:
    mixer = mx.catalog.get(name).mixer
    check = Verification(mixer, (3,), None, None, None, None, None, 0)
    for dtype in (torch.float64, torch.float32):
        want = check.expected(length, dtype)
        for form in mixer.forms():
            for row in check.whole(form, "native", want, length, every_chunk=False):
                assert row.ok, row


@mx.recurrence
def gated(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h k"):
    """S_t = e^{g_t} S_{t−1} + k_t v_tᵀ"""
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


@pytest.mark.parametrize("decay", [-1e-6, -30.0, -1e3, -math.inf])
@pytest.mark.parametrize("form", ["recurrent", "chunked", "scan"])
def test_no_decay_is_too_strong(decay: float, form: str) -> None:
    x = {n: torch.randn(1, 21, 2, 5, requires_grad=True) for n in "qkv"}
    g = torch.full((1, 21, 2, 5), decay, requires_grad=True)
    results = []
    for backend in ("native", "eager"):
        options = {"chunk": 16} if form == "chunked" else {}  # each backend would choose its own
        y = mx.compile(gated, form=form, backend=backend, **options)(**x, g=g)
        results.append((y, *torch.autograd.grad(y.square().sum(), [*x.values(), g])))
    for ours, theirs in zip(*results, strict=True):
        assert bool(torch.isfinite(ours).all())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * max(1.0, float(theirs.detach().abs().max())))


@mx.mixer
def two_sided(f: "t h", g: "b t h", v: "b t v"):
    return mx.toeplitz(f, anti=g) @ v


@pytest.mark.parametrize("form", ["monarch", "fft"])
def test_axes_that_only_share_a_name_are_told_apart(form: str, ways: str) -> None:
    """The padded t of a transform is not the t of the signals."""
    s = {"f": torch.randn(5, 2), "g": torch.randn(1, 5, 2), "v": torch.randn(1, 5, 2)}
    ours, theirs = (mx.compile(two_sided, form=form, backend=b)(**s) for b in ("native", "eager"))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    x = {n: torch.randn(1, 9, 2, 4).to(dtype) for n in "qkv"}
    g = -torch.rand(1, 9, 2, 4).to(dtype)
    ours, theirs = (mx.compile(gated, backend=b)(**x, g=g) for b in ("native", "eager"))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs)


def test_steps_give_what_the_whole_gives() -> None:
    x = {n: torch.randn(1, 9, 2, 4) for n in "qkvg"}
    x["g"] = -x["g"].abs()
    f = mx.compile(gated, backend="native")
    want = f(**x)
    y, state = f.prefill(**{n: z[:, :4] for n, z in x.items()})
    found = [y]
    for t in range(4, 9):
        y, state = f.step(state, **{n: z[:, t] for n, z in x.items()})
        found.append(y.unsqueeze(1))
    torch.testing.assert_close(torch.cat(found, 1), want)


# ----------------------------------------------------------------------------------------- compilers and the cache


@pytest.fixture
def other_compilers(monkeypatch: pytest.MonkeyPatch):
    """Forget which compiler was found, before and after."""
    compiler._compiler.cache_clear()
    yield monkeypatch
    compiler._compiler.cache_clear()


def test_without_a_compiler_the_error_says_what_to_install(other_compilers: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other_compilers.setenv("PATH", str(tmp_path))
    other_compilers.delenv("CC", raising=False)
    with pytest.raises(BackendError, match=r"cc was not found.*install gcc or clang"):
        mx.compile(gated, backend="native")
    told = str(mx.compile(gated, backend="auto").explain(t=8))
    assert "PyTorch's operators, not compiled C" in told and "cc was not found" in told


def test_a_compiler_that_does_not_work_is_named(other_compilers: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo broken 1.0; else echo "error: broken" >&2; exit 3; fi\n'
    )
    broken.chmod(0o755)
    other_compilers.setenv("CC", str(broken))
    with pytest.raises(BackendError, match=r"broken-cc: error: broken"):
        mx.compile(gated, backend="native")


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MIXER_IR_CACHE", str(blocked))
    with pytest.raises(BackendError, match="name another folder with MIXER_IR_CACHE"):
        compiler.installed().make("int blocked(void) { return 1; }\n")
    with pytest.raises(BackendError, match="name another folder with MIXER_IR_CACHE"):  # and no mixer is wrong
        mx.verify(gated, backends=["native"], lengths=(3,))


def test_a_library_that_the_disk_lost_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    of, given_ = mixing()
    types = native.Types.of(of, [given_[n].dtype for n in of.input_names])
    lost = native.build(of, types)
    lost.beside(lost.library).write_bytes(b"")
    with pytest.raises(OSError, match=r"too short|mach-o"):
        native.load(lost, of, types)
    torch.testing.assert_close(native.prepare(of)(given_)["y"], eager.prepare(of)(given_)["y"])


def test_a_tensor_elsewhere_is_refused() -> None:
    of, given_ = mixing()
    with pytest.raises(BackendError, match="runs on the processor, but a tensor is on meta"):
        native.prepare(of)({n: x.to("meta") for n, x in given_.items()})


SCRIPT = """
import torch
from backends import native
from tests.test_native import mixing
of, given = mixing()
torch.set_num_threads(1)
print(f"{float(native.prepare(of)(given)['y'].sum()):.9f}")
"""


def start(cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "MIXER_IR_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def test_processes_that_compile_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    answers = {process.communicate(timeout=120)[0] for process in [start(tmp_path) for _ in range(3)]}
    assert len(answers) == 1 and answers != {""}
    assert {path.suffix for path in (tmp_path / "native").iterdir()} == {".so"}


def test_a_process_killed_while_it_compiles_leaves_the_cache_fit(tmp_path: Path) -> None:
    process = start(tmp_path)
    for _ in range(1200):
        if any((tmp_path / "native").glob(".making-*")):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(tmp_path).communicate(timeout=120)[0].strip()


def test_conjugates_and_negatives_that_are_only_marked_are_resolved() -> None:
    b = Builder()
    x, z = b.input("x", ("n",), (3,)), b.input("z", ("n",), (3,), "complex")
    of = program({"y": b.mul(x, 2.0), "w": b.mul(z, 2.0)}, [x, z])
    c = torch.tensor([1 + 2j, 3 - 4j, -5j])
    made = native.prepare(of)({"x": c.conj().imag, "z": c.conj()})
    assert c.conj().imag.is_neg() and c.conj().is_conj()
    assert torch.equal(made["y"], 2 * c.conj().imag)
    assert torch.equal(made["w"], 2 * c.conj().resolve_conj())
