"""Independent kernels as one launch: the number of a program says which of them it works on."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from backends.triton.evaluate import Buffer
from backends.triton.kernel import PROGRAM, Kernel
from backends.triton.steps import Launch, Step
from backends.triton.sums import WHOLE
from backends.triton.text import signature
from lowering import program as p
from lowering.program import Value

FULL = 1 << 12
"""programs of a loop that fill a device many times: a second such loop gains nothing beside it but its registers"""


def side_by_side(group: list[Step], alone: Set[Value] = frozenset()) -> list[Step]:
    """Kernels that do not wait for each other in one launch, where none is light beside the others.

    alone   what is stored by kernels of their own
    """
    launches = [s for s in group if isinstance(s, Launch) and alone.isdisjoint(b.value for b in s.kernel.writes)]
    full = [s for s in launches if s.kernel.programs >= FULL and any(map(loops_along, s.kernel.writes))]
    launches = [s for s in launches if s not in full[1:]]
    most = max((s.kernel.programs * s.kernel.held for s in launches), default=0)
    large = max((s.kernel.held for s in launches), default=0)
    joined = [s for s in launches if 8 * s.kernel.held >= large or 16 * s.kernel.programs * s.kernel.held <= most]
    if len(joined) < 2:
        return group
    return [Launch(beside([s.kernel for s in joined])), *(s for s in group if s not in joined)]


def loops_along(b: Buffer) -> bool:
    """Whether what stores b is a loop over an axis that no program has whole."""
    v = b.of or b.value
    return isinstance(v.op, p.AffineScan | p.Pick | p.Scan) or (
        isinstance(v.op, p.Cumulate) and v.size(v.op.axis) > WHOLE
    )


def beside(kernels: Sequence[Kernel]) -> Kernel:
    """One kernel whose programs are those of all, in order; it takes the registers of the largest one."""
    first = kernels[0]
    names = "_".join(k.name.removesuffix("_kernel") for k in kernels)
    name = f"{names if len(names) < 40 else first.name.removesuffix('_kernel') + '_and_more'}_kernel"
    reads = tuple(dict.fromkeys(b for k in kernels for b in k.reads))
    writes = tuple(b for k in kernels for b in k.writes)
    parts, lines, start = [], [], 0
    for i, k in enumerate(kernels):
        pointers = [f"p_{b.name}" for b in (*k.reads, *k.writes)]
        parts.append(_as_part(k))
        place = "i_p" if not start else f"i_p - {start}"
        start += k.programs
        test = "else" if i == len(kernels) - 1 else f"{'el' if i else ''}if i_p < {start}"
        lines += [f"    {test}:", signature(f"        {_part_name(k)}", [place, *pointers])]
    title = f"Side by side: {', '.join(_part_name(k) for k in kernels)}."
    head = f"@triton.jit\n{signature(f'def {name}', [f'p_{b.name}' for b in (*reads, *writes)], ':')}"
    text = "\n".join([*parts, f'{head}\n    """{title}\n    """\n    {PROGRAM}', *lines, ""])
    return replace(
        first,
        name=name,
        text=text,
        helpers=frozenset().union(*(k.helpers for k in kernels)),
        reads=reads,
        writes=writes,
        grid=(("program", start),),
        warps=max(k.warps for k in kernels),
        held=max(k.held for k in kernels),
        fits=all(k.fits for k in kernels),
        parts=tuple(kernels),
    )


def _part_name(k: Kernel) -> str:
    return f"_{k.name.removesuffix('_kernel')}"


def _as_part(k: Kernel) -> str:
    """The kernel as a function that is given the number of its program."""
    pointers = [f"p_{b.name}" for b in (*k.reads, *k.writes)]
    before, after = (
        signature(f"def {n}", args, ":") for n, args in ((k.name, pointers), (_part_name(k), ["i_p", *pointers]))
    )
    text = k.text.replace(before, after, 1)
    return text.replace(f"    {PROGRAM}\n", "", 1)
