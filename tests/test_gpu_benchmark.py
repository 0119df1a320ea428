"""The benchmark on a GPU, held without one: every cell in Triton's interpreter, its schedule with a made-up timer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import mixer_ir as mx
from benchmarks import gpu, gpu_cells, gpu_report
from benchmarks.boxed import Alone, Boxes, Result
from benchmarks.gpu_cases import CASES, FIRST, SWEEP, TABLE, Peer, Signals
from benchmarks.gpu_cells import OURS, WORKS, Task
from tests.chores import chores

TINY = (1, 8, 2, 4)


def twice(run: Callable[[], object]) -> list[float]:
    """A timer: it runs, and says what it is told to."""
    run()
    run()
    return [0.002, 0.001, 0.003]


def cell(task: Task) -> Result:
    return gpu_cells.measure(task, nullcontext, twice, "cpu")


def test_without_a_gpu_it_says_so() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=hidden)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "benchmarks.gpu: there is no GPU that torch can use, so there is nothing to measure\n"


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert gpu.main([]) == 2 and "the package triton is not installed" in capsys.readouterr().err


def test_a_check_passes_where_the_kernels_are_right_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_cells, "LENGTH", 5)
    monkeypatch.setattr(gpu_cells, "SIZES", {"b": 1, "h": 1, "k": 3, "v": 2})
    task = Task("correct", "gla/gated_linear_attention", form="recurrent", dtype="float32")
    good = cell(task)
    assert good["ok"] is True and 0 < good["value"] < good["allowed"] and good["gradient"] < good["allowed gradient"]
    compiled = mx.compile
    monkeypatch.setattr(mx, "compile", lambda m, **o: lambda **s: 1.01 * compiled(m, **o)(**s))
    assert cell(task)["ok"] is False


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_a_mixer_with_signals_that_fit(name: str) -> None:
    case = CASES[name]
    signals = case.signals(TINY, torch.device("cpu"), torch.bfloat16)
    f = mx.compile(case.mixer, form=case.form, backend="eager")
    y = f(**signals)
    wanted = [x for x in signals.values() if x.requires_grad]
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.float().square().sum(), wanted))
    assert y.isfinite().all() and case.flops(TINY) > 0 and y.shape[:2] == (1, 8)


@pytest.mark.parametrize(("name", "peer"), [("softmax attention", "sdpa"), ("gated convolution", "torch.fft")])
def test_a_peer_that_runs_here_agrees(name: str, peer: str) -> None:
    assert cell(Task("agree", name, peer))["ok"] is True
    both = cell(Task("speed", name, peer, TINY))
    assert both["forward"] == {"seconds": 0.002, "least": 0.001, "runs": 3}
    assert both["bytes"]["forward+backward"] > both["bytes"]["forward"] > 0


def test_a_peer_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(f: Callable[..., torch.Tensor], s: Signals) -> torch.Tensor:
        return f(s["q"], s["k"], s["v"], is_causal=False).transpose(1, 2)

    case = CASES["softmax attention"]
    sdpa = case.peers["sdpa"]
    monkeypatch.setitem(case.peers, "sdpa", Peer(sdpa.module, sdpa.name, other, sdpa.lay))
    assert cell(Task("agree", "softmax attention", "sdpa"))["ok"] is False


def test_our_own_time_is_that_of_generated_kernels() -> None:
    made = cell(Task("speed", "gated convolution", OURS, (1, 4, 1, 2)))
    assert set(made) == {"bytes", *WORKS}


def test_what_fails_is_a_result() -> None:
    assert "KeyError" in cell(Task("speed", "no such case", OURS, TINY))["error"]


def test_rates() -> None:
    found = cell(Task("rates"))
    assert found["copy"] == 2 * 512 * 64 * 2 / 0.002 and found["matmul"] == 2 * 64**3 / 0.002


def test_the_schedule_covers_all_that_is_asked_for() -> None:
    checked = {t.what for t in gpu.checks() if t.dtype == "float32"}
    assert checked == {f"{n}/{k}" for n in mx.catalog.list() for k in mx.catalog.get(n).mixers}
    keys = [t.key for t in (*gpu.checks(), *gpu.agreements(), *gpu.speeds())]
    assert len(set(keys)) > 250
    shapes = {t.shape for t in gpu.speeds()}
    assert shapes == {*TABLE, *SWEEP} and max(s[1] for s in shapes) == 65536
    assert {t.what for t in gpu.speeds()} == set(CASES) and set(FIRST) <= set(CASES)


# ---------------------------------------------------------------------------------------------------- time boxes


def test_slow_and_dying_work_is_cut_off_and_the_rest_goes_on() -> None:
    told: dict[str, Result] = {}
    began = time.monotonic()
    tasks = ["sleeps alone", "dies", "a", "b"]
    with Boxes(chores, 2) as boxes:
        assert boxes.run(tasks, told.__setitem__, each=1.0, until=began + 50) == []
        assert time.monotonic() - began < 45
        assert told["a"] == {"did": "a"} and told["b"] == {"did": "b"}
        assert told["dies"] == {"error": "its process died with status 3"}
        assert told["sleeps alone"]["error"].startswith("cut off after")
        until = time.monotonic() + 0.5
        assert set(boxes.run(["sleeps", "sleeps", "c"], told.__setitem__, each=60.0, until=until)) == {"sleeps", "c"}
        assert boxes.run(["d"], told.__setitem__, each=60.0, until=until) == ["d"] and "d" not in told


# ---------------------------------------------------------------------------------------------------- what is written


def made_up(task: Task, alone: Alone) -> Result:
    """Results without measuring: ours twice as fast, but for one."""
    if task.kind == "rates":
        return {"copy": 3e12, "matmul": 7e14}
    if task.kind == "correct":
        right = not task.what.startswith("lru/")
        return {"value": 1e-6, "gradient": 1e-5, "allowed": 1e-4, "allowed gradient": 5e-4, "ok": right}
    if task.kind == "agree":
        return {"difference": 1e-3, "ok": True}
    if task.kind == "tune":
        return {"ok": True}
    if task.shape == TABLE[-1]:
        return {"error": "out of memory"}
    seconds = task.shape[1] * (1e-6 if task.contender == OURS and task.what != "kda" else 2e-6)
    one = {"seconds": seconds, "least": seconds, "runs": 7}
    return {"bytes": dict.fromkeys(WORKS, 1 << 30), **dict.fromkeys(WORKS, one)}


def test_results_are_written_as_they_come_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "agreements", lambda: [Task("agree", "gla", "fla"), Task("tune", "gla", "fla", TABLE[0])])
    monkeypatch.setattr(gpu_cells, "find_spec", lambda name: True)
    record = gpu.Record(tmp_path, gpu.machine(), resume=False)
    gpu.run(record, made_up, 60.0, 1)
    page = (tmp_path / "gpu.md").read_text()
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert told["results"] == record.results and record.missing == []
    assert "copy 3.00 TB/s, bf16 product 700 TFLOP/s" in page and "| lru/lru |" in page and "WRONG" in page
    assert "| 4,2048,16,128 | forward+backward | 2.048 | 4.096 | 2.00x |" in page
    assert "kda at 4,2048,16,128: 1.00x" not in page and "out of memory" in page
    assert {r for _, _, r in gpu_report.ratios(record.results)} == {1.0, 2.0}
    if gpu_report.plots(record.results, tmp_path):
        assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
    again = gpu.Record(tmp_path, gpu.machine(), resume=True)
    assert {t.key for t in again.new(gpu.speeds())} == {t.key for t in gpu.speeds() if t.shape == TABLE[-1]}


def test_what_was_not_reached_is_named(tmp_path: Path) -> None:
    record = gpu.Record(tmp_path, {}, resume=False)
    gpu.run(record, made_up, 0.0, 1)
    assert not record.results and "rates" not in record.missing
    assert Task("speed", "gla", OURS, TABLE[0]).key in record.missing
    assert "## Not reached" in (tmp_path / "gpu.md").read_text()
