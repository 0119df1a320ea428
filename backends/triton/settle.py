"""Plans that a device's compiler finds registers for: what spills there is planned again with fewer.

The estimate of `schedule.pressure` knows tiles; addresses, layouts and the compiler's own order are not in it. So the
kernels of a plan are compiled as they would be launched, in processes of their own. What those kernels store that
spill, or that take more shared memory than a program has, is compiled with loads that are not pipelined and with other
numbers of warps, and with exponents that are multiplied late or fewer copies of factors, which costs no launch; what
still spills is planned again with a lower limit of registers, and so it goes on: of kernels side by side, for those
that spill by themselves. Where that changes nothing, states are read by other kernels than the loops that carry them,
what one kernel stores is stored by several or its products are shared among several, and the largest of kernels that
spill side by side alone is launched by itself. Before a limit falls that no tiles are within, sums are in the shortest
blocks. A plan with fewer launches whose tiles seem to take more registers than there are, but not many, is tried first.
Of all plans that were tried the one with the least spilled is taken, of those the one with the fewest launches, then
the fewest bytes. Nothing is run, nothing hangs on times, and the plan is kept on disk, so that this is done once. Who
would rather have kernels soon says of how many plans the best is taken (`MIXER_IR_PLANS`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch

from backends.triton.compilers import LIMIT, Compilers, figures, kept
from backends.triton.devices import DEVICES, triton_of
from backends.triton.evaluate import Buffer
from backends.triton.kernel import LAST, NARROW, SPILLED, Kernel, Setting
from backends.triton.known import installed, sound
from backends.triton.partition import lightest, plan, plans
from backends.triton.steps import Call, Launch, Learnt, Plan, Repeat, Step
from lowering import program as p
from lowering.program import Program, Value
from mixer_ir.errors import OptionError

TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i8",
}
"""dtype -> that of a kernel's pointer"""
NOT = 1 << 20
"""bytes that count as spilled where a kernel cannot be compiled, or takes more shared or tensor memory than there is"""
COLUMNS = 512
"""of tensor memory, on every device that has it"""

FEW, MOST = 2048, 256
"""bytes spilled up to which fewer warps are tried, and what their threads may hold: layouts of small tiles take more
registers with more threads
"""
TRIES, TURNS = 14, 24
"""plans with new kernels that are compiled at most, and plans that are made at most"""
LESS, LEAST, MUCH = 0.85, 0.7, 1024
"""of a limit, the next one, and the next one where so many bytes are spilled; what a new cut brings begins there"""

NEARLY = 2.0
"""times the registers that there are up to which tiles of a plan with fewer launches may be estimated"""

SOME = 256
"""bytes spilled up to which the next limit is just below what the kernel holds, and fewer warps may be to hold
twice `MOST`
"""
MANY, SEVERAL, HALVED = 16, 4, 3
"""products that are shared among two kernels, rather than results, each of which would take most of them; so many are
where the limit cannot fall; and how often they are
"""
WORST = 4
"""times less than another kernel beside it that one spills whose products are not shared yet: the other's may do"""

Types = Callable[[Plan], Callable[[Buffer], torch.dtype]]
"""the dtypes that a plan's arrays have in memory"""


def asked() -> int | None:
    """Of how many plans the best is to be taken, if one of them can be launched; None: until nothing spills."""
    told = os.environ.get("MIXER_IR_PLANS")
    if not told:
        return None
    if not told.isdecimal() or int(told) < 1:
        raise OptionError(f"MIXER_IR_PLANS={told}: the number of plans that are compiled at most, from 1")
    return int(told)


def settled(program: Program, setting: Setting, target: str, types: Types, *, limit: float = LIMIT) -> Plan:
    """The plan of a program of real numbers for a device.

    limit   seconds that one kernel may be compiled for
    """
    with kept() as compilers:
        search = _Search(program, setting, _Spilled(target, limit, compilers), types, Learnt())
        most = asked()
        while search.turn() and not search.grown:
            if most is not None and len(search.tried) >= most and min(search.tried).spilled < NOT:
                return min(search.tried).plan
        found = []
        if search.grown:
            sharing = Learnt(sharing=True, written=search.learnt.written)
            found.append(replace(search, learnt=sharing, other=False).done())
        made = min([search.done(*found), *found])
        if made.spilled and any("tl.exp2(" in k.text for k in made.plan.kernels()):
            late = replace(search.setting, folded=not search.setting.folded)
            made = min(made, replace(search, setting=late, learnt=Learnt(), other=False).done())
        return made.plan


