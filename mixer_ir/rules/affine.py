"""The normal form of a recurrence: every state a Process, every use of it a Read, where the update is affine.

S_t = (diag(α_t) + Σ_i a_i,t b_i,tᵀ) S_{t−1} + Σ_j k_j,t v_j,tᵀ,   y_t = f(q_tᵀ S_t, …), f any function.

The traced update is read as a linear form in its own state (linear_form.py); other states that it uses are
resolved first and enter as reads, and states that feed each other are one (coupled.py). While a state's uses
are still being collected, a read is a placeholder signal; which axes queries contract is decided when all are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from mixer_ir.errors import one_of
from mixer_ir.nodes.expr import TIME, Call, Contract, Expr, Reduce, Rename, Signal, union, without
from mixer_ir.nodes.node import Node
from mixer_ir.nodes.process import Recurrence, Run, State
from mixer_ir.nodes.text import formula
from mixer_ir.rules.algebra import MINUS, ONE, keep, ones, product, renamed, replaced, total
from mixer_ir.rules.coupled import circles, joint_process, joint_read
from mixer_ir.rules.factored import chained
from mixer_ir.rules.linear_form import Form, NotLinear, Term
from mixer_ir.rules.process_parts import process_of, read_of

Group: TypeAlias = tuple[State, ...]


@dataclass(frozen=True)
class NotAffine:
    """Why a recurrence has no normal form: a sentence, and the term at fault."""

    reason: str
    term: Expr


def normal_form(recurrence: Recurrence) -> Expr | NotAffine:
    """The output of the recurrence with every state replaced by reads of a Process."""
    reader = _Reader(recurrence)
    try:
        output = reader.settled(reader.read(recurrence.output, ()))
        return reader.built(output)
    except NotLinear as stop:
        return NotAffine(reason=stop.reason, term=stop.term)


@dataclass
class _Reader:
    """Reads one recurrence; `forms` holds the states resolved so far, in the order in which they can be built, and
    `chains` the updates that are products of simpler ones.

    States that feed each other are read together: `me` is the group whose updates are being read, () for the output.
    """

    recurrence: Recurrence
    forms: dict[State, Form] = field(default_factory=dict)
    chains: dict[State, tuple[Form, ...]] = field(default_factory=dict)
    reading: State | None = None
    reads: dict[Term, Signal] = field(default_factory=dict)
    memo: dict[tuple[Node, Group], Form] = field(default_factory=dict)
    holds: dict[Node, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pairs = zip(self.recurrence.states, self.recurrence.updates, strict=True)
        self.after = {update: state for state, update in pairs if self.stateful(update)}
        self.groups = circles(self.recurrence.states, {s: self.uses(s) for s in self.recurrence.states})

    def uses(self, state: State) -> set[State]:
        """The states that the update of `state` holds, before or after their steps."""
        found: set[State] = set()
        seen: set[Node] = set()
        open_: list[Node] = [self.update(state)]
        while open_:
            here = open_.pop()
            new = here if isinstance(here, State) else self.after.get(here) if isinstance(here, Expr) else None
            if new is not None and new is not state:
                found.add(new)
            elif here not in seen and not isinstance(here, Run):
                seen.add(here)
                open_ += here.children()
        return found

    def update(self, state: State) -> Expr:
        return self.recurrence.updates[self.recurrence.states.index(state)]

    def stateful(self, e: Node) -> bool:
        """Whether a state stands inside `e`."""
        if e not in self.holds:
            inside = not isinstance(e, Run) and any(self.stateful(c) for c in e.children())
            self.holds[e] = isinstance(e, State) or inside
        return self.holds[e]

    # ------------------------------------------------------------------ reading

    def read(self, e: Expr, me: Group) -> Form:
        """`e` as a linear form in the states `me` (whose updates are read) and in states resolved before."""
        if (e, me) not in self.memo:
            self.memo[e, me] = self._read(e, me)
        return self.memo[e, me]

    def _read(self, e: Expr, me: Group) -> Form:
        if not self.stateful(e):
            return Form(rest=(e,))
        if isinstance(e, State):
            return Form(terms=(Term(state=self.resolved(e, me)),))
        new = self.after.get(e)
        if new is not None and new not in me:
            return Form(terms=(Term(state=self.resolved(new, me), after=True),))
        return self.part(e, me)

    def part(self, e: Expr, me: Group) -> Form:
        """`e` by its own operation, even where it is the update of a state."""
        match e:
            case Call(fn="add", args=(a, b)):
                return self.read(a, me).plus(self.read(b, me))
            case Call(fn="sub", args=(a, b)):
                return self.read(a, me).plus(self.read(b, me).times(MINUS))
            case Call(fn="neg", args=(a,)):
                return self.read(a, me).times(MINUS)
            case Call(fn="mul", args=(a, b)):
                left, right = self.read(a, me), self.read(b, me)
                if (x := self.free(left, me)) is not None:
                    return right.times(x)
                if (x := self.free(right, me)) is not None:
                    return left.times(x)
            case Call(fn="div", args=(a, b)):
                if (x := self.free(self.read(b, me), me)) is not None:
                    return self.read(a, me).times(Call(fn="div", args=(ONE, x)))
            case Call(fn="where", args=(c, a, b)):
                if (x := self.free(self.read(c, me), me)) is not None:
                    return self.read(a, me).chosen(x, self.read(b, me))
            case Contract(left=a, right=b, over=over):
                left, right = self.read(a, me), self.read(b, me)
                if (x := self.free(left, me)) is not None:
                    return right.contract(x, over, e)
                if (x := self.free(right, me)) is not None:
                    return left.contract(x, over, e)
            case Reduce(fn="sum", of=a, over=over):
                return self.read(a, me).contract(product(*(ones(x) for x in over)), over, e)
            case Rename(of=a, old=old, new=new):
                return self.read(a, me).rename(old, new, e)
        return Form(rest=(self.function(e, me),))

    def free(self, form: Form, me: Group) -> Expr | None:
        """The form as an expression, if it does not hold a state that is being read."""
        return None if any(t.state in me for t in form.terms) else self.settled(form)

    def function(self, e: Expr, me: Group) -> Expr:
        """A function that is not linear, of states other than those being read."""

        def change(child: Node) -> Node:
            if not isinstance(child, Expr) or not self.stateful(child):
                return child
            form = self.read(child, me)
            x = self.free(form, me)
            if x is None:
                assert self.reading is not None
                names = one_of(list(dict.fromkeys(t.state.name for t in form.terms if t.state in me)))
                raise NotLinear(
                    f"the update of {self.reading.name} is not affine in {names}, because of {formula(e)}", e
                )
            return x

        return e.with_children(change)

    def resolved(self, state: State, me: Group) -> State:
        """`state`, once its own update has been read, with those of the states that it feeds and that feed it."""
        if state in me or state in self.forms:
            return state
        group, before = self.groups[state], self.reading
        made: dict[State, Form] = {}
        for self.reading in group:
            update = self.update(self.reading)
            alone = isinstance(update, State) or not self.stateful(update)
            made[self.reading] = self.apart(self.read(update, group) if alone else self.part(update, group), group)
            if group == (self.reading,):
                self.chains[state] = chained(
                    state, update, made[state], lambda e: self.apart(self.read(e, group), group)
                )
        self.reading = before
        self.forms.update(made)
        return state

    def apart(self, form: Form, group: Group) -> Form:
        """The form with the reads of states that are not of the group in its rest."""
        others = Form(terms=tuple(t for t in form.terms if t.state not in group))
        own = tuple(t for t in form.terms if t.state in group)
        return Form(own, (*form.rest, self.settled(others)) if others.terms else form.rest)

    # ------------------------------------------------------------------ placeholders

    def settled(self, form: Form) -> Expr:
        """The form as an expression, in which placeholders stand for the reads of its states."""
        groups: dict[tuple[object, ...], list[Term]] = {}
        for t in form.terms:
            alone = t.shown is not None or any(a in t.state.axes for a in t.coefficient.axes)
            groups.setdefault(t.key if alone else (t.state, t.over, t.after), []).append(t)
        parts = []
        for terms in groups.values():
            t = terms[0]
            if len(terms) > 1:
                t = replace(t, query=total(product(x.coefficient, x.query) for x in terms), coefficient=ONE)
            parts.append(product(t.coefficient, self.placeholder(replace(t, coefficient=ONE))))
        return total((*parts, *form.rest))

    def placeholder(self, t: Term) -> Expr:
        bare = replace(t, shown=None)
        if bare not in self.reads:
            forms = [self.forms[s] for s in self.groups[t.state]]
            inside = [e.axes for f in forms for x in f.terms for e in (x.coefficient, x.query)]
            batch = without(union(*inside, *(r.axes for f in forms for r in f.rest)), t.state.axes)
            axes = without(union(t.query.axes, batch, t.free, (TIME,)), t.over)
            self.reads[bare] = Signal(name=f"read {len(self.reads)}", axes=axes)
        made: Expr = self.reads[bare]
        return made if t.shown is None else renamed(made, *t.shown)

    # ------------------------------------------------------------------ building

    def built(self, output: Expr) -> Expr:
        """Placeholders exchanged for reads, group by group."""
        table: dict[Node, Node] = {}
        reset = self.recurrence.reset
        for group in dict.fromkeys(self.groups[s] for s in self.forms):
            reads = [t for t in self.reads if t.state in group]
            forms = {s: self.forms[s].map(lambda e: replaced(e, table)) for s in group}
            if len(group) == 1:
                early = any(not t.after for t in reads)
                chain = tuple(f.map(lambda e: replaced(e, table)) for f in self.chains[group[0]])
                process = process_of(group[0], forms[group[0]], reads, reset, may_gate=not early, chain=chain)
            else:
                process = joint_process(group, forms, reads, reset)
            for t in reads:
                seen = t if len(group) == 1 else joint_read(group, t)
                query = replaced(seen.query, table)
                if reset is not None and not t.after:
                    query = product(query, keep(reset))
                table[self.reads[t]] = read_of(process, replace(seen, query=query))
        return replaced(output, table)
