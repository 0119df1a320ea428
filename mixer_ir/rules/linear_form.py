"""Linear forms in the states of a recurrence: terms, each a coefficient × a contraction of one state, and a rest.

The algebra is closed under sums, products with anything free of states, contractions, renamings and choices, so that
a product of Householder matrices, a momentum or a gated delta rule all end as one flat list of terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mixer_ir.nodes.expr import Axes, Call, Expr, without
from mixer_ir.nodes.process import State
from mixer_ir.nodes.text import formula
from mixer_ir.rules.algebra import ONE, ZERO, contracted, is_zero, keep, ones, product, renamed, split, total


class NotLinear(Exception):
    """A state stands where it has no linear meaning; carries the sentence and the term at fault."""

    def __init__(self, reason: str, term: Expr) -> None:
        super().__init__(reason)
        self.reason, self.term = reason, term


@dataclass(frozen=True)
class Term:
    """coefficient · Σ_over query · S, with S the state before the step, or after it where `after` is set.

    query   carries the axes `over` under the state's own names; 1 where nothing is contracted
    shown   a pair (axis of the query or state, the name it has in the result), where a transition renames its rows
    """

    state: State
    coefficient: Expr = ONE
    query: Expr = ONE
    over: Axes = ()
    after: bool = False
    shown: tuple[str, str] | None = None

    @property
    def free(self) -> Axes:
        """The state's axes that the contraction leaves."""
        return without(self.state.axes, self.over)

    @property
    def key(self) -> tuple[object, ...]:
        """Terms with equal keys read the same contraction of the same state."""
        return (self.state, self.query, self.over, self.after, self.shown)


@dataclass(frozen=True)
class Form:
    """Σ terms + Σ rest."""

    terms: tuple[Term, ...] = ()
    rest: tuple[Expr, ...] = ()

    def plus(self, other: Form) -> Form:
        return Form(merged((*self.terms, *other.terms)), (*self.rest, *other.rest))

    def times(self, x: Expr) -> Form:
        """x times the form, x free of states."""
        if is_zero(x):
            return Form()
        terms = tuple(replace(t, coefficient=product(x, t.coefficient)) for t in self.terms)
        return Form(terms, tuple(product(x, r) for r in self.rest))

    def map(self, change: Callable[[Expr], Expr]) -> Form:
        """The form with `change` made in every expression."""
        terms = (replace(t, coefficient=change(t.coefficient), query=change(t.query)) for t in self.terms)
        return Form(tuple(terms), tuple(change(r) for r in self.rest))

    def chosen(self, condition: Expr, other: Form) -> Form:
        """This form where `condition` holds, else the other."""
        yes = Call(fn="where", args=(condition, ONE, ZERO))
        return self.times(yes).plus(other.times(keep(condition)))

    def contract(self, x: Expr, over: Axes, whole: Expr) -> Form:
        """Σ_over x · form; `whole` is what the user wrote, for the message."""
        terms = tuple(_contract(t, x, over, whole) for t in self.terms)
        return Form(merged(terms), tuple(contracted(x, r, over) for r in self.rest))

    def rename(self, old: str, new: str, whole: Expr) -> Form:
        terms = tuple(_rename(t, old, new, whole) for t in self.terms)
        return Form(merged(terms), tuple(renamed(r, old, new) for r in self.rest))


def merged(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Terms that read the same contraction become one, their coefficients added."""
    table: dict[tuple[object, ...], list[Term]] = {}
    for t in terms:
        if not is_zero(t.coefficient):
            table.setdefault(t.key, []).append(t)
    sums = [replace(ts[0], coefficient=total(t.coefficient for t in ts)) for ts in table.values()]
    return tuple(t for t in sums if not is_zero(t.coefficient))


def _contract(t: Term, x: Expr, over: Axes, whole: Expr) -> Term:
    """Σ_over x · term."""
    aside: Expr = ONE
    if t.shown is not None and t.shown[1] in over:
        t, x, over, aside = _unshown(t, x, over, whole)
    inner = tuple(a for a in over if a in t.query.axes and a not in t.over)
    own = tuple(a for a in over if a in t.free)
    coefficient = contracted(x, t.coefficient, without(over, (*inner, *own)))
    query, shown = t.query, t.shown
    if inner:
        moved, coefficient = split([coefficient], inner)
        moved, shown = _apart(moved, t.over, shown, whole)
        query = contracted(moved, query, inner)
    if own:
        moved, coefficient = split([coefficient], own)
        missing = [ones(a) for a in own if a not in moved.axes]
        moved, shown = _apart(moved, t.over, shown, whole)
        query = product(query, moved, *missing)
    return replace(t, coefficient=product(aside, coefficient), query=query, over=(*t.over, *own), shown=shown)


def _unshown(t: Term, x: Expr, over: Axes, whole: Expr) -> tuple[Term, Expr, Axes, Expr]:
    """The term and x with the axis that is shown under another name called by its own, as it is about to be summed.

    Last, the factors on a result's axis that bears the state's own name: they have no part in the sum.
    """
    assert t.shown is not None
    own, name = t.shown
    if own in over:  # another axis of that name, summed as well: first
        x, over = contracted(x, t.coefficient, (own,)), without(over, own)
        t = replace(t, coefficient=ONE)
    shown: tuple[str, str] | None = None
    moved, outside = split([x, t.coefficient], (name,))
    aside, outside = split([outside], (own,))
    if own in moved.axes:
        moved, shown = _apart(moved, (own,), None, whole)
    moved = renamed(moved, name, own)
    t = replace(t, coefficient=outside, shown=shown)
    return t, moved, tuple(own if a == name else a for a in over), aside


def _apart(x: Expr, bound: Axes, shown: tuple[str, str] | None, whole: Expr) -> tuple[Expr, tuple[str, str] | None]:
    """x with a result axis that bears the name of a contracted one called differently, and shown under its own."""
    clash = [a for a in bound if a in x.axes]
    if not clash:
        return x, shown
    if len(clash) > 1 or shown is not None:
        raise NotLinear(f"the state is mixed along several of its axes at once: {formula(whole)}", whole)
    fresh = f"{clash[0]}_"
    return renamed(x, clash[0], fresh), (fresh, clash[0])


def _rename(t: Term, old: str, new: str, whole: Expr) -> Term:
    coefficient, query, shown = renamed(t.coefficient, old, new), t.query, t.shown
    if shown is not None and shown[1] == old:
        return replace(t, coefficient=coefficient, shown=None if shown[0] == new else (shown[0], new))
    inner = old in query.axes and old not in t.over
    if (inner and (new in t.over or new in query.axes)) or old in t.free:
        if shown is not None:
            raise NotLinear(f"the state's axes are renamed more than once: {formula(whole)}", whole)
        shown = (old, new)
    elif inner:
        query = renamed(query, old, new)
    return replace(t, coefficient=coefficient, query=query, shown=shown)
