"""The canonical form of a mixer's body: element-wise nodes around the pieces that mix along time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from mixer_ir.expr import Apply, Delay, Expr, Process, Reverse, Run
from mixer_ir.matrix import Matrix
from mixer_ir.node import Node, walk
from mixer_ir.rules import RULES as MATRIX_RULES
from mixer_ir.rules_apply import RULES as APPLY_RULES


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
    rewriter = Rewriter(MATRIX_RULES, APPLY_RULES)
    expr = rewriter.rewrite(body)
    return Canonical(expr=named(expr), fired=tuple(rewriter.fired))


def simplified(M: Matrix) -> Matrix:
    """The matrix rewritten by the rules on matrices."""
    return Rewriter(MATRIX_RULES, APPLY_RULES).rewrite(M)


@dataclass
class Rewriter:
    """Rewrites by two tables of rules, one for matrices and one for expressions, remembering what it has done."""

    matrix_rules: RuleTable
    expr_rules: RuleTable
    fired: list[Fired] = field(default_factory=list)
    memo: dict[Node, Node] = field(default_factory=dict)

    def rewrite(self, root: Any) -> Any:
        for node in walk(root):  # children first, so that deep expressions need no deep stack
            self._rewrite(node)
        return self.memo[root]

    def _rewrite(self, node: Node) -> Node:
        if node not in self.memo:
            here = node.with_children(self._rewrite)
            new = self._once(here)
            done = here if new is None else self._rewrite(new)
            self.memo[here] = self.memo[node] = done
        return self.memo[node]

    def _once(self, node: Node) -> Node | None:
        if isinstance(node, Matrix):
            table = self.matrix_rules
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
