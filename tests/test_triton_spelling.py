"""What is done to a program and to a kernel's lines before they are written changes no result."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("triton")

import torch
import triton
import triton.language as tl

import catalog
from backends import reference
from backends.triton.fission import fissioned
from backends.triton.functions import HELPERS, needed
from backends.triton.kernel import Setting
from backends.triton.launch import function, prepare
from backends.triton.levels import levels
from backends.triton.partition import plan
from backends.triton.real import real
from backends.triton.relief import relieved
from backends.triton.schedule import Line, Loop, pressure, reordered, scheduled
from backends.triton.text import WIDTH, plain, tidy
from backends.triton.tile import Dim
from backends.triton.writer import Writer
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.decay import Span
from lowering.decay_region import products
from lowering.program import Program, Value
from lowering.segment import Column, Row
from mixer_ir.driver.kernels import lowered
from tests.programs import arrays


def chunked(name: str, length: int = 24, chunk: int = 8) -> Program:
    """The chunked form of a catalog mixer at a small size."""
    mixer = catalog.get(name).mixer
    axes = {a for of in mixer.signals.values() for a in of}
    return lowered(
        mixer, "chunked", chunk, {a: n for a, n in {"b": 1, "t": length, "h": 2, "k": 4, "v": 3}.items() if a in axes}
    )


def same(one: Program, other: Program) -> None:
    given = {n: -np.abs(x) if n in ("g", "w") else x for n, x in arrays(one).items()}
    want, got = (reference.prepare(x)(given) for x in (one, other))
    for name, x in want.items():
        np.testing.assert_allclose(got[name], x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["deltanet", "gated_deltanet", "kda"])
def test_loops_made_small_give_the_same(name: str) -> None:
    of = chunked(name)
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])
    smaller = fissioned(back)
    loops = [[len(v.op.body.order) for v in x.order if isinstance(v.op, p.Scan)] for x in (back, smaller)]
    assert sum(loops[1]) < sum(loops[0])
    same(back, smaller)


def test_what_hangs_on_no_carry_leaves_the_loop() -> None:
    """Also where the loop needs a large product that it shares: it is made again, and no larger array is stored."""
    b = Builder()
    x, y = b.input("x", ("n", "i", "k"), (3, 32, 2)), b.input("y", ("n", "j", "k"), (3, 32, 2))

    def step(k: Builder, carry: list[Value], steps: list[Value], _: list[Value]) -> tuple[list[Value], list[Value]]:
        both = k.map("exp", k.contract(*steps, ("k",)))
        return [k.add(carry[0], k.sum(both, ("j",)))], [k.order(k.contract(both, steps[0], ("i",)), ("j", "k"))]

    (total,), (other,) = b.scan("n", step, [b.full(0.0, {"i": 32})], [x, y])
    of = program({"total": total, "other": other}, [x, y])
    smaller = fissioned(of)
    (loop,) = (v.op for v in smaller.order if isinstance(v.op, p.Scan))
    assert len(loop.body.outputs) == 1
    same(of, smaller)


def test_sums_over_the_axis_that_programs_lie_along() -> None:
    """x (yᵀ z) in one kernel: the loop over t leaves the program's place along t alone."""
    b = Builder()
    x, y, z = (b.input(n, ("t", a), (512, 16)) for n, a in (("x", "k"), ("y", "k"), ("z", "v")))
    of = program({"out": b.contract(x, b.contract(y, z, ("t",)), ("k",))}, [x, y, z])
    (kernel,) = plan(real(of), Setting()).kernels()
    assert "for " in kernel.text and dict(kernel.grid)["t"] > 1
    given = {n: torch.randn(512, 16) for n in "xyz"}
    found = prepare(of)(given)["out"]
    torch.testing.assert_close(found, given["x"] @ (given["y"].T @ given["z"]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_levels_give_what_the_tree_gives(length: int) -> None:
    """Scores, entering, leaving and whole of a segment, of rows before and after their step; some decays are total."""
    b = Builder()
    g, *vectors = (b.input(n, ("_i", "_k"), (length, 3)) for n in ("g", "q", "r", "k"))
    q, r, k = vectors
    rows, columns = {Row("q", False): q, Row("r", True): r}, {Column("k"): k}
    pairs = [(row, column) for row in rows for column in columns]
    log = b.where(b.map("eq", b.iota("_i", length), 2), float("-inf"), b.map("neg", b.map("abs", g)))
    grown = products(b, Span(log, "log"), length, rows, columns, pairs)
    results = [*grown.entering.values(), *grown.leaving.values(), b.map("exp", grown.whole.value)]
    results += [x for x in grown.scores.values() if x is not None]
    tree = program({f"y{i}": y for i, y in enumerate(results)}, [g, *vectors])
    same(tree, levels(tree))


@pytest.mark.parametrize("n", [2, 16, 32, 64])
def test_the_inverse_of_a_triangle(n: int) -> None:
    text = "\n".join(
        [
            "import triton",
            "import triton.language as tl",
            needed([f"_inverse_{n}"]),
            "@triton.jit",
            "def solve(p_L, p_X):",
            f"    o = tl.arange(0, {n})",
            f"    place = o[:, None] * {n} + o[None, :]",
            f"    tl.store(p_X + place, _inverse_{n}(tl.load(p_L + place)))",
            "",
        ]
    )
    lower = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tril(-1) / n**0.5
    made = torch.empty_like(lower)
    function(text, "solve")[(1,)](lower, made)
    torch.testing.assert_close(made, torch.linalg.inv(torch.eye(n, dtype=torch.float64) - lower))


def test_angles_are_turned_exactly() -> None:
    """Sine and cosine of float32 angles, large ones too, without a table in memory."""
    text = "\n".join(
        [
            "import triton",
            "import triton.language as tl",
            needed(["_sin", "_cos"]),
            "@triton.jit",
            "def both(p_x, p_s, p_c):",
            "    o = tl.arange(0, 256)",
            "    x = tl.load(p_x + o)",
            "    tl.store(p_s + o, _sin(x))",
            "    tl.store(p_c + o, _cos(x))",
            "",
        ]
    )
    x = torch.cat([torch.linspace(-10, 10, 128), torch.linspace(-3e5, 3e5, 128)])
    s, c = torch.empty_like(x), torch.empty_like(x)
    function(text, "both")[(1,)](x, s, c)
    assert (s - x.double().sin()).abs().max() < 2e-7
    assert (c - x.double().cos()).abs().max() < 2e-7


def test_lines_keep_their_meaning_in_another_order() -> None:
    """Each line comes after those that it reads, statements keep their order, and no more registers are held."""
    lines: list[Line | Loop] = [Line(f"a{i}", f"load({i})", size=4) for i in range(6)]
    lines += [Line(f"b{i}", f"a{i} + {'b' + str(i - 1) if i else 0}", size=4) for i in range(6)]
    lines += [Line("", "store(b5)"), Loop("for i in range(3)", [Line("c", "b2 * 2", size=4), Line("", "store(c)")])]
    for change in (scheduled, reordered):
        made, held = list(lines), pressure(lines)
        change(made)
        names = [x.name for x in made if isinstance(x, Line) and x.name]
        assert sorted(names) == sorted(x.name for x in lines if isinstance(x, Line) and x.name)
        for i, name in enumerate(names):
            assert all(f"b{k}" not in names[:i] for k in range(6) if name == f"a{k}")
        assert pressure(made) <= held


def test_the_terms_of_a_sum_are_added_as_they_come() -> None:
    """Σ of products of tiles holds the sum and one term, not the factors of all terms; unless registers abound."""

    def held(enough: int) -> tuple[int, str]:
        w, dims = Writer("tl.float32", "ieee"), (Dim("i", 64), Dim("k", 64))
        total = None
        for i in range(4):
            x = w.let("x", f"tl.load(p_x + {i} + o_i_64[:, None] + o_k_64[None, :])", dims, depth=0)
            y = w.let("y", f"tl.dot({x.text}, {x.text})", dims, depth=0)
            term = w.map("{} * {}", y, w.let("z", f"tl.exp({x.text})", dims, depth=0))
            total = term if total is None else w.map("{} + {}", total, term)
        assert total is not None
        w.do(f"tl.store(p_y, {total.text})")
        text, _, tiles = w.body(enough)
        return tiles // 64**2, text

    (plenty, text), (few, other) = held(1 << 30), held(4 * 64**2)
    assert few <= 4 < plenty and text.count("tl.dot(") == other.count("tl.dot(") == 4


def meant(lines: list[Line | Loop], known: dict[str, str] | None = None) -> list[str]:
    """What statements do, with every name replaced by what it stands for, however long the cache keeps it."""
    known, found = dict(known or {}), []
    for x in lines:
        if isinstance(x, Loop):
            found += [f"{x.head}: {y}" for y in meant(x.lines, known)]
            continue
        text = re.sub(r', eviction_policy="\w+"', "", x.text)
        text = re.sub(r"\b[a-z]\w*\b", lambda n: known.get(n[0], n[0]), text)
        if x.name:
            assert x.name not in known
            known[x.name] = text
        else:
            found.append(text)
    return found


def test_loads_are_done_again_rather_than_held() -> None:
    """They mean the same, fewer registers are held; none passes a store of its array, or a new value of its place."""
    lines: list[Line | Loop] = [Line("", "i = i + 1"), Line("x", "tl.load(p_x + i)", size=64)]
    lines += [Line("z", "tl.load(p_z + i)", size=64), Line("s", "tl.sum(x, axis=0)", size=1)]
    lines += [Line("u", "tl.load(p_u + i)", size=64), Line("v", "tl.load(p_v + i)", size=64)]
    lines += [Line("w", "u * v + s", size=64), Line("", "tl.store(p_w, w)"), Line("", "tl.store(p_y, x + z)")]
    made = relieved(lines, 64)
    assert pressure(made) < pressure(lines) and meant(made) == meant(lines)
    text = [x.text for x in made if isinstance(x, Line)]
    assert sum("tl.load(p_x" in x for x in text) == 2 and sum("tl.load(p_z" in x for x in text) == 1
    assert len({x for x in text if "tl.load(p_x" in x}) == 2  # else a compiler would make one of them
    for held in ("tl.store(p_x, w)", "i = i + 2"):
        other = [replace(x, text=x.text.replace("tl.store(p_w, w)", held)) for x in lines if isinstance(x, Line)]
        fixed = relieved([*other], 64)
        again = [x.text for x in fixed if isinstance(x, Line) and "tl.load(p_x" in x.text]
        assert len(again) == 1


def test_a_load_that_is_done_again_more_than_once_has_a_name_each_time() -> None:
    """Read late, then in the middle: the two later loads are two tiles, and no name is given twice."""
    lines: list[Line | Loop] = [Line("x", "tl.load(p_x + i)", size=64), Line("", "tl.store(p_a, x)")]
    for n in "uv":
        lines += [Line(f"{n}{i}", f"tl.load(p_{n} + {i})", size=64) for i in range(3)]
        lines += [Line("", f"tl.store(p_{n}, {n}0 + {n}1 + {n}2)"), Line("", f"tl.store(p_b{n}, x)")]
    made = relieved(lines, 64)
    names = [x.name for x in made if isinstance(x, Line) and x.name]
    assert sum(n.startswith("x") for n in names) == 3 and len({*names}) == len(names)
    assert meant(made) == meant(lines)


ORDER = """
import random
from backends.triton.schedule import Line, reordered
draw = random.Random(0)
for n in range(10, 60):
    of = [[f"x{j}" for j in draw.sample(range(i), min(i, 3))] for i in range(n)]
    lines = [Line(f"x{i}", " + ".join(x) or "0", size=draw.choice([32, 64])) for i, x in enumerate(of)]
    reordered(lines)
    print([x.name for x in lines])
"""


def test_the_order_of_lines_hangs_on_nothing_else() -> None:
    """Every process puts the same lines in the same order, whatever that of its sets is."""
    made = []
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        made.append(subprocess.check_output([sys.executable, "-c", ORDER], env=environment))
    assert made[0] == made[1]


def test_tiles_of_large_heads_are_cut_to_registers() -> None:
    """At heads of 128 no kernel of gated linear attention is written for more registers than a thread has."""
    mixer = catalog.get("gla").mixer
    of = lowered(mixer, "chunked", 64, {"k": 128, "v": 128})
    for kernel in plan(real(levels(of)), Setting(dot="bf16")).kernels():
        assert kernel.held <= 255 * 32 * kernel.warps


def test_every_helper_is_a_function_of_that_name() -> None:
    for name, text in HELPERS.items():
        assert f"def {name}(" in text
    assert triton is not None and tl is not None


def texts(name: str, back: bool) -> list[str]:
    """The kernels of a chunked form, forward or backward."""
    of = chunked(name)
    inputs = [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable]
    return [k.text for k in plan(real(levels(adjoint(of, inputs) if back else of)), Setting()).kernels()]


@pytest.mark.parametrize("name", ["gla", "gated_deltanet"])
@pytest.mark.parametrize("back", [False, True])
def test_names_say_what_is_held(name: str, back: bool) -> None:
    """Signals keep their names, steps of the derivation stand above their lines, and no line is too long."""
    made = "\n".join(texts(name, back))
    assert not re.search(r"^ +[xem]\d* = ", made, re.MULTILINE)
    for signal in (*catalog.get(name).mixer.signals, *(("d_q", "d_k", "d_v") if back else ("y",))):
        assert f" b_{signal} = " in made or (f"store(p_{signal} " in made.replace("(\n        ", "("))
    assert "    # scores " in made and "b_decay" in made and "b_scores" in made and ("b_d_" in made) == back
    assert max(len(line) for line in made.split("\n")) <= WIDTH


def test_what_is_written_for_readers_is_the_same_code() -> None:
    before = "b_y = tl.load(p_y + (((i_b * 4096 + (o_t)))) * 64, mask=((o_t) < 64), other=0)" + " + b_x * 2" * 12
    after = tidy(f"    {before}  # (t)")
    lines = after.split("\n")
    assert len(lines) > 1 and all(len(x) <= WIDTH for x in lines) and lines[-1].endswith("# (t)")
    assert ast.dump(ast.parse(before)) == ast.dump(ast.parse(after.lstrip()))


def test_the_head_of_a_kernel_says_what_it_is_part_of() -> None:
    (kernel, *_) = plan(real(levels(chunked("gla"))), Setting()).kernels()
    made = kernel.shown("S_t = \\alpha S\nform chunked; forward pass")
    doc = ast.get_docstring(
        next(x for x in ast.parse(made).body if isinstance(x, ast.FunctionDef) and x.name == kernel.name)
    )
    assert doc is not None and doc.startswith("S_t = \\alpha S\nform chunked; forward pass\n\n")
    assert "Reads\n" in doc and "Writes\n" in doc and "p_k " in doc
    assert plain(made) == plain(kernel.source)


def test_a_name_is_no_part_of_what_a_value_is() -> None:
    b = Builder()
    x = b.input("x", ("t",), (4,))
    with b.named("decay: the decay of each step"):
        y = b.map("exp", x)
        with b.named("inner"):
            z = b.map("neg", y)
    assert b.map("exp", x) is y and y.label == "decay: the decay of each step"
    assert z.label == "inner: the decay of each step" and x.label == ""


@pytest.mark.parametrize("names", ["h p", "p h", "i p", "o p"])
def test_axes_may_have_any_name(names: str) -> None:
    """Programs lie along both axes; the number of a program is called i_p, and so is its place along p."""
    outer, inner = names.split()
    b = Builder()
    x = b.input("x", (outer, "t", inner), (3, 4, 2))
    of = program({"y": b.cumulate("sum", b.map("exp", x), "t")}, [x])
    kernel = plan(of, Setting("tl.float64")).steps[0]
    assert len(kernel.kernel.grid) == 2
    given = arrays(of)
    got = prepare(of)({"x": torch.from_numpy(given["x"])})
    np.testing.assert_allclose(got["y"].numpy(), reference.prepare(of)(given)["y"], rtol=1e-12)
