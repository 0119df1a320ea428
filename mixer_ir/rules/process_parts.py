"""A state's linear update as a Process: which axes are contracted, the transition, keys and values; and its reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mixer_ir.nodes.expr import TIME, Axes, Call, Contract, Expr, Reduce, without
from mixer_ir.nodes.process import Factor, Process, Read, State, Transition
from mixer_ir.nodes.text import formula
from mixer_ir.rules.algebra import (
    ONE,
    ZERO,
    basis,
    distributed,
    factors,
    is_one,
    log_of,
    ones,
    product,
    renamed,
    split,
    total,
)
from mixer_ir.rules.linear_form import Form, NotLinear, Term


def process_of(
    state: State, form: Form, reads: Sequence[Term], reset: Expr | None, *, may_gate: bool, chain: Sequence[Form] = ()
) -> Process:
    """The process that `form`, linear in `state` alone, describes.

    chain      forms with one low-rank pair each that are `form` one after the other, the first one first
    reads      how the state is read
    may_gate   whether a choice such as where(c, 0, S) may become the process' reset (not where S is read before it)
    """
    acts = acts_along(state.name, state.axes, form.terms)
    if may_gate and reset is None:
        reset, form = _gated(state, form)
        if reset is not None and chain:
            gate, first = _gated(state, chain[0])
            chain = (first, *chain[1:]) if gate is reset else ()
    over = acts or reads_in_common(state.axes, [t.over for t in reads])
    transition = _transition(form.terms, acts)
    inputs = inputs_of(form.rest, over, without(state.axes, over))
    fixed = not any(TIME in e.axes for e in (*transition.exprs, *(t.query for t in reads)))
    if not acts and over == state.axes and fixed and any(TIME in key.axes for key, _ in inputs):
        over = ()  # each entry of the state is a convolution of its own input
        inputs = inputs_of(form.rest, over, state.axes)
    if any(a in t.coefficient.axes for form in chain for t in form.terms if not t.over for a in acts):
        chain = ()  # products of vectors of decays cost more over twice the steps than one update of two pairs
    factors = tuple(
        Factor(transition=_transition(f.terms, acts), inputs=inputs_of(f.rest, over, without(state.axes, over)))
        for f in chain
    )
    return Process(
        name=state.name,
        axes=state.axes,
        over=over,
        transition=transition,
        inputs=inputs,
        reset=reset,
        factors=factors,
    )


def reads_in_common(axes: Axes, reads: Sequence[Axes]) -> Axes:
    """Those of a state's axes that every read contracts."""
    return tuple(a for a in axes if reads and all(a in over for over in reads))


def acts_along(name: str, axes: Axes, terms: Sequence[Term]) -> Axes:
    """The state axes along which the transition mixes, all of them in every term that mixes; none if it is diagonal."""
    mixing = [t for t in terms if t.over]
    for t in terms:
        if not t.over and t.shown is not None:
            raise NotLinear(f"the update of {name} exchanges the axes of {name}", t.coefficient)
    along = {tuple(a for a in axes if a in t.over) for t in mixing}
    turned = [t for t in mixing if t.shown is not None]
    if len(along) > 1 or (turned and len(turned[0].over) > 1):
        mixed = " and ".join(a for a in axes if any(a in over for over in along))
        worst = (turned or mixing)[0]
        term = product(worst.coefficient, worst.query)
        raise NotLinear(
            f"the update of {name} mixes {name} along {mixed} at once, so it has no low-rank form; one "
            f"such term is {formula(term)}",
            term,
        )
    return along.pop() if along else ()


def _gated(state: State, form: Form) -> tuple[Expr | None, Form]:
    """A condition that zeroes every term of the update, free of the state's axes, taken out as a reset."""
    common: list[Expr] | None = None
    for t in form.terms:
        here = [f for f in factors(t.coefficient) if _condition(f, state.axes) is not None]
        common = here if common is None else [f for f in common if f in here]
    if not common:
        return None, form
    gate = common[0]

    def without_gate(t: Term) -> Term:
        rest = factors(t.coefficient)
        rest.remove(gate)
        return replace(t, coefficient=product(*rest))

    return _condition(gate, state.axes), replace(form, terms=tuple(without_gate(t) for t in form.terms))


