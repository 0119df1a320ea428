"""The command line: what every command prints, its JSON, its exit status, and what it says of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mixer_ir as mx
from backends import missing
from mixer_ir import cli

ROOT = Path(__file__).resolve().parent.parent


@mx.recurrence
def memory(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t"):
    """S_t = e^g S_{t−1} + k vᵀ"""
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def bent(h: mx.State("k"), x: "b t k"):
    h = mx.tanh(h + x)
    return h, h


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Mixers and what is none, written to files."""
    texts = {
        "memory": mx.dumps(memory), "bent": mx.dumps(bent), "junk": "{", "other": '{"a": 1}',
        "code": '{"mixer_ir": 1, "nodes": [["__import__", "os"]]}',
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    return {name: str(tmp_path / f"{name}.json") for name in (*texts, "absent")}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit status, output, errors) of one command."""
    try:
        status = cli.main(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err and err.count("\n") <= 2
    return status, out, err


def test_list(capsys):
    status, out, _ = run(capsys, "list")
    names = [line.split()[0] for line in out.splitlines()]
    assert status == 0 and names == list(mx.catalog.list())
    status, out, _ = run(capsys, "list", "--json")
    assert status == 0 and [e["name"] for e in json.loads(out)] == names
    assert all(e["paper"] and e["year"] for e in json.loads(out))


def test_show(capsys, files):
    status, out, _ = run(capsys, "show", "retnet")
    assert status == 0 and "forms   recurrent, chunked" in out and "traits" in out
    status, out, _ = run(capsys, "show", files["memory"], "--json")
    (shown,) = json.loads(out)
    assert status == 0 and shown["name"] == "memory" and shown["returns"] == ["b", "t", "v"]
    assert shown["forms"] == memory.forms() and shown["traits"]["causal"] is True
    assert shown["signals"]["g"] == ["b", "t"] and shown["equation"] == str(memory)


def test_verify_tells_by_its_status(capsys, files, monkeypatch):
    opened = mx.verify.__globals__  # the module's names: mixer_ir.trust.verify itself is the function
    monkeypatch.setitem(opened, "BACKENDS", {"eager": None})
    status, out, _ = run(capsys, "verify", files["memory"], "--lengths", "1,3", "--seed", "2")
    assert status == 0 and "all right" in out
    status, out, _ = run(capsys, "verify", files["memory"], "--lengths", "2", "--json")
    (report,) = json.loads(out)
    assert status == 0 and report["ok"] is True and {row["length"] for row in report["rows"]} == {2}
    monkeypatch.setattr("mixer_ir.trust.expected.RELATIVE", dict.fromkeys(opened["DTYPES"], (-1.0, -1.0)))
    status, out, _ = run(capsys, "verify", files["memory"], "--lengths", "2")
    assert status == 1 and "WRONG" in out


def test_prove_tells_by_its_status(capsys, files):
    status, out, _ = run(capsys, "prove", files["memory"])
    assert status == 0 and "memory: proved" in out
    status, out, _ = run(capsys, "prove", files["bent"], "--json")
    (proof,) = json.loads(out)
    assert status == 1 and proof["ok"] is False
    assert any("tanh" in step["because"] + step["statement"] for step in proof["steps"] if not step["ok"])


SMALL = ("--t", "16", "--sizes", "b=1,k=4,v=4")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rounds and no more."""
    monkeypatch.setattr("mixer_ir.driver.bench.BUDGET", 0.0)


@pytest.mark.usefixtures("hasty")
def test_bench_times_every_form_on_every_backend(capsys, files):
    status, out, err = run(capsys, "bench", files["memory"], *SMALL, "--t", "64", "--json")
    (report,) = json.loads(out)
    assert status == 0 and report["ok"] is True and not err
    assert report["sizes"] == {"b": 1, "t": 64, "k": 4, "v": 4} and report["work"] == "forward"
    assert {"device", "torch", "python"} <= report["machine"].keys() and "threads" in report["machine"]["device"]
    rows = report["rows"]
    here = {"reference", "eager"} | ({"native"} if missing("native") is None else set())
    every = {(form, backend) for form in memory.forms() for backend in here}
    assert {(r["form"], r["backend"]) for r in rows} == every | {("auto", "auto")}
    assert [r["seconds"] for r in rows] == sorted(r["seconds"] for r in rows) and rows[0]["ratio"] == 1
    assert all(r["tokens"] * r["seconds"] == pytest.approx(64) and r["predicted"] > 0 for r in rows)
    assert all(sum(r["chosen"] for r in rows if r["backend"] == b) == 1 for b in here)
    left = {x["what"]: x["why"] for x in report["left_out"]}
    assert "asked for by name" in left["symbolic"]


