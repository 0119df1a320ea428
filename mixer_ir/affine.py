"""The normal form of a recurrence: every state a Process, every use of it a Read, where the update is affine.

S_t = (diag(α_t) + Σ_i a_i,t b_i,tᵀ) S_{t−1} + Σ_j k_j,t v_j,tᵀ,   y_t = f(q_tᵀ S_t, …), f any function.

The traced update is read as a linear form in its own state (mixer_ir/linear_form.py); other states that it uses are
resolved first and enter as reads. While a state's uses are still being collected, a read is a placeholder signal;
which axes queries contract is decided when all are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mixer_ir.algebra import MINUS, ONE, keep, ones, product, renamed, replaced, total
from mixer_ir.expr import TIME, Call, Contract, Expr, Reduce, Rename, Signal, union, without
from mixer_ir.linear_form import Form, NotLinear, Term
from mixer_ir.node import Node
from mixer_ir.process import Recurrence, Run, State
from mixer_ir.process_parts import process_of, read_of
from mixer_ir.text import formula


@dataclass(frozen=True)
class NotAffine:
    """Why a recurrence has no normal form: a sentence, and the term at fault."""

    reason: str
    term: Expr


def normal_form(recurrence: Recurrence) -> Expr | NotAffine:
    """The output of the recurrence with every state replaced by reads of a Process."""
    reader = _Reader(recurrence)
    try:
        output = reader.settled(reader.read(recurrence.output, None))
        return reader.built(output)
    except NotLinear as stop:
        return NotAffine(reason=stop.reason, term=stop.term)


@dataclass
class _Reader:
    """Reads one recurrence; `forms` holds the states resolved so far, in the order in which they can be built."""

    recurrence: Recurrence
    forms: dict[State, Form] = field(default_factory=dict)
    open: list[State] = field(default_factory=list)
    reads: dict[Term, Signal] = field(default_factory=dict)
    memo: dict[tuple[Node, State | None], Form] = field(default_factory=dict)
    holds: dict[Node, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pairs = zip(self.recurrence.states, self.recurrence.updates, strict=True)
        self.after = {update: state for state, update in pairs if self.stateful(update)}

    def stateful(self, e: Node) -> bool:
        """Whether a state stands inside `e`."""
        if e not in self.holds:
            inside = not isinstance(e, Run) and any(self.stateful(c) for c in e.children())
            self.holds[e] = isinstance(e, State) or inside
        return self.holds[e]

    # ------------------------------------------------------------------ reading

    def read(self, e: Expr, me: State | None) -> Form:
        """`e` as a linear form in the state `me` (the one whose update is read) and in states resolved before."""
        if (e, me) not in self.memo:
            self.memo[e, me] = self._read(e, me)
        return self.memo[e, me]

    def _read(self, e: Expr, me: State | None) -> Form:
        if not self.stateful(e):
            return Form(rest=(e,))
        if isinstance(e, State):
            return Form(terms=(Term(state=self.resolved(e, me, e)),))
        new = self.after.get(e)
        if new is not None and new is not me:
            return Form(terms=(Term(state=self.resolved(new, me, e), after=True),))
        return self.part(e, me)

    def part(self, e: Expr, me: State | None) -> Form:
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

    def free(self, form: Form, me: State | None) -> Expr | None:
        """The form as an expression, if it does not hold the state that is being read."""
        return None if any(t.state is me for t in form.terms) else self.settled(form)

    def function(self, e: Expr, me: State | None) -> Expr:
        """A function that is not linear, of states other than the one being read."""

        def change(child: Node) -> Node:
            if not isinstance(child, Expr) or not self.stateful(child):
                return child
            x = self.free(self.read(child, me), me)
            if x is None:
                assert me is not None
                raise NotLinear(f"the update of {me.name} is not affine in {me.name}, because of {formula(e)}", e)
            return x

        return e.with_children(change)

    def resolved(self, state: State, me: State | None, at: Expr) -> State:
        """`state`, once its own update has been read."""
        if state is me or state in self.forms:
            return state
        if state in self.open:
            names = ", ".join(s.name for s in self.open)
            raise NotLinear(
                f"the states {names} feed each other, so that none has an update of its own: {formula(at)}", at
            )
        self.open.append(state)
        update = self.recurrence.updates[self.recurrence.states.index(state)]
        alone = isinstance(update, State) or not self.stateful(update)
        form = self.read(update, state) if alone else self.part(update, state)
        others = Form(terms=tuple(t for t in form.terms if t.state is not state))
        own = tuple(t for t in form.terms if t.state is state)
        rest = (*form.rest, self.settled(others)) if others.terms else form.rest
        self.forms[state] = Form(own, rest)
        self.open.remove(state)
        return state

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
            form = self.forms[t.state]
            inside = (*(x.coefficient.axes for x in form.terms), *(x.query.axes for x in form.terms))
            batch = without(union(*inside, *(r.axes for r in form.rest)), t.state.axes)
            axes = without(union(t.query.axes, batch, t.free, (TIME,)), t.over)
            self.reads[bare] = Signal(name=f"read {len(self.reads)}", axes=axes)
        made: Expr = self.reads[bare]
        return made if t.shown is None else renamed(made, *t.shown)

    # ------------------------------------------------------------------ building

    def built(self, output: Expr) -> Expr:
        """Placeholders exchanged for reads, state by state."""
        table: dict[Node, Node] = {}
        for state, form in self.forms.items():
            reads = [t for t in self.reads if t.state is state]
            before = any(not t.after for t in reads)
            reset = self.recurrence.reset
            form = Form(
                tuple(
                    replace(t, coefficient=replaced(t.coefficient, table), query=replaced(t.query, table))
                    for t in form.terms
                ),
                tuple(replaced(r, table) for r in form.rest),
            )
            process = process_of(state, form, reads, reset, may_gate=not before)
            for t in reads:
                query = replaced(t.query, table)
                if reset is not None and not t.after:
                    query = product(query, keep(reset))
                table[self.reads[t]] = read_of(process, replace(t, query=query))
        return replaced(output, table)
