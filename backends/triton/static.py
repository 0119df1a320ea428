"""Kernels compiled ahead of time for a device that need not be here, with what the compiled code tells."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.triton.kernel import Kernel, Setting
from backends.triton.launch import function
from backends.triton.partition import Plan, plan
from backends.triton.real import real
from lowering.program import Program
from mixer_ir.errors import BackendError

TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
SHARED = {"sm_80": 167936, "sm_90": 233472, "sm_100": 233472}
"""bytes of shared memory on a multiprocessor"""
REGISTERS, WARPS, BLOCKS = 65536, 64, 32
"""of a multiprocessor"""


@dataclass(frozen=True)
class Compiled:
    """One kernel on one device.

    registers, stack   of a thread (bytes of stack: what was spilled)     shared   bytes of a block
    spills             bytes written to and read from the stack, each instruction counted once
    tensor             instructions of tensor cores, by name              occupancy   of an SM's warps; None: not known
    """

    kernel: Kernel
    target: str
    registers: int | None
    stack: int | None
    spills: int | None
    shared: int
    tensor: dict[str, int]
    occupancy: float | None

    def row(self) -> list[str]:
        """The cells of a table."""
        tensor = " ".join(f"{n} {name}" for name, n in self.tensor.items()) or "-"
        share = "-" if self.occupancy is None else f"{self.occupancy:.0%}"
        return [
            self.kernel.name,
            str(self.kernel.programs),
            str(self.kernel.warps),
            _shown(self.registers),
            _shown(self.spills),
            f"{self.shared / 1024:.1f}",
            tensor,
            share,
        ]


def _shown(x: int | None) -> str:
    return "-" if x is None else str(x)


HEAD = ["kernel", "programs", "warps", "registers", "spilled B", "shared KB", "tensor cores", "occupancy"]


@dataclass(frozen=True)
class Kernels:
    """The kernels of a program, forward and backward: `str` gives their text and a table."""

    title: str
    target: str
    forward: tuple[Compiled, ...]
    backward: tuple[Compiled, ...]
    failed: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """All kernels' text."""
        return "\n\n".join(c.kernel.source for c in (*self.forward, *self.backward))

    @property
    def table(self) -> str:
        """A line for each kernel."""
        rows = [["pass", *HEAD], *(["forward", *c.row()] for c in self.forward)]
        rows += [["backward", *c.row()] for c in self.backward]
        wide = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(x.ljust(n) for x, n in zip(r, wide, strict=True)).rstrip() for r in rows)

    def __str__(self) -> str:
        head = "\n".join(f"# {line}" for line in self.title.splitlines())
        return f"{head}\n\n{self.source}\n{self.table}"


def compiled(kernel: Kernel, target: str, setting: Setting) -> Compiled:
    """`kernel` compiled for `target`. Errors: BackendError if the compiler refuses it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if triton.knobs.runtime.interpret:
        raise BackendError("kernels cannot be compiled where TRITON_INTERPRET is set; start without it")
    backend, arch, lanes = TARGETS[target]
    types = {"real": setting.real.replace("tl.float", "*fp"), "int": "*i64", "bool": "*i8"}
    pointers = [*kernel.reads, *kernel.writes]
    signature = {f"p_{b.name}": types[b.value.kind] for b in pointers}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))}
    source = ASTSource(function(kernel.source, kernel.name), signature, constexprs={}, attrs=aligned)
    try:
        made: Any = triton.compile(
            source, target=GPUTarget(backend, arch, lanes), options={"num_warps": kernel.warps, "num_stages": 2}
        )
    except Exception as error:
        raise BackendError(f"Triton does not compile {kernel.name} for {target}: {str(error)[-400:]}") from error
    shared = int(made.metadata.shared)
    if backend != "cuda":
        return Compiled(kernel, target, *_amd(made.asm["amdgcn"]), shared, _amd_tensor(made.asm["amdgcn"]), None)
    registers, stack, spills, tensor = _nvidia(made.asm["cubin"], kernel.name)
    share = _resident(target, registers, shared, kernel.warps) * kernel.warps / WARPS
    return Compiled(kernel, target, registers, stack, spills, shared, tensor, share)


def _nvidia(cubin: bytes, name: str) -> tuple[int, int, int, dict[str, int]]:
    """(registers, stack, spilled bytes, tensor-core instructions) of a binary."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        Path(f.name).write_bytes(cubin)
        usage, code = (
            subprocess.run([tool, what, f.name], capture_output=True, text=True, check=True).stdout
            for what in ("--dump-resource-usage", "--dump-sass")
        )
    numbers = dict(re.findall(r"(\w+):(\d+)", usage.split(f"Function {name}:")[1].splitlines()[1]))
    ops = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\w+ )? *([A-Z]\w*)", code))
    spills = 0
    for width in re.findall(r"\b(?:LDL|STL)((?:\.\w+)*)", code):
        bits = re.search(r"\.[US]?(8|16|64|128)\b", width)
        spills += int(bits[1]) // 8 if bits else 4
    tensor = {op: ops[op] for op in ("HGMMA", "UTCHMMA", "HMMA", "DMMA") if ops[op]}
    return int(numbers["REG"]), int(numbers["STACK"]), spills, tensor


def _amd(text: str) -> tuple[int | None, int | None, int | None]:
    def number(name: str) -> int | None:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        return int(found[1]) if found else None

    spilled = number("vgpr_spill_count")
    return number("vgpr_count"), number("private_segment_fixed_size"), None if spilled is None else 4 * spilled


def _amd_tensor(text: str) -> dict[str, int]:
    n = len(re.findall(r"\bv_mfma_\w+", text))
    return {"MFMA": n} if n else {}


def _resident(target: str, registers: int, shared: int, warps: int) -> int:
    """Blocks that fit on a multiprocessor, by the rules of cuda_occupancy.h."""
    by_registers = REGISTERS // 4 // (-(-max(registers, 1) * 32 // 256) * 256) * 4 // warps
    by_shared = SHARED[target] // (-(-shared // 128) * 128 + 1024)
    return min(by_registers, by_shared, WARPS // warps, BLOCKS)


def kernels_of(
    title: str, forward: Program, backward: Program | None, target: str, setting: Setting, *, strict: bool = True
) -> Kernels:
    """The kernels of a program and of its adjoint on a device; without `strict`, those that fail are named."""
    plans: list[Plan] = [plan(real(forward), setting)] + ([plan(real(backward), setting)] if backward else [])
    failed: list[str] = []

    def every(kernels: Sequence[Kernel]) -> tuple[Compiled, ...]:
        made = []
        for k in kernels:
            try:
                made.append(compiled(k, target, setting))
            except BackendError as error:
                if strict:
                    raise
                failed.append(str(error))
        return tuple(made)

    passes = [every(p.kernels()) for p in plans]
    return Kernels(title, target, passes[0], passes[1] if len(passes) > 1 else (), tuple(failed))
