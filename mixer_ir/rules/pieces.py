"""The pieces of a canonical expression: what mixes along time, each lowered in a form of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mixer_ir.nodes.expr import Expr
from mixer_ir.nodes.matrix import Apply
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Process, Read, Run

PieceNode: TypeAlias = Process | Apply | Run


@dataclass(frozen=True)
class Piece:
    """One process with all its reads, one application of an atomic matrix, or one recurrence that is not affine."""

    name: str
    node: PieceNode
    reads: tuple[Read, ...] = ()


def pieces(expr: Expr) -> tuple[Piece, ...]:
    """The pieces of a canonical expression, parts before what uses them; reads of one process are one piece."""
    found: dict[PieceNode, list[Read]] = {}
    for node in walk(expr):
        match node:
            case Read(process=process):
                found.setdefault(process, []).append(node)
            case Apply() | Run():
                found.setdefault(node, [])
    made: list[Piece] = []
    taken: set[str] = set()
    for node, reads in found.items():
        name = _name(node, taken)
        taken.add(name)
        made.append(Piece(name=name, node=node, reads=tuple(reads)))
    return tuple(made)


def _name(node: PieceNode, taken: set[str]) -> str:
    match node:
        case Process(name=name):
            stem = name
        case Apply(matrix=matrix):
            stem = type(matrix).__name__.lower()
        case Run(recurrence=recurrence):
            stem = recurrence.name
    if stem not in taken:
        return stem
    i = 1
    while f"{stem}_{i}" in taken:
        i += 1
    return f"{stem}_{i}"
