"""States that feed each other, stacked: [M; S]_t = A_t [M; S]_{t−1} + [inputs of M; inputs of S], one process for all.

Where a state of a circle enters another's update entry by entry, only the new axis is mixed: a small dense matrix D
along it, as many rows as states, its entries the coefficients (which may differ over t, heads and the states' axes).
Where an update also holds a (bᵀ S), as a delta rule does, that is a pair of low rank along the new axis and the
state's own: the place of the state that is written ⊗ a, and the place of the state that is read ⊗ b. So

    A_t = D_t ⊗ I + Σ_i (p_i ⊗ a_i) (r_i ⊗ b_i)ᵀ

The process is called after its states, `M+S`, and so is the new axis; its state is theirs along that axis, in the order
of declaration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mixer_ir.nodes.expr import Axes, Expr, Join, without
from mixer_ir.nodes.process import Process, State, Transition
from mixer_ir.nodes.text import formula
from mixer_ir.rules.algebra import ONE, ZERO, ones, product, split, total
from mixer_ir.rules.linear_form import Form, NotLinear, Term
from mixer_ir.rules.process_parts import acts_along, inputs_of, reads_in_common


def joint_name(group: Sequence[State]) -> str:
    """What the stacked states are called, and their new axis."""
    return "+".join(s.name for s in group)


def members(process: Process) -> tuple[str, ...]:
    """The names of the states that a process stacks, or its own."""
    return tuple(process.name.split("+"))


def joint_process(
    group: Sequence[State], forms: Mapping[State, Form], reads: Sequence[Term], reset: Expr | None
) -> Process:
    """The process that the forms of a group, linear in the group's states, describe.

    reads   how each of the states is read

    Raises NotLinear, naming the term, where the axes differ, or states are mixed by a full matrix or along two axes.
    """
    name, axes = joint_name(group), group[0].axes
    for state in group[1:]:
        if set(state.axes) != set(axes):
            raise NotLinear(
                f"the states {_listed(group)} feed each other, but {group[0].name} has axes ({' '.join(axes)}) and "
                f"{state.name} has ({' '.join(state.axes)}), so that they are not one state",
                next((t.coefficient for t in forms[state].terms), ONE),
            )
    acts = acts_along(_listed(group), axes, [t for state in group for t in forms[state].terms])
    if any(t.shown is not None for state in group for t in forms[state].terms):
        turned = next(t for state in group for t in forms[state].terms if t.shown is not None)
        raise NotLinear(
            f"the states {_listed(group)} feed each other through a matrix along {acts[0]}: {formula(turned.query)}",
            turned.query,
        )
    row = f"{name}_"
    entries = [[_coefficient(forms[i], j) for j in group] for i in group]
    dense = stacked([stacked(line, name) for line in entries], row)
    over = (name, *(acts or reads_in_common(axes, [t.over for t in reads])))
    transition = Transition(along=name, dense=dense, row=row, low_rank=_pairs(group, forms, acts), beside=acts)
    pairs = _inputs(group, forms, over, without(axes, over))
    return Process(name=name, axes=(name, *axes), over=over, transition=transition, inputs=pairs, reset=reset)


def _pairs(group: Sequence[State], forms: Mapping[State, Form], acts: Axes) -> tuple[tuple[Expr, Expr], ...]:
    """The pairs of low rank: of a vector that is written to several states alike, one."""
    written: dict[tuple[Expr, Expr, Expr, State], list[State]] = {}
    for state in group:
        for t in forms[state].terms:
            if t.over:
                a, scale = split([t.coefficient], acts)
                missing = (ones(x) for x in acts if x not in a.axes)
                written.setdefault((product(a, *missing), scale, t.query, t.state), []).append(state)
    return tuple(
        (product(place(group, *to), a), product(scale, place(group, read), b))
        for (a, scale, b, read), to in written.items()
    )


def _inputs(
    group: Sequence[State], forms: Mapping[State, Form], over: Axes, values: Axes
) -> tuple[tuple[Expr, Expr], ...]:
    """The pairs (key, value) of all states: of one that drives several alike, one."""
    driven: dict[tuple[Expr, Expr], list[State]] = {}
    for state in group:
        for pair in inputs_of(forms[state].rest, over[1:], values):
            driven.setdefault(pair, []).append(state)
    return tuple((product(place(group, *to), key), value) for (key, value), to in driven.items())


def joint_read(group: Sequence[State], t: Term) -> Term:
    """The read of one of the states as a read of all."""
    name = joint_name(group)
    state = State(name=name, axes=(name, *group[0].axes))
    return replace(t, state=state, query=product(place(group, t.state), t.query), over=(name, *t.over))


def place(group: Sequence[State], *states: State) -> Expr:
    """One at the places of the states along the new axis, else zero."""
    return stacked([ONE if s in states else ZERO for s in group], joint_name(group))


def stacked(parts: Sequence[Expr], axis: str) -> Expr:
    """The parts as the entries of a new axis."""
    return Join(parts=tuple(parts), along=("",) * len(parts), axis=axis)


def _coefficient(form: Form, of: State) -> Expr:
    return total(t.coefficient for t in form.terms if t.state is of and not t.over)


def _listed(group: Sequence[State]) -> str:
    return ", ".join(s.name for s in group)


def circles(states: Sequence[State], uses: Mapping[State, set[State]]) -> dict[State, tuple[State, ...]]:
    """For each state, those that it feeds and that feed it, over any number of others; itself among them."""
    reached = {s: _reached(s, uses) for s in states}
    return {s: tuple(r for r in states if r is s or (r in reached[s] and s in reached[r])) for s in states}


def _reached(start: State, uses: Mapping[State, set[State]]) -> set[State]:
    found: set[State] = set()
    open_ = [start]
    while open_:
        for s in uses[open_.pop()] - found:
            found.add(s)
            open_.append(s)
    return found
