"""Kernels for devices that are not here: what is counted, predicted, kept and shown of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton")

import catalog
import mixer_ir as mx
from backends.triton import compilers
from backends.triton.devices import DEVICES, seconds
from backends.triton.static import BEST, Kernels, Planned
from backends.triton.work import Level, Work, work
from benchmarks import kernels as table
from benchmarks import kernels_report as report
from lowering.build import Builder, program
from mixer_ir.driver.kernels import planned
from mixer_ir.errors import BackendError

TTIR = """
module {
  tt.func public @k(%p: !tt.ptr<bf16> {tt.divisibility = 16 : i32}, %n: i32) attributes {noinline = false} {
    %c1 = arith.constant 1 : i32
    %c9 = arith.constant 9 : i32
    %c4 = arith.constant 4 : i32
    %x = tt.load %a : tensor<64x32x!tt.ptr<bf16>> loc(#loc3)
    %s = scf.for %i = %c1 to %c9 step %c4 iter_args(%acc = %z) -> (tensor<64x16xf32>)  : i32 {
      %y = tt.load %b, %m, %o : tensor<32x16x!tt.ptr<f32>> loc(#loc4)
      %d = tt.dot %x1, %y1, %acc, inputPrecision = tf32 : tensor<64x32xbf16> * tensor<32x16xbf16> -> tensor<64x16xf32>
      %r = "tt.reduce"(%y) <{axis = 0 : i32}> ({
      ^bb0(%u: f32 loc(callsite(#loc2 at #loc102)), %v: f32 loc(callsite(#loc2 at #loc102))):
        %w = arith.addf %u, %v : f32 loc(#loc9)
        tt.reduce.return %w : f32 loc(#loc9)
      }) : (tensor<32x16xf32>) -> tensor<16xf32> loc(#loc9)
      %e = math.exp %d : tensor<64x16xf32>
      %q = scf.for %j = %c1 to %c9 step %c1 iter_args(%t = %e) -> (tensor<64x16xf32>)  : i32 {
        %f = arith.mulf %t, %t : tensor<64x16xf32>
        scf.yield %f : tensor<64x16xf32>
      } loc(#loc)
      scf.yield %q : tensor<64x16xf32>
    } loc(#loc)
    tt.store %c, %s : tensor<64x16x!tt.ptr<f32>> loc(#loc)
    %l = tt.load %p2 : !tt.ptr<i64> loc(#loc)
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
"""


def test_work_counts_turns_of_loops() -> None:
    w = work(TTIR)
    assert w.known and [x.turns for x in w.levels] == [1, 2, 16]
    assert w.loaded == 64 * 32 * 2 + 2 * 32 * 16 * 4 + 8 and w.stored == 64 * 16 * 4
    assert w.products == {"bf16": 2 * 2.0 * 64 * 32 * 16}
    assert w.special == 2 * 64 * 16 and w.simple == 2 * 32 * 16 + (16 + 2 * 4) * 64 * 16, "e^x is 2^(x log2 e), guarded"


def test_a_bound_that_data_give_is_said_to_be_unknown() -> None:
    w = work(TTIR.replace("to %c9 step %c4", "to %n step %c4"))
    assert not w.known and [x.turns for x in w.levels] == [1, 1, 8]


SIDE_BY_SIDE = """
    %p = tt.get_program_id x : i32
    %p64 = arith.extsi %p : i32 to i64
    %c3 = arith.constant 3 : i64
    %c5 = arith.constant 5 : i64
    %t = arith.cmpi slt, %p64, %c3 : i64
    scf.if %t {
      %a = tt.load %x : tensor<8x!tt.ptr<f32>>
    } else {
      %u = arith.cmpi slt, %p64, %c5 : i64
      scf.if %u {
        tt.store %y, %b : tensor<16x!tt.ptr<f32>>
      } else {
        %e = math.exp2 %c : tensor<32xf32>
      }
      scf.if %unknown {
        %d = arith.addf %c, %c : tensor<4xf32>
      }
    }
"""


def test_kernels_side_by_side_count_for_their_own_programs() -> None:
    w = work(SIDE_BY_SIDE, 12)
    assert (w.loaded, w.stored, w.special, w.simple) == (3 * 32, 2 * 64, 7 * 32, 9 * 4)
    assert {x.programs for x in w.levels} == {(0, 12), (0, 3), (3, 12), (3, 5), (5, 12)}


@pytest.mark.parametrize(
    ("old", "how", "times"),
    [
        ("xbf16> * tensor<32x16xbf16>", "bf16", 1),
        ("xf16> * tensor<32x16xf16>", "fp16", 1),
        ("xf32> * tensor<32x16xf32>", "tf32", 1),
        ("xf64> * tensor<32x16xf64>", "fp64", 1),
    ],
)
def test_products_by_how_their_factors_are_taken(old: str, how: str, times: int) -> None:
    w = work(TTIR.replace("xbf16> * tensor<32x16xbf16>", old))
    assert w.products == {how: times * 2 * 2.0 * 64 * 32 * 16}
    three = work(TTIR.replace("xbf16> * tensor<32x16xbf16>", old).replace("= tf32", "= tf32x3"))
    assert three.products == {how: (3 if how == "tf32" else 1) * 2 * 2.0 * 64 * 32 * 16}


def test_blocks_that_fit_on_a_multiprocessor() -> None:
    """By the rules of cuda_occupancy.h: 64 warps and 65,536 registers; of shared memory 1 KB more than is asked for."""
    h100 = DEVICES["sm_90"]
    assert h100.resident(32, 0, 4) == 16 and h100.resident(255, 0, 8) == 1 and h100.resident(64, 0, 4) == 8
    assert h100.resident(32, 100 * 1024, 4) == 2 and h100.resident(32, 227 * 1024, 4) == 1
    assert DEVICES["gfx942"].resident(512, 0, 4) == 1 and DEVICES["gfx942"].resident(64, 65536, 4) == 1


def test_predicted_time_follows_what_bounds_it() -> None:
    h100 = DEVICES["sm_90"]

    def at(level: Level, programs: int = 132 * 64, moved: float = 0.0, own: bool = True) -> float:
        return seconds(h100, Work((replace(level, programs=(0, programs)),), programs), moved, 4, 4, own)

    idle = at(Level((0, 1)))
    assert at(Level((0, 1)), moved=3.35e9) == pytest.approx(idle + 1e-3, rel=0.01)
    product = Level((0, 1), products={"bf16": 1e9})
    assert at(product) == pytest.approx(idle + 132 * 64 * 1e9 / 989e12, rel=0.01)
    assert at(product, own=False) > 1.5 * at(product)
    assert at(product, programs=132 * 64 + 1) > at(product)  # one multiprocessor has one more
    assert at(Level((0, 1), turns=64, loaded=64.0), programs=1) > 64 * 5e-7  # each turn waits for its load
    assert at(Level((0, 1), special=1e6)) > at(Level((0, 1), simple=1e6)) > idle


# ---------------------------------------------------------------------------------------------------- compiling

SOURCE = """
import triton
import triton.language as tl

@triton.jit
def k(p_x, p_y):
    o = tl.arange(0, 128)
    tl.store(p_y + o, tl.exp(tl.load(p_x + o).to(tl.float32)))
"""
TASK = {"source": SOURCE, "name": "k", "signature": {"p_x": "*bf16", "p_y": "*fp32"}, "options": {"num_warps": 4}}


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for what is kept."""
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    return tmp_path / "compiled"


def test_figures_are_kept_and_failures_are_not(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [TASK | {"target": list(DEVICES[t].triton)} for t in ("sm_90", "gfx942")]
    tasks.append(tasks[0] | {"source": SOURCE.replace("tl.exp", "tl.nothing")})
    first = compilers.figures([*tasks, tasks[0]])
    assert first[0] == first[3] and first[0]["registers"] > 0 and first[0]["spills"] == first[1]["spills"] == 0
    assert work(first[0]["ttir"]).loaded == 256 and work(first[0]["ttir"]).stored == 512
    assert "nothing" in first[2]["error"] and len(list(fresh.iterdir())) == 2

    def none(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(compilers, "kept", none)
    assert compilers.figures(tasks[:2]) == first[:2]
    next(fresh.iterdir()).write_text("{", encoding="utf-8")  # a part of a file
    with pytest.raises(AssertionError, match="compiled again"):
        compilers.figures(tasks[:2])


def test_a_compilation_that_takes_too_long_is_given_up(fresh: Path) -> None:
    began = time.monotonic()
    task = TASK | {"source": "import time\ntime.sleep(60)\n", "target": ["cuda", 90, 32]}
    (found,) = compilers.figures([task], limit=3.0)
    assert found == {"error": "it was still compiling after 3 s"} and time.monotonic() - began < 30
    dying = task | {"source": "import os\nos._exit(7)\n"}
    assert compilers.figures([dying]) == [{"error": "the compiler ended with status 7"}] and not fresh.exists()


@mx.recurrence
def memory(S: mx.State("k v"), q: "b t k", k: "b t k", v: "b t v", g: "b t"):
    """S_t = e^g S_{t−1} + k vᵀ"""
    S = mx.exp(g) * S + mx.outer(k, v)
    return S, q @ S


def test_a_mixers_kernels_for_a_device(fresh: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = mx.compile(memory, form="chunked", chunk=16).kernels("sm_90", b=1, t=64, k=16, v=16)
    assert made.forward and made.backward and not made.failed
    text = str(made)
    assert "S_t = e^g S_{t−1} + k vᵀ" in text and "form chunked in chunks of 16; b=1 t=64 k=16 v=16" in text
    assert "predicted" in text and "H100" in text and text.count("@triton.jit") >= len(made.forward + made.backward)
    for c in (*made.forward, *made.backward):
        assert c.registers and c.seconds > 0 and c.moved > 0 and 0 < c.occupancy <= 1 and c.work.known
        body = c.kernel.text.rpartition('"""')[2]
        assert body.strip() and body in text and all(x in made.table for x in c.row())
    compile(text, "kernels", "exec")


def test_arrays_of_signals_are_narrow() -> None:
    b = Builder()
    x, y = b.input("x", ("t", "k"), (1024, 32)), b.input("y", ("t", "k"), (1024, 32), "int")
    of = Planned(program({"z": b.mul(x, y)}, [x, y]), None)
    (task,) = of.tasks("sm_90")
    assert task["signature"] == {"p_x": "*bf16", "p_y": "*i64", "p_z": "*bf16"}
    assert task["target"] == ["cuda", 90, 32] and set(BEST) == set(DEVICES)


def test_a_kernel_that_does_not_compile_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "backends.triton.static.figures", lambda tasks, limit: [{"error": "it is broken"} for _ in tasks]
    )
    with pytest.raises(BackendError, match=r"Triton does not compile \w+ for sm_80: it is broken"):
        mx.compile(memory, form="chunked", chunk=16).kernels("sm_80", b=1, t=64, k=16, v=16)


# ---------------------------------------------------------------------------------------------------- the table


def test_the_table_marks_what_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """Made-up figures: every kernel but the first of each mixer spills."""

    one = {"registers": 64, "stack": 0, "spills": 0, "shared": 1024, "columns": 0, "tensor": {"HGMMA": 2}, "ttir": TTIR}

    def made_up(tasks: list[dict], limit: float = 0) -> list[dict]:
        return [one if i == 0 or t["target"][0] == "hip" else one | {"spills": 8} for i, t in enumerate(tasks)]

    monkeypatch.setattr("backends.triton.static.figures", made_up)
    monkeypatch.setattr("backends.triton.settle.figures", lambda tasks, **_: [one for _ in tasks])
    monkeypatch.setattr(table, "WIDTHS", (128,))
    monkeypatch.setattr(sys, "argv", ["kernels", "gla", "--out", str(tmp_path)])
    table.main()
    text = (tmp_path / "static-sm_90.md").read_text()
    line, other = [x for x in text.splitlines() if x.startswith("| gated_linear_attention")]
    assert " / 5+7 | " in line and " / 12.35 | " in line and " spill |" in line
    assert "1 rows, 1 fail a demand." in text and "compiled here: sm_90 1, sm_80 1, sm_100 1, gfx942 1." in text
    assert other.count(" B spilled, 0 B of stack** |") == 2 and other.endswith(", 1 KB |"), "gfx942 is the last"
    assert "sm_80: 1 rows, 1 fail." in text and "gfx942: 1 rows, 0 fail." in text
    assert "### gated_linear_attention, heads of 128" in text


TAKEN = {"chunked", "flash", "scan", "parallel", "fft", "monarch"}


def test_every_mixer_has_sizes_for_the_table_and_takes_a_form_that_fits_kernels() -> None:
    """What "auto" takes: T × T matrices of a causal mixer, or states step by step, would be far slower."""
    for entry in catalog.list():
        for mixer in catalog.get(entry).mixers.values():
            given = table.sizes(mixer, 128)
            axes = {a for of in mixer.signals.values() for a in of}
            assert set(given) <= axes and given["t"] == 4096
            forms = planned(mixer, "auto", None, given)[0].splitlines()[-1].split(";")[0].removeprefix("form ")
            made = {x.partition(" in chunks of ")[0] for x in forms.split(", ")}
            assert made <= TAKEN and ("parallel" not in made or mixer.name == "full_linear_attention"), mixer.name
    assert {case.name for case in table.cases(catalog.list())} >= set(report.FLA)


def test_fla_is_held_against_what_it_computes() -> None:
    """Its retention has fixed decays and passes no gradient to them; even the least bytes may be over the share."""
    (case,) = [c for c in table.cases(["retnet"]) if c.name == report.RETENTION and c.width == 128]
    _, backward = case.planned[1].programs
    entries = 8 * 4096 * 16 * 128
    assert backward.names == ("d:q", "d:k", "d:v")
    assert case.least == pytest.approx((4 * entries * 2e-9, 11 * entries * 2e-9), rel=1e-3)
    made = Kernels(case.name, "sm_90", (), ())
    row = report.Row(report.RETENTION, 128, made, (1.34, 2.0))
    assert [free for *_, free in row.beside] == [True, False] and "least 1.34" in row.cells()[3]


@pytest.mark.slow
@pytest.mark.parametrize("target", DEVICES)
def test_the_command_line_writes_kernels(target: str, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "mixer_ir.cli", "kernels", "linear_attention", "--form", "recurrent"]
    done = subprocess.run(
        [*line, "--target", target, "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path, *_) = tmp_path.glob("*.py")
    assert "@triton.jit" in path.read_text() and "registers" in done.stdout
    assert json.dumps(target)[1:-1] in done.stdout
