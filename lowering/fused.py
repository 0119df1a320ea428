"""Chains of transforms as a GPU's kernels run them: products with matrices of numbers on one tile, gates around them.

A transform by products (lowering/monarch.py) is priced operation by operation where each goes through memory. A kernel
holds a sequence in a tile, and multiplies it there: what is moved is what comes in and what goes out. Where a sequence
is longer than a tile, the chain is cut, and an array goes through memory once for each product that is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import prod

from lowering import program as p
from lowering.program import Program, Value

MOVING = (
    p.Map | p.Cast | p.Pad | p.Merge | p.Split | p.Concat | p.Flip | p.Slice | p.Rename | p.Order | p.Expand | p.Detach
)
"""what a kernel does on the way"""


@lru_cache(maxsize=1 << 14)
def fixed(v: Value) -> bool:
    """Whether v is the same whatever the inputs are."""
    return not isinstance(v.op, p.Input) and all(fixed(a) for a in v.args)


def zeros(v: Value) -> bool:
    """Whether v is 0 all over, as it is written."""
    while isinstance(v.op, p.Cast | p.Expand):
        v = v.args[0]
    return isinstance(v.op, p.Constant) and v.op.value == 0


def transforms(v: Value) -> bool:
    """Whether v is a product with a matrix of numbers."""
    return isinstance(v.op, p.Contract) and sum(map(fixed, v.args)) == 1 and v.kind == "complex"


def chained(program: Program, longest: int) -> Mapping[Value, int]:
    """What kernels compute on the way to, between and behind transforms -> the length of these, in complex numbers.

    longest   none if a transform is longer

    None either where anything else is computed, or of complex inputs: of what forms a process's filter, kernels are not
    known to fit.
    """
    if "complex" in (v.kind for v in program.inputs):
        return {}
    if not all(isinstance(v.op, p.Input | MOVING) or transforms(v) or fixed(v) for v in program.order):
        return {}
    consumers: dict[Value, list[Value]] = {}
    for v in program.order:
        for a in v.args:
            consumers.setdefault(a, []).append(v)
    found: dict[Value, int] = {}
    for seed in program.order:
        if seed in found or not transforms(seed):
            continue
        group, todo = {seed}, [seed]
        while todo:
            v = todo.pop()
            for x in (*v.args, *consumers.get(v, ())):
                if x not in group and not fixed(x) and (isinstance(x.op, MOVING) or transforms(x)):
                    group.add(x)
                    todo.append(x)
        length = max(_length(v) for v in group if transforms(v))
        if length > longest:
            return {}
        found |= dict.fromkeys(group, length)
    return found


def _length(v: Value) -> int:
    """The places of the transform that v is the last product of: what it sums over, and the products before it."""
    assert isinstance(v.op, p.Contract)
    (x,) = (a for a in v.args if not fixed(a))
    own = prod(x.size(a) for a in v.op.over)
    while isinstance(x.op, MOVING) and (inner := [a for a in x.args if not fixed(a)]):
        if len(inner) > 1:
            return own
        (x,) = inner
    return own * _length(x) if transforms(x) else own
