"""Plans that a device's compiler finds registers for: what spills there is planned again with fewer.

The estimate of `schedule.pressure` knows tiles; addresses, layouts and the compiler's own order are not in it. So the
kernels of a plan are compiled as they would be launched, in processes of their own. What those kernels store that
spill, or that take more shared memory than a program has, is planned again with a lower limit of registers, and so it
goes on; where that changes nothing, the largest of kernels that stand side by side is launched by itself. Of all plans
that were tried the one with the least spilled is taken. Nothing is run, nothing hangs on times, and the plan is kept on
disk, so that this is done once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from backends.triton.compilers import LIMIT, figures
from backends.triton.devices import DEVICES, triton_of
from backends.triton.evaluate import Buffer
from backends.triton.kernel import LAST, Kernel, Setting
from backends.triton.known import installed, sound
from backends.triton.partition import Call, Launch, Plan, plan
from backends.triton.tune import STAGES
from lowering import program as p
from lowering.program import Program, Value

TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i8",
}
"""dtype -> that of a kernel's pointer"""
NOT = 1 << 20
"""bytes that count as spilled where a kernel cannot be compiled, or takes more shared memory than there is"""

TRIES = 8
"""plans that are compiled at most"""
LESS, LEAST, MUCH = 0.85, 0.7, 1024
"""of a limit, the next one, and the next one where so many bytes are spilled; what a new cut brings begins there"""

Types = Callable[[Plan], Callable[[Buffer], torch.dtype]]
"""the dtypes that a plan's arrays have in memory"""


def settled(program: Program, setting: Setting, target: str, types: Types, *, limit: float = LIMIT) -> Plan:
    """The plan of a program of real numbers for a device.

    limit   seconds that one kernel may be compiled for
    """
    limits: dict[Value, int] = {}
    alone: set[Value] = set()
    seen: set[str] = set()
    best: tuple[int, Plan] | None = None
    for turn in range(TRIES):
        fresh = int(setting.limit * (1.0, LESS, LESS, LEAST)[min(turn, 3)])
        made = plan(program, replace(setting, limit=fresh), limits=limits, alone=alone)
        bad = _spilling(made, target, types(made), limit)
        total = sum(bad.values())
        if best is None or total < best[0]:
            best = total, made
        before = dict(limits), set(alone)
        for kernel in made.kernels():
            if kernel in bad and kernel.parts and kernel.text in seen:
                alone |= {b.value for b in max(kernel.parts, key=lambda k: k.held).writes}
                continue
            for b in kernel.writes:
                have = limits.get(b.value, fresh)
                limits[b.value] = _lower(have, kernel, bad[kernel]) if kernel in bad else have
        seen |= {k.text for k in bad}
        if not bad or (limits, alone) == before:
            break
    assert best is not None
    return best[1]


def _lower(limit: int, kernel: Kernel, spilled: int) -> int:
    """The next limit: below what the kernel holds if it fitted, and lower where it spilled much."""
    held = kernel.held // (32 * kernel.warps)
    lower = int(limit * LEAST) if spilled > MUCH else min(held - 1, limit - 1) if held <= limit else int(limit * LESS)
    return max(lower, LAST)


def _spilling(of: Plan, target: str, dtype: Callable[[Buffer], torch.dtype], limit: float) -> dict[Kernel, int]:
    """The bytes that kernels spill, of those that do."""
    kernels = list(dict.fromkeys(k for k, _ in launched(of) if isinstance(k, Kernel)))
    tasks = [task(sound(k, target, installed()), target, {b: dtype(b) for b in (*k.reads, *k.writes)}) for k in kernels]
    most = DEVICES[target].block_shared if target in DEVICES else None
    found: dict[Kernel, int] = {}
    for kernel, made in zip(kernels, figures(tasks, limit=limit), strict=True):
        over = "error" in made or (most is not None and made["shared"] > most)
        if n := NOT if over else max(made["spills"] or 0, made["stack"] or 0):
            found[kernel] = n
    return found


def task(kernel: Kernel, target: str, of: Mapping[Buffer, torch.dtype]) -> dict[str, Any]:
    """What backends/triton/compiling.py is asked for: the kernel as it would be launched."""
    return {
        "source": kernel.source,
        "name": kernel.name,
        "signature": {f"p_{b.name}": TYPES[dtype] for b, dtype in of.items()},
        "target": list(triton_of(target) or ()),
        "options": {"num_warps": kernel.warps, "num_stages": STAGES},
    }


def launched(of: Plan) -> Iterator[tuple[Kernel | Call, int]]:
    """What running a plan launches or calls, and how often."""
    for step in of.steps:
        if isinstance(step, Launch):
            yield step.kernel, 1
        elif isinstance(step, Call):
            yield step, 1
        else:
            assert isinstance(step.scan.op, p.Scan)
            yield from ((x, n * step.scan.op.length) for x, n in launched(step.body))
