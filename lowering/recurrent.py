"""The recurrent form: the update, step after step."""

from __future__ import annotations

import math
from dataclasses import replace

from lowering.build import Builder
from lowering.decay import Span
from lowering.parts import KEY, RANK, Options, Parts, as_state, zero_state
from lowering.program import Value
from lowering.stretch import in_stretches, of_steps
from mixer_ir.nodes.expr import TIME


def lower(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """S_t = A_t S_{t−1} + Σ k_t v_tᵀ, one t after the other: a loop, or one over stretches (lowering/stretch.py)."""
    if parts.logs and parts.decay is not None and TIME not in parts.decay.axes:
        parts = replace(parts, decay=b.map("exp", parts.decay), logs=False)  # once, and not at every step
    length = options.stretch or of_steps(parts.steps, math.prod(parts.state_sizes.values()), options.held)
    return in_stretches(b, parts, length, _steps)


def step(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """A sequence of one step: the update itself, without a loop."""
    single = parts.map(lambda x: b.at(x, TIME, 0) if TIME in x.axes else x, steps=1, initial=parts.initial)
    reads, state = update(b, single, parts.initial)
    return [b.expand(y, {TIME: 1}) for y in reads], state


def _steps(b: Builder, parts: Parts) -> tuple[list[Value], Value]:
    """The loop over steps; what is the same at every step stays outside it."""
    arrays = parts.arrays
    steps = list(dict.fromkeys(x for x in arrays if TIME in x.axes))
    constants = list(dict.fromkeys(x for x in arrays if TIME not in x.axes))

    def body(
        inner: Builder, carries: list[Value], here: list[Value], fixed: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        known = dict(zip((*steps, *constants), (*here, *fixed), strict=True))
        single = parts.map(known.__getitem__, steps=1, initial=carries[0])
        reads, state = update(inner, single, carries[0])
        return [state], reads

    initial = parts.initial if parts.initial is not None else zero_state(b, parts)
    (state,), reads = b.scan(TIME, body, [initial], steps, constants, length=parts.steps)
    return reads, state


def update(b: Builder, parts: Parts, state: Value | None) -> tuple[list[Value], Value]:
    """One step on parts without t: the reads and the new state; a state of None is zero."""
    driving = list(parts.inputs)
    terms = []
    if state is not None:
        with b.named("moved: the state after the step's transition: A S"):
            terms.append(_moved(b, parts, state))
        if parts.low_rank:
            x, y = parts.low_rank
            with b.named("auxiliary: what the low rank reads of the state: bᵀ S, and writes along a"):
                auxiliary = b.contract(y, state, (KEY,))
                if parts.shared is None:
                    terms.append(b.contract(x, auxiliary, (RANK,)))
                else:
                    driving[parts.shared] = (x, b.add(driving[parts.shared][1], auxiliary))
    with b.named("written: what the step writes: k vᵀ"):
        terms += [b.mul(k, v) for k, v in driving]
    with b.named("state: the new state"):
        new = as_state(b, parts, b.add(*terms) if terms else b.const(0.0))
    before = zero_state(b, parts) if state is None else state
    with b.named("reads: read-out: qᵀ S"):
        return [b.contract(q.vector, before if q.before else new, (KEY,)) for q in parts.queries], new


def _moved(b: Builder, parts: Parts, state: Value) -> Value:
    """The diagonal, or dense, part of the transition applied to the state."""
    if parts.dense is not None:
        return Span(parts.dense, "dense").leave(b, state)
    if parts.decay is None:
        return state
    return b.mul(state, b.map("exp", parts.decay) if parts.logs else parts.decay)
