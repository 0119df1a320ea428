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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from backends.disk import UNFINISHED, clean, folder
from mixer_ir.errors import BackendError, MachineError

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
    "-fno-thread-jumps",  # it takes loops apart that are vectorised whole
    "-ffp-contract=fast",
    "-fcx-fortran-rules",  # products of complex numbers are four of real ones, as PyTorch's are
    "-fopenmp",
    "-Wno-unknown-pragmas",
)
OPTIONAL = ((), ("-fcx-fortran-rules",), ("-fopenmp",), ("-fcx-fortran-rules", "-fopenmp"))
"""flags that a compiler may lack"""
ALIGNED = ("-mno-red-zone",) if platform.machine() in ("x86_64", "AMD64") else ()
"""in the space below the stack, gcc 12 puts vectors where they are not aligned"""
MISSING = (
    "the native backend compiles its programs with the machine's C compiler, and there is none that works ({reason}); "
    "install gcc or clang (Debian and Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select "
    '--install), or take backend="eager"'
)


class NoCompiler(MachineError):
    """There is none on this machine that works."""


ENDING = "the interpreter is ending: nothing is compiled any more"


@dataclass(frozen=True)
class Compiler:
    """A compiler that was tried and works."""

    command: tuple[str, ...]
    flags: tuple[str, ...]
    version: str

    def make(self, *sources: str, extra: tuple[str, ...] = ()) -> list[Path]:
        """The library of each text, from the disk or made now, all at once."""
        found: dict[str, Path] = {}
        for source in sources:
            facts = (source, _support(), self.version, *self.command, *self.flags, *extra, processor())
            name = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]
            found[source] = folder(KEPT) / f"{name}.so"
        missing = {source: path for source, path in found.items() if not path.exists()}
        if missing:
            self._make(missing, extra, folder(KEPT))
        return [found[source] for source in sources]

    def _make(self, sources: Mapping[str, Path], extra: tuple[str, ...], where: Path) -> None:
        try:
            where.mkdir(parents=True, exist_ok=True)
            clean(where)
            with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=where) as place:
                commands = []
                for source, path in sources.items():
                    text, made = Path(place, path.stem, "program.c"), Path(place, path.stem, "program.so")
                    text.parent.mkdir()
                    text.write_text(source, encoding="utf-8")
                    commands.append(
                        [*self.command, *self.flags, *extra, f"-I{HERE}", str(text), "-o", str(made), "-lm"]
                    )
                ended = RUNNING.run(commands)
                for (source, path), command, (status, said) in zip(sources.items(), commands, ended, strict=True):
                    if status:
                        log = path.with_suffix(".log")
                        told = f"{shlex.join(command)}\nexit status {status}\n{said}\n{source}"
                        log.write_text(told, encoding="utf-8")
                        raise BackendError(
                            f"{shlex.join(self.command)} does not compile a program: "
                            f"{_first(said) or f'status {status}'} (all that it said, and the program: {log})"
                        )
                    made = Path(place, path.stem, "program.so")
                    with made.open("rb") as whole:
                        os.fsync(whole.fileno())
                    os.replace(made, path)
        except OSError as error:
            raise MachineError(
                f"the native backend keeps compiled programs in {where}, where it cannot write "
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

    def run(self, commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
        """(exit status, complaints) of each command; they run at once.

        A Ctrl-C that is meant for Python also hits what was just born and has no session of its own yet: then again.
        """
        ended = self._once(commands)
        hit = [i for i, (status, _) in enumerate(ended) if status == -signal.SIGINT]
        for i, again in zip(hit, self._once([commands[i] for i in hit]), strict=True):
            ended[i] = again
        return ended

    def _once(self, commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
        started: list[subprocess.Popen[str]] = []
        try:
            for command in commands:
                started.append(self._started(command))
            ended = [(process.communicate()[1], process.returncode) for process in started]
        except BaseException:
            for process in started:
                _end(process)
            raise
        finally:
            self._held.difference_update(started)
        if self.stopped:
            raise BackendError(ENDING)
        return [(status, said) for said, status in ended]

    def _started(self, command: Sequence[str]) -> subprocess.Popen[str]:
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
        return process

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
        for lacking in OPTIONAL:
            flags = (f for f in FLAGS if f not in lacking)
            candidate = Compiler(command, (*flags, *ALIGNED, *more), version)
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
    return "".join(file.read_text(encoding="utf-8") for file in sorted(HERE.glob("*.[ch]")))


@cache
def processor() -> str:
    """The processor and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join(dict.fromkeys(kept)) or platform.machine()
