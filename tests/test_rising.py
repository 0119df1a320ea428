"""Under "auto", programs start on PyTorch's operators and rise to compiled C when that pays, never in anyone's way."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import mixer_ir as mx
from backends import native, rising
from backends.native import compiler, jobs, kept
from backends.rising import Rising
from lowering.context import SignalType
from lowering.lower import lower
from lowering.planner import plan
from lowering.profile import CPU
from mixer_ir.driver import compiled, running
from mixer_ir.driver.cache import Cache
from mixer_ir.driver.explain import likely_kinds
from mixer_ir.driver.streaming import StreamState

pytestmark = pytest.mark.skipif(native.missing() is not None, reason="no C compiler")
ROOT = Path(__file__).resolve().parent.parent
CC = native.installed().command[0] if native.missing() is None else "cc"


@mx.recurrence
def bent(h: mx.State("k"), x: "b t k", w: "k"):
    """h_t = tanh(w h_{t−1} + x_t): a loop over time on operators, which compiled C beats by far"""
    h = mx.tanh(w * h + x)
    return h, h


def signals(t: int = 200) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(2, t, 8), "w": torch.rand(8)}


@pytest.fixture(autouse=True)
def eager_to_rise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache of the test's own, and programs that are compiled after their first call."""
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rising, "LEAST", 0.0)
    monkeypatch.setattr(rising, "price", lambda program: 0.0)
    monkeypatch.setattr(rising, "_WARNED", set())
    yield


def programs(f: mx.CompiledMixer) -> list[Rising]:
    return [p for made in f._programs.held() for p in made.run.way.made]


def settled(f: mx.CompiledMixer, call: Callable[[], object], limit: float = 60) -> list[Rising]:
    """Calls until no program waits for anything."""
    end = time.monotonic() + limit
    call()
    while any(p.stage not in ("compiled", "stays") for p in programs(f)):
        call()
        assert time.monotonic() < end, [str(p) for p in programs(f)]
    return programs(f)