@pytest.mark.usefixtures("hasty")
def test_bench_prints_a_table_and_what_is_left_out(capsys, files, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    some = ("bench", files["memory"], *SMALL, "--backend", "eager")
    status, out, err = run(capsys, *some, "--form", "recurrent", "dense", "--json", "--dtype", "bfloat16")
    predicted = {r["form"]: r["predicted"] for r in json.loads(out)[0]["rows"]}
    assert status == 0 and "first runs, 2 of 2: dense on eager" in err and err.endswith("\r\x1b[K")
    slow = max(predicted, key=predicted.__getitem__)
    between = sum(predicted.values()) / 2
    status, out, _ = run(capsys, *some, "--form", *predicted, "--limit", str(between), "--backward")
    assert status == 0 and "t = 16" in out and "float32; forward and backward" in out and "tokens/s" in out
    table, _, left = out.partition("left out")
    assert f"{slow} on eager: predicted to take" in left and slow not in table


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("backward", [False, True])
def test_bench_does_not_time_what_differs(capsys, files, monkeypatch, backward):
    right = mx.CompiledMixer.__call__

    def wrong(self, **signals):
        y = right(self, **signals)
        if self.form != "scan":
            return y
        return (y + y.detach()) / 2 if backward else y.roll(1, 1)

    monkeypatch.setattr(mx.CompiledMixer, "__call__", wrong)
    some = ("bench", files["memory"], *SMALL, "--backend", "eager", *["--backward"] * backward)
    status, out, _ = run(capsys, *some)
    assert status == 1 and "not timed: result" in out and "scan on eager differs from" in out and "tokens/s" not in out
    status, out, _ = run(capsys, *some, "--json")
    (report,) = json.loads(out)
    assert status == 1 and report["ok"] is False and "scan on eager" in report["wrong"] and not report["rows"]
    assert run(capsys, *some, "--form", "recurrent", "chunked")[0] == 0


def test_plot(capsys, files, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    out = tmp_path / "picture.png"
    status, said, _ = run(capsys, "plot", files["memory"], "--out", str(out), "--length", "8")
    assert status == 0 and said == f"wrote {out}\n" and out.read_bytes().startswith(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "plot", files["memory"], "--length", "4")[0] == 0 and (tmp_path / "memory.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("lst", "invalid choice: 'lst'"),
        ("show", "the following arguments are required: NAME"),
        ("show gated_deltnet", "no mixer 'gated_deltnet'; did you mean 'gated_deltanet'?"),
        ("prove nothing", "no mixer 'nothing'"),
        ("list --jsn", "unrecognized arguments: --jsn\nsee `mixer-ir list --help`"),
        ("kernels gla --t 64", "unrecognized arguments: --t 64"),
        ("verify gla --lengths 0", "'0' is not a list of whole numbers from 1, as in 1,7,64"),
        ("verify gla --lengths 2,", "'2,' is not a list of whole numbers from 1"),
        ("verify gla --seed x", "invalid int value: 'x'"),
        ("show {absent}", "No such file"),
        ("show {junk}", "{junk}: "),
        ("show {junk}", "not a mixer's text"),
        ("show RetNet", "did you mean 'retnet'?"),
        ("kernels retnet --out {junk}", "cannot make the directory"),
        ("show {other}", "this is JSON, but not a mixer's"),
        ("verify {code}", ""),
        ("plot {bent}", "bent is not a matrix applied to one of its signals"),
        ("plot {memory} --length 0", "length = 0: a picture needs at least one step"),
        ("plot {memory} --length 4 --out /nowhere/x.png", "cannot write a picture to /nowhere/x.png"),
        ("plot {memory} --length 4 --out x.nothing", "cannot write a picture to x.nothing"),
        ("demo --out {junk}", "cannot make the directory"),
        ("bench {memory} --t 0", "'0' is not a whole number from 1"),
        ("bench {memory} --sizes k", "'k' is not a list of sizes from 1, as in b=2,h=8,k=64"),
        ("bench {memory} --sizes t=3", "the number of time steps is given with --t"),
        ("bench {memory} --sizes z=3", "{memory} has no axis 'z'; its axes: b, k, t, v"),
        ("bench {memory} --form chunkd", "there is no form 'chunkd' (did you mean 'chunked'?)"),
        ("bench {memory} --form fft", "memory has no form 'fft'"),
        ("bench {memory} --backend eagr", "there is no backend 'eagr' (did you mean 'eager'?)"),
        ("bench {memory} --dtype float23", "signals are not drawn in 'float23' (did you mean 'float32'?)"),
        ("bench {memory} --limit nan", "'nan' is not a number of seconds above 0"),
        ("bench {memory} --t 64 --backend symbolic", "nothing is left to be timed"),
        ("bench absent", "no mixer 'absent'"),
    ],
)
def test_bad_usage_is_told_with_status_2(capsys, files, arguments, words):
    if "plot" in arguments:
        pytest.importorskip("matplotlib")
    status, out, err = run(capsys, *arguments.format(**files).split())
    assert status == 2 and not out
    assert err.startswith("mixer-ir: ") and words.format(**files) in err


def test_help_is_no_error(capsys):
    for command in ((), ("list",), ("show",), ("verify",), ("prove",), ("bench",), ("plot",), ("demo",)):
        status, out, _ = run(capsys, *command, "--help")
        assert status == 0 and "usage: mixer-ir" in out


def test_version(capsys):
    assert run(capsys, "--version")[:2] == (0, f"mixer-ir {mx.__version__}\n")


def test_demo_hands_on_its_status(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(mx.catalog, "demo", lambda out: 0 if out == tmp_path / "new" and out.is_dir() else 1)
    assert run(capsys, "demo", "--out", str(tmp_path / "new"))[0] == 0
    assert run(capsys, "demo", "--out", str(tmp_path / "elsewhere"))[0] == 1


def test_an_interruption_is_quiet(capsys, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mx, "prove", interrupted)
    assert run(capsys, "prove", "retnet")[0] == 130


def test_python_m_and_a_reader_that_goes_away():
    line = f"{sys.executable} -m mixer_ir list"
    done = subprocess.run(line.split(), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and "retnet" in done.stdout and not done.stderr
    shell = f"set -o pipefail; {line} | head -n 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and not done.stderr


def test_a_closed_pipe_does_not_hide_a_failed_check(files):
    line = f"set -o pipefail; {sys.executable} -m mixer_ir prove {files['bent']} | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and not done.stderr
