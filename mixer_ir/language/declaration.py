"""Reading a declaration's head: which parameters are states and signals, on which axes; and running its body once."""

from __future__ import annotations
import __future__

import builtins
import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from mixer_ir.errors import DeclarationError, MixerError
from mixer_ir.language import structures, words
from mixer_ir.nodes import along
from mixer_ir.nodes.expr import Axes, Expr, parse_axes, union
from mixer_ir.nodes.node import Node
from mixer_ir.nodes.tracing import TRACE, Trace

TAKEN = ("self", "state", "initial_state", "return_state", "cu_seqlens")


class State:
    """Marks a recurrence's state and names its own axes: `S: mx.State("k v")`."""

    def __init__(self, axes: str = "") -> None:
        if not isinstance(axes, str):
            raise DeclarationError(f"mx.State takes axes as one string, as in mx.State('k v'), not {axes!r}")
        self.axes = parse_axes(axes, of="mx.State")

    def __repr__(self) -> str:
        return f"State({' '.join(self.axes)!r})"


class Declaration:
    """A function being read: its states, signals and return axes, and the way to run it once."""

    def __init__(self, function: Any, facts: Mapping[str, Any], local: Mapping[str, Any], word: str) -> None:
        if not isinstance(function, FunctionType):
            raise DeclarationError(f"@mx.{word} stands over a function, not over {function!r}")
        self.function, self.facts, self.local, self.word = function, facts, local, word
        self.name: str = facts.get("name") or function.__name__
        self.states: dict[str, Axes] = {}
        self.signals: dict[str, Axes] = {}
        self.returns: Axes | None = None
        signature = inspect.signature(function)
        for parameter in signature.parameters.values():
            self._read(parameter)
        if signature.return_annotation is not inspect.Signature.empty:
            axes = self._evaluated(signature.return_annotation, "its return")
            if not isinstance(axes, str):
                raise DeclarationError(f"{self.name}: the return annotation is axes, as in -> 'b t h v', not {axes!r}")
            self.returns = parse_axes(axes, of=f"{self.name}, return annotation")

    def _read(self, parameter: inspect.Parameter) -> None:
        name, where = parameter.name, f"{self.name}: {parameter.name}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DeclarationError(f"{where} stands for any number of arguments; name each signal with its axes")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise DeclarationError(f"{where} is positional only; signals are given by name: leave out the /")
        if parameter.default is not parameter.empty:
            raise DeclarationError(f"{where} has a default; a signal has none, and a constant is written in the body")
        if parameter.annotation is parameter.empty:
            state = f" (a state: {name}: mx.State('k v'))" if self.word == "recurrence" and not self.signals else ""
            raise DeclarationError(f"{where} has no axes; annotate it, as in {name}: 'b t h k'{state}")
        axes = self._evaluated(parameter.annotation, name)
        if name in TAKEN and not isinstance(axes, State):
            raise DeclarationError(f"{where}: this name is an argument of compiled mixers; call the signal differently")
        if axes is State:
            raise DeclarationError(
                f"{where}: write the state's axes, as in mx.State('k v'), or mx.State('') for a scalar"
            )
        if isinstance(axes, State):
            if self.word == "mixer":
                raise DeclarationError(f"{where} is a state; states belong to @mx.recurrence")
            if self.signals:
                raise DeclarationError(
                    f"{where} is a state; states are the first parameters, before {next(iter(self.signals))}"
                )
            self.states[name] = axes.axes
        elif isinstance(axes, str):
            self.signals[name] = parse_axes(axes, of=where)
        else:
            raise DeclarationError(f"{where} is annotated with {axes!r}; write its axes, as in {name}: 'b t h k'")

    def _evaluated(self, annotation: Any, what: str) -> Any:
        """What an annotation means; under `from __future__ import annotations` it is text to be evaluated first."""
        if not self.function.__code__.co_flags & __future__.annotations.compiler_flag:
            return annotation
        closure = inspect.getclosurevars(self.function).nonlocals
        try:
            return eval(annotation, self.function.__globals__, {**self.local, **closure})
        except Exception as e:
            raise DeclarationError(f"{self.name}: the annotation {annotation} of {what} cannot be read: {e}") from e

    def run(self, /, **symbols: Expr) -> Any:
        """What the function returns for symbols; any error says where in it."""
        self.trace = Trace(state_axes=union(*self.states.values()))
        token = TRACE.set(self.trace)
        try:
            return self.function(**symbols)
        except MixerError as e:
            raise type(e)(f"{self.where(e)}: {e}") from e
        except NameError as e:
            raise DeclarationError(f"{self.where(e)}: {e}{self._nearest(e.name, self._names())}") from e
        except AttributeError as e:
            raise DeclarationError(f"{self.where(e)}: {e}{self._meant(e)}") from e
        except Exception as e:
            raise DeclarationError(
                f"{self.where(e)}: {type(e).__name__}: {e} "
                "(a declaration computes with signals, numbers and mx functions alone)"
            ) from e
        finally:
            TRACE.reset(token)

    def where(self, error: BaseException) -> str:
        """The mixer, and the line of its declaration that an error comes from."""
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is self.function.__code__:
                line = trace.tb_lineno
            trace = trace.tb_next
        file = Path(self.function.__code__.co_filename).name
        return self.name if line is None else f"{self.name} ({file}, line {line})"

    def _meant(self, e: AttributeError) -> str:
        """What may have been meant by an attribute that is not there: tensors have what signals have words for."""
        if not isinstance(e.obj, Node):
            return self._nearest(e.name, [n for n in dir(e.obj) if not n.startswith("_")])
        if e.name in ("shape", "size", "dim", "ndim"):
            return "; a signal has named axes, and the length of one is mx.size('k')"
        word = (e.name or "").rstrip("_")
        return f"; write mx.{word}(…)" if word in (*words.__all__, *along.__all__, *structures.__all__) else ""

    def _names(self) -> list[str]:
        return [*self.states, *self.signals, *self.function.__globals__, *dir(builtins)]

    @staticmethod
    def _nearest(name: str | None, names: list[str]) -> str:
        near = difflib.get_close_matches(name or "", names, n=1)
        return f"; did you mean {near[0]}?" if near else ""
