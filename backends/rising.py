"""Programs that start on PyTorch's operators and rise to compiled C once that has paid: what "auto" does on processors.

A program is compiled, in the background, when the time that it could have saved so far comes to what compiling it
should cost: whoever calls it once never waits for a compiler, and whoever calls it for long loses at most as much again
as compiling takes. What was compiled before, in this process or another, is taken at the first call. The compiled
program has to prove itself: it stays if it is faster in its first calls than the operators, which take turns with it
where that is not clear, as their own first calls were made cold and beside a compiler.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from backends import native
from backends.disk import folder
from backends.native import Types
from backends.native.compiler import KEPT, NoCompiler
from backends.native.emission import emit
from backends.native.jobs import BACKGROUND, Job
from backends.native.kept import Record, find, keep, key_of
from backends.plan import check_shape, given
from lowering.adjoint import adjoint
from lowering.cost import cost
from lowering.digest import digest
from lowering.profile import CPU, NATIVE
from lowering.program import Program, Scan
from lowering.program import Region as Part
from mixer_ir.errors import BackendError

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
Stage = Literal["operators", "compiling", "on trial", "compiled", "stays"]
LEAST = 0.1
"""seconds that a program has run for before it is asked whether compiling it could pay"""
TRIALS = 5
CLEAR = 0.5
"""the share of the operators' time below which the compiled program needs no comparison in turn"""
PROMISING = 0.9
"""the share of the operators' time below which the compiled program's has to be predicted"""
FOUND = 0.01
"""seconds: the price of a library that is on disk already"""


def price(program: Program) -> float:
    """Seconds that compiling should take."""
    return 0.15 + 0.0022 * values(program)


def values(program: Program) -> int:
    """How many values a program has, in the bodies of its loops too."""
    return sum(1 + (values(v.op.body) if isinstance(v.op, Scan | Part) else 0) for v in program.order)


class Rise:
    """How a program is prepared; and, for each of its adjoints, how that is.

    operators   prepares a program for PyTorch's operators      precision   the real dtype of its calls
    compiled    the program to compile, which may have another form: the same results from the same inputs
    """

    def __init__(
        self,
        operators: Callable[[Program], Run],
        precision: torch.dtype,
        compiled: Callable[[], Program],
        of: tuple[Rise, str] | None = None,
    ) -> None:
        self.operators, self.precision = operators, precision
        self._compiled, self._of = compiled, of
        self.made: list[Rising] = [] if of is None else of[0].made
        """what was prepared, adjoints included"""

    def __call__(self, program: Program) -> ByDtypes:
        """The program, which rises by itself for each combination of dtypes that it is called with."""
        return ByDtypes(self, program)

    def back(self, wrt: tuple[str, ...], outputs: tuple[str, ...]) -> Rise:
        """The way of the adjoint for these inputs and results."""
        return Rise(
            self.operators,
            self.precision,
            lambda: adjoint(self.compiled, wrt, outputs),
            (self, f"the adjoint for {', '.join(wrt)} from {', '.join(outputs)}"),
        )

    @cached_property
    def compiled(self) -> Program:
        """The program to compile."""
        return self._compiled()

    @cached_property
    def word(self) -> str:
        """What says which program that is, in every process; an adjoint need not be derived for it."""
        return digest(self.compiled) if self._of is None else f"{self._of[0].word}, {self.told}"

    @property
    def told(self) -> str:
        return "the program" if self._of is None else self._of[1]


