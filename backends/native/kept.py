"""What is known on disk of programs that were compiled before: the library, and whether it beat PyTorch's operators.

A record's name says all that the library hangs on but its text: the program, the emitter's own code, the compiler by
its file, the processor, the dtypes and the number of threads. So a program that another process has compiled is
found without writing its text anew.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from backends.disk import emitter, folder, write
from backends.native.compiler import KEPT, NoCompiler, named, processor


@dataclass(frozen=True)
class Record:
    """A program's library and those of the routines that it calls, by their files' names.

    arena     bytes that it works in, and `apart` for each thread more
    seconds   of one call, compiled and on operators, where they were measured
    """

    library: str
    routines: tuple[str, ...]
    arena: int
    apart: int
    seconds: tuple[float, float] | None = None

    def beside(self, name: str) -> Path:
        return folder(KEPT) / name

    def forget(self) -> None:
        """Takes the libraries away, of which one cannot be loaded."""
        for name in (self.library, *self.routines):
            with suppress(OSError):
                self.beside(name).unlink()


def key_of(program: str, types: object) -> str | None:
    """The name of the record of a program that goes by this word; None where there is no compiler."""
    try:
        compilers = named()
    except NoCompiler:
        return None
    if not compilers:
        return None
    facts = (
        program,
        str(types),
        str(torch.get_num_threads()),
        torch.__version__,
        emitter(KEPT),
        processor(),
        *compilers,
    )
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]


def find(key: str | None) -> Record | None:
    """The record, if there is one and its library is there too; one that cannot be read counts as none."""
    if key is None:
        return None
    try:
        told = json.loads((folder(KEPT) / f"{key}.json").read_text(encoding="utf-8"))
        seconds = told["seconds"]
        made = Record(
            str(told["library"]),
            tuple(map(str, told["routines"])),
            int(told["arena"]),
            int(told["apart"]),
            None if seconds is None else (float(seconds[0]), float(seconds[1])),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return made if all(made.beside(name).is_file() for name in (made.library, *made.routines)) else None


def keep(key: str, record: Record) -> None:
    """Writes a record. OSError where the folder takes nothing."""
    write(folder(KEPT) / f"{key}.json", json.dumps(asdict(record)).encode())
