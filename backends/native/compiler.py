"""The machine's own C compiler, and the libraries that it made, kept on disk for the next time.

A library's name says all that it hangs on: its text, the compiler with its version and flags, and the processor. It
is written under another name and renamed when it is whole, so that any number of processes may make the same one at
once, and one that dies leaves nothing that is ever read.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from backends.disk import UNFINISHED, clean, folder
from mixer_ir.errors import BackendError

HERE = Path(__file__).parent
KEPT = "native"
"""the folder of what is kept on disk"""
NAMES = ("cc", "gcc", "clang")
FLAGS = (
    "-O2",
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fopenmp",
    "-Wno-unknown-pragmas",
)
MISSING = (
    "the native backend compiles its programs with the machine's C compiler, and there is none that works ({reason}); "
    "install gcc or clang (Debian and Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select "
    '--install), or take backend="eager"'
)


class NoCompiler(BackendError):
    """There is none on this machine that works."""


ENDING = "the interpreter is ending: nothing is compiled any more"


@dataclass(frozen=True)
class Compiler:
    """A compiler that was tried and works."""

    command: tuple[str, ...]
    flags: tuple[str, ...]
    version: str

    def make(self, source: str, extra: tuple[str, ...] = ()) -> Path:
        """The library of a text, from the disk or made now."""
        facts = (source, _support(), self.version, *self.command, *self.flags, *extra, processor())
        name = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]
        path = folder(KEPT) / f"{name}.so"
        if not path.exists():
            self._make(source, extra, path)
        return path

    def _make(self, source: str, extra: tuple[str, ...], path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            clean(path.parent)
            with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as place:
                text, made = Path(place, "program.c"), Path(place, "program.so")
                text.write_text(source, encoding="utf-8")
                command = [*self.command, *self.flags, *extra, f"-I{HERE}", str(text), "-o", str(made), "-lm"]
                status, said = RUNNING.run(command)
                if status:
                    log = path.with_suffix(".log")
                    log.write_text(f"{shlex.join(command)}\nexit status {status}\n{said}\n{source}", encoding="utf-8")
                    raise BackendError(
                        f"{shlex.join(self.command)} does not compile a program: {_first(said) or f'status {status}'} "
                        f"(all that it said, and the program: {log})"
                    )
                os.replace(made, path)
        except OSError as error:
            raise BackendError(
                f"the native backend keeps compiled programs in {path.parent}, where it cannot write "
                f"({error.strerror}); name another folder with MIXER_IR_CACHE"
            ) from error


class Running:
    """The compilers at work, each in a process group of its own: Ctrl-C is for Python, which then ends them."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """A process that was just forked has started none."""
        self._held: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """(exit status, complaints).

        A Ctrl-C that is meant for Python also hits what was just born and has no session of its own yet: then again.
        """
        status, said = self._once(command)
        return self._once(command) if status == -signal.SIGINT else (status, said)

    def _once(self, command: Sequence[str]) -> tuple[int, str]:
        with self._lock:
            if self.stopped:
                raise BackendError(ENDING)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._held.add(process)
        try:
            said = process.communicate()[1]
        except BaseException:
            _end(process)
            raise
        finally:
            self._held.discard(process)
        if self.stopped:
            raise BackendError(ENDING)
        return process.returncode, said

    def stop(self) -> None:
        """No compiler outlives the interpreter."""
        with self._lock:
            self.stopped = True
            for process in self._held:
                _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a compiler with all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


RUNNING = Running()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RUNNING.forget)


def installed() -> Compiler:
    """The compiler: $CC if that is set, else the first one on the path that works.

    Errors: NoCompiler, which says what to install.
    """
    return _compiler(os.environ.get("CC"), os.environ.get("PATH"))


def named() -> tuple[str, ...]:
    """The compilers that would be tried, each with the age and size of its file: known without starting one."""
    own, path = os.environ.get("CC"), os.environ.get("PATH")
    found = [where for name in commands(own) if (where := shutil.which(name[0], path=path))]
    return tuple(f"{where} {(facts := os.stat(where)).st_mtime_ns} {facts.st_size} {own}" for where in found)


def commands(own: str | None) -> list[tuple[str, ...]]:
    """What may be called, in this order."""
    if not own or not own.strip():
        return [(name,) for name in NAMES]
    try:
        return [tuple(shlex.split(own))]
    except ValueError as error:
        raise NoCompiler(MISSING.format(reason=f"CC is {own!r}: {error}")) from error


@lru_cache(maxsize=8)
def _compiler(own: str | None, path: str | None) -> Compiler:
    reasons = []
    for command in commands(own):
        if shutil.which(command[0], path=path) is None:
            reasons.append(f"{command[0]} was not found")
            continue
        found = _tried(command)
        if isinstance(found, Compiler):
            return found
        reasons.append(f"{shlex.join(command)}: {found}")
    raise NoCompiler(MISSING.format(reason="; ".join(reasons)))


def _tried(command: tuple[str, ...]) -> Compiler | str:
    """The compiler with the flags that it takes, or what it says against the least of them."""
    try:
        asked = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    version = asked.stdout.strip() or "unknown"
    wide = ("-mprefer-vector-width=512",) if "avx512f" in processor() else ()
    said = "it does not run"
    for more in (("-march=native", *wide), ("-march=native",), ("-mcpu=native",), ()):
        for threads in (FLAGS, tuple(f for f in FLAGS if f != "-fopenmp")):
            candidate = Compiler(command, (*threads, *more), version)
            said = _trial(candidate)
            if not said:
                return candidate
    return said


def _trial(candidate: Compiler) -> str:
    """What is wrong with a compiler; nothing if it makes a library that answers."""
    with tempfile.TemporaryDirectory(prefix="mixer-ir-") as place:
        text, made = Path(place, "trial.c"), Path(place, "trial.so")
        text.write_text("#include <math.h>\nint answer(void) { return 42; }\n", encoding="utf-8")
        command = [*candidate.command, *candidate.flags, str(text), "-o", str(made), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            if done.returncode:
                return _first(done.stderr) or f"exit status {done.returncode}"
            return "" if ctypes.CDLL(str(made)).answer() == 42 else "what it makes does not run"
        except (OSError, subprocess.SubprocessError, AttributeError) as error:
            return str(error)


def _first(text: str) -> str:
    """The line of a compiler's complaint that says most."""
    lines = [line for line in text.splitlines() if "error" in line.lower()] or text.splitlines() or [""]
    return lines[0].strip()


@cache
def _support() -> str:
    """What every program includes: a change of it makes all of them anew."""
    return "".join((HERE / name).read_text(encoding="utf-8") for name in ("program.h", "runtime.c"))


@cache
def processor() -> str:
    """The processor and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join(dict.fromkeys(kept)) or platform.machine()
