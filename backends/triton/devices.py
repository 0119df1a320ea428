"""Devices by their published figures: what fits on a multiprocessor, and how long a kernel should take there.

Nothing here is measured. The prediction takes the larger of what the whole device needs for the kernel's bytes,
products and functions, and what one program after the other needs because each waits for its own loads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from backends.triton.work import Level, Work


@dataclass(frozen=True)
class Device:
    """A GPU: rates of the whole device a second, sizes of one multiprocessor.

    triton     what Triton calls it: backend, architecture, threads of a warp
    memory, cache   bytes a second of memory and of the second-level cache
    products   operations a second of matrix products, by how factors are taken
    special    exponentials and the like     simple   other operations on entries (single precision)
    warps, blocks, registers, shared, block_shared   the most on a multiprocessor (block_shared: of one block), in bytes
    """

    name: str
    triton: tuple[str, int | str, int]
    units: int
    memory: float
    cache: float
    products: Mapping[str, float]
    special: float
    simple: float
    warps: int
    blocks: int
    registers: int
    shared: int
    block_shared: int

    def resident(self, registers: int | None, shared: int, warps: int) -> int:
        """Blocks that fit on a multiprocessor."""
        if self.triton[0] == "cuda":  # the rules of cuda_occupancy.h
            of_registers = self.registers // 4 // (-(-max(registers or 1, 1) * 32 // 256) * 256) * 4 // warps
            of_shared = self.shared // (-(-shared // 128) * 128 + 1024)
        else:  # a SIMD has 512 registers a lane; its waves share them in groups of 8
            of_registers = min(8, 512 // (-(-max(registers or 1, 1) // 8) * 8)) * 4 // warps
            of_shared = self.shared // max(shared, 1)
        return min(of_registers, of_shared, self.warps // warps, self.blocks)


def _nvidia(
    name: str, arch: int, units: int, clock: float, memory: float, cache: float, bf16: float, shared: int
) -> Device:
    """One with tensor cores of `bf16` operations a second, 128 lanes and 16 special functions a clock and unit."""
    lanes = units * 128 * clock
    rates = {"bf16": bf16, "fp16": bf16, "tf32": bf16 / 2, "fp32": 2 * lanes, "fp64": bf16 / 16}
    return Device(
        name, ("cuda", arch, 32), units, memory, cache, rates, lanes / 8, lanes, 64, 32, 65536, shared, shared - 1024
    )


DEVICES: dict[str, Device] = {
    "sm_80": _nvidia("A100 SXM 80 GB", 80, 108, 1.41e9, 2.04e12, 5e12, 312e12, 167936),
    "sm_90": _nvidia("H100 SXM", 90, 132, 1.83e9, 3.35e12, 7e12, 989e12, 233472),
    "sm_100": _nvidia("B200", 100, 148, 1.85e9, 8e12, 12e12, 2250e12, 233472),
    "gfx942": Device(
        "MI300X",
        ("hip", "gfx942", 64),
        304,
        5.3e12,
        10e12,
        {"bf16": 1307e12, "fp16": 1307e12, "tf32": 654e12, "fp32": 163e12, "fp64": 163e12},
        304 * 16 * 2.1e9,
        304 * 128 * 2.1e9,
        32,
        32,
        512 * 4 * 64,
        65536,
        65536,
    ),
}
"""target -> device, by the makers' data sheets (dense products; the caches' rates as measured by others)"""


def triton_of(target: str) -> tuple[str, int | str, int] | None:
    """What Triton calls a target (backend, architecture, threads of a warp); None for what is no GPU to compile for."""
    if target in DEVICES:
        return DEVICES[target].triton
    if found := re.fullmatch(r"sm_(\d+)", target):
        return "cuda", int(found[1]), 32
    return ("hip", target, 64 if target.startswith("gfx9") else 32) if target.startswith("gfx") else None


def room(target: str) -> tuple[int, int]:
    """(Registers of a thread that tiles may take, threads that hold an entry of a product's factor while it works).

    Hopper's tensor cores, and those of Blackwell's data-centre GPUs, read factors from shared memory. On NVIDIA's other
    GPUs a program's warps share rows and columns of a product among them: two to four threads hold each factor, and its
    way there takes addresses. AMD's threads find twice the registers, so that factors are not counted there.
    """
    backend, arch, _ = triton_of(target) or ("", 0, 0)
    return (128, 3) if backend == "cuda" and int(arch) not in range(90, 120) else (145, 0)


LAUNCH = 3e-6
"""seconds from one kernel's end to the next one's first program"""
WAIT = 8e-7
"""seconds from asking memory to having"""
OLD = 0.62
"""of a Hopper tensor core's rate is reached by products that are not its own instruction (HGMMA)"""


def seconds(device: Device, work: Work, moved: float, resident: int, warps: int, own: bool) -> float:
    """The predicted time of a kernel.

    moved   bytes of its arrays, each once     resident   programs that fit on a multiprocessor
    own     whether products are the instruction that this device is fastest with
    """
    resident = max(resident, 1)
    busiest = -(-work.programs // device.units) * device.units / work.programs  # over the mean
    products = _products(device, work.products, own)
    special, simple = work.special / device.special, work.simple / device.simple
    computing = (max(products, special, simple) if resident > 1 else products + special + simple) * busiest
    reading = (work.loaded + work.stored) * busiest / device.cache
    parts: dict[tuple[int, int], float] = {}  # kernels that stand side by side: the time of one program of each
    for x in work.levels:
        parts[x.programs] = parts.get(x.programs, 0.0) + _alone(device, x, warps, own)
    places = device.units * resident
    turns = [(-(-(last - first) // places), (last - first) / places, t) for (first, last), t in parts.items()]
    waiting = max(*(rounds * t for rounds, _, t in turns), sum(share * t for _, share, t in turns))
    return LAUNCH + max(moved / device.memory, reading, computing, waiting)


def _products(device: Device, products: Mapping[str, float], own: bool) -> float:
    return sum(n / device.products[how] / (1.0 if own else OLD) for how, n in products.items())


def _alone(device: Device, x: Level, warps: int, own: bool) -> float:
    """One program's own time in one loop: it waits for its loads once a turn, then computes on a part of a unit."""
    part = min(1.0, warps / 4) / device.units
    computing = (_products(device, x.products, own) + (x.special / device.special + x.simple / device.simple)) / part
    return computing + x.turns * WAIT * bool(x.loaded)
