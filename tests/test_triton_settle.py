"""Plans that a compiler finds registers for: what spills is planned again with fewer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from backends.triton import settle
from backends.triton.compilers import Figures, Task
from backends.triton.kernel import LAST, Setting
from backends.triton.partition import plan
from backends.triton.steps import Plan
from lowering.build import Builder, program
from lowering.program import Program, Value

FINE: Figures = {"registers": 32, "stack": 0, "spills": 0, "shared": 0, "columns": 0, "tensor": {}, "ttir": ""}


def two() -> Program:
    """Two results of kernels of their own: one reads the other."""
    b = Builder()
    x = b.input("x", ("t", "k"), (64, 4))
    y = b.mul(x, 2.0)
    return program({"y": y, "z": b.sum(y, ("t",))}, [x])


class Tried:
    """Plans as they are asked for, with what a compiler is made to say of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, says: Sequence[Mapping[str, Any]]) -> None:
        self.limits: list[dict[str, int]] = []
        self.plans: list[Plan] = []
        self.says = says
        monkeypatch.setattr(settle, "plan", self.plan)
        monkeypatch.setattr(settle, "figures", self.figures)

    def plan(self, of: Program, setting: Setting, *, limits: Mapping[Value, int], alone: Set[Value]) -> Plan:
        made = plan(of, setting, limits=limits, alone=alone)
        new = {k: replace(k, text=f"{k.text}# {len(self.plans)}") for k in made.kernels()}  # as if it had changed
        made = settle._replaced(made, new)
        names = {b.value: b.name for k in made.kernels() for b in k.writes}
        self.limits.append({names[v]: n for v, n in limits.items()})
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


def test_a_limit_reaches_the_kernel() -> None:
    of = two()
    first = plan(of, Setting())
    (y,) = (b.value for k in first.kernels() for b in k.writes if b.name == "y")
    found = {b.name: k.setting.limit for k in plan(of, Setting(), limits={y: 80}).kernels() for b in k.writes}
    assert found == {"y": 80, "z": Setting().limit}


def test_of_kernels_side_by_side_that_go_on_spilling_the_largest_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    x, w = b.input("x", ("t", "k"), (4096, 64)), b.input("w", ("k", "v"), (64, 64))
    u = b.input("u", ("i", "j"), (64, 64))
    of = program({"y": b.contract(x, w, ("k",)), "z": b.sum(u, ("i",))}, [x, w, u])
    monkeypatch.setattr(
        settle, "figures", lambda tasks, **_: [FINE | {"spills": 8 * ("_z_" in t["name"])} for t in tasks]
    )
    assert [len(k.parts) for k in plan(of, Setting()).kernels()] == [2]
    made = settle.settled(of, Setting(), "sm_90", lambda of: lambda b: torch.float32)
    assert sorted(b.name for k in made.kernels() for b in k.writes) == ["y", "z"] and len(made.kernels()) == 2


def fitted(monkeypatch: pytest.MonkeyPatch, target: str, spills: Callable[[Mapping[str, int]], int]) -> Plan:
    """What is settled on where a compiler spills as `spills` says of its options, from one plan."""
    monkeypatch.setattr(settle, "figures", lambda tasks, **_: [FINE | {"spills": spills(t["options"])} for t in tasks])
    monkeypatch.setattr(settle, "TURNS", 1)
    return settle.settled(two(), Setting(), target, lambda of: lambda b: torch.float32)


def test_what_spills_with_pipelined_loads_alone_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fitted(monkeypatch, "sm_90", lambda options: 8 * (options["num_stages"] > 1))
    assert {k.stages for k in made.kernels()} == {1} and len(made.kernels()) == len(plan(two(), Setting()).kernels())
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