@dataclass(order=True)
class _Tried:
    """A plan with what it is judged by: bytes spilled; launches and calls; bytes that are passed to them."""

    spilled: int
    passed: tuple[int, int]
    plan: Plan = field(compare=False)


@dataclass
class _Search:
    """Plans, each made after what the one before spilled.

    other   whether another setting than the given one may be taken at the first plan
    over    whether there is none that is worth making     asked   plans of which a kernel was new to the compiler
    """

    program: Program
    setting: Setting
    spilled: _Spilled
    types: Types
    learnt: Learnt
    other: bool = True
    tried: list[_Tried] = field(default_factory=list, init=False)
    seen: set[str] = field(default_factory=set, init=False)
    crowds: dict[frozenset[Value], _Crowd] = field(default_factory=dict, init=False)
    asked: int = field(default=0, init=False)
    over: bool = field(default=False, init=False)

    def done(self, *than: _Tried) -> _Tried:
        """The best of all plans, made until one is no better than those that are known."""
        while self.turn(*than):
            pass
        return min(self.tried)

    @property
    def grown(self) -> bool:
        """Whether tiles that are narrow since others spilled take more launches than at first, and still spill."""
        first, last = self.tried[0], self.tried[-1]
        narrow = any(k.setting.limit < SPILLED for k in last.plan.kernels())
        return bool(last.spilled) and last.passed[0] > first.passed[0] and narrow

    def turn(self, *than: _Tried) -> bool:
        """One plan more; whether there is another to make.

        than   plans that are known: one that passes as much as one that spills nothing is not compiled
        """
        if self.over:
            return False
        turn = len(self.tried)
        fresh = int(self.setting.limit * (1.0, LESS, LESS, LEAST)[min(turn, 3)])
        first = plan(self.program, replace(self.setting, limit=fresh), learnt=self.learnt)
        if any(not x.spilled and x.passed <= _passed(first, self.types(first)) for x in than):
            self.over = True
            return False
        made, bad = self.fewest(first)
        if turn == 0 and asked() != 1:
            made, bad = self.begun(made, bad, fresh)
        self.tried.append(_Tried(sum(bad.values()), _passed(made, self.types(made)), made))
        before = self.learnt.copy()
        self.learn(made, bad, fresh)
        self.over = not bad or self.learnt == before or self.asked >= TRIES or len(self.tried) >= TURNS
        return not self.over

    def begun(self, made: Plan, bad: dict[Kernel, int], fresh: int) -> tuple[Plan, dict[Kernel, int]]:
        """What else there is to begin with, if that spills less; the plan taken, with what it spills."""
        if (closer := _closer(self.program, replace(self.setting, limit=fresh), self.learnt)) is not None:
            instead, left = self.fewest(closer)
            if not left:
                made, bad = instead, left
        for way in _instead(self.setting, bad) if self.other else ():
            own = Learnt()
            instead, left = self.fewest(plan(self.program, replace(way, limit=fresh), learnt=own))
            if not left or (way.copies == self.setting.copies and sum(left.values()) < sum(bad.values())):
                made, bad, self.setting, self.learnt = instead, left, way, own
            if not bad:
                break
        return made, bad

    def fewest(self, of: Plan) -> tuple[Plan, dict[Kernel, int]]:
        """See `_Spilled.fewest`."""
        count = len(self.spilled.known)
        made = self.spilled.fewest(of, self.types(of))
        self.asked += len(self.spilled.known) > count
        return made

    def learn(self, made: Plan, bad: Mapping[Kernel, int], fresh: int) -> None:
        """What to plan otherwise next time."""
        lanes = _lanes(self.spilled.target)
        for kernel in made.kernels():
            parts = self.spilled.parts(kernel, bad[kernel], self.types(made)) if kernel in bad else {}
            own = frozenset(b.value for b in kernel.writes)
            before, crowded = self.crowds.get(own), bool(kernel.parts) and kernel in parts
            if kernel.parts and before is not None and before.spilled <= bad.get(kernel, 0):
                self.learnt.limits |= before.limits  # narrower tiles spill more: what stands beside them is in the way
                _apart(self.learnt, kernel)
                continue
            stuck = kernel.text in self.seen or (crowded and before is not None)
            if crowded:
                limits = {v: self.learnt.limits.get(v, fresh) for v in own}
                self.crowds[own] = _Crowd(bad[kernel], limits)
            _learn(self.learnt, kernel, parts, fresh, kernel.warps * lanes, stuck=stuck)
        self.seen |= {k.text for k in bad}


@dataclass(frozen=True)
class _Crowd:
    """What kernels side by side spilled that spill together only, and the limits that they had."""

    spilled: int
    limits: Mapping[Value, int]


