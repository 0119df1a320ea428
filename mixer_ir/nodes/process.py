"""States driven through time: recurrences as they were traced, and processes, the normal form that has every form."""

from __future__ import annotations

from dataclasses import field

from mixer_ir.nodes.expr import TIME, Axes, Expr, set_axes, union, without
from mixer_ir.nodes.node import Node, node


@node
class State(Expr):
    """The value of a recurrence's state before the step; `axes` are the state's own, without batch axes."""

    name: str
    axes: Axes


@node
class Transition(Node):
    """A_t = diag(exp(log_t)), diag(factor_t) or a dense matrix along the state axis `along`, plus Σ_i a_i,t b_i,tᵀ.

    log       log-decays (exponentiated as they are; ≤ 0 for a decay)
    factor    decays given directly: may be zero, negative, above one, complex; at most one of log, factor is set
    low_rank  pairs (a, b), both with the axes `along` and `beside`: a_i b_iᵀ acts along all of these at once
    dense     a matrix with axes `row` (new state) and `along` (old state); then log and factor are unset
    """

    along: str | None = None
    log: Expr | None = None
    factor: Expr | None = None
    low_rank: tuple[tuple[Expr, Expr], ...] = ()
    dense: Expr | None = None
    row: str | None = None
    beside: Axes = ()

    @property
    def exprs(self) -> tuple[Expr, ...]:
        given = (self.log, self.factor, self.dense, *(e for pair in self.low_rank for e in pair))
        return tuple(e for e in given if e is not None)

    @property
    def axes(self) -> Axes:
        """All axes of the transition's parts; `row` and `along` among them where they are used."""
        return union(*(e.axes for e in self.exprs))


@node
class Factor(Node):
    """One of the updates that a step makes one after the other: S ← A S + Σ_j k_j v_jᵀ."""

    transition: Transition
    inputs: tuple[tuple[Expr, Expr], ...]


@node
class Process(Node):
    """A state driven through time: S_t = A_t S_{t−1} + Σ_j k_j,t v_j,tᵀ, S_{−1} = the initial state or zero.

    name        what the state is called in a stream's dictionary
    axes        the state's own axes (batch axes follow from the parts)
    over        the state axes that queries contract and that a low-rank or dense transition acts along
    inputs      pairs (key, value): a key has the axes `over`, a value the other state axes
    reset       where true (over t), the incoming state is dropped before the step
    factors     updates with one pair of a low rank each that are the step one after the other, the first one first;
                () where the step is no such product, or one of one factor, or decays along what it acts on
    """

    name: str
    axes: Axes
    over: Axes
    transition: Transition
    inputs: tuple[tuple[Expr, Expr], ...]
    reset: Expr | None = None
    factors: tuple[Factor, ...] = ()

    @property
    def batch(self) -> Axes:
        """Axes over which every matrix of the process differs: all but t, `over` and the pure value axes."""
        keys = (k.axes for k, _ in self.inputs)
        reset = () if self.reset is None else self.reset.axes
        gone = (TIME, *self.over, *((self.transition.row,) if self.transition.row else ()))
        return without(union(self.transition.axes, *keys, reset), gone)


@node
class Read(Expr):
    """y_t = q_tᵀ S_t, or q_tᵀ S_{t−1} (before the step, `before`); contracts the process' axes `over`."""

    process: Process
    query: Expr
    before: bool = False
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        p = self.process
        values = union(*(v.axes for _, v in p.inputs))
        set_axes(self, without(union(self.query.axes, p.batch, values, p.axes, (TIME,)), p.over))


@node
class Recurrence(Node):
    """A traced update: new states and the output, as expressions of the signals at t and of the old states.

    states   the states before the step (State nodes); `batch` are the axes that every state also has
    updates  the new states, in the same order
    outputs  the results, read at each t
    """

    name: str
    states: tuple[State, ...]
    batch: Axes
    updates: tuple[Expr, ...]
    output: Expr
    reset: Expr | None = None


@node
class Run(Expr):
    """The output of a recurrence at every t, step by step."""

    recurrence: Recurrence
    axes: Axes

    # `axes` is given: batch axes (with t) in order of first appearance, then the output's own
