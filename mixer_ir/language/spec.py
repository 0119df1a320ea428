"""Mixers as JSON text: the graph of their nodes, each shared part once. Reading it executes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, cast

from mixer_ir.errors import MixerError, SpecError
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes import expr as _expr
from mixer_ir.nodes import matrix as _matrix
from mixer_ir.nodes import process as _process
from mixer_ir.nodes.check import check
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Expr, Signal, parse_axes
from mixer_ir.nodes.laws import check_body
from mixer_ir.nodes.node import Node, walk

VERSION = 1
HEAD = {"mixer_ir", "name", "doc", "paper", "year", "value", "signals", "returns", "body", "nodes"}

NODES: dict[str, type[Node]] = {
    name: cls
    for module in (_expr, _matrix, _process)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and issubclass(cls, Node) and "__dataclass_fields__" in vars(cls)
}
_NAMES = {**vars(_matrix), **vars(_expr), **vars(_process), "Matrix": _matrix.Matrix}
FIELDS: dict[str, dict[str, Any]] = {
    name: {f.name: typing.get_type_hints(cls, _NAMES)[f.name] for f in dataclasses.fields(cast(Any, cls)) if f.init}
    for name, cls in NODES.items()
}


# ------------------------------------------------------------------------------------------------ writing


def dumps(mixer: Mixer) -> str:
    """A mixer as JSON text; `loads` gives an equal mixer back."""
    if not isinstance(mixer, Mixer):
        raise SpecError(f"mx.dumps writes a mixer, not {type(mixer).__name__}")
    nodes = list(walk(mixer.body))
    at = {n: i for i, n in enumerate(nodes)}
    head = {
        "mixer_ir": VERSION,
        "name": mixer.name,
        "doc": mixer.doc,
        "paper": mixer.paper,
        "year": mixer.year,
        "value": mixer.declared_value,
        "signals": [[name, " ".join(axes)] for name, axes in mixer.signals.items()],
        "returns": " ".join(mixer.returns),
        "body": at[mixer.body],
    }
    rows = [json.dumps(_written(n, at), ensure_ascii=False) for n in nodes]
    lines = [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in head.items()]
    return "\n".join(["{", *lines, '  "nodes": [', ",\n".join(f"    {row}" for row in rows), "  ]", "}"]) + "\n"


def _written(node: Node, at: dict[Node, int]) -> dict[str, Any]:
    kind = type(node).__name__
    fields = {name: _plain(getattr(node, name), at) for name in FIELDS[kind]}
    return {"node": kind} | fields


def _plain(value: Any, at: dict[Node, int]) -> Any:
    match value:
        case Node():
            return {"at": at[value]}
        case tuple():
            return [_plain(v, at) for v in value]
        case complex():
            return {"complex": [_plain(value.real, at), _plain(value.imag, at)]}
        case float() if not math.isfinite(value):
            return {"float": repr(value)}
    return value


# ------------------------------------------------------------------------------------------------ reading


def loads(text: str) -> Mixer:
    """The mixer that `dumps` wrote. Nothing in the text is executed.

    Raises SpecError, saying what is wrong and where, for any text that is not such a mixer.
    """
    if not isinstance(text, str):
        raise SpecError(f"mx.loads reads text, not {type(text).__name__}")
    try:
        top = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as e:
        hint = "; of a file, give what is in it" if text.endswith(".json") else ""
        raise SpecError(f"this is not a mixer's text: {e}{hint}") from e
    if not isinstance(top, dict) or "mixer_ir" not in top:
        raise SpecError("this is JSON, but not a mixer's: it has no 'mixer_ir'")
    if top["mixer_ir"] != VERSION or isinstance(top["mixer_ir"], bool):
        raise SpecError(f"'mixer_ir' is {top['mixer_ir']!r}; this version of mixer-ir reads {VERSION}")
    _keys(
        top, {"mixer_ir", "name", "doc", "paper", "year", "value", "signals", "returns", "body", "nodes"}, "the mixer"
    )
    nodes = _nodes(top["nodes"])
    try:
        return _mixer(top, nodes)
    except SpecError:
        raise
    except MixerError as e:
        raise SpecError(f"this is not a mixer: {e}") from e


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


def _keys(given: dict[str, Any], wanted: set[str], where: str) -> None:
    for key in sorted(wanted - given.keys()):
        raise SpecError(f"{where} lacks {key!r}")
    for key in sorted(given.keys() - wanted):
        raise SpecError(f"{where} has {key!r}, which is not known")


def _nodes(rows: Any) -> list[Node]:
    if not isinstance(rows, list) or not rows:
        raise SpecError("'nodes' is a list of one node or more")
    made: list[Node] = []
    for i, row in enumerate(rows):
        kind = row.get("node") if isinstance(row, dict) else None
        where = f"nodes[{i}]"
        if not isinstance(kind, str) or kind not in NODES:
            raise SpecError(f"{where}: {kind!r} is not the name of a node")
        where = f"{where} ({kind})"
        _keys(row, {"node", *FIELDS[kind]}, where)
        fields = {name: _read(row[name], hint, made, f"{where}.{name}") for name, hint in FIELDS[kind].items()}
        try:
            node = NODES[kind](**fields)
            check(node)
        except MixerError as e:
            raise SpecError(f"{where}: {e}") from e
        made.append(node)
    return made


def _read(value: Any, hint: Any, made: list[Node], where: str) -> Any:
    """`value` as a field of the type `hint`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _read_union(value, args, made, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise SpecError(f"{where} is a list, not {value!r:.60}")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise SpecError(f"{where} has {len(value)} entries instead of {len(kinds)}")
        return tuple(_read(v, k, made, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    if isinstance(hint, type) and issubclass(hint, Node):
        return _node_at(value, hint, made, where)
    if hint is float and isinstance(value, dict):
        return _special(value, where)
    if type(value) is hint:
        return value
    raise SpecError(f"{where} is a {hint.__name__}, not {value!r:.60}")


def _read_union(value: Any, args: tuple[Any, ...], made: list[Node], where: str) -> Any:
    if value is None and type(None) in args:
        return None
    rest = [a for a in args if a is not type(None)]
    if len(rest) == 1:
        return _read(value, rest[0], made, where)
    if isinstance(value, dict):
        return _special(value, where)
    if type(value) in rest:
        return value
    raise SpecError(f"{where} is a number, not {value!r:.60}")


def _node_at(value: Any, kind: type[Node], made: list[Node], where: str) -> Node:
    at = value.get("at") if isinstance(value, dict) and len(value) == 1 else None
    if type(at) is not int or not 0 <= at < len(made):
        raise SpecError(f"{where} is {{'at': i}} with i the number of an earlier node, not {value!r:.60}")
    if not isinstance(made[at], kind):
        raise SpecError(f"{where} is a {kind.__name__}, but node {at} is a {type(made[at]).__name__}")
    return made[at]


def _special(value: dict[str, Any], where: str) -> float | complex:
    match value:
        case {"float": "inf" | "-inf" as word, **rest} if not rest:
            return float(word)
        case {"complex": [re, im], **rest} if not rest:
            parts = [_special(p, where) if isinstance(p, dict) else p for p in (re, im)]
            if all(type(p) is float for p in parts):
                return complex(*parts)
    raise SpecError(f"{where} is a number, not {value!r:.60}")


def _mixer(top: dict[str, Any], nodes: list[Node]) -> Mixer:
    for key, kind in (("name", str), ("doc", str), ("paper", str), ("returns", str)):
        if not isinstance(top[key], kind):
            raise SpecError(f"{key!r} is a string, not {top[key]!r:.60}")
    if top["year"] is not None and type(top["year"]) is not int:
        raise SpecError(f"'year' is a whole number or null, not {top['year']!r:.60}")
    signals = _signals(top["signals"])
    if top["value"] is not None and (not isinstance(top["value"], str) or top["value"] not in signals):
        raise SpecError(f"'value' is the name of a signal or null, not {top['value']!r:.60}")
    at = top["body"]
    if type(at) is not int or not 0 <= at < len(nodes) or not isinstance(nodes[at], Expr):
        raise SpecError(f"'body' is the number of an expression among the nodes, not {at!r:.60}")
    body = cast(Expr, nodes[at])
    for n in walk(body):
        if isinstance(n, Signal) and signals.get(n.name) != n.axes:
            raise SpecError(
                f"the body uses the signal {n.name} ({' '.join(n.axes)}), which 'signals' does not declare so"
            )
    check_body(body, signals)
    returns = parse_axes(top["returns"], of="'returns'")
    if set(returns) != set(body.axes) or TIME not in returns or SOURCE in returns:
        raise SpecError(f"'returns' is {top['returns']!r}, but the body has axes ({' '.join(body.axes)})")
    facts = {key: top[key] for key in ("name", "doc", "paper", "year")}
    return Mixer(signals=signals, body=body, returns=returns, declared_value=top["value"], **facts)


def _signals(rows: Any) -> dict[str, Axes]:
    signals: dict[str, Axes] = {}
    for row in rows if isinstance(rows, list) else [None]:
        match row:
            case [str(name), str(axes)] if name.isidentifier() and name not in signals:
                signals[name] = parse_axes(axes, of=f"signal {name}")
            case _:
                raise SpecError(f"'signals' is a list of pairs [name, axes] of different names, not {row!r:.60}")
    return signals
