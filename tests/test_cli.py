"""The command line: what every command prints, its JSON, its exit status, and what it says of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mixer_ir as mx
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
        ("list --jsn", "unrecognized arguments: --jsn"),
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
    ],
)
def test_bad_usage_is_told_with_status_2(capsys, files, arguments, words):
    if "plot" in arguments:
        pytest.importorskip("matplotlib")
    status, out, err = run(capsys, *arguments.format(**files).split())
    assert status == 2 and not out
    assert err.startswith("mixer-ir: ") and words.format(**files) in err


def test_help_is_no_error(capsys):
    for command in ((), ("list",), ("show",), ("verify",), ("prove",), ("plot",), ("demo",)):
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