def _condition(gate: Expr, axes: Axes) -> Expr | None:
    """c, for where(c, 0, 1) or where(not c, 1, 0)."""
    match gate:
        case Call(fn="where", args=(c, zero, one)) if zero is ZERO and one is ONE:
            made = c
        case Call(fn="where", args=(c, one, zero)) if zero is ZERO and one is ONE:
            made = c.args[0] if isinstance(c, Call) and c.fn == "not" else Call(fn="not", args=(c,))
        case _:
            return None
    return None if any(a in axes for a in made.axes) or TIME not in made.axes else made


def _transition(terms: Sequence[Term], acts: Axes) -> Transition:
    diagonal = total(t.coefficient for t in terms if not t.over)
    pairs = [t for t in terms if t.over]
    if any(t.shown is not None for t in pairs):
        return _dense(diagonal, pairs, acts[0])
    if not pairs:
        return diagonal_transition(diagonal)
    low_rank = tuple(
        (product(t.coefficient, *(ones(a) for a in acts if a not in t.coefficient.axes)), t.query) for t in pairs
    )
    return diagonal_transition(diagonal, along=acts[0], beside=acts[1:], low_rank=low_rank)


def diagonal_transition(
    diagonal: Expr, *, along: str | None = None, beside: Axes = (), low_rank: tuple[tuple[Expr, Expr], ...] = ()
) -> Transition:
    """diag(diagonal) + Σ a bᵀ, as log-decays where the diagonal is a product of exponentials."""
    plain = Transition(along=along, beside=beside, low_rank=low_rank)
    if is_one(diagonal):
        return plain
    log = log_of(diagonal)
    return replace(plain, factor=diagonal) if log is None else replace(plain, log=log)


def _dense(diagonal: Expr, pairs: Sequence[Term], along: str) -> Transition:
    """Everything as one matrix with rows called by the first renamed axis."""
    row = next(t.shown[0] for t in pairs if t.shown is not None)
    parts = [] if diagonal is ZERO else [product(renamed(diagonal, along, row), basis(along, row))]
    for t in pairs:
        query = t.query if t.shown is None else renamed(t.query, t.shown[0], row)
        a = renamed(t.coefficient, along, row)
        parts.append(product(a, query) if row in query.axes or row in a.axes else product(a, query, ones(row)))
    return Transition(along=along, dense=total(parts), row=row)


def inputs_of(rest: Sequence[Expr], over: Axes, values: Axes) -> tuple[tuple[Expr, Expr], ...]:
    """Σ rest as pairs (key, value): what has value axes or t, and no axis of `over`, goes to the value."""

    def inseparable(f: Expr) -> bool:
        return any(a in over for a in f.axes) and any(a in values for a in f.axes)

    pairs: list[tuple[Expr, Expr]] = []
    for addend in (x for r in rest for x in distributed(r, inseparable)):
        value: list[Expr] = []
        key: list[Expr] = []
        for f in factors(addend):
            pure = any(a in values or a == TIME for a in f.axes) and not any(a in over for a in f.axes)
            (value if pure else key).append(f)
        pairs.append((product(*key), product(*value)))
    return tuple(_summed(_summed(pairs, 1), 0))


def _summed(pairs: Sequence[tuple[Expr, Expr]], same: int) -> list[tuple[Expr, Expr]]:
    """Pairs that agree in one place joined into one, the other place added up."""
    table: dict[Expr, list[Expr]] = {}
    for pair in pairs:
        table.setdefault(pair[same], []).append(pair[1 - same])
    return [(total(xs), x) if same == 1 else (x, total(xs)) for x, xs in table.items()]


def read_of(process: Process, t: Term) -> Expr:
    """Σ_{t.over} query · S, whatever the process itself contracts."""
    missing = tuple(a for a in process.over if a not in t.over)
    extra = tuple(a for a in t.over if a not in process.over)
    query, outside = split([t.query], process.over)
    if not extra:
        query, outside = t.query, ONE
    query = product(query, *(ones(a) for a in process.over if a not in missing and a not in query.axes))
    query = product(query, *(basis(a, f"{a}_") for a in missing))
    made: Expr = Read(process=process, query=query, before=not t.after)
    for a in missing:
        made = renamed(made, f"{a}_", a)
    if not extra:
        return made
    shared = tuple(a for a in extra if a in outside.axes and a in made.axes)
    if len(shared) == len(extra):
        return Contract(left=outside, right=made, over=extra)
    alone = [ones(a) for a in extra if a not in outside.axes and a not in made.axes]
    return Reduce(fn="sum", of=product(outside, made, *alone), over=extra)