class ByDtypes:
    """A program with what has become of it for each combination of dtypes."""

    def __init__(self, way: Rise, program: Program) -> None:
        self._way, self._program = way, program
        self._rising: dict[tuple[torch.dtype, ...], Rising] = {}

    def __call__(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._of(tuple(arrays[n].dtype for n in self._program.input_names))(arrays)

    def straight(self, dtypes: tuple[torch.dtype, ...]) -> native.Run | None:
        """The library, once it has proved itself."""
        return self._of(dtypes).library

    def _of(self, dtypes: tuple[torch.dtype, ...]) -> Rising:
        if dtypes not in self._rising:
            here = Rising(self._way, self._program, dict(zip(self._program.input_names, dtypes, strict=True)))
            self._rising[dtypes] = here
            self._way.made.append(here)
        return self._rising[dtypes]


class Rising:
    """A program for inputs of some dtypes, with what has become of it: `stage`, and `why`."""

    def __init__(self, way: Rise, program: Program, dtypes: Mapping[str, torch.dtype]) -> None:
        self._way, self._first, self._dtypes = way, program, dtypes
        self.stage: Stage = "operators"
        self.why = "it has not run for long enough that compiling it would pay"
        self.calls, self.spent = 0, 0.0
        self.seconds: dict[str, float] = {}
        """of the fastest call so far, on operators and compiled"""
        self._job: Job[Record] | None = None
        self._age = BACKGROUND.age
        self._record: Record | None = None
        self._trials = self._beside = 0
        self._compiled: Run | None = None
        self._library: native.Run | None = None
        self._look()

    # ------------------------------------------------------------------ calling

    @property
    def library(self) -> native.Run | None:
        """What takes the inputs in the order of the program that was compiled, where that is the order of its own."""
        if self.stage != "compiled" or self._way.compiled.input_names != self._first.input_names:
            return None
        return self._library

    def __call__(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.stage == "stays" or not self._plain(arrays):
            return self._operators(arrays)
        if self.stage == "compiled":
            assert self._compiled is not None
            return self._compiled(arrays)
        self._advance()
        compiled = None if self._in_turn else self._compiled
        run, kind = (self._operators, "operators") if compiled is None else (compiled, "compiled")
        start = time.perf_counter()
        made = run(arrays)
        if (
            kind == "operators" or not BACKGROUND.busy
        ):  # beside a compiler, threads that share a loop wait for one another
            self._count(kind, time.perf_counter() - start)
        return made

    @property
    def _in_turn(self) -> bool:
        """Whether operators are to be timed once more, beside the compiled program that is on trial."""
        if self.stage != "on trial" or self._beside >= self._trials:
            return False
        return self.seconds["compiled"] > CLEAR * self.seconds.get("operators", float("inf"))

    def _plain(self, arrays: Mapping[str, Tensor]) -> bool:
        """Whether a library may be given these tensors: they have memory, and nobody looks at what is done with them.

        Where PyTorch is asked to be deterministic, a program does not change in the midst of its calls.
        """
        if forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None:
            return False
        return not torch.are_deterministic_algorithms_enabled() and all(x.is_cpu for x in arrays.values())

    @cached_property
    def _operators(self) -> Run:
        return self._way.operators(self._first)

    def _key(self) -> str | None:
        return key_of(self._way.word, self._types)

    @cached_property
    def _types(self) -> Types:
        program = self._way.compiled
        return Types.of(program, [self._dtypes[n] for n in program.input_names], self._way.precision)

    # ------------------------------------------------------------------ from stage to stage

    def _look(self) -> None:
        """What was compiled before is taken at once, unless it was slower."""
        if not folder(KEPT).is_dir():
            return
        self._record = find(self._key())
        if self._record is None or self._record.seconds is None:
            return
        compiled, operators = self._record.seconds
        self.seconds = {"compiled": compiled, "operators": operators}
        if compiled < operators:
            if self._take(self._record):
                self._settle("compiled", "it was compiled before, and was faster")
        else:
            self._settle("stays", "it was compiled before, and was not faster")

    def _advance(self) -> None:
        """Has it compiled when the time has come, and takes what was compiled."""
        if self._age != BACKGROUND.age:  # forked: what was asked for there is not made here
            self._age, self._job = BACKGROUND.age, None
            self.stage = "on trial" if self._compiled is not None else "operators"
        if self.stage == "operators" and self.spent >= LEAST:
            self._consider()
        elif (job := self._job) is not None and job.done and not BACKGROUND.busy:
            self._job = None
            if job.result is not None:
                self._take(job.result)
            else:
                self._refused(job.error)

    def _consider(self) -> None:
        share, seconds = self._forecast
        if share < 1 - PROMISING:
            self._settle("stays", f"compiled it should take {1 - share:.2g} times as long")
        elif self._record is not None and self.spent * share >= FOUND:
            self._take(self._record)
        elif self.spent * share >= seconds:
            text = emit(self._way.compiled, self._types.real.itemsize, self._types.narrow)
            self._job = BACKGROUND.ask(partial(native.make, text, self._types.real))
            self._settle("compiling", "a compiler is at work in the background")

    @cached_property
    def _forecast(self) -> tuple[float, float]:
        """(the share of its time that compiled C should save, seconds that compiling it should take)."""
        compiled, operators = cost(self._way.compiled, NATIVE).seconds, cost(self._first, CPU).seconds
        return 1 - compiled / max(operators, 1e-9), price(self._way.compiled)

    def _take(self, record: Record) -> bool:
        """Whether the library is there now, to be tried."""
        program = self._way.compiled
        try:
            run = native.load(record, program, self._types)
        except OSError as error:
            record.forget()  # it is made anew by the next process
            self._refused(BackendError(f"the library {record.library} cannot be loaded: {error}"))
            return False

        def compiled(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
            inputs = given(program, arrays)
            for v, x in zip(program.inputs, inputs, strict=True):
                check_shape(v, x.shape)
            return dict(zip(program.names, run(inputs), strict=True))

        self._record, self._compiled, self._library = record, compiled, run
        self._settle("on trial", f"its first {TRIALS} calls decide")
        return True

    def _refused(self, error: Exception | None) -> None:
        self._settle("stays", str(error))
        if not isinstance(error, NoCompiler):
            warn(f"a mixer's program goes on with PyTorch's operators instead of compiled C: {error}")

    def _count(self, kind: str, seconds: float) -> None:
        self.calls += 1
        self.seconds[kind] = min(seconds, self.seconds.get(kind, seconds))
        if kind == "operators":
            self.spent += seconds
            self._beside += self.stage == "on trial"
            return
        self._trials += 1
        if self._trials < TRIALS:
            return
        compiled, operators = self.seconds["compiled"], self.seconds.get("operators", float("inf"))
        if compiled < operators:
            self._settle("compiled", "it was faster in its first calls")
        else:
            self._compiled = None
            self._settle("stays", "compiled it was not faster in its first calls")
        self._remember(replace(self._record, seconds=(compiled, operators)) if self._record else None)

    def _settle(self, stage: Stage, why: str) -> None:
        self.stage, self.why = stage, why

    def _remember(self, record: Record | None) -> None:
        """For the next process; where the folder takes no more, it measures for itself."""
        key = self._key()
        if record is None or key is None:
            return
        try:
            keep(key, record)
        except OSError as error:
            warn(f"what a mixer's program takes cannot be written down for the next time: {error}")

    # ------------------------------------------------------------------ looking

    def __str__(self) -> str:
        where = "compiled C" if self.stage in ("compiled", "on trial") else "PyTorch's operators"
        times = ", ".join(f"{kind} {1e3 * s:.3g} ms" for kind, s in self.seconds.items())
        return f"{self._way.told}: {where}, {self.why}" + (f" ({times} a call)" if times else "")


_WARNED: set[str] = set()


def warn(text: str) -> None:
    """Once in a process, whatever number of programs it befalls."""
    if not _WARNED:
        _WARNED.add(text)
        warnings.warn(text, RuntimeWarning, stacklevel=2)
