"""How generated kernels are run: dtypes in memory, what is kept on disk, what is refused, tuning, far addresses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import catalog
import mixer_ir as mx
from backends import disk
from backends.triton import known, launch, plans, tune
from backends.triton.kernel import Kernel, Setting
from backends.triton.partition import plan
from backends.triton.real import real
from backends.triton.tile import Dim, counting, joined, quotient
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.driver import samples
from mixer_ir.errors import BackendError
from tests.test_graphs import compiled, operator


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is found that another test kept."""
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    monkeypatch.setattr(plans, "MEMORY", {})
    return tmp_path


def doubled(length: int = 5) -> Program:
    b = Builder()
    x = b.input("x", ("t", "k"), (length, 3))
    return program({"y": b.mul(x, 2.0)}, [x])


def one(name: str) -> mx.Mixer:
    return next(iter(catalog.get(name).mixers.values()))


# ---------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize(
    "dtype, between", [(torch.bfloat16, {torch.float32, torch.bfloat16}), (torch.float16, {torch.float32})]
)
def test_kernels_read_and_write_the_dtype_of_the_signals(dtype, between, monkeypatch):
    """No pass converts signals, results or gradients.

    What lies between kernels is float32, or bfloat16 where it only becomes factors of such; float16 has not its range.
    """
    seen: dict[str, torch.dtype] = {}
    old = launch.launch

    def spy(kernel: Kernel, tensors: list[torch.Tensor], way: tune.Way) -> None:
        for b, x in zip((*kernel.reads, *kernel.writes), tensors, strict=True):
            seen[b.name] = x.dtype
        old(kernel, tensors, way)

    monkeypatch.setattr(launch, "launch", spy)
    mixer = one("gla")
    drawn = samples.draw(mixer, {**samples.sizes_for(mixer, 32), "k": 16, "v": 16, "b": 1, "h": 1}, seed=0)
    found = []
    for backend in ("eager", "triton"):
        given = {n: x.to(dtype).requires_grad_() for n, x in drawn.items()}
        y, state = mx.compile(mixer, form="chunked", chunk=16, backend=backend)(**given, return_state=True)
        (y.float().square().sum() + state["S"].square().sum()).backward()
        found.append([y.detach(), state["S"].detach(), *(x.grad for x in given.values())])
        assert y.dtype == dtype and state["S"].dtype == torch.float32
    named = {n for n in seen if n in (*given, "y", "d_y", *(f"d_{n}" for n in given))}
    assert named >= {"q", "k", "v", "g", "y", "d_q", "d_k", "d_v", "d_g"}
    assert {seen[n] for n in named} == {dtype}
    assert {d for n, d in seen.items() if n not in named} == between
    for ours, theirs in zip(found[1], found[0], strict=True):
        off = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert off < 3e-2, off


def test_factors_are_as_narrow_as_the_signals():
    of = doubled()
    how = {d: launch.factors(of, (d,), torch.float32) for d in (torch.float64, torch.bfloat16, torch.float16)}
    assert how == {torch.float64: "ieee", torch.bfloat16: "bf16", torch.float16: "tf32"}
    assert launch.factors(of, (torch.float32,), torch.float32) == "ieee"
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert launch.factors(of, (torch.float32,), torch.float32) == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_operator_is_well_behaved():
    f, signals = compiled("triton", "retnet", "recurrent")
    key, inputs = operator(f, {n: x.bfloat16().requires_grad_() for n, x in signals.items()})
    told = torch.library.opcheck(torch.ops.mixer_ir.run.default, (key, inputs), rtol=1e-2, atol=1e-2)
    assert set(told.values()) == {"SUCCESS"}


def test_a_graph_and_autocast():
    f, signals = compiled("triton", "gla", "recurrent")
    want = f(**signals)
    assert torch.equal(torch.compile(f, fullgraph=True, backend="aot_eager")(**signals), want)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(f(**signals), want)


