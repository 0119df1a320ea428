"""Kernels compiled ahead of time in a process of its own: a task a line on standard input, a reply a line on output.

It is run by its path and imports Triton alone, so that it starts at once and compiles where the caller interprets.
Task and reply are JSON objects:

    {"source", "name", "signature": {argument: type}, "target": [backend, architecture, lanes], "options": {…}}
    {"registers", "stack", "spills", "shared", "columns", "tensor": {instruction: count}, "ttir"}  or  {"error": …}

`shared` is in bytes, `columns` are those of tensor memory (128 lanes of 4 bytes each), which Blackwell's products take.
"""

from __future__ import annotations

import json
import linecache
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def made(task: dict[str, Any]) -> dict[str, Any]:
    """The figures of one kernel."""
    file = f"<mixer-ir {task['name']}>"
    linecache.cache[file] = (len(task["source"]), None, task["source"].splitlines(keepends=True), file)
    space: dict[str, Any] = {"__name__": "mixer_ir_kernels"}
    exec(compile(task["source"], file, "exec"), space)
    pointers = [i for i, of in enumerate(task["signature"].values()) if of.startswith("*")]
    aligned = {(i,): [["tt.divisibility", 16]] for i in pointers}
    source = ASTSource(space[task["name"]], task["signature"], constexprs={}, attrs=aligned)
    backend, arch, lanes = task["target"]
    done: Any = triton.compile(source, target=GPUTarget(backend, arch, lanes), options=task["options"])
    found = nvidia(done.asm["cubin"], task["name"]) if backend == "cuda" else amd(done.asm["amdgcn"])
    columns = int(getattr(done.metadata, "tmem_size", None) or 0)
    return {**found, "shared": int(done.metadata.shared), "columns": columns, "ttir": str(done.asm["ttir"])}


def nvidia(cubin: bytes, name: str) -> dict[str, Any]:
    """Registers and bytes of stack of a thread, bytes spilled (each instruction once), tensor-core instructions."""
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
    return {"registers": int(numbers["REG"]), "stack": int(numbers["STACK"]), "spills": spills, "tensor": tensor}


def amd(text: str) -> dict[str, Any]:
    """The same of an AMD kernel; spills are those of vector registers."""

    def number(name: str) -> int | None:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        return int(found[1]) if found else None

    spilled, products = number("vgpr_spill_count"), len(re.findall(r"\bv_mfma_\w+", text))
    return {
        "registers": number("vgpr_count"),
        "stack": number("private_segment_fixed_size"),
        "spills": None if spilled is None else 4 * spilled,
        "tensor": {"MFMA": products} if products else {},
    }


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the compiler prints is no reply
    for line in sys.stdin:
        try:
            reply = made(json.loads(line))
        except Exception as error:  # whatever the compiler raises is the reply: the caller names the kernel
            reply = {"error": f"{type(error).__name__}: {str(error)[-600:]}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
