"""The CPU benchmarks at their smallest: they run, they refuse to time what is wrong, and the report is the JSON's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mixer_ir as mx
from backends import missing, rising
from benchmarks import cpu, cpu_layers, cpu_mixers
from benchmarks.cpu_cases import CASES, LONG, WIDE, Case
from benchmarks.cpu_goals import Goal, Results, goals
from benchmarks.cpu_mixers import FORWARD, Settings
from benchmarks.cpu_peers import PEERS
from benchmarks.cpu_report import families, markdown, picture
from benchmarks.limits import Rates, Work, measured, operations, planned
from mixer_ir.driver.settling import impatient
from mixer_ir.driver.timing import ResultsDiffer, race

RATES = Rates(copy=2e10, matmul=2e11)
SMALL = {"b": 1, "h": 1, "k": 4, "v": 4, "g": 1}


def small(name: str) -> Case:
    """A case with one narrow head."""
    case = next(c for c in CASES if c.name == name)
    return replace(case, sizes={**case.sizes, **SMALL})


def results(rows: list[dict[str, Any]]) -> dict[str, Any]:
    rates = {"copy": RATES.copy, "matmul": RATES.matmul}
    tables = {"speed": [{"mixer": "gated_linear", "work": FORWARD, "ratio": 6.0}]}
    return {
        "command": "c",
        "quick": False,
        "machine": {"device": "d"},
        "rates": rates,
        "seconds": 60.0,
        "rows": rows,
        "tables": tables,
    }


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two cases at two lengths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXER_IR_CACHE", str(tmp_path_factory.mktemp("cache")))
        settings = Settings(lengths=(8, 16), budget=0.0)
        return list(cpu_mixers.rows([small("gla"), small("softmax_attention")], settings))


def test_every_contender_has_a_row_with_a_time_or_a_reason(rows: list[dict[str, Any]]) -> None:
    for name in ("gla", "softmax_attention"):
        wanted = {*cpu_mixers.OURS, *(p.name for p in PEERS[name])}
        for t in (8, 16):
            found = {r["contender"]: r for r in rows if (r["mixer"], r["T"], r["work"]) == (name, t, FORWARD)}
            assert set(found) == wanted
            assert all(r.get("seconds", 0) > 0 or r["skipped"] for r in found.values())
    if missing("native") is None:
        assert all("seconds" in r for r in rows if r["contender"] == "native")


def test_a_state_that_does_not_grow_is_decoded_from_once(rows: list[dict[str, Any]]) -> None:
    decoded = {(r["mixer"], r["T"]) for r in rows if r["work"] == "decode"}
    assert decoded == {("gla", 8), ("softmax_attention", 8), ("softmax_attention", 16)}


def test_the_report_is_made_from_the_json(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    data = results(rows)
    path = cpu.write(data, tmp_path)
    read = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(data))
    assert path.read_text(encoding="utf-8") == markdown(read)
    assert all((tmp_path / picture(family)).stat().st_size > 1000 for family in families(read))
    changed = json.loads(json.dumps(data))
    changed["tables"]["speed"][0]["ratio"] = 4.25
    assert "| 4.25 | **not reached** |" in markdown(changed)
    assert "| 6 | reached |" in markdown(data)


def test_what_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(8)
    with pytest.raises(ResultsDiffer, match=r"result 0: shifted differs from right by .* of its largest entry"):
        race({"right": lambda: (x,), "shifted": lambda: (x.roll(1),)})
    with pytest.raises(ResultsDiffer, match=r"shape \[4\]"):
        race({"right": lambda: (x,), "half": lambda: (x[:4],)})
    with pytest.raises(ResultsDiffer, match="nan"):
        race({"right": lambda: (x,), "nothing": lambda: (x * float("nan"),)})
    assert race({"right": lambda: (x,), "close": lambda: (x + 1e-6,)})["close"].seconds > 0

    wrong = replace(PEERS["gla"][0], module="torch", run=lambda q, k, v, g: v)
    monkeypatch.setitem(PEERS, "gla", (wrong,))
    settings = Settings(lengths=(8,), works=(FORWARD,), ours=("eager",))
    (row,) = cpu_mixers.rows([small("gla")], settings)
    assert "seconds" not in row
    assert "fla-core differs from eager" in row["differs"]


@pytest.mark.parametrize("ends", [False, True])
def test_nothing_that_was_measured_is_lost(ends: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measured_rows(part: str, quick: bool) -> Iterator[dict[str, Any]]:
        at = {"family": "f", "mixer": "m", "T": 8, "work": FORWARD}
        yield {**at, "contender": "native", "seconds": 0.5, "rounds": 3, "tokens": 16.0, "bytes": 1, "operations": 1}
        yield {**at, "T": 16, "contender": "native", "differs": "result 0: auto differs from native"}
        if ends:
            raise MemoryError

    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    monkeypatch.setattr(cpu, "rows", measured_rows)
    monkeypatch.setattr(cpu, "measured", lambda: RATES)
    monkeypatch.setattr(sys, "argv", ["cpu", "mixers", "--out", str(tmp_path)])
    with pytest.raises(MemoryError) if ends else nullcontext():
        assert cpu.main() == 1
    text = (tmp_path / "cpu.md").read_text(encoding="utf-8")
    assert "| m | 8 | forward | 16 | 500 |" in text
    assert "| m | 16 | forward | **not timed: result 0: auto differs from native** |" in text


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_that_is_here_computes_the_same(name: str) -> None:
    settings = Settings(lengths=(64,), works=(FORWARD,), ours=("eager",), budget=0.0)
    case = next(c for c in CASES if c.name == name)
    found = {r["contender"]: r for r in cpu_mixers.rows([case], settings)}
    assert set(found) == {"eager", *(p.name for p in PEERS[name])}
    assert all("seconds" in r or r["skipped"] == "not installed" for r in found.values())


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "gla", (replace(PEERS["gla"][0], module="nowhere_to_be_found.naive"),))
    settings = Settings(lengths=(8,), works=(FORWARD,), ours=("eager",))
    *_, row = sorted(cpu_mixers.rows([small("gla")], settings), key=lambda r: r["contender"] == "fla-core")
    assert row["skipped"] == "not installed"


def test_what_would_take_too_long_is_left_out_unless_a_goal_needs_it() -> None:
    case = small("gla")
    peer = cpu_mixers.Contender("slow", PEERS["gla"][0].run, None, goal=FORWARD)
    for goal, skipped in ((None, True), (32, False)):
        one = cpu_mixers.Measured(case, [peer], Settings(lengths=(8, 16, 32), goal=goal, cap=1.0))
        one.seen["slow", FORWARD] = [(8, 0.1), (16, 0.4)]
        assert bool(one._skipped(peer, FORWARD, 32)) is skipped
    one.seen["slow", FORWARD] = [(8, 0.1), (16, 0.2)]
    assert not one._skipped(peer, FORWARD, 16)


def test_limits_know_the_work_of_a_form() -> None:
    assert Work(2e10, 0).limit(RATES) == (1.0, "copy")
    assert Work(0, 4e11).limit(RATES) == (2.0, "matmul")
    case = small("softmax_attention")
    program = planned(case.declared, case.signals(32))
    assert operations(program) >= 2 * 32 * 32 * 4  # causal scores and their products with v, both 2 T² K / 2
    found = measured(rounds=1, entries=1 << 16, side=64)
    assert found.copy > 1e6
    assert found.matmul > 1e6


def test_whole_layers_agree_with_the_packages_that_are_here() -> None:
    layer = cpu_layers.Layer("one", "mamba", {"d_model": 768}, cpu_layers.TABLE[0].others)
    found = list(cpu_layers.beside(layer, cpu_layers.Settings(forward=4, training=4)))
    assert {r["contender"] for r in found} >= {*cpu_layers.here(), "transformers", "mambapy"}


def test_settling_leaves_the_patience_of_auto_as_it_was() -> None:
    before = (rising.LEAST, rising.TRIALS, rising.price)
    with impatient():
        assert rising.LEAST == 0.0
    assert (rising.LEAST, rising.TRIALS, rising.price) == before


def test_every_case_draws_signals_and_every_goal_is_about_something_measured() -> None:
    assert {c.name for c in CASES} == set(mx.catalog.list())
    for case in (*CASES, *WIDE, *LONG):
        assert set(case.signals(3)) == set(case.declared.signals)
    assert set(PEERS) <= {c.name for c in CASES}
    assert Goal("x", 2.0, lambda r: None).reached(2.0)
    assert not Goal("x", 2.0, lambda r: None, most=True).reached(2.1)
    nothing = Results(results([]))
    assert [g.text for g in goals() if g.found(nothing) is not None] == [
        "gated_linear, eager chunks, forward, T = 4,096, beside a time loop"
    ]