def trained(f: mx.CompiledMixer, s: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    inputs = {n: x.detach().requires_grad_() for n, x in s.items()}
    y = f(**inputs)
    return (y.detach(), *torch.autograd.grad(y.square().sum(), list(inputs.values())))


def test_forward_and_adjoint_rise_and_keep_their_values() -> None:
    f, s = mx.compile(bent), signals()
    want = trained(mx.compile(bent, backend="eager"), s)
    assert [p.stage for p in settled(f, lambda: trained(f, s))] == ["compiled", "compiled"]
    for ours, theirs in zip(trained(f, s), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    told = " ".join(str(f.explain(**s)).split())
    assert "the adjoint for x, w from y: compiled C, it was faster in its first calls" in told


@pytest.mark.parametrize("forgotten", [False, True])
def test_calls_from_a_state_of_elsewhere_come_to_the_short_way(
    forgotten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    f, s = mx.compile(bent), signals()
    start = StreamState({"h": torch.zeros(2, 8)})
    f(**s, initial_state=start, return_state=True)
    if forgotten:  # as when many other programs were made meanwhile
        f._programs = Cache(64)
    made = settled(f, lambda: f(**s, initial_state=start, return_state=True))
    assert [p.stage for p in made] == ["compiled"]
    f(**s, initial_state=start, return_state=True)
    want = mx.compile(bent, backend="eager")(**s)
    monkeypatch.setattr(compiled, "bind", None)
    y, state = f(**s, initial_state=start, return_state=True)
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    assert state.length == 200


def test_what_was_compiled_is_taken_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    s = signals()
    f = mx.compile(bent)
    settled(f, lambda: trained(f, s))
    monkeypatch.setattr(rising, "LEAST", math.inf)
    again = mx.compile(bent)
    made = trained(again, s)
    assert [p.stage for p in programs(again)] == ["compiled", "compiled"]
    for ours, theirs in zip(made, trained(f, s), strict=True):
        assert torch.equal(ours, theirs)
    other = mx.compile(bent)
    other(**signals(100))
    assert [p.stage for p in programs(other)] == ["operators"]


@pytest.mark.parametrize("change", ["processor", "emitter"])
def test_what_another_machine_or_another_emitter_made_is_left_alone(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    f, s = mx.compile(bent), signals()
    settled(f, lambda: f(**s))
    monkeypatch.setattr(kept, change, lambda *_: "another")
    monkeypatch.setattr(rising, "LEAST", math.inf)
    again = mx.compile(bent)
    again(**s)
    assert [p.stage for p in programs(again)] == ["operators"]


def test_a_program_that_is_not_faster_goes_back_and_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    f, s = mx.compile(bent), signals(20)  # on operators it is slow twice, where it is cold or beside a compiler
    loaded = native.load

    def slow(*of: object) -> Callable[..., object]:
        run = loaded(*of)
        return lambda inputs: (time.sleep(0.05), run(inputs))[1]

    operators, cold = running.eager.prepare, iter([0.08, 0.08])

    def warming(*of: object, **how: object) -> Callable[..., object]:
        run = operators(*of, **how)
        return lambda arrays: (time.sleep(next(cold, 0)), run(arrays))[1]

    monkeypatch.setattr(native, "load", slow)
    monkeypatch.setattr(running.eager, "prepare", warming)
    (made,) = settled(f, lambda: f(**s))
    assert made.stage == "stays" and "not faster" in made.why
    again = mx.compile(bent)
    again(**s)
    assert [p.stage for p in programs(again)] == ["stays"]


def test_what_should_be_slower_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rising, "NATIVE", rising.CPU)
    f, s = mx.compile(bent), signals(20)
    (made,) = settled(f, lambda: f(**s))
    assert made.stage == "stays" and "should take 1 times as long" in made.why


def test_small_programs_start_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(rising.BACKGROUND, "ask", lambda make: pytest.fail("a compiler was started"))
    f, s = mx.compile(bent), signals(8)
    for _ in range(5):
        trained(f, s)
    assert [p.stage for p in programs(f)] == ["operators", "operators"]


def test_where_others_look_on_operators_run() -> None:
    f, s = mx.compile(bent), signals(20)
    settled(f, lambda: f(**s))
    want = f(**s)
    batched = torch.func.vmap(lambda x: f(x=x, w=s["w"]))(s["x"][None])
    torch.testing.assert_close(batched[0], want)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(f(**s), mx.compile(bent, backend="eager")(**s))
    finally:
        torch.use_deterministic_algorithms(False)


# ------------------------------------------------------------------ compilers that fail


def wrapper(path: Path, before: str) -> str:
    """A compiler that does something first."""
    path.write_text(f'#!/bin/sh\n{before}\nexec {CC} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("cc", ["no-such-compiler", "'", "/"])
def test_without_a_compiler_operators_stay_and_explain_says_so(cc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", cc)
    f, s = mx.compile(bent), signals(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (made,) = settled(f, lambda: f(**s))
    assert made.stage == "stays"
    assert "install gcc or clang" in str(f.explain(**s)).replace("\n     ", "")


def test_a_compiler_that_fails_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fails = 'case "$*" in *program.c*) echo "program.c: error: no room" >&2; exit 1;; esac'
    monkeypatch.setenv("CC", wrapper(tmp_path / "failing-cc", fails))
    f, s = mx.compile(bent), signals(20)
    with pytest.warns(RuntimeWarning, match=r"goes on with PyTorch's operators .*error: no room .*\.log") as told:
        made = settled(f, lambda: trained(f, s))
    assert len(told) == 1
    assert [p.stage for p in made] == ["stays", "stays"]
    (log, *_) = (tmp_path / "cache" / "native").glob("*.log")
    assert "no room" in log.read_text() and "void" in log.read_text()
    with pytest.raises(mx.MixerError, match="no room"):
        mx.compile(bent, backend="native")(**s)


def test_a_cache_that_takes_nothing_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path / "file"))
    f, s = mx.compile(bent), signals(20)
    with pytest.warns(RuntimeWarning, match="name another folder with MIXER_IR_CACHE"):
        (made,) = settled(f, lambda: f(**s))
    assert made.stage == "stays"


def test_without_openmp_one_thread_does_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refuses = 'case "$*" in *-fopenmp*) echo "error: no OpenMP" >&2; exit 1;; esac'
    monkeypatch.setenv("CC", wrapper(tmp_path / "plain-cc", refuses))
    assert "-fopenmp" not in compiler.installed().flags
    s = signals(20)
    torch.testing.assert_close(mx.compile(bent, backend="native")(**s), mx.compile(bent, backend="eager")(**s))


def test_a_record_that_cannot_be_read_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f, s = mx.compile(bent), signals(20)
    settled(f, lambda: f(**s))
    monkeypatch.setattr(rising, "LEAST", math.inf)
    for text in ("", "{}", "[]", '{"library": "x.so", "routines": "y.so", "arena": 0, "apart": 0, "seconds": [1, 2]}'):
        (record,) = (tmp_path / "cache" / "native").glob("*.json")
        record.write_text(text)
        again = mx.compile(bent)
        again(**s)
        assert [p.stage for p in programs(again)] == ["operators"], text


# ------------------------------------------------------------------ processes

SCRIPT = """
import os, signal, sys, time
import torch
from backends import rising
from tests.test_rising import bent, programs, settled, signals
import mixer_ir as mx
rising.LEAST, rising.price = 0.0, lambda program: 0.0
torch.set_num_threads(2)
f, s = mx.compile(bent), signals(50)
f(**s); f(**s)
"""


def started(then: str, **environment: str) -> subprocess.Popen[str]:
    """A process whose program is being compiled."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT + then],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def slow(path: Path) -> dict[str, str]:
    """A compiler that says who it is, and takes its time over programs."""
    return {
        "CC": wrapper(path / "slow-cc", f'case "$*" in *program.c*) echo $$ > {path}/pid; sleep 60;; esac'),
        "MIXER_IR_CACHE": str(path / "cache"),
    }


WAIT = "\nwhile not os.path.exists({!r}): time.sleep(0.01)\n"


def test_no_compiler_outlives_the_interpreter(tmp_path: Path) -> None:
    process = started(WAIT.format(str(tmp_path / "pid")) + "print(f.explain(**s))", **slow(tmp_path))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not err, err
    assert "a compiler is at work" in out
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not list((tmp_path / "cache" / "native").iterdir())


def test_an_interrupt_is_for_python_and_not_for_the_compiler(tmp_path: Path) -> None:
    then = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background may hand on that it is ignored
try:
    print("ready", flush=True)
    while True: time.sleep(0.01)
except KeyboardInterrupt:
    print([p.stage for p in settled(f, lambda: f(**s))], flush=True)
"""
    process = started(then, MIXER_IR_CACHE=str(tmp_path / "cache"))
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("['compiled']\n", "")


def test_a_fork_goes_on_by_itself(tmp_path: Path) -> None:
    then = """
want = settled(f, lambda: f(**s)) and f(**s)
g, more = mx.compile(bent), signals(51)
g(**more); g(**more)
child = os.fork()
if child == 0:
    alike = torch.equal(f(**s), want)
    made = [p.stage for p in settled(g, lambda: g(**more))]
    print(alike, made, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    process = started(then, MIXER_IR_CACHE=str(tmp_path / "cache"))
    out, err = process.communicate(timeout=120)
    assert (out, err) == ("True ['compiled']\n", "")


def test_a_thread_that_ends_the_work_is_started_anew_after_a_fork() -> None:
    here = jobs.Background()
    assert _done(here.ask(lambda: 42)).result == 42
    here.forget()
    assert _done(here.ask(lambda: 43)).result == 43
    assert isinstance(_done(here.ask(lambda: 1 // 0)).error, ZeroDivisionError)


def _done(job: jobs.Job[int]) -> jobs.Job[int]:
    for _ in range(1000):
        if job.done:
            return job
        time.sleep(0.01)
    raise AssertionError("the job was never done")


# ------------------------------------------------------------------ forms


@pytest.mark.parametrize("name", mx.catalog.list())
def test_the_state_of_a_stream_does_not_hang_on_the_form(name: str) -> None:
    """So a program that rises to another form goes on from the states that the first one left."""
    mixer = mx.catalog.get(name).mixer
    kinds, sizes = likely_kinds(mixer), {"t": 8, "b": 2}
    types = {n: SignalType(a, tuple(sizes.get(x, 4) for x in a), kinds[n]) for n, a in mixer.signals.items()}
    found = set()
    for form in mixer.forms() if mixer.traits.streamable else ():
        forms = plan(mixer.expr, types, CPU, form=form).choices
        made = lower(mixer.expr, returns=mixer.returns, signals=types, forms=forms, initial=True, final=True)
        found.add((frozenset(made.entering.items()), frozenset(made.states.items())))
    assert len(found) <= 1
