"""The kind of number that an expression has, given those of its signals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mixer_ir.nodes import expr as e
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import Expr
from mixer_ir.nodes.functions import WIDTH, Kind, result_kind
from mixer_ir.nodes.matrix import Apply
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Factor, Process, Read, Recurrence, Run, State, Transition


def kinds_in(root: Node, signals: Mapping[str, Kind]) -> dict[Node, Kind]:
    """The kind of every expression, matrix and process below `root`, the root among them."""
    states: dict[Node, Kind] = {}
    while True:
        kinds: dict[Node, Kind] = {}
        for node in walk(root):
            kinds[node] = states.get(node) or _kind(node, kinds, signals)
        runs = [n for n in kinds if isinstance(n, Recurrence)]
        turned = [s for n in runs for s, new in zip(n.states, n.updates, strict=True) if kinds[new] == "complex"]
        if all(s in states for s in turned):
            return kinds
        states |= dict.fromkeys(turned, "complex")  # what is made of them may turn others


def widest(kinds: Iterable[Kind], least: Kind = "bool") -> Kind:
    return max((*kinds, least), key=WIDTH.__getitem__)


def _kind(node: Node, kinds: Mapping[Node, Kind], signals: Mapping[str, Kind]) -> Kind:
    below = [kinds[c] for c in node.children()]
    match node:
        case e.Literal(value=value):
            return "bool" if isinstance(value, bool) else _number(value)
        case e.Signal(name=name):
            return signals[name]
        case State():
            return "real"
        case e.Index() | e.Size():
            return "int"
        case e.Call(fn=fn, args=args) | m.Entrywise(fn=fn, args=args):
            return result_kind(fn, tuple(kinds[a] for a in args))
        case e.Take(table=table):
            return kinds[table]
        case e.Contract() | e.Cumulate():
            return widest(below, "int")
        case e.Reduce(fn=fn, of=of):
            return widest((kinds[of],), "int" if fn == "sum" else "bool")
        case m.Fourier():
            return "complex"
        case Process() | Factor() | Read() | Apply() | Run() | Transition() | m.Softmax() | m.Normalize() | m.Cauchy():
            return widest(below, "real")
        case m.Mask(of=of) | m.Resets(of=of) | e.Delay(of=of):
            return kinds[of]
    return widest(below)


def _number(value: e.Number) -> Kind:
    return "int" if isinstance(value, int) else "real" if isinstance(value, float) else "complex"


ORDERED = frozenset({"lt", "le", "min", "max", "mod", "floordiv", "erf", "relu", "clamp", "elu", "gelu"})
"""functions that complex numbers do not have"""


def undefined(root: Node, signals: Mapping[str, Kind]) -> str | None:
    """What is done below `root` that complex numbers do not allow, in words that follow a name; or None."""
    kinds = kinds_in(root, signals)
    for node in walk(root):
        if "complex" not in [kinds[c] for c in node.children()]:
            continue
        match node:
            case e.Call(fn="complex") | m.Entrywise(fn="complex"):
                return "makes mx.complex(re, im) of complex numbers, where both parts are real"
            case e.Call(fn=fn) | m.Entrywise(fn=fn) if fn in ORDERED:
                return _unordered(fn)
            case e.Reduce(fn=fn) | e.Cumulate(fn=fn) if fn in ("max", "min"):
                return _unordered(fn)
            case m.Softmax():
                return _unordered("softmax")
    return None


def _unordered(fn: str) -> str:
    return f"takes the {fn} of complex numbers, which have no {'erf here' if fn in ('erf', 'gelu') else 'order'}"


def kind_of(x: Expr, signals: Mapping[str, Kind]) -> Kind:
    """The kind of one expression."""
    return kinds_in(x, signals)[x]
