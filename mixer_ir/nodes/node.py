"""Immutable syntax nodes: frozen dataclasses, interned, so that equality by value is identity.

Two nodes built from equal fields are the same object. Comparing and hashing cost nothing, shared parts of an
expression stay shared, and a dictionary keyed by nodes is a memo table.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar, dataclass_transform

T = TypeVar("T")

_INTERNED: weakref.WeakValueDictionary[tuple[Any, ...], Node] = weakref.WeakValueDictionary()


def _atom(value: Any) -> Any:
    """A hashable key for one field; 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, tuple):
        return tuple(_atom(v) for v in value)
    if isinstance(value, float | complex):
        return (type(value), repr(value))
    return value if isinstance(value, Node) else (type(value), value)


class _Interned(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        key = (cls, *(_atom(getattr(made, f.name)) for f in dataclasses.fields(made) if f.init))
        return _INTERNED.setdefault(key, made)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def node(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only, slotted dataclass whose equality is identity."""
    return dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)(cls)


class Node(metaclass=_Interned):
    """The base of every syntax node."""

    __slots__ = ("__weakref__",)

    def __repr__(self) -> str:
        axes = getattr(self, "axes", None)
        name = getattr(self, "name", None) or getattr(self, "fn", None)
        words = [type(self).__name__, *([name] if name else []), *([f"({' '.join(axes)})"] if axes is not None else [])]
        return f"<{' '.join(words)}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Every node below, each once and without recursion, which a deep expression would exhaust."""
        at: dict[Node, _At] = {}
        rows = []
        for i, n in enumerate(walk(self)):
            fields = (f.name for f in dataclasses.fields(n) if f.init)  # type: ignore[arg-type]
            rows.append((type(n), {name: _map_nodes(getattr(n, name), at.__getitem__) for name in fields}))
            at[n] = _At(i)
        return _built, (rows,)

    def children(self) -> Iterator[Node]:
        """Every node held directly in a field, in the order of the fields."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.init:
                yield from _nodes_in(getattr(self, field.name))

    def with_children(self, change: Any) -> Self:
        """This node with `change` applied to each direct child; itself if nothing changed."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}  # type: ignore[arg-type]
        new = {name: _map_nodes(value, change) for name, value in fields.items()}
        return self if all(new[n] is fields[n] for n in fields) else type(self)(**new)


class _At(int):
    """The place of a node among those before it."""


def _built(rows: list[tuple[type[Node], dict[str, Any]]]) -> Node:
    """The last of the nodes read back; it is the one that is there already if there is an equal one."""
    made: list[Node] = []
    for cls, fields in rows:
        made.append(cls(**{name: _placed(value, made) for name, value in fields.items()}))
    return made[-1]


def _placed(value: Any, made: list[Node]) -> Any:
    if isinstance(value, tuple):
        return tuple(_placed(item, made) for item in value)
    return made[value] if isinstance(value, _At) else value


def _nodes_in(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _nodes_in(item)


def _map_nodes(value: Any, change: Any) -> Any:
    if isinstance(value, Node):
        return change(value)
    if isinstance(value, tuple):
        new = tuple(_map_nodes(item, change) for item in value)
        return value if all(a is b for a, b in zip(new, value, strict=True)) else new
    return value


def walk(root: Node, closed: tuple[type[Node], ...] = ()) -> Iterator[Node]:
    """Every node reachable from `root`, children before parents, each once; nodes of the types `closed` as leaves."""
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        here, done = stack.pop()
        if done:
            yield here
        elif id(here) not in seen:
            seen.add(id(here))
            stack.append((here, True))
            if not isinstance(here, closed):
                stack.extend((child, False) for child in here.children())


def rebuild(root: Node, change: Callable[[Node], Node], closed: tuple[type[Node], ...] = ()) -> Any:
    """`root` with `change` applied to every node, children before parents, each once; `closed` as for `walk`."""
    new: dict[Node, Node] = {}
    for here in walk(root, closed):
        new[here] = change(here if isinstance(here, closed) else here.with_children(new.__getitem__))
    return new[root]
