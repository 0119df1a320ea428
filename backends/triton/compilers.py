"""Figures of compiled kernels: from disk where they are known, else from processes that compile side by side.

A process takes seconds to import Triton, longer than most kernels take: it stays for all batches of one `kept`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from threading import Timer
from typing import Any, TypeAlias

from backends.disk import Store

Task: TypeAlias = Mapping[str, Any]
Figures: TypeAlias = dict[str, Any]
SCRIPT = Path(__file__).parent / "compiling.py"
STORE = Store("compiled")
PROCESSES = max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
LIMIT = 900.0
"""seconds that the compilation of one kernel may take"""


def figures(
    tasks: Sequence[Task], *, processes: int = PROCESSES, limit: float = LIMIT, by: Compilers | None = None
) -> list[Figures]:
    """The reply of backends/triton/compiling.py to every task, in order; equal tasks are compiled once.

    limit   seconds for each; what takes longer has {"error": …}, which is not kept
    by      processes that are there; else there are some until the last task is done
    """
    version = f"{metadata.version('triton')} {sha256(SCRIPT.read_bytes()).hexdigest()}"
    keys = [sha256(json.dumps([version, t], sort_keys=True).encode()).hexdigest() for t in tasks]
    known: dict[str, Figures] = {k: json.loads(data) for k in keys if (data := STORE.get(k)) is not None}
    new = {k: t for k, t in zip(keys, tasks, strict=True) if k not in known}
    if new:
        longest = sorted(new, key=lambda k: -len(new[k]["source"]))
        with nullcontext(by) if by else kept(min(processes, len(new))) as compilers:
            for key, made in zip(longest, compilers([new[k] for k in longest], limit), strict=True):
                known[key] = made
                if "error" not in made:
                    STORE.put(key, json.dumps(made).encode())
    return [known[k] for k in keys]


class _Compiler:
    """One process: started when it is first needed, and again after it died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, task: Task, limit: float) -> Figures:
        if self.process is None or self.process.poll() is not None:
            clean = {n: x for n, x in os.environ.items() if n != "TRITON_INTERPRET"}
            command = [sys.executable, "-P", str(SCRIPT)]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=clean
            )
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        watch = Timer(limit, process.kill)
        watch.start()
        try:
            process.stdin.write(json.dumps(dict(task)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late = not watch.is_alive()
            watch.cancel()
        if line:
            made: Figures = json.loads(line)
            return made
        process.wait()
        if late:
            return {"error": f"it was still compiling after {limit:.0f} s"}
        return {"error": f"the compiler ended with status {process.returncode}"}

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


class Compilers:
    """Processes that compile side by side, each started when it is first needed."""

    def __init__(self, count: int) -> None:
        self.every = [_Compiler() for _ in range(count)]

    def __call__(self, tasks: Sequence[Task], limit: float) -> Iterator[Figures]:
        """The reply to every task, in order, as it comes."""
        idle: SimpleQueue[_Compiler] = SimpleQueue()
        for one in sorted(self.every, key=lambda x: x.process is None):
            idle.put(one)

        def compiled(task: Task) -> Figures:
            one = idle.get()
            try:
                return one(task, limit)
            finally:
                idle.put(one)

        with ThreadPoolExecutor(len(self.every)) as pool:
            yield from pool.map(compiled, tasks)


@contextmanager
def kept(count: int = PROCESSES) -> Iterator[Compilers]:
    """Compilers for as many batches as there are; then they are stopped."""
    made = Compilers(count)
    try:
        yield made
    finally:
        for one in made.every:
            one.stop()