def test_packed_pieces_are_exact():
    mixer = one("gated_deltanet")
    signals = samples.draw(mixer, {**samples.sizes_for(mixer, 9), "b": 1}, seed=0)
    found = []
    for backend in ("eager", "triton"):
        given = {n: x.clone().requires_grad_() for n, x in signals.items()}
        f = mx.compile(mixer, form="chunked", chunk=4, backend=backend)
        y, state = f(**given, cu_seqlens=torch.tensor([0, 1, 1, 6, 9]), return_state=True)
        (y.square().sum() + sum(x.square().sum() for x in state.values())).backward()
        found.append([y.detach(), *(x.grad for x in given.values())])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_two_runs_are_bit_equal():
    """Values and gradients: no two programs add to one number."""
    f, signals = compiled("triton", "deltanet", "chunked")
    found = []
    for _ in range(2):
        given = {n: x.clone().requires_grad_() for n, x in signals.items()}
        y = f(**given)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), list(given.values()))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ---------------------------------------------------------------------------------------------------- kept plans


def test_a_plan_is_made_once(own_cache, monkeypatch):
    """Then it comes from memory, and in another process from disk; it computes the same."""
    made = []
    monkeypatch.setattr(plans, "plan", lambda *a: made.append(a) or plan(*a))
    x, texts = torch.randn(5, 3), []
    for forget in (False, False, True):
        if forget:
            plans.MEMORY.clear()
        of = doubled()
        texts.append([k.source for k in plans.planned(real(of), Setting(), "cpu").kernels()])
        assert torch.equal(launch.prepare(of)({"x": x})["y"], 2 * x)
    assert len(made) == 1 and texts[0] == texts[1] == texts[2]
    assert len(list((own_cache / "triton").iterdir())) == 1


@pytest.mark.parametrize("harm", ["cut", "changed", "empty"])
def test_a_file_that_is_not_whole_is_made_again(own_cache, harm):
    plans.planned(real(doubled()), Setting(), "cpu")
    (path,) = (own_cache / "triton").iterdir()
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-9], "changed": whole[:-1] + b"?", "empty": b""}[harm])
    plans.MEMORY.clear()
    assert plans.planned(real(doubled()), Setting(), "cpu").kernels()
    assert path.read_bytes() == whole


