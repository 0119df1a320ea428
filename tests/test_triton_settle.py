"""Plans that a compiler finds registers for: what spills is planned again with fewer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import catalog
from backends.triton import launch, settle
from backends.triton.compilers import Figures, Task
from backends.triton.devices import room
from backends.triton.halving import WIDER
from backends.triton.kernel import LAST, SHORT, SPILLED, Kernel, Setting
from backends.triton.levels import levels
from backends.triton.partition import plan
from backends.triton.real import real
from backends.triton.steps import Learnt, Plan
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program
from mixer_ir.driver.kernels import lowered
from mixer_ir.errors import OptionError
from tests.programs import arrays
from tests.test_triton import agree

FINE: Figures = {"registers": 32, "stack": 0, "spills": 0, "shared": 0, "columns": 0, "tensor": {}, "ttir": ""}


def two() -> Program:
    """Two results of kernels of their own: one reads the other."""
    b = Builder()
    x = b.input("x", ("t", "k"), (64, 4))
    y = b.mul(x, 2.0)
    return program({"y": y, "z": b.sum(y, ("t",))}, [x])


def side_by_side() -> Program:
    """Two results of kernels that do not wait for each other."""
    b = Builder()
    x, w = b.input("x", ("t", "k"), (4096, 64)), b.input("w", ("k", "v"), (64, 64))
    u = b.input("u", ("i", "j"), (64, 64))
    return program({"y": b.contract(x, w, ("k",)), "z": b.sum(u, ("i",))}, [x, w, u])


class Tried:
    """Plans as they are asked for, with what a compiler is made to say of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, says: Sequence[Mapping[str, Any]]) -> None:
        self.limits: list[dict[str, int]] = []
        self.plans: list[Plan] = []
        self.says = says
        monkeypatch.setattr(settle, "plan", self.plan)
        monkeypatch.setattr(settle, "figures", self.figures)

    def plan(self, of: Program, setting: Setting, *, learnt: Learnt) -> Plan:
        made = plan(of, setting, learnt=learnt)
        new = {k: replace(k, text=f"{k.text}# {len(self.plans)}") for k in made.kernels()}  # as if it had changed
        made = settle._replaced(made, new)
        names = {b.value: b.name for k in made.kernels() for b in k.writes}
        self.limits.append({names[v]: n for v, n in learnt.limits.items()})
        self.plans.append(made)
        return made

    def figures(self, tasks: Sequence[Task], **_: Any) -> list[Figures]:
        said = self.says[min(len(self.plans), len(self.says)) - 1]
        return [{**FINE, **said} if task["name"].startswith("y") else FINE for task in tasks]

    def settled(self) -> Plan:
        return settle.settled(two(), Setting(), "sm_90", lambda of: lambda b: torch.float32)


def test_what_does_not_spill_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Tried(monkeypatch, [{}])
    assert tried.settled() == tried.plans[0] and tried.limits == [{}]


