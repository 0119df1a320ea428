"""Declarations: a Python function with axes for annotations, run once on symbols."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, overload

from mixer_ir.errors import AxisError, DeclarationError, MixerError, one_of
from mixer_ir.language.declaration import Declaration
from mixer_ir.language.mixer import RESET, Mixer, result_axes
from mixer_ir.nodes.check import check, show
from mixer_ir.nodes.expr import BATCH, SOURCE, TIME, Axes, Call, Contract, Expr, Rename, Signal, as_expr, union, without
from mixer_ir.nodes.laws import check_body
from mixer_ir.nodes.linear import depends
from mixer_ir.nodes.matrix import Matrix, apart
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Run
from mixer_ir.nodes.process import State as StateBefore
from mixer_ir.nodes.resets import with_resets
from mixer_ir.nodes.substitute import recurrence as recurrence_of
from mixer_ir.nodes.substitute import run_axes
from mixer_ir.nodes.text import formula


@overload
def mixer(function: Callable[..., Any], /) -> Mixer: ...
@overload
def mixer(
    *, paper: str = "", year: int | None = None, name: str | None = None, value: str | None = None
) -> Callable[[Callable[..., Any]], Mixer]: ...
def mixer(function: Any = None, /, **facts: Any) -> Any:
    """Declare a mixer: a function of signals, annotated with their axes, that returns M @ v or an expression of such.

    `paper`, `year` and `name` are facts to keep; `value` names the signal that the matrix is applied to, where the
    declaration leaves a choice.
    """
    return _decorator(_mixer_body, function, facts, "mixer")


@overload
def recurrence(function: Callable[..., Any], /) -> Mixer: ...
@overload
def recurrence(
    *, paper: str = "", year: int | None = None, name: str | None = None, value: str | None = None
) -> Callable[[Callable[..., Any]], Mixer]: ...
def recurrence(function: Any = None, /, **facts: Any) -> Any:
    """Declare a recurrence: a function of states, then signals, that returns the new states in order, then the output.

    States come first, annotated `mx.State("k v")`. The facts are those of `mixer`.
    """
    return _decorator(_recurrence_body, function, facts, "recurrence")


Body = Callable[["Declaration"], tuple[Expr, Axes]]


def _decorator(body: Body, function: Any, facts: Mapping[str, Any], word: str) -> Any:
    known = {"paper": str, "year": int, "name": str, "value": str}
    for key, fact in facts.items():
        if key not in known:
            raise DeclarationError(f"@mx.{word} has no option {key!r}; it has {one_of(known)}")
        if fact is not None and not isinstance(fact, known[key]):
            raise DeclarationError(f"@mx.{word}({key}={fact!r}): {key} is a {known[key].__name__}")
    if function is None:
        return lambda f: _declared(Declaration(f, facts, sys._getframe(1).f_locals, word), body)
    return _declared(Declaration(function, facts, sys._getframe(2).f_locals, word), body)


def _declared(declaration: Declaration, body: Body) -> Mixer:
    """The mixer that a declaration means."""
    expr, axes = body(declaration)
    name, signals = declaration.name, declaration.signals
    returns = _returns(declaration, expr, axes)
    try:
        for n in walk(expr):
            check(n)
        check_body(expr, signals)
    except MixerError as e:
        raise type(e)(f"{name}: {e}") from e
    if RESET in signals and not depends(expr, RESET):
        expr = with_resets(expr, Signal(name=RESET, axes=signals[RESET]), of=name)
    facts = declaration.facts
    value = facts.get("value")
    if value is not None and value not in signals:
        raise DeclarationError(f"{name}: value={value!r} is none of its signals {one_of(signals)}")
    return Mixer(
        name=name,
        signals=signals,
        body=expr,
        returns=returns,
        doc=inspect.getdoc(declaration.function) or "",
        paper=facts.get("paper") or "",
        year=facts.get("year"),
        declared_value=value,
    )


def _mixer_body(declaration: Declaration) -> tuple[Expr, Axes]:
    name = declaration.name
    result = declaration.run(**{n: Signal(name=n, axes=a) for n, a in declaration.signals.items()})
    match result:
        case Expr():
            return result, result_axes(declaration.signals, result.axes)
        case Matrix():
            raise DeclarationError(f"{name} returns a matrix; apply it to a signal: return M @ v")
        case None:
            raise DeclarationError(f"{name} returns nothing; end it with return M @ v")
        case tuple() | list():
            raise DeclarationError(
                f"{name} returns {len(result)} values; a mixer has one output (declare one mixer for each)"
            )
    raise DeclarationError(f"{name} returns {result!r}; a mixer returns an expression of its signals, as M @ v")


def _recurrence_body(declaration: Declaration) -> tuple[Expr, Axes]:
    name, count = declaration.name, len(declaration.states)
    if not count:
        raise DeclarationError(f"{name} declares no state; annotate its first parameters as in S: mx.State('k v')")
    for state, own in declaration.states.items():
        for a in own:
            if a in (BATCH, TIME, SOURCE):
                raise AxisError(
                    f"{name}: state {state} has the axis {a}; a state's axes are its own, without b, t and s"
                )
    states = tuple(StateBefore(name=n, axes=a) for n, a in declaration.states.items())
    signals = {n: Signal(name=n, axes=a) for n, a in declaration.signals.items()}
    trace_result = declaration.run(**{s.name: s for s in states}, **signals)
    wanted = f"the new {one_of(list(declaration.states))} in order, then the output"
    if not isinstance(trace_result, tuple | list):
        raise DeclarationError(f"{name} returns one value; a recurrence returns {wanted}")
    if len(trace_result) != count + 1:
        raise DeclarationError(f"{name} returns {len(trace_result)} values instead of {count + 1}: {wanted}")
    for value in trace_result:
        if isinstance(value, Matrix):
            raise DeclarationError(f"{name} returns a matrix; a recurrence returns {wanted}")
    try:
        *new, output = (as_expr(value) for value in trace_result)
        updates = tuple(_in_place(s, e, declaration) for s, e in zip(states, new, strict=True))
        body = recurrence_of(name, states, updates, output, None)
    except MixerError as e:
        raise type(e)(f"{name}: {e}") from e
    for before, update in zip(states, updates, strict=True):
        gone = [a for a in before.axes if a not in update.axes]
        if gone and update.axes and set(before.axes) <= set(output.axes):
            raise AxisError(
                f"{name}: the new value of state {before.name} {show(before.axes)} has axes {show(update.axes)}, and "
                f"the output has {show(output.axes)}: are they swapped? Return {wanted} (a new value that is the same "
                f"along {gone[0]} is written x + 0 * {before.name})"
            )
        foreign = [a for a in update.axes if a in union(*declaration.states.values()) and a not in before.axes]
        if foreign:
            wider = " ".join((*before.axes, *foreign))
            raise AxisError(
                f"{name}: state {before.name} has axes {show(before.axes)}, but its new value has {show(update.axes)}; "
                f"contract or sum over {foreign[0]}, or declare {before.name}: mx.State('{wider}')"
            )
    axes = run_axes(body, union(*declaration.signals.values()))
    for a in declaration.trace.contracted:
        if a in axes or a in body.batch:
            raise AxisError(
                f"{name}: an @ contracts {a}, which is a batch axis elsewhere; if it is meant to mix {a}, write "
                f"mx.contract(x, y, over='{a}')"
            )
    return Run(recurrence=body, axes=axes), axes


def _in_place(state: StateBefore, new: Expr, declaration: Declaration) -> Expr:
    """The new value of a state; one that a matrix (A: 'm n') left on a row axis is called by the state's again."""
    _check_sums(state, new, declaration)
    missing = [a for a in state.axes if a not in new.axes]
    if len(missing) != 1:
        return new
    gone = missing[0]
    own = union(*declaration.states.values())
    extra = without(new.axes, (BATCH, TIME, SOURCE, *own))
    beside = [a for a in extra if any({a, gone} <= set(axes) for axes in declaration.signals.values())]
    timeless = [a for a in beside if not any({a, TIME} <= set(axes) for axes in declaration.signals.values())]
    rows = beside if len(beside) == 1 else timeless
    if len(rows) == 1:
        return Rename(of=new, old=rows[0], new=gone)
    if len(rows) > 1:
        raise AxisError(
            f"the new value of state {state.name} has axes {show(new.axes)} and lacks {gone}; say which axis "
            f"is to be {gone}, as in mx.rename(x, {rows[0]}='{gone}')"
        )
    return new


