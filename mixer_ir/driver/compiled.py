"""Compiled mixers: a mixer with a form and a backend, called on tensors; programs are made at the first call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from backends.autograd import Differentiable
from backends.triton.static import Kernels
from lowering.context import Choice, Lowered, SignalType
from lowering.kinds import undefined
from lowering.lower import lower, lower_matrix
from lowering.planner import Plan, plans
from lowering.stream import StateType
from mixer_ir.driver.binding import (
    Bound,
    bind,
    check_columns,
    check_indices,
    check_renames,
    checked_options,
    given_columns,
    kind_of,
    nearest,
    shape_of,
)
from mixer_ir.driver.cache import Cache
from mixer_ir.driver.choosing import checked_form, checked_mixer, refused
from mixer_ir.driver.explain import Explanation, explain
from mixer_ir.driver.indices import check_computed, computed, lasting
from mixer_ir.driver.kernels import kernels
from mixer_ir.driver.packing import packed
from mixer_ir.driver.repeating import Repeat, Repeats, key_of
from mixer_ir.driver.running import Run, backend_on, checked_backend, profiles_of, runner, told
from mixer_ir.driver.streaming import StreamState, columns_of, entering, room_for
from mixer_ir.driver.traceable import handle_of, traceable
from mixer_ir.errors import FormError, OptionError, SignalError, StreamError, one_of
from mixer_ir.language.mixer import Mixer
from mixer_ir.language.spec import dumps, loads
from mixer_ir.nodes.expr import TIME, Axes, Expr, Signal, Take, without
from mixer_ir.nodes.functions import Kind
from mixer_ir.nodes.linear import wants_real
from mixer_ir.nodes.matrix import Matrix
from mixer_ir.nodes.node import Node, walk

UNGIVEN: Any = object()
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
OPTIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "chunk": (
        "the number of steps in a chunk (or of keys in a block), a whole number from 1; None: chosen by predicted time",
        lambda x: x is None or (type(x) is int and x >= 1),
    ),
    "tune": ("whether generated kernels are tuned, True or False", lambda x: type(x) is bool),
}
"""option -> what it must be, in words and as a test"""


def compile(mixer: Mixer, form: str = "auto", backend: str = "auto", **options: Any) -> CompiledMixer:
    """A mixer made ready to run on tensors.

    form      one of `mixer.forms()`, taken by every part of the mixer that has it; "auto": each part takes the form
              that should be fastest at the sizes of the call
    backend   "eager" (PyTorch), "native" (C, compiled at the first call, for processors), "triton" (for GPUs),
              "reference" (NumPy, float64), "symbolic" (SymPy, small sizes); "auto": PyTorch, and on a processor, for
              what has run as long as compiling takes, C where that is faster (last bits may change when it takes over)
    chunk=    the number of steps in a chunk; None or left out: chosen by predicted time
    tune=     with backend="triton", on a GPU: True tries several ways to run each program at its first call (it takes
              minutes) and keeps the fastest on disk, for every length, batch and process

    Errors: OptionError for an unknown form, backend or option; FormError for a form that this mixer does not have;
    BackendError for a backend that is not here.
    """
    return CompiledMixer(mixer, form, backend, options)


@dataclass(frozen=True)
class Executable:
    """A program ready to run, with the call that it is for and what was planned for it."""

    call: str
    plan: Plan
    lowered: Lowered
    run: Run


class CompiledMixer:
    """A mixer as a function of tensors: y = f(q=…, k=…, v=…).

    Signals are given by name, their dimensions in the order of the annotation. Differentiable in every floating
    signal and in the initial state. `mixer`, `form`, `backend` and `options` are what it was made of.
    """

    def __init__(self, mixer: Mixer, form: str, backend: str, options: Mapping[str, Any]) -> None:
        self.mixer = checked_mixer(mixer, "compile")
        self.options = checked_options(options, OPTIONS)
        self.form = checked_form(mixer, form)
        self.backend = checked_backend(backend, tune=self.options.get("tune", False))
        self._programs: Cache[Executable] = Cache(64)
        self._matrices: Cache[Executable] = Cache(16)
        self._repeats = Repeats()
        self._grows: bool | None = None
        self.handle = handle_of(self)

    # ------------------------------------------------------------------ calling

    @traceable
    def __call__(
        self,
        *positional: Any,
        initial_state: Mapping[str, Tensor] | None = None,
        return_state: bool = False,
        reset: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        **signals: Any,
    ) -> Any:
        """The mixer's output; with `return_state`, (output, state after the last step).

        initial_state   the state before the first step, as returned by an earlier call; zero where it is left out
        reset           (b t), true at the first position of every packed sequence: nothing passes from before it
        cu_seqlens      the same by cumulated lengths, [0, end of the first, …, t], int32 or int64, with b = 1; states
                        are then one for each sequence, along b
        """
        if positional:
            names = ", ".join(f"{n}=…" for n in self.mixer.signals)
            raise SignalError(f"signals are given by name: {self.mixer.name}({names})")
        if cu_seqlens is not None:
            given = signals if reset is None else {**signals, "reset": reset}
            return packed(self, cu_seqlens, given, initial_state, return_state)
        if reset is not None:
            if "reset" not in self.mixer.signals:
                return self._with_reset(initial_state=initial_state, return_state=return_state, **signals, reset=reset)
            signals["reset"] = _truth(reset)
        elif "reset" in self.mixer.signals:
            signals = {n: x for n, x in signals.items() if n != "reset"}
        key = key_of(signals, initial_state, return_state)
        if key is not None and (known := self._repeats.get(key)) is not None:
            made = known.again(signals, cast("StreamState | None", initial_state))
            if made is not None:
                return made
        bound = bind(self.mixer.name, self.mixer.signals, signals)
        check_indices(bound, self._indices)
        y, state = self._advance(bound, initial_state, return_state, key)
        return (y, state) if return_state else y

    @traceable
    def prefill(self, *positional: Any, **signals: Any) -> tuple[Tensor, StreamState]:
        """(outputs of the whole sequence, the state after it), to go on with `step` or another call."""
        y, state = self(*positional, **signals, return_state=True)
        return y, state

    @traceable
    def step(
        self, state: Mapping[str, Tensor] | None = UNGIVEN, *positional: Any, **signals: Any
    ) -> tuple[Tensor, StreamState]:
        """One step: (output at t, new state), from signals without their time axis; state None is the first step."""
        mixer = self.mixer if "reset" not in signals else self.mixer.with_reset()
        if state is UNGIVEN:
            raise StreamError("step needs the state that prefill or a step returned: step(state, …); None at the start")
        if positional:
            raise SignalError(f"signals are given by name: step(state, {', '.join(f'{n}=…' for n in mixer.signals)})")
        at_t = {n: without(a, (TIME,)) for n, a in mixer.signals.items()}
        whole = {}
        for name, x in signals.items():
            axes = mixer.signals.get(name, ())
            wanted = len(at_t.get(name, ()))
            if TIME in axes and isinstance(x, Tensor) and x.dim() == wanted:
                x = x.unsqueeze(axes.index(TIME))
            elif TIME in axes and not isinstance(x, Tensor) and wanted == 0:
                x = torch.as_tensor(x).reshape(1)
            elif TIME in axes and isinstance(x, Tensor):
                raise SignalError(
                    f"{name} is given to step with {x.dim()} dimensions; a step takes it at one t, "
                    f"with axes ({' '.join(at_t[name])})"
                )
            whole[name] = x
        y, new = self(**whole, initial_state=state, return_state=True)
        axis = self.mixer.returns.index(TIME)
        return y.select(axis, 0), new

    @traceable
    def matrix(self, **signals: Any) -> Tensor:
        """The mixing matrix itself, axes (… t s): y_t = Σ_s M[t, s] v_s. The mixer's value signal may be left out."""
        M = self.mixer.matrix_expr
        used = {n.name for n in walk(M) if isinstance(n, Signal)}
        declared = {n: a for n, a in self.mixer.signals.items() if n in used or n in signals}
        bound = bind(f"the matrix of {self.mixer.name}", declared, signals)
        if (
            (v := self.mixer.value) in bound.tensors
            and bound.tensors[v].is_complex()
            and wants_real(self.mixer.expr, v)
        ):
            raise SignalError(f"{self.mixer.name} takes a real part of what comes of {v}: it has a matrix for real {v}")
        check_computed(self._computed, bound.tensors, declared, bound.sizes)
        made = self._matrices.get(bound.key, lambda: self._matrix_program(M, bound, declared))
        entries = made.run({n: bound.computed(x) for n, x in bound.tensors.items()})["M"]
        order = [M.axes.index(a) for a in (*self.mixer.returns, *M.axes) if a in M.axes]
        order = list(dict.fromkeys(order))
        return bound.returned(entries.permute(*order, len(order), len(order) + 1))

    # ------------------------------------------------------------------ looking

    def explain(self, *positional: Any, **given: Any) -> Explanation:
        """What was found and what would run: structure, rules, forms with their cost and why not the others.

        given   the signals (tensors), or the sizes of axes: explain(b=2, t=1000, h=4, k=64, v=64)
        """
        if positional:
            raise SignalError("explain takes signals by name, or the sizes of axes: explain(t=1000, …)")
        programs = [f"{made.call}: {line}" for made in self._programs.held() for line in told(made.run)]
        return explain(self.mixer, self.form, self.options, given, self.backend, programs)

    def kernels(self, target: str = "", **sizes: int) -> Kernels:
        """The Triton kernels for a device, forward and backward, compiled without it: `print` shows text and figures.

        sizes   of axes, as in kernels("sm_90", t=4096, k=128); typical ones where none are given. Products of matrices
                take bfloat16 factors and sum in float32, as for bfloat16 signals.
        """
        if target not in TARGETS:
            raise OptionError(f"there is no target {target!r}{nearest(target, TARGETS)}; targets: {one_of(TARGETS)}")
        return kernels(self.mixer, self.form, self.options.get("chunk"), target, sizes)

    def __repr__(self) -> str:
        options = "".join(f", {n}={v!r}" for n, v in self.options.items())
        return f"<compiled {self.mixer.name}: form {self.form}, backend {self.backend}{options}>"

    def __copy__(self) -> CompiledMixer:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledMixer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (dumps(self.mixer), self.form, self.backend, dict(self.options))

    # ------------------------------------------------------------------ the work

    @cached_property
    def _with_reset(self) -> CompiledMixer:
        packed = self.mixer.with_reset()
        if (reason := refused(packed, self.form)) is not None:
            raise FormError(
                f"{packed.name} is compiled with form {self.form!r}, which it has not where sequences are packed with "
                f"reset=: {reason}; compile it with form='auto', which chooses at each call, or with one of "
                f"{one_of(packed.forms())}"
            )
        return CompiledMixer(packed, self.form, self.backend, self.options)

    @cached_property
    def _indices(self) -> dict[str, str]:
        """The signals that choose rows of a table, with the axis of that table."""
        taken = (n for n in walk(self.mixer.body) if isinstance(n, Take))
        return {n.index.name: n.axis for n in taken if isinstance(n.index, Signal)}

    @cached_property
    def _computed(self) -> tuple[Take, ...]:
        return computed(self.mixer.body)

    @cached_property
    def _checked(self) -> bool:
        """Whether there are values to check at every call."""
        return bool(self._indices or self._columns) or not all(map(lasting, self._computed))

    @cached_property
    def _columns(self) -> tuple[tuple[str, str], ...]:
        return given_columns(self.mixer.body)

    def _advance(
        self, bound: Bound, state: Mapping[str, Tensor] | None, leave: bool, key: Hashable | None
    ) -> tuple[Tensor, StreamState | None]:
        """(output, state after the last step if it is to be left); calls of this key are known from now on."""
        length = bound.sizes[TIME]
        before = None if state is None else self._as_state(state, bound)
        past, used = (0, 0) if before is None else (before.columns, before.length)
        check_computed(self._computed, bound.tensors, self.mixer.signals, bound.sizes, used)
        if before is state:  # a plain dictionary does not know how many steps it has seen
            check_columns(self.mixer.name, self._columns, bound.sizes, used)
        room = room_for(used + length, past) if leave else None
        made = self._program(bound, before is not None, leave, past, room)
        arrays = {n: bound.computed(x) for n, x in bound.tensors.items()}
        if before is not None:
            arrays |= entering(self.mixer.name, made.lowered.entering, before, bound)
        out = made.run(arrays)
        self._keep(key, made, bound, arrays, before is state, leave)
        after = None
        if leave:
            states = {n: out[f"state:{n}"] for n in made.lowered.states}
            after = StreamState(states, used + length, columns_of(made.lowered))
        return bound.returned(out["y"]), after

    def _keep(
        self,
        key: Hashable | None,
        made: Executable,
        bound: Bound,
        arrays: Mapping[str, Tensor],
        whole: bool,
        leave: bool,
    ) -> None:
        """Calls like this one need not be bound again, if no values are checked and no state was filled up."""
        run = made.run
        if key is None or self._checked or not whole or not isinstance(run, Differentiable):
            return
        known = self._repeats.get(key)
        if known is not None and known.run is run:
            return
        inputs = [arrays[n] for n in run.program.input_names]
        self._repeats.keep(key, Repeat(run, made.lowered, bound, inputs, bound.sizes[TIME], leave))

    def states(self, bound: Bound) -> Mapping[str, StateType]:
        """The states that a call on these signals takes, of growing ones with one column."""
        return self._program(bound, True, False, 1, None).lowered.entering

    def _as_state(self, state: Mapping[str, Tensor], bound: Bound) -> StreamState:
        """A state with what it knows of itself; of a plain dictionary, all columns count as seen."""
        if isinstance(state, StreamState):
            return state
        if not isinstance(state, Mapping):
            raise StreamError(
                f"a state is a dictionary of tensors by name, as prefill returns it, not {type(state).__name__}"
            )
        types = self.states(bound)
        grown = {n: t.axes.index(t.grows) for n, t in types.items() if t.grows is not None and n in state}
        columns = max((state[n].shape[i] for n, i in grown.items() if state[n].dim() > i), default=0)
        return StreamState(state, columns, columns)

    def _program(self, bound: Bound, initial: bool, leave: bool, past: int, room: int | None) -> Executable:
        def make() -> Executable:
            return self._executable(bound, initial, leave, past, room)

        first = make() if leave and self._grows is None else None
        if first is not None:  # the program tells whether it hangs on the room
            self._grows = columns_of(first.lowered) > 0
        key = ("run", bound.key, initial, leave, past, room if self._grows else None)
        return self._programs.get(key, make if first is None else lambda: first)

    def _check_kinds(self, of: Expr | Matrix, signals: Mapping[str, SignalType]) -> None:
        kinds = {n: s.kind for n, s in signals.items()}
        if (what := undefined(of, kinds)) is not None:
            real: dict[str, Kind] = {n: "real" if kind == "complex" else kind for n, kind in kinds.items()}
            given = [n for n in kinds if kinds[n] != real[n] and undefined(of, {**real, n: "complex"})]
            raise SignalError(f"{self.mixer.name} {what}" + (f": {one_of(given)}" if given else ""))

    def _matrix_program(self, M: Matrix, bound: Bound, declared: Mapping[str, Axes]) -> Executable:
        check_renames(self.mixer.name, self.mixer.body, bound.sizes)
        check_columns(self.mixer.name, self._columns, bound.sizes)
        signals = types_of(bound, declared)
        self._check_kinds(M, signals)
        lowered = lower_matrix(M, signals=signals)
        run = runner(backend_on(self.backend, bound.device), lowered.program, bound.precision)
        return Executable("the matrix", Plan(()), lowered, run)

    def _executable(self, bound: Bound, initial: bool, leave: bool, past: int, room: int | None) -> Executable:
        signals, body = types_of(bound, self.mixer.signals), self.mixer.expr
        check_renames(self.mixer.name, self.mixer.body, bound.sizes)
        self._check_kinds(body, signals)
        one_step = bound.sizes[TIME] == 1 and (initial or leave)
        form = "recurrent" if one_step and self.form == "auto" else self.form
        backend = backend_on(self.backend, bound.device)
        profiles = profiles_of(backend, bound.device.type)
        handed = past if initial else None
        made = plans(body, signals, profiles, form=form, chunk=self.options.get("chunk"), past=handed)

        def lowered(choices: Mapping[Node, Choice]) -> Lowered:
            return lower(
                body,
                returns=self.mixer.returns,
                signals=signals,
                forms=choices,
                initial=initial,
                final=leave,
                past=past,
                room=room,
            )

        choices, others = made[0].choices, made[-1].choices
        first = lowered(choices)
        run = runner(
            backend,
            first.program,
            bound.precision,
            lambda: first.program if others == choices else lowered(others).program,
            tune=self.options.get("tune", False),
        )
        sizes = ", ".join(f"{a} = {n}" for a, n in bound.sizes.items())
        stream = " from a state" * initial + " to a state" * leave
        return Executable(f"{sizes}{stream}", made[0], first, run)


def _again(text: str, form: str, backend: str, options: Mapping[str, Any]) -> CompiledMixer:
    return CompiledMixer(loads(text), form, backend, options)


def types_of(bound: Bound, declared: Mapping[str, Axes]) -> dict[str, SignalType]:
    """What lowering needs to know of the signals of a call."""
    return {n: SignalType(declared[n], shape_of(x), kind_of(x.dtype)) for n, x in bound.tensors.items()}


def _truth(reset: Any) -> Any:
    """Truth values given as floating-point numbers, whose precision says nothing of the result's."""
    return reset != 0 if isinstance(reset, Tensor) and reset.is_floating_point() else reset
