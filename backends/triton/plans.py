"""Plans that were made: in memory for this process, on disk for the next one.

A plan is kept under the digest of its program with the setting, the emitter's code, Triton's version and the device.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cache
from hashlib import sha256
from importlib import metadata
from typing import Any

from backends.disk import Store, emitter
from backends.triton.kernel import Setting
from backends.triton.partition import plan
from backends.triton.steps import Plan
from lowering.digest import digest
from lowering.program import Program, Value
from mixer_ir.errors import BackendError

STORE = Store("triton")
MEMORY: dict[str, Plan] = {}
MOST = 256
"""plans in memory; those that came first go first"""
HELD = ("backends.triton.", "lowering.program")
"""modules whose classes a kept plan may hold"""


def planned(
    program: Program, setting: Setting, target: str, marks: Sequence[str] = (), make: Callable[[], Plan] | None = None
) -> Plan:
    """The plan of a program of real numbers: from memory, from disk, or made now (by `make`, which hangs on `marks`).

    Its own program has the same inputs and outputs in the same order, which need not be the same objects.
    """
    key = key_of(digest(program), repr(setting), target, *marks)
    made = MEMORY.get(key)
    if made is None:
        if (data := STORE.get(key)) is not None:
            made = read(data)
        else:
            made = plan(program, setting) if make is None else make()
            STORE.put(key, written(made))
        MEMORY[key] = made
        for old in [*MEMORY][:-MOST]:
            MEMORY.pop(old, None)
    return made


def key_of(*parts: str) -> str:
    """What is kept hangs on these, on the emitter and on Triton."""
    return sha256(json.dumps([*parts, emitter("triton"), version()]).encode()).hexdigest()


@cache
def version() -> str:
    return metadata.version("triton")


def written(of: Plan) -> bytes:
    """The plan as bytes: first the values of its program, arguments before results, so that none nests deeply."""
    return pickle.dumps([*parts(of.program), of], protocol=pickle.HIGHEST_PROTOCOL)


def read(data: bytes) -> Plan:
    """The plan from its bytes. Errors: BackendError if they ask for what no plan holds."""
    made: Plan = _Reader(io.BytesIO(data)).load()[-1]
    return made


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if not module.startswith(HELD) and (module, name) != ("builtins", "complex"):
            raise BackendError(f"a kept plan asks for {module}.{name}, which no plan holds")
        return super().find_class(module, name)


def parts(program: Program) -> Iterator[Program | Value]:
    """The values of a program, each after those of the loops' bodies that it holds."""
    for v in dict.fromkeys((*program.inputs, *program.order)):
        for f in fields(v.op):
            if isinstance(inner := getattr(v.op, f.name), Program):
                yield from parts(inner)
                yield inner
        yield v