def _check_sums(state: StateBefore, new: Expr, declaration: Declaration) -> None:
    """Raise AxisError where a state that a matrix left on its row axis is added to what is on the state's own axis."""
    for n in walk(new):
        if not isinstance(n, Call) or n.fn not in ("add", "sub"):
            continue
        for mixed, other in (n.args, n.args[::-1]):
            gone = [a for a in state.axes if a in other.axes and a not in mixed.axes]
            inner = [c for c in walk(mixed) if isinstance(c, Contract) and set(gone) & set(c.over)]
            if not any(x == state for c in inner for x in walk(c)):
                continue
            for row in without(mixed.axes, (*other.axes, *state.axes)):
                both = [axes for axes in declaration.signals.values() if row in axes and set(gone) & set(axes)]
                if both and all(TIME not in axes for axes in both):
                    raise AxisError(
                        f"the new value of state {state.name} adds {formula(mixed)} with axes {show(mixed.axes)} to "
                        f"{formula(other)} with axes {show(other.axes)}, which gives both {row} and {gone[0]}; "
                        f"call the row axis by the state's: mx.rename(…, {row}='{gone[0]}')"
                    )


def _returns(declaration: Declaration, expr: Expr, axes: Axes) -> Axes:
    name, given = declaration.name, declaration.returns
    if SOURCE in axes:
        raise AxisError(
            f"{name}: the result has axes {show(axes)}; s is the source's time and must be mixed away by a matrix"
        )
    if TIME not in axes:
        raise AxisError(
            f"{name}: the result has axes {show(axes)}, without the time axis t; a mixer gives a value at every t"
            + apart(axes)
        )
    if given is None:
        return axes
    if set(given) != set(axes):
        odd = [a for a in (*given, *axes) if (a in given) != (a in axes)]
        raise AxisError(
            f"{name}: the return annotation says {show(given)}, but the result has axes {show(axes)}; "
            f"they differ in {one_of(odd)}"
        )
    return given
