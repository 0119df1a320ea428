"""The order of a block's steps: which values are computed together in one nest, and what each step reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backends.native.fusing import dropped, is_product, is_sum
from backends.native.memory import Store
from lowering import program as p
from lowering.program import Program, Value

ALIGNED_WITH = (p.Map, p.Order, p.Cast, p.Detach)
"""operations that read their arguments where their result stands"""


@dataclass
class Step:
    """Values computed together: those of one nest, or one loop, sum or routine. `copies`: (value, where to)."""

    values: list[Value]
    copies: list[tuple[Value, Store]] = field(default_factory=list)
    reads: set[Value] = field(default_factory=set)


def steps(
    program: Program, stored: frozenset[Value], copies: Sequence[tuple[Value, Store]], lane: str | None = None
) -> list[Step]:
    """The stored values in an order that lets as many as possible share a nest; copies in such a nest or at the end."""
    made = list(_computed(program, stored, lane))
    for v, store in copies:
        step = _beside(v, made, stored)
        step.copies.append((v, store))
        step.reads |= stored_under([v], stored)
    return made


def _beside(v: Value, made: list[Step], stored: frozenset[Value]) -> Step:
    """The first step in whose nest v can be copied, or a new one at the end."""
    missing = stored_under([v], stored)
    for step in made:
        here = set(filter(is_entrywise, step.values))
        fits = step.values[:1] and is_entrywise(step.values[0]) and alike(step.values[0], v)
        if fits and missing <= here and _in_line(v, set(step.values), stored):
            return step
        missing -= set(step.values)
    made.append(Step([]))
    return made[-1]


def _computed(program: Program, stored: frozenset[Value], lane: str | None) -> Iterator[Step]:
    mine = [v for v in program.order if v in stored]
    needs = {v: stored_under(v.args, stored) for v in mine}
    left = dict.fromkeys(v for v in mine if not isinstance(v.op, p.Pick))
    picks: dict[Value, list[Value]] = {}
    for v in mine:
        if isinstance(v.op, p.Pick):
            picks.setdefault(v.args[0], []).append(v)
    done: set[Value] = set()
    while left:
        first = next(v for v in left if needs[v] <= done)
        del left[first]
        step = Step([first], reads=set(needs[first]))
        while is_entrywise(first) and (more := _joining(step, left, needs, done, stored, lane)) is not None:
            step.values.append(more)
            step.reads |= needs[more]
            del left[more]
        step.values += picks.get(first, [])
        done.update(step.values)
        yield step


def _joining(
    step: Step,
    left: Iterable[Value],
    needs: Mapping[Value, set[Value]],
    done: set[Value],
    stored: frozenset[Value],
    lane: str | None,
) -> Value | None:
    """A value that can be computed in the step's nest."""
    first = step.values[0]
    here = {v for v in step.values if is_entrywise(v)}
    summed = {a for a in map(summed_axis, filter(is_sum, step.values)) if a != lane}
    for v in left:
        fits = alike(v, first) if is_entrywise(v) else ends_in(v, first, lane, summed)
        if fits and needs[v] <= done | here and _in_line(v, set(step.values), stored):
            return v
    return None


def stored_under(values: Iterable[Value], stored: frozenset[Value]) -> set[Value]:
    """The stored values that these are computed from, through what is not stored; loops count as stored."""
    found: set[Value] = set()
    seen: set[Value] = set()
    stack = list(values)
    while stack:
        v = stack.pop()
        if v in stored:
            found.add(v)
        elif v not in seen:
            seen.add(v)
            stack.extend(v.args)
    return found


def _in_line(v: Value, members: set[Value], stored: frozenset[Value]) -> bool:
    """Whether v reads each of the members only at the place where it stands itself."""
    stack = [x for x in v.args if x not in stored] if isinstance(v.op, ALIGNED_WITH) or is_sum(v) else []
    if not (isinstance(v.op, ALIGNED_WITH) or is_sum(v)) and stored_under(v.args, stored) & members:
        return False
    while stack:
        x = stack.pop()
        if isinstance(x.op, ALIGNED_WITH) or dropped(x):
            stack.extend(a for a in x.args if a not in stored)
        elif stored_under(x.args, stored) & members:
            return False
    return True


def long(v: Value) -> dict[str, int]:
    """The sizes of v without axes of one entry."""
    return {a: n for a, n in v.sizes.items() if n > 1}


def alike(v: Value, w: Value) -> bool:
    """Whether both have the same entries, whatever the order of their axes."""
    return long(v) == long(w)


def is_entrywise(v: Value) -> bool:
    """Whether v is computed entry by entry in a nest over its axes."""
    return not is_sum(v) and not isinstance(v.op, p.Scan | p.Region | p.Pick)


def summed_axis(v: Value) -> str:
    """The axis that a sum in a nest is over."""
    assert isinstance(v.op, p.Contract | p.Reduce)
    return v.op.over[0]


def ends_in(v: Value, lead: Value, lane: str | None, summed: set[str]) -> bool:
    """Whether v sums, over one axis of lead's nest, what stands there.

    That is the innermost axis; where there is a lane, the lane or one other axis (`summed`, if it is chosen already).
    """
    over = v.op.over if isinstance(v.op, p.Contract | p.Reduce) else ()
    if len(over) != 1 or not is_sum(v) or is_product(v) or v.kind not in ("real", "int"):
        return False
    if isinstance(v.op, p.Reduce) and v.op.fn != "sum":
        return False
    sizes = {**long(v), over[0]: next(a.size(over[0]) for a in v.args)}
    fits = over[0] == lane or not summed or over[0] in summed if lane in lead.axes else lead.axes[-1:] == over
    return fits and sizes == long(lead)