def _apart(learnt: Learnt, kernel: Kernel) -> None:
    """The largest of kernels side by side is launched by itself."""
    learnt.alone |= {b.value for b in max(kernel.parts, key=lambda k: k.held).writes}


def _instead(setting: Setting, spilled: Mapping[Kernel, int]) -> Iterator[Setting]:
    """What else to begin with: exponents that are multiplied later take other registers, and factors may take fewer."""
    if any("tl.exp2(" in k.text for k in spilled):
        yield replace(setting, folded=False)
    if setting.copies > 1 and any("tl.dot(" in k.text for k in spilled):
        yield replace(setting, copies=setting.copies - 1)


def _closer(program: Program, setting: Setting, learnt: Learnt) -> Plan | None:
    """The plan with the program prepared in the best way, where one with lighter tiles takes more launches."""
    made = plans(program, setting, "", learnt)
    best = made[0]
    fewer = sum(n for _, n in launched(best)) < sum(n for _, n in launched(lightest(made)))
    return best if fewer and not any(k.crowded(NEARLY) for k in best.kernels()) else None


def _learn(
    learnt: Learnt, kernel: Kernel, spilled: Mapping[Kernel, int], fresh: int, threads: int, *, stuck: bool
) -> None:
    """What to plan otherwise next time.

    spilled   the kernel or those of its parts that are to take fewer registers, with the bytes that they spilled
    fresh     the limit of what has none yet        threads   of a program
    stuck     the kernel is as it was before its limit was lowered, or what stands side by side in it still spills so
    """
    if stuck and kernel in spilled and kernel.parts:
        _apart(learnt, kernel)
        return
    worst = max(spilled.values(), default=0)
    for part in kernel.parts or (kernel,):
        own = {b.value for b in part.writes}
        count = spilled.get(part, spilled.get(kernel))
        if count and stuck and not learnt.stored and any(isinstance((b.of or b.value).op, p.Pick) for b in part.writes):
            learnt.stored = True
            continue
        products = part.text.count("tl.dot(")
        least = part.setting.tile <= NARROW[0] and part.setting.limit < SPILLED
        if count and WORST * count >= worst and least and part.fits and products >= MANY and not stuck:
            learnt.halved[frozenset(own)] = min(learnt.halved[frozenset(own)] + 1, HALVED)
            learnt.most = min(learnt.most, products)
            continue
        if count and stuck and (products < MANY or count <= SOME) and len(own) > 1 and not own <= learnt.single:
            learnt.single |= own
            continue
        if count and not part.fits and count <= SOME and not own <= learnt.short:
            learnt.short |= own
            learnt.limits |= {v: learnt.limits.get(v, fresh) for v in own}
            continue
        have = min(learnt.limits.get(v, fresh) for v in own)
        within = stuck and part.held <= have * threads  # what is beside the tiles takes the registers
        if count and (within or have <= LAST) and products >= (MANY if have > LAST else SEVERAL):
            learnt.halved[frozenset(own)] = min(learnt.halved[frozenset(own)] + 1, HALVED)
        for v in own:
            have = learnt.limits.get(v, fresh)
            learnt.limits[v] = _lower(have, part.held // threads, count, stuck) if count else have


def _lower(limit: int, held: int, spilled: int, stuck: bool) -> int:
    """The next limit: below what a thread holds if it fitted, and lower where it spilled much."""
    much = stuck or spilled > MUCH
    near = held <= limit and spilled <= SOME
    lower = int(limit * LEAST) if much else min(held - 1, limit - 1) if near else int(limit * LESS)
    return max(lower, LAST)


@dataclass
class _Spilled:
    """The bytes that kernels spill on a device.

    limit   seconds that one kernel may be compiled for
    """

    target: str
    limit: float
    compilers: Compilers
    known: dict[str, int] = field(default_factory=dict)

    def fewest(self, of: Plan, dtype: Callable[[Buffer], torch.dtype]) -> tuple[Plan, dict[Kernel, int]]:
        """The plan with each kernel launched in the way that spills least; what kernels spill, of those that do."""
        ways = {k: _ways(k, self.target) for k in of.kernels()}
        firsts = self.of([w[0] for w in ways.values()], dtype)
        again = [w for k, n in zip(ways, firsts, strict=True) if n for w in _others(ways[k], n)]
        found = dict(zip((w[0] for w in ways.values()), firsts, strict=True)) | dict(
            zip(again, self.of(again, dtype), strict=True)
        )
        best = {k: min((w for w in every if w in found), key=lambda w: found[w]) for k, every in ways.items()}
        return _replaced(of, best), {k: n for k in best.values() if (n := found[k])}

    def parts(self, kernel: Kernel, spilled: int, dtype: Callable[[Buffer], torch.dtype]) -> dict[Kernel, int]:
        """Those of kernels side by side that spill by themselves, else the whole kernel; with the bytes spilled."""
        alike = [replace(k, warps=kernel.warps, stages=kernel.stages) for k in kernel.parts]
        counts = self.of([sound(k, self.target, installed()) for k in alike], dtype)
        found = dict(zip(kernel.parts, counts, strict=True))
        return {k: n for k, n in found.items() if n} or {kernel: spilled}

    def of(self, kernels: list[Kernel], dtype: Callable[[Buffer], torch.dtype]) -> list[int]:
        """The bytes that each spills; NOT where it cannot run."""
        tasks = {k: task(k, self.target, {b: dtype(b) for b in (*k.reads, *k.writes)}) for k in kernels}
        keys = {k: json.dumps(t, sort_keys=True) for k, t in tasks.items()}
        new = {keys[k]: t for k, t in tasks.items() if keys[k] not in self.known}
        most = DEVICES[self.target].block_shared if self.target in DEVICES else None
        for key, made in zip(new, figures([*new.values()], limit=self.limit, by=self.compilers), strict=True):
            over = "error" in made or (most is not None and made["shared"] > most) or made["columns"] > COLUMNS
            self.known[key] = NOT if over else max(made["spills"] or 0, made["stack"] or 0)
        return [self.known[keys[k]] for k in kernels]


def _ways(kernel: Kernel, target: str) -> list[Kernel]:
    """How a kernel may be launched: as it is on the device, then without pipelined loads, then with other warps.

    Four warps of 64 lanes have as many threads as eight of 32, and each thread finds twice the registers. Loads are
    pipelined in loops alone.
    """
    lanes = _lanes(target)
    own = max(4, kernel.warps * 32 // lanes)
    other = [8] if own * lanes < 256 else [4] if own > 4 else []
    depths = [kernel.stages, 1] if re.search(r"^ +for ", kernel.text, re.MULTILINE) else [kernel.stages]
    ways = [(n, stages) for n in (own, *other) for stages in depths]
    return [sound(replace(kernel, warps=warps, stages=stages), target, installed()) for warps, stages in ways]


def _lanes(target: str) -> int:
    """Threads of a warp."""
    return (triton_of(target) or ("", "", 32))[2]


def _others(ways: list[Kernel], spilled: int) -> list[Kernel]:
    """The ways that are worth compiling where the first one spills; fewer warps if their threads may hold the tiles."""
    most = 2 * MOST if spilled <= SOME else MOST if spilled <= FEW else 0
    return [w for w in ways[1:] if w.warps >= ways[0].warps or w.held <= most * 32 * w.warps]


def _replaced(of: Plan, by: Mapping[Kernel, Kernel]) -> Plan:
    """The plan with other kernels in the place of its own."""

    def step(x: Step) -> Step:
        match x:
            case Launch(kernel=kernel):
                return Launch(by[kernel])
            case Repeat(body=body):
                return replace(x, body=_replaced(body, by))
        return x

    return replace(of, steps=tuple(map(step, of.steps)))


def _passed(of: Plan, dtype: Callable[[Buffer], torch.dtype]) -> tuple[int, int]:
    """(Launches and calls of a library, bytes that are passed to them.)"""
    steps = [(x, n) for x, n in launched(of)]
    arrays = [(b, n) for x, n in steps if isinstance(x, Kernel) for b in (*x.reads, *x.writes)]
    return sum(n for _, n in steps), sum(n * prod(b.value.shape) * dtype(b).itemsize for b, n in arrays)


def task(kernel: Kernel, target: str, of: Mapping[Buffer, torch.dtype]) -> dict[str, Any]:
    """What backends/triton/compiling.py is asked for: the kernel as it would be launched."""
    return {
        "source": kernel.source,
        "name": kernel.name,
        "signature": {f"p_{b.name}": TYPES[dtype] for b, dtype in of.items()},
        "target": list(triton_of(target) or ()),
        "options": {"num_warps": kernel.warps, "num_stages": kernel.stages},
    }


def launched(of: Plan) -> Iterator[tuple[Kernel | Call, int]]:
    """What running a plan launches or calls, and how often."""
    for step in of.steps:
        if isinstance(step, Launch):
            yield step.kernel, 1
        elif isinstance(step, Call):
            yield step, 1
        else:
            assert isinstance(step.scan.op, p.Scan)
            yield from ((x, n * step.scan.op.length) for x, n in launched(step.body))