def test_a_kept_plan_holds_nothing_but_plans(own_cache):
    (own_cache / "triton").mkdir()
    disk.Store("triton").put("key", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(BackendError, match=r"asks for (os|posix).system"):
        plans.read(disk.Store("triton").get("key"))


def test_a_folder_that_cannot_be_written_to_is_told_of(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="MIXER_IR_CACHE"):
        assert plans.planned(real(doubled()), Setting(), "cpu").kernels()


WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("disk", sys.argv[3])      # alone: it is to start at once
disk = importlib.util.module_from_spec(spec)
spec.loader.exec_module(disk)
store = disk.Store("triton")
print("ready", flush=True)
for i in range(int(sys.argv[2])):
    store.put("key", sys.argv[1].encode() * 1_000_000)
    data = store.get("key")
    assert data and len(set(data)) == 1 and len(data) == 1_000_000
"""


def writer(letter: str, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, letter, str(times), disk.__file__], stdout=subprocess.PIPE, text=True
    )


def test_processes_that_write_at_once_leave_whole_files(own_cache):
    many = [writer(letter, 20) for letter in "abc"]
    assert [p.wait(timeout=120) for p in many] == [0, 0, 0]
    assert len(set(disk.Store("triton").get("key"))) == 1
    assert [p.name for p in (own_cache / "triton").iterdir()] == ["key"]


def test_a_process_that_is_killed_leaves_whole_files(own_cache, monkeypatch):
    """Whatever it was writing is either there or not; what it left half written goes away in time."""
    for delay in (0.0, 0.003, 0.01, 0.03):
        p = writer("x", 10**6)
        assert p.stdout.readline() == "ready\n"
        time.sleep(delay)
        p.send_signal(signal.SIGKILL)
        p.wait()
        assert disk.Store("triton").get("key") in (None, b"x" * 1_000_000)
    monkeypatch.setattr(disk, "OLD", -1.0)
    disk.Store("triton").put("key", b"y")
    assert disk.Store("triton").get("key") == b"y"
    assert [p.name for p in (own_cache / "triton").iterdir()] == ["key"]


# ---------------------------------------------------------------------------------------------------- known faults

TURNED = """
    o_t = tl.arange(0, 64)
    o_k = tl.arange(0, 64)
    b_dot = tl.dot(b_x.to(tl.bfloat16), b_y.to(tl.bfloat16)).to(tl.float32)
    b_s = b_dot * 2
    b_z = tl.dot(tl.trans(b_s).to(tl.bfloat16), b_q.to(tl.bfloat16)).to(tl.float32)
"""
LOOPED = TURNED.replace("    b_z", "    for n in range(3):\n        b_z")


def kernel(text: str, warps: int) -> Kernel:
    return Kernel("some_kernel", f"def some_kernel():{text}", frozenset(), (), (), (), warps)


@pytest.mark.parametrize(
    ("text", "warps", "target", "version", "fine"),
    [
        (TURNED, 4, "sm_90", (3, 6, 0), False),
        (TURNED, 8, "sm_90", (3, 6, 0), False),
        (TURNED, 2, "sm_90", (3, 6, 0), True),
        (TURNED, 4, "sm_90", (3, 7, 1), True),
        (TURNED, 4, "sm_80", (3, 6, 0), True),
        (TURNED.replace("bfloat16", "float32"), 4, "sm_90", (3, 6, 0), True),
        (TURNED.replace("tl.trans(b_s)", "b_s"), 4, "sm_90", (3, 6, 0), True),
        (LOOPED, 4, "sm_90", (3, 7, 1), False),
        (LOOPED, 8, "sm_90", (3, 7, 1), True),
        (LOOPED.replace("64", "32"), 4, "sm_90", (3, 7, 1), True),
        (LOOPED, 4, "sm_90", (3, 9, 0), True),
    ],
)
def test_what_is_known_to_go_wrong_is_not_run(text, warps, target, version, fine):
    """A configuration that is known to be compiled wrongly is refused by name, and another is taken by default."""
    k = kernel(text, warps)
    assert (known.refusal(k, target, version) is None) == fine
    taken = known.sound(k, target, version)
    assert (taken.warps == warps) == fine and known.refusal(taken, target, version) is None


def test_a_refusal_says_why(monkeypatch):
    told = known.refusal(kernel(TURNED, 4), "sm_90", (3, 6, 0))
    assert "triton 3.6.0" in told and "some_kernel" in told and "3.7.1" in told
    monkeypatch.setattr(known, "WARPS", (4,))
    with pytest.raises(BackendError, match="wrongly in 16 bits"):
        known.sound(kernel(TURNED, 8), "sm_90", (3, 6, 0))


def test_versions_that_are_too_old_are_refused(monkeypatch):
    assert known.numbers("3.7.1+git12ab") == (3, 7, 1)
    assert known.too_old() is None
    monkeypatch.setattr(known, "installed", lambda: (3, 5, 1))
    with pytest.raises(BackendError, match=r"needs triton 3.6 or newer, and 3.5.1 is installed"):
        mx.compile(one("gla"), backend="triton")


def test_what_the_interpreter_cannot_run_is_named(monkeypatch):
    of = doubled()
    f = launch.prepare(of)
    monkeypatch.setattr(launch, "function", lambda source, name: broken())
    launch._compiled.cache_clear()
    with pytest.raises(BackendError, match="interpreter cannot run y_kernel"):
        f({"x": torch.randn(5, 3)})
    launch._compiled.cache_clear()


def broken() -> object:
    from triton.runtime.errors import InterpreterError

    class Broken:
        def __getitem__(self, grid: object) -> object:
            def run(*args: object, **options: object) -> None:
                raise InterpreterError("TypeError('only 0-dimensional arrays can be converted')")

            return run

    return Broken()


def test_without_triton_all_else_works():
    """The package may be missing: what needs it says what to install."""
    code = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton": raise ModuleNotFoundError(name)
import importlib.util as u
found = u.find_spec
u.find_spec = lambda name, *a: None if name == "triton" else found(name, *a)
sys.meta_path.insert(0, Hidden())
import torch, catalog, mixer_ir as mx
from mixer_ir.driver import samples
m = catalog.get("gla").mixer
print(mx.compile(m)(**samples.draw(m, samples.sizes_for(m, 4), seed=0)).shape)
for what in (lambda: mx.compile(m, backend="triton"), lambda: mx.compile(m).kernels("sm_90", t=64)):
    try: what()
    except mx.MixerError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *told = done.stdout.strip().splitlines()
    assert first.startswith("torch.Size")
    assert len(told) == 2 and all("pip install triton" in line for line in told)


# ---------------------------------------------------------------------------------------------------- tuning


def clock(times: dict[tuple[object, ...], float]):
    """A timer that gives what is written for a way, and counts what it was asked."""
    asked: list[object] = []

    def timer(run) -> float:
        run()
        asked.append(run)
        return times.get(len(asked), 1.0)

    return timer, asked


def test_the_fastest_way_is_kept_for_every_length(own_cache):
    """It is found by trying, then read: by other processes, at any length."""
    timer, asked = clock({3: 0.25})
    x = torch.randn(500, 3)
    assert torch.equal(launch.prepare(doubled(500), timer=timer)({"x": x})["y"], 2 * x)
    tried = len(asked)
    assert tried > 3
    (path,) = (own_cache / "tuned").iterdir()
    found = json.loads(path.read_bytes().partition(b"\n")[2])
    assert found["best"] == next(t["way"] for t in found["trials"] if t["time"] == 0.25)
    launch.prepare(doubled(900), timer=timer)({"x": torch.randn(900, 3)})
    assert len(asked) == tried
    assert len(list((own_cache / "tuned").iterdir())) == 1


def test_a_way_that_computes_something_else_is_dropped():
    """However fast; so is one that does not run."""
    right = torch.arange(4.0)

    def run(way: tune.Way) -> list[torch.Tensor]:
        if way.stages == 3:
            raise BackendError("too much shared memory")
        return [right + (way.warps == 8)]

    trials = tune.search(tune.Way(Setting()), run, lambda f: f() and 1.0)
    dropped = {(t.way.warps, t.way.stages): t.dropped for t in trials if t.time is None}
    assert any(w == 8 for w, _ in dropped) and any(s == 3 for _, s in dropped)
    assert all(w == 8 or s == 3 for w, s in dropped)
    assert any("off by" in x for x in dropped.values()) and any("shared memory" in x for x in dropped.values())
    assert tune.distance([torch.tensor([float("nan"), 1.0])], [torch.tensor([0.0, 1.0])]) == float("inf")


def test_tuning_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    f, signals = compiled("triton", "gla", "recurrent")
    with pytest.raises(BackendError, match="measures kernels on a GPU"):
        mx.compile(f.mixer, backend="triton", tune=True)(**signals)
    with pytest.raises(mx.MixerError, match="tune"):
        mx.compile(f.mixer, backend="eager", tune=True)


# ---------------------------------------------------------------------------------------------------- far addresses


def test_a_place_is_put_together_from_its_own_parts():
    """(ix // 2) · 2 + ix % 2 is ix; (ix % 2) · 2 + ix // 2 is not."""
    ix = counting(Dim("x", 4))
    outer, inner = quotient(ix, 2, 2)
    assert joined(outer, inner, 2) == ix
    assert joined(inner, outer, 2).text != ix.text


FAR = """
import os; os.environ["TRITON_INTERPRET"] = "1"
import sys, torch
from backends.triton import launch
from lowering.build import Builder, program

T, K = (1 << 21) + 3, 1024
x = torch.from_file(sys.argv[1], shared=True, size=T * K, dtype=torch.bool).view(T, K)     # a sparse file of 2 GB
x[-2, 7] = x[-1, 0] = True
b = Builder()
v = b.input("x", ("t", "k"), (T, K), "bool")
last = b.slice(v, "t", T - 3, T)
counted = b.reduce("sum", b.cast(last, "real"), ("k",))
flat = b.slice(b.merge(v, "t", "k", "n"), "n", T * K - K - 1, T * K)
made = launch.prepare(program({"y": b.cast(last, "real"), "n": counted, "f": b.cast(flat, "real")}, [v]))({"x": x})
assert torch.equal(made["y"], x[-3:].float()) and made["n"].tolist() == [0, 1, 1]
assert torch.equal(made["f"], x.view(-1)[-K - 1 :].float()) and made["f"].sum() == 1
print("fine")
"""


def test_addresses_beyond_two_to_the_31_are_reached(tmp_path):
    """A sparse file stands for an array of more than 2³¹ entries; offsets of 32 bits would fall outside of it."""
    path = tmp_path / "sparse"
    with path.open("wb") as f:
        f.truncate(((1 << 21) + 3) * 1024)
    done = subprocess.run([sys.executable, "-c", FAR, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr[-2000:]