@pytest.mark.parametrize("said", [{"spills": 8}, {"stack": 16}, {"shared": 1 << 20}, {"columns": 513}, {"error": "no"}])
def test_what_spills_alone_is_planned_with_fewer_registers(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    tried = Tried(monkeypatch, [said, {}])
    assert tried.settled() == tried.plans[1]
    assert tried.limits[0] == {} and tried.limits[1]["y"] < tried.limits[1]["z"] == Setting().limit


def test_where_all_spill_the_least_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Tried(monkeypatch, [{"spills": 64}, {"spills": 8}, {"spills": 24}])
    assert tried.settled() == tried.plans[1]
    falling = [x["y"] for x in tried.limits[1:]]
    assert falling == sorted({*falling}, reverse=True) and falling[-1] >= LAST


@pytest.mark.parametrize(("most", "taken"), [("1", 0), ("2", 1), ("", 2)])
def test_a_plan_may_be_had_sooner(monkeypatch: pytest.MonkeyPatch, most: str, taken: int) -> None:
    monkeypatch.setenv("MIXER_IR_PLANS", most)
    tried = Tried(monkeypatch, [{"spills": 4096}, {"spills": 2048}, {}])
    assert tried.settled() == tried.plans[-1] and len(tried.plans) == taken + 1


def test_a_plan_that_is_had_sooner_can_be_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXER_IR_PLANS", "1")
    tried = Tried(monkeypatch, [{"shared": 1 << 20}, {"spills": 32}, {}])
    assert tried.settled() == tried.plans[1] and len(tried.plans) == 2


@pytest.mark.parametrize("told", ["0", "-1", "few", "1.5"])
def test_a_number_of_plans_is_a_whole_number(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("MIXER_IR_PLANS", told)
    with pytest.raises(OptionError, match="MIXER_IR_PLANS"):
        Tried(monkeypatch, [{}]).settled()


def test_fewer_launches_are_compiled_though_their_tiles_seem_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotated keys of 128: one loop that reads its states, if a compiler finds registers for it."""
    of = lowered(catalog.get("retnet").mixer, "chunked", 64, {"b": 8, "t": 4096, "h": 16, "r": 2, "k": 64, "v": 128})
    of = levels(real(of))
    for spills, launches in ((0, 1), (8, 2)):

        def figures(tasks: Sequence[Task], spills: int = spills, **_: Any) -> list[Figures]:
            return [FINE | {"spills": spills * ("p_states" not in t["source"])} for t in tasks]

        monkeypatch.setattr(settle, "figures", figures)
        made = settle.settled(of, Setting(dot="bf16"), "sm_90", lambda of: lambda b: torch.bfloat16)
        assert len(made.kernels()) == launches


def test_a_limit_reaches_the_kernel() -> None:
    of = two()
    first = plan(of, Setting())
    (y,) = (b.value for k in first.kernels() for b in k.writes if b.name == "y")
    found = {b.name: k.setting.limit for k in plan(of, Setting(), learnt=Learnt({y: 80})).kernels() for b in k.writes}
    assert found == {"y": 80, "z": Setting().limit}


def test_of_kernels_side_by_side_that_go_on_spilling_the_largest_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    of = side_by_side()
    monkeypatch.setattr(
        settle, "figures", lambda tasks, **_: [FINE | {"spills": 8 * ("_z_" in t["name"])} for t in tasks]
    )
    assert [len(k.parts) for k in plan(of, Setting()).kernels()] == [2]
    made = settle.settled(of, Setting(), "sm_90", lambda of: lambda b: torch.float32)
    assert sorted(b.name for k in made.kernels() for b in k.writes) == ["y", "z"] and len(made.kernels()) == 2


def test_of_kernels_side_by_side_those_that_spill_by_themselves_are_planned_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of, limits = side_by_side(), list[dict[str, int]]()

    def planned(of: Program, setting: Setting, *, learnt: Learnt) -> Plan:
        made = plan(of, setting, learnt=learnt)
        names = {b.value: b.name for k in made.kernels() for b in k.writes}
        limits.append({names[v]: n for v, n in learnt.limits.items()})
        return made

    monkeypatch.setattr(settle, "plan", planned)
    monkeypatch.setattr(
        settle, "figures", lambda tasks, **_: [FINE | {"spills": 8 * ("z" in t["name"])} for t in tasks]
    )
    settle.settled(of, Setting(), "sm_90", lambda of: lambda b: torch.float32)
    assert limits[1]["z"] < limits[1]["y"] == Setting().limit


def test_results_of_one_kernel_that_goes_on_spilling_are_stored_by_several(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    x = b.input("x", ("t", "k"), (64, 4))
    of = program({"y": b.mul(x, 2.0), "z": b.add(x, 3.0)}, [x])
    assert [len(k.writes) for k in plan(of, Setting()).kernels()] == [2]

    def figures(tasks: Sequence[Task], **_: Any) -> list[Figures]:
        """One function that stores both spills; two side by side do not."""
        return [FINE | {"spills": 8 * (len(t["signature"]) == 3 and "def _y" not in t["source"])} for t in tasks]

    monkeypatch.setattr(settle, "figures", figures)
    made = settle.settled(of, Setting(), "sm_90", lambda of: lambda b: torch.float32)
    (kernel,) = made.kernels()
    assert [len(k.writes) for k in kernel.parts] == [1, 1]


def test_states_of_a_loop_that_goes_on_spilling_are_read_by_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are at once where a loop does not fill a device."""
    mixer = next(iter(catalog.get("deltanet").mixers.values()))
    of = lowered(mixer, "chunked", 64, {"b": 64, "t": 256, "h": 8, "k": 64, "v": 64})

    def looped(task: Task) -> bool:
        return "p_y" in task["signature"] and "\n    for n_" in task["source"]

    monkeypatch.setattr(settle, "figures", lambda tasks, **_: [FINE | {"spills": 8 * looped(t)} for t in tasks])
    setting = Setting(dot="bf16")
    inside, after = plan(real(levels(of)), setting), plan(real(levels(of)), setting, learnt=Learnt(stored=True))
    made = settle.settled(real(levels(of)), setting, "sm_90", lambda of: lambda b: torch.float32)
    assert len(inside.kernels()) < len(after.kernels()) == len(made.kernels())
    assert [[b.name for b in k.reads] for k in made.kernels()] == [[b.name for b in k.reads] for k in after.kernels()]


def test_factors_of_products_count_where_registers_hold_them() -> None:
    """An A100's tensor cores take factors from registers, an H100's from shared memory."""
    assert [room(t)[1] > 0 for t in ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "cpu")] == [
        *(True, True, False, False, True, False, False)
    ]
    b = Builder()
    x, w = b.input("x", ("t", "k"), (4096, 64)), b.input("w", ("k", "v"), (64, 64))
    of = program({"y": b.contract(x, w, ("k",))}, [x, w])
    for dot, share in (("bf16", 2), ("tf32", 1)):
        one, other = (plan(of, Setting(dot=dot, copies=n)).kernels()[0] for n in (0, 3))
        assert one.text == other.text and other.held - one.held == 3 * 64 * (64 + 64) // share


def fitted(monkeypatch: pytest.MonkeyPatch, target: str, spills: Callable[[Mapping[str, int]], int]) -> Plan:
    """What is settled on where a compiler spills as `spills` says of its options, from one plan."""
    monkeypatch.setattr(settle, "figures", lambda tasks, **_: [FINE | {"spills": spills(t["options"])} for t in tasks])
    monkeypatch.setattr(settle, "TURNS", 1)
    return settle.settled(two(), Setting(), target, lambda of: lambda b: torch.float32)


def test_what_spills_with_pipelined_loads_alone_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a loop there is nothing to pipeline: such a kernel is not compiled again."""
    of = plan(two(), Setting())
    looped = {k: replace(k, text=f"{k.text}    for _ in range(2):\n        pass\n") for k in of.kernels()[:1]}
    of = settle._replaced(of, {k: looped.get(k, k) for k in of.kernels()})
    monkeypatch.setattr(settle, "plan", lambda *_, **__: of)
    made = fitted(monkeypatch, "sm_90", lambda options: 8 * (options["num_stages"] > 1))
    assert [k.stages for k in made.kernels()] == [1, 2]
    fine = fitted(monkeypatch, "sm_90", lambda options: 0)
    assert {k.stages for k in fine.kernels()} == {2}


def test_programs_have_as_many_threads_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warp of AMD's data-centre GPUs has 64 lanes: eight of them would leave a thread half of the registers."""
    eight = plan(two(), Setting())
    eight = settle._replaced(eight, {k: replace(k, warps=8) for k in eight.kernels()})
    monkeypatch.setattr(settle, "plan", lambda *_, **__: eight)
    found = {t: {k.warps for k in fitted(monkeypatch, t, lambda _: 0).kernels()} for t in ("sm_90", "gfx942")}
    assert found == {"sm_90": {8}, "gfx942": {4}}


def test_of_plans_that_spill_alike_the_one_with_the_fewest_launches_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    x = b.input("x", ("t", "k"), (64, 4))
    y = b.mul(x, 2.0)
    one, more = (plan(program(of, [x]), Setting()) for of in ({"y": y}, {"y": y, "z": b.sum(y, ("t",))}))
    assert len(one.kernels()) < len(more.kernels())
    plans = [more, one, more]
    monkeypatch.setattr(settle, "plan", lambda *_, **__: plans.pop(0))
    monkeypatch.setattr(settle, "TURNS", 3)
    monkeypatch.setattr(settle, "_ways", lambda kernel, target: [kernel])
    monkeypatch.setattr(settle._Spilled, "of", lambda self, kernels, dtype: [8 // len(kernels) for _ in kernels])
    made = settle.settled(two(), Setting(), "sm_90", lambda of: lambda b: torch.float32)
    assert len(made.kernels()) == len(one.kernels())


def test_where_exponents_spill_they_are_multiplied_late_if_that_spills_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor of a power of 2 is multiplied once for all sums, or at each, as registers suffice."""
    b = Builder()
    x = b.input("x", ("t", "k"), (64, 4))
    of = program({"y": b.add(b.map("exp", x), b.map("exp", b.cumulate("sum", x, "t")))}, [x])

    def settled(folded: int, late: int) -> int:
        def figures(tasks: Sequence[Task], **_: Any) -> list[Figures]:
            once = [t["source"].count("1.4426950408889634") == 1 for t in tasks]
            return [FINE | {"spills": folded if one else late} for one in once]

        monkeypatch.setattr(settle, "figures", figures)
        (kernel,) = settle.settled(of, Setting(), "sm_90", lambda of: lambda b: torch.float32).kernels()
        return kernel.text.count("1.4426950408889634")

    assert [settled(0, 0), settled(8, 0), settled(8, 8)] == [1, 2, 1]


def test_what_was_written_for_an_earlier_plan_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    of, learnt = two(), Learnt()
    first = plan(of, Setting(), learnt=learnt)
    monkeypatch.setattr("backends.triton.roots.plain", None)
    assert plan(of, Setting(), learnt=learnt) == first
    with pytest.raises(TypeError):
        plan(of, Setting(limit=100), learnt=learnt)


def test_fewer_warps_are_tried_where_their_threads_can_hold_the_tiles() -> None:
    """Where a few bytes are spilled the estimate may be off by half."""
    kernel = next(iter(plan(two(), Setting()).kernels()))
    for spilled, most in ((settle.SOME + 1, 256), (settle.SOME, 512)):
        for held, fewest in ((most * 128, 4), (most * 128 + 1, 8)):
            ways = settle._ways(replace(kernel, warps=8, held=held), "sm_90")
            assert min(w.warps for w in (ways[0], *settle._others(ways, spilled))) == fewest


def test_where_no_tile_fits_and_little_is_spilled_sums_are_shorter_before_the_limit_falls() -> None:
    kernel = replace(next(iter(plan(two(), Setting()).kernels())), fits=False)
    own, learnt = {b.value for b in kernel.writes}, Learnt()
    settle._learn(learnt, kernel, {kernel: 8}, 136, 256, stuck=False)
    assert learnt.short == own and learnt.limits == dict.fromkeys(own, 136)
    settle._learn(learnt, kernel, {kernel: 8}, 136, 256, stuck=False)
    assert all(learnt.limits[v] < 136 for v in own)
    for other, spilled in ((kernel, settle.SOME + 1), (replace(kernel, fits=True), 8)):
        settle._learn(fresh := Learnt(), other, {other: spilled}, 136, 256, stuck=False)
        assert not fresh.short


def test_the_shortest_sums_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delta rule with few registers: sums over 64 places in blocks of 16."""
    made: list[Plan] = []

    def short(of: Program, setting: Setting, *_: Any) -> Plan:
        setting = replace(setting, limit=LAST)
        learnt = Learnt()
        learnt.short |= {b.value for k in plan(of, setting).kernels() for b in k.writes}
        made.append(plan(of, setting, learnt=learnt))
        return made[-1]

    monkeypatch.setattr(launch, "planned", short)
    sizes = {"b": 1, "t": 40, "h": 1, "k": 64, "v": 64}
    of = lowered(next(iter(catalog.get("kda").mixers.values())), "chunked", 32, sizes)
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable], of.names)
    agree(back, {**arrays(back, seed=1), **arrays(of)})
    assert any((k.setting.tile, k.setting.block) == SHORT and "range(4)" in k.text for k in made[0].kernels())


def test_of_kernels_side_by_side_the_products_of_those_that_spill_most_are_shared_first() -> None:
    b = Builder()
    xs = [b.input(f"x{i}", ("it"[i // 20], "j"), ((16, 4096)[i // 20], 16)) for i in range(40)]
    ws = [b.input(f"w{i}", ("j", "k"), (16, 16)) for i in range(40)]
    made = [b.contract(x, w, ("j",)) for x, w in zip(xs, ws, strict=True)]
    of = program({"y": reduce(b.add, made[:20]), "z": reduce(b.add, made[20:])}, [*xs, *ws])
    narrow = Setting(tile=1 << 10, limit=SPILLED - 1)
    parts = [p for k in plan(of, narrow).kernels() for p in k.parts or (k,)]
    first, second = (replace(p, fits=True, setting=narrow) for p in parts)
    both = replace(first, text=first.text + second.text, parts=(first, second), writes=first.writes + second.writes)
    for spilled, shared in ((96, 1), (8, 2)):
        learnt = Learnt()
        settle._learn(learnt, both, {first: spilled, second: 8}, narrow.limit, 256, stuck=False)
        assert len(learnt.halved) == shared and frozenset(b.value for b in first.writes) in learnt.halved


def test_products_that_go_on_spilling_are_shared_among_several_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    n, most = 20, 6
    xs = [b.input(f"x{i}", ("i", "j"), (16, 16)) for i in range(n)]
    ws = [b.input(f"w{i}", ("j", "k"), (16, 16)) for i in range(n)]
    y = b.contract(xs[0], ws[0], ("j",))
    for x, w in zip(xs[1:], ws[1:], strict=True):
        y = b.add(y, b.contract(x, w, ("j",)))
    of = program({"y": y}, [*xs, *ws])

    def figures(tasks: Sequence[Task], **_: Any) -> list[Figures]:
        return [FINE | {"spills": 8 * (t["source"].count("tl.dot(") > most)} for t in tasks]

    monkeypatch.setattr(settle, "figures", figures)
    assert [k.text.count("tl.dot(") for k in plan(of, Setting()).kernels()] == [n]
    made = settle.settled(of, Setting(), "sm_90", lambda of: lambda b: torch.float32)
    counts = [k.text.count("tl.dot(") for k in made.kernels()]
    assert max(counts) <= most and sum(counts) == n


def test_small_results_of_many_products_are_shared_by_the_sums_that_they_are_read_from() -> None:
    """A chain of matrices of which rows are summed: no sum on the way is as small as the result."""
    b = Builder()
    n, y = 20, b.input("x", ("i", "j"), (32, 16))
    inputs = [y]
    for i in range(n):
        axis, to = "jk" if i % 2 == 0 else "kj"
        inputs += [b.input(f"w{i}", (axis, to), (16, 16)), b.input(f"u{i}", ("i", to), (32, 16))]
        y = b.add(b.contract(y, inputs[-2], (axis,)), inputs[-1])
    of = program({"z": b.sum(y, ("j",))}, inputs)
    (whole,) = plan(of, Setting()).kernels()
    assert whole.text.count("tl.dot(") == n
    learnt = Learnt()
    learnt.halved[frozenset(b.value for b in whole.writes)] = 1
    counts = [k.text.count("tl.dot(") for k in plan(of, Setting(), learnt=learnt).kernels()]
    assert len(counts) == 2 and sum(counts) == n and max(counts) <= WIDER * n


@pytest.mark.parametrize("name", ["rwkv7", "kda"])
def test_shared_products_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each kernel's products are shared among two: sums are stored, and small sums are taken with what they sum."""
    made: list[tuple[Plan, Plan]] = []

    def halved(of: Program, setting: Setting, *_: Any) -> Plan:
        learnt = Learnt()
        whole = plan(of, setting, learnt=learnt)
        parts = [p for k in whole.kernels() for p in k.parts or (k,) if p.text.count("tl.dot(") >= 4]
        learnt.halved |= {frozenset(b.value for b in p.writes): 1 for p in parts}
        made.append((whole, plan(of, setting, learnt=learnt)))
        return made[-1][1]

    monkeypatch.setattr(launch, "planned", halved)
    of = lowered(
        next(iter(catalog.get(name).mixers.values())), "chunked", 16, {"b": 1, "t": 40, "h": 2, "k": 16, "v": 16}
    )
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable], of.names)
    agree(back, {**arrays(back, seed=1), **arrays(of)})
    (whole, shared), *_ = made
    counts = [[k.text.count("tl.dot(") for k in x.kernels()] for x in (whole, shared)]
    assert counts[0] != counts[1] and max(counts[1]) <= max(counts[0])


@pytest.mark.parametrize(("left", "taken"), [(0, 2), (4, 3)])
def test_where_products_spill_fewer_copies_of_their_factors_are_tried_and_taken_if_nothing_spills_then(
    monkeypatch: pytest.MonkeyPatch, left: int, taken: int
) -> None:
    plans: list[tuple[int, Plan]] = []

    def planned(of: Program, setting: Setting, *, learnt: Learnt) -> Plan:
        made = plan(of, setting, learnt=learnt)
        new = {k: replace(k, text=f"{k.text}# {setting.copies}") for k in made.kernels()}
        plans.append((setting.copies, settle._replaced(made, new)))
        return plans[-1][1]

    def figures(tasks: Sequence[Task], **_: Any) -> list[Figures]:
        return [FINE | {"spills": left if t["source"].endswith("# 2") else 8} for t in tasks]

    monkeypatch.setattr(settle, "plan", planned)
    monkeypatch.setattr(settle, "figures", figures)
    made = settle.settled(side_by_side(), Setting(copies=3), "sm_80", lambda of: lambda b: torch.float32)
    assert next(copies for copies, x in plans if x == made) == taken
    assert [copies for copies, _ in plans][:2] == [3, 2]


def test_where_all_spill_exponents_are_tried_in_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second search is a whole one: its limits fall too."""
    b = Builder()
    x = b.input("x", ("t", "k"), (64, 4))
    of = program({"y": b.add(b.map("exp", x), b.map("exp", b.cumulate("sum", x, "t")))}, [x])
    tried: list[tuple[bool, int]] = []

    def planned(of: Program, setting: Setting, *, learnt: Learnt) -> Plan:
        made = plan(of, setting, learnt=learnt)
        tried.append((setting.folded, min(k.setting.limit for k in made.kernels())))
        return made

    monkeypatch.setattr(settle, "plan", planned)
    monkeypatch.setattr(settle, "figures", lambda tasks, **_: [FINE | {"spills": 8} for _ in tasks])
    settle.settled(of, Setting(), "sm_90", lambda of: lambda b: torch.float32)
    assert all(min(n for x, n in tried if x is folded) < Setting().limit for folded in (True, False))


@pytest.mark.parametrize(("sharing", "taken"), [(0, "both"), (8, "more")])
def test_where_narrow_tiles_take_more_launches_fewer_products_are_computed_again_if_that_is_better(
    monkeypatch: pytest.MonkeyPatch, sharing: int, taken: str
) -> None:
    """The first search is not gone on with where it passes as much as a plan that spills nothing."""
    b = Builder()
    x = b.input("x", ("t", "k"), (64, 4))
    y = b.mul(x, 2.0)
    z = b.sum(y, ("t",))
    outputs = {"one": {"y": y}, "both": {"y": y, "z": z}, "more": {"y": y, "z": z, "w": b.sum(z, ("k",))}}
    plans = {n: plan(program(of, [x]), Setting(limit=SPILLED - 1)) for n, of in outputs.items()}
    asked: list[tuple[bool, int]] = []

    def planned(of: Program, setting: Setting, *, learnt: Learnt) -> Plan:
        turn = sum(x == learnt.sharing for x, _ in asked)
        asked.append((learnt.sharing, turn))
        return plans[("one", "both")[turn > 0] if learnt.sharing else ("one", "both", "more")[min(turn, 2)]]

    def fewest(self: object, of: Plan, dtype: object) -> tuple[Plan, dict[Kernel, int]]:
        left = sharing if asked[-1] == (True, 1) else 0 if asked[-1] == (False, 2) else 8
        return of, {of.kernels()[0]: left} if left else {}

    monkeypatch.setattr(settle, "plan", planned)
    monkeypatch.setattr(settle, "TURNS", 3)
    monkeypatch.setattr(settle._Spilled, "fewest", fewest)
    made = settle.settled(two(), Setting(), "sm_90", lambda of: lambda b: torch.float32)
    assert made is plans[taken]
    first = [turn for x, turn in asked if not x]
    assert first == [0, 1, 2] and (True, 1) in asked


def test_kernels_side_by_side_that_spill_more_in_narrower_tiles_stand_alone_in_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Together they spill; with a lower limit, by themselves too."""
    of, limits = side_by_side(), list[int]()

    def planned(of: Program, setting: Setting, *, learnt: Learnt) -> Plan:
        made = plan(of, setting, learnt=learnt)
        limits.append(min(k.setting.limit for k in made.kernels()))
        new = {k: replace(k, text=f"{k.text}# {limits[-1]}") for k in made.kernels()}
        parts = [
            replace(k, parts=tuple(replace(x, text=f"{x.text}# {limits[-1]}") for x in k.parts)) for k in new.values()
        ]
        return settle._replaced(made, dict(zip(new, parts, strict=True)))

    def figures(tasks: Sequence[Task], **_: Any) -> list[Figures]:
        """What stands side by side spills; what is narrow does."""
        return [FINE | {"spills": 8 * ("_z_" in t["name"] or not t["source"].endswith("# 145"))} for t in tasks]

    monkeypatch.setattr(settle, "plan", planned)
    monkeypatch.setattr(settle, "figures", figures)
    made = settle.settled(of, Setting(), "sm_90", lambda of: lambda b: torch.float32)
    assert limits[1] < limits[0] == limits[2] == Setting().limit and len(limits) == 3
    assert len(made.kernels()) == 2 and not any(k.parts for k in made.kernels())
