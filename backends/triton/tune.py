"""Tuning: of the ways in which a program may run, the fastest one that computes what the default computes.

The ways follow from the program: the settings that it may be planned with, then how many warps a program of each kernel
has, then how deep loads are pipelined; each of these is tried with the best of what went before. A way whose results
are not the default's is dropped, however fast, and so is one that does not compile or is known to compile wrongly.

What was found is kept on disk under the kernels' text without its numbers but for the sizes of tiles. So it is found
again at any length of the sequence, any batch and any number of heads, by any process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backends.disk import Store
from backends.triton.kernel import Kernel, Setting, candidates
from backends.triton.plans import key_of
from backends.triton.text import plain
from mixer_ir.errors import BackendError

STORE = Store("tuned")
WARPS = (None, 2, 4, 8)
"""of each kernel's programs; None: as planned"""
STAGES = (None, 1, 3)
"""how deep loads are pipelined; None: as planned"""
NEAR = {"ieee": 1e-4, "tf32": 1e-2, "tf32x3": 1e-4}
"""how far results may be from the default's, relative to their norm, by how products take their factors"""
ROUNDED = 3e-2
"""the same where factors are rounded to 16 bits"""

Run = Callable[["Way"], Sequence[Tensor]]
Timer = Callable[[Callable[[], Any]], float]


@dataclass(frozen=True)
class Way:
    """One way to run a program."""

    setting: Setting
    warps: int | None = None
    stages: int | None = None


@dataclass(frozen=True)
class Trial:
    """What came of one way: its time in milliseconds, or why it was dropped."""

    way: Way
    time: float | None
    dropped: str = ""


def tuned(default: Way, name: str, run: Run, timer: Timer) -> Way:
    """The best way, from disk or found now. `name` is that of `name_of`."""
    if (data := STORE.get(name)) is not None:
        found = json.loads(data)["best"]
        return Way(replace(default.setting, **found["setting"]), found["warps"], found["stages"])
    trials = search(default, run, timer)
    best = min((t for t in trials if t.time is not None), key=lambda t: t.time or 0.0).way
    STORE.put(name, json.dumps({"best": asdict(best), "trials": [asdict(t) for t in trials]}).encode())
    return best


def search(default: Way, run: Run, timer: Timer) -> list[Trial]:
    """All that was tried, the default first."""
    wanted = [x.clone() for x in run(default)]
    trials = [Trial(default, timer(lambda: run(default)))]
    for axis in (_settings, _warps, _stages):
        best = min((t for t in trials if t.time is not None), key=lambda t: t.time or 0.0).way
        tried = {t.way for t in trials}
        trials += [_tried(way, wanted, run, timer) for way in axis(best) if way not in tried]
    return trials


def _settings(way: Way) -> Iterator[Way]:
    yield from (replace(way, setting=s) for s in candidates(way.setting))


def _warps(way: Way) -> Iterator[Way]:
    yield from (replace(way, warps=n) for n in WARPS)


def _stages(way: Way) -> Iterator[Way]:
    yield from (replace(way, stages=n) for n in STAGES)


def _tried(way: Way, wanted: Sequence[Tensor], run: Run, timer: Timer) -> Trial:
    try:
        far = distance(run(way), wanted)
    except BackendError as error:
        return Trial(way, None, str(error))
    if not far <= (near := NEAR.get(way.setting.dot, ROUNDED)):
        return Trial(way, None, f"its results are off by {far:.1e} of their norm, more than {near:.0e}")
    return Trial(way, timer(lambda: run(way)))


def distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest |x − y| / |y| of all results, over entries that are finite in both; infinite where others differ."""
    worst = 0.0
    for x, y in zip(found, wanted, strict=True):
        fine = torch.isfinite(y)
        if not torch.equal(fine, torch.isfinite(x)):
            return float("inf")
        x, y = x[fine].double(), y[fine].double()
        scale = float(y.norm())
        off = float((x - y).norm())
        worst = max(worst, off / scale if scale else off)
    return worst


def name_of(kernels: Sequence[Kernel], dtypes: Sequence[torch.dtype], target: str) -> str:
    """What a choice is kept under: nothing of it hangs on lengths that no tile has."""
    return key_of("tuned", *(structure(k.source) for k in kernels), *map(str, dtypes), target)


def structure(source: str) -> str:
    """A kernel's text with its numbers taken out, but for the sizes of tiles."""
    tiles = re.findall(r"tl\.arange\(0, (\d+)\)", source)
    return f"{re.sub(r'[0-9]+', '#', plain(source))} {tiles}"


def measured(run: Callable[[], Any]) -> float:
    """The median time of a call on a GPU, in milliseconds."""
    import triton

    return float(triton.testing.do_bench(run, warmup=5, rep=30, return_mode="median"))
