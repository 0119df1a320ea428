"""The canonical form of a mixer's body: element-wise nodes around the pieces that mix along time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from mixer_ir.nodes.expr import Delay, Expr, Reverse
from mixer_ir.nodes.matrix import Apply, Matrix, Softmax
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Process, Run
from mixer_ir.rules.applied import RULES as APPLY_RULES
from mixer_ir.rules.collected import RULES as COLLECT_RULES
from mixer_ir.rules.products import RULES as MATRIX_RULES
from mixer_ir.rules.products import SCORES
from mixer_ir.rules.reset import INWARD as RESETS_INWARD


@dataclass(frozen=True)
class Fired:
    """A rule that fired: its name, its identity, and the node before and after."""

    rule: str
    identity: str
    before: Node
    after: Node


@dataclass(frozen=True)
class Canonical:
    """The canonical expression, and the rules that led to it in the order in which they fired."""

    expr: Expr
    fired: tuple[Fired, ...]


RuleTable: TypeAlias = Sequence[Any]


def canonicalise(body: Expr) -> Canonical:
    """`body` rewritten by the rules, innermost node first, until none fires; no rule changes the values.

    This ends: a rule on matrices moves a modifier one node nearer to the leaves, merges two nodes or removes one; a
    rule on applications takes the top node off the matrix that is applied, and the parts that it makes (reversed
    signals, columns of ones) hold no matrix. A recurrence is replaced by its normal form once.
    """
    inward = Rewriter(RESETS_INWARD, (), ())  # first: two factors that join are not cut to the packed pieces each
    rewriter = Rewriter(MATRIX_RULES, APPLY_RULES)
    expr = rewriter.rewrite(inward.rewrite(body))
    return Canonical(expr=named(expr), fired=(*inward.fired, *rewriter.fired))


def gathered(M: Matrix) -> Matrix:
    """The matrix in the fewest structures: scales and diagonals absorbed, sums and products gathered."""
    return Rewriter((*MATRIX_RULES, *COLLECT_RULES), APPLY_RULES).rewrite(M)  # type: ignore[no-any-return]


@dataclass
class Rewriter:
    """Rewrites by tables of rules, one for matrices, one for expressions, and one for matrices inside a softmax."""

    matrix_rules: RuleTable
    expr_rules: RuleTable
    score_rules: RuleTable = SCORES
    fired: list[Fired] = field(default_factory=list)
    memo: dict[tuple[Node, bool], Node] = field(default_factory=dict)

    def rewrite(self, root: Any) -> Any:
        """The node that no rule changes any more."""
        return self._rewrite(root, False)

    def _rewrite(self, node: Node, scores: bool) -> Node:
        stack = [(node, scores, False)]  # children first, so that deep expressions need no deep stack
        while stack:
            here, inside, ready = stack.pop()
            if (here, inside) in self.memo:
                continue
            if ready:
                self._step(here, inside)
            else:
                stack.append((here, inside, True))
                stack += [(child, _scores(here, child, inside), False) for child in here.children()]
        return self.memo[node, scores]

    def _step(self, node: Node, scores: bool) -> None:
        here = node.with_children(lambda child: self.memo[child, _scores(node, child, scores)])
        new = self._once(here, scores)
        done = here if new is None else self._rewrite(new, scores)
        self.memo[here, scores] = self.memo[node, scores] = done

    def _once(self, node: Node, scores: bool) -> Node | None:
        if isinstance(node, Matrix):
            table = self.score_rules if scores else self.matrix_rules
        elif isinstance(node, Apply | Run | Reverse | Delay):
            table = self.expr_rules
        else:
            return None
        for rule in table:
            new = rule(node)
            if new is not None and new is not node:
                self.fired.append(Fired(rule.__name__, " ".join((rule.__doc__ or "").split()), node, new))
                return new  # type: ignore[no-any-return]
        return None


def _scores(parent: Node, child: Node, scores: bool) -> bool:
    """Whether a child of a node is a matrix inside a softmax, where a masked entry is not a zero."""
    return isinstance(child, Matrix) and isinstance(parent, Matrix) and (scores or isinstance(parent, Softmax))


def named(expr: Expr) -> Expr:
    """Every process with a name of its own: the declared one, or state_0, state_1 … in order of appearance."""
    names: dict[Node, str] = {}
    taken: set[str] = set()
    for node in walk(expr):
        if isinstance(node, Process) and node.name and node.name not in taken:
            names[node] = node.name
            taken.add(node.name)
    for node in walk(expr):
        if isinstance(node, Process) and node not in names:
            stem, i = node.name or "state", 0
            while f"{stem}_{i}" in taken:
                i += 1
            names[node] = f"{stem}_{i}"
            taken.add(f"{stem}_{i}")
    made: dict[Node, Node] = {}
    for here in walk(expr):
        new = here.with_children(made.__getitem__)
        made[here] = replace(new, name=names[here]) if isinstance(new, Process) else new
    return made[expr]  # type: ignore[return-value]
