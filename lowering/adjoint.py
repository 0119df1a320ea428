"""The adjoint of a program: from the cotangents of its results to those of its inputs, as another program.

One rule an operation, which reads its arguments, its result and the result's cotangent. Cotangents of complex values
follow PyTorch: for a real loss L of z = x + iy, z̄ = ∂L/∂x + i ∂L/∂y. So a holomorphic f gives x̄ = ȳ conj(f′(x)), a
linear one the conjugate transpose, and a real value that met a complex one keeps the real part.

The adjoint computes again what it needs of the program. Of a scan it stores the carries that enter each step, and
computes the rest of the step again on the way back: a body that is a whole segment costs no more memory than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lowering import program as p
from lowering.adjoint_entries import ENTRIES, Rule, op_of
from lowering.adjoint_sums import SUMS
from lowering.build import Builder, program
from lowering.program import Program, Value
from lowering.prune import prune
from mixer_ir.errors import GradientError

RULES: dict[type, Rule] = {**ENTRIES, **SUMS}
FLAT = (p.Input, p.Constant, p.Iota, p.Detach)
"""operations through which no cotangent passes"""


def adjoint(of: Program, wrt: Sequence[str], outputs: Sequence[str] | None = None) -> Program:
    """The program whose inputs are those of `of` and "d:<output>", and whose outputs are "d:<input>" for each of `wrt`.

    outputs   the results that have a cotangent; all of float kind if not given

    An input that no such result depends on gets zeros. Errors: GradientError for a name that is not there or has no
    derivative.
    """
    inputs = _named(of.input_names, of.inputs, wrt, "input")
    if outputs is None:
        outputs = [name for name, v in zip(of.names, of.outputs, strict=True) if v.differentiable]
    results = _named(of.names, of.outputs, outputs, "result")
    b = Builder()
    forward = _forward(b, of, inputs.values())
    live = reached(forward, inputs.values())
    given = {f"d:{n}": b.input(f"d:{n}", v.axes, v.shape, v.kind) for n, v in results.items()}
    cotangents = Cotangents(b, live)
    for name in outputs:
        cotangents.add(forward.output(name), given[f"d:{name}"])
    for v in reversed(forward.order):
        _pass_on(b, v, cotangents)
    made = {f"d:{n}": b.order(cotangents.dense(v), v.axes) for n, v in inputs.items()}
    return prune(program(made, (*of.inputs, *given.values())))


def _named(names: Sequence[str], values: Sequence[Value], wanted: Iterable[str], what: str) -> dict[str, Value]:
    have = dict(zip(names, values, strict=True))
    for name in wanted:
        if name not in have:
            raise GradientError(f"there is no {what} {name!r} to differentiate; {what}s: {', '.join(have)}")
        if not have[name].differentiable:
            raise GradientError(f"{name!r} holds {have[name].kind} numbers, which have no derivative")
    return {name: have[name] for name in wanted}


class Cotangents:
    """The cotangents met so far, each with the axes and the kind of its value."""

    def __init__(self, b: Builder, live: set[Value]) -> None:
        self._b, self._live = b, live
        self._of: dict[Value, Value] = {}

    def add(self, v: Value, ct: Value | None) -> None:
        """One more contribution to v's; sums over axes that v lacks and repeats along those that it has alone."""
        if ct is None or v not in self._live or not v.differentiable or is_zero(ct):
            return
        b = self._b
        if name := name_of(v):
            b.call(ct, f"d_{name}")
        with b.named(f"d_{name}: {ct.label.partition(': ')[2]}" if name else ""):
            ct = b.cast(ct, v.kind)
            ct = b.expand(b.sum(ct, tuple(a for a in ct.axes if a not in v.axes)), v.sizes)
            self._of[v] = b.add(self._of[v], ct) if v in self._of else ct

    def get(self, v: Value) -> Value | None:
        return self._of.get(v)

    def dense(self, v: Value) -> Value:
        """v's cotangent, zeros if there is none."""
        return self._of.get(v) or zeros(self._b, v)

    def live(self, v: Value) -> bool:
        return v in self._live


def name_of(v: Value) -> str:
    """What lowering called a value, or an input is called."""
    while not v.label and isinstance(v.op, p.Expand | p.Order | p.Rename | p.Split | p.Merge | p.Slice | p.Cast):
        v = v.args[0]
    return v.op.name if isinstance(v.op, p.Input) else v.label.partition(": ")[0]


def is_zero(v: Value) -> bool:
    """Whether v is nothing but the number 0, repeated: such a cotangent is not passed on."""
    if isinstance(v.op, p.Constant):
        return v.op.value == 0
    return isinstance(v.op, p.Expand | p.Order) and is_zero(v.args[0])


def zeros(b: Builder, v: Value) -> Value:
    return b.full(0j if v.kind == "complex" else 0.0, v.sizes)


def reached(of: Program, sources: Iterable[Value]) -> set[Value]:
    """The values through which a cotangent comes to `sources`."""
    live = set(sources)
    for v in of.order:
        whole = isinstance(v.op, p.Scan | p.Region)
        if not isinstance(v.op, FLAT) and (whole or v.differentiable) and any(a in live for a in v.args):
            live.add(v)
    return live


def _forward(b: Builder, of: Program, sources: Iterable[Value]) -> Program:
    """The program with regions opened that bring no adjoint, and loops that are passed back storing their carries."""
    opened = Program(inputs=of.inputs, outputs=tuple(_open(b, of, {v: v for v in of.inputs})), names=of.names)
    live = reached(opened, sources)
    done: dict[Value, Value] = {}
    for v in opened.order:
        op = v.op
        if isinstance(op, p.Scan) and v in live:
            op = _storing(op)
        done[v] = v if isinstance(op, p.Input) else b.again(v, [done[a] for a in v.args], op=op)
    return Program(inputs=of.inputs, outputs=tuple(done[v] for v in opened.outputs), names=of.names)


def _open(b: Builder, of: Program, args: Mapping[Value, Value]) -> list[Value]:
    done = dict(args)
    results: dict[Value, list[Value]] = {}
    for v in of.order:
        if isinstance(v.op, p.Input):
            continue
        here = [done[a] for a in v.args if a not in results]
        if isinstance(v.op, p.Region) and v.op.adjoint is None:
            results[v] = _open(b, v.op.body, dict(zip(v.op.body.inputs, here, strict=True)))
        elif isinstance(v.op, p.Pick) and v.args[0] in results:
            done[v] = results[v.args[0]][v.op.index]
        else:
            done[v] = b.again(v, here)
    return [done[v] for v in of.outputs]


def _storing(op: p.Scan) -> p.Scan:
    """The loop with one more result for each carry: its value when the step is entered."""
    entering = op.body.inputs[: op.carries]
    body = Program(
        inputs=op.body.inputs,
        outputs=(*op.body.outputs, *entering),
        names=(*op.body.names, *(f"entering{i}" for i in range(op.carries))),
    )
    return p.Scan(op.axis, op.length, body, op.carries, op.steps, op.reverse)


def _pass_on(b: Builder, v: Value, cotangents: Cotangents) -> None:
    """From v's cotangent to those of its arguments."""
    if not cotangents.live(v) or isinstance(v.op, p.Pick | p.Input):
        return
    what = v.label.partition(": ")[2]
    with b.named(f": gradients of {what.removeprefix('gradients of ')}" if what else ": gradients"):
        _through(b, v, cotangents)


def _through(b: Builder, v: Value, cotangents: Cotangents) -> None:
    if isinstance(v.op, p.Scan | p.Region):
        picks = [cotangents.get(x) for x in b.picks(v.op, v.args)]
        if any(ct is not None for ct in picks):
            rule = _scan if isinstance(v.op, p.Scan) else _region
            for a, ct in zip(v.args, rule(b, v, picks, cotangents), strict=True):
                cotangents.add(a, ct)
    elif (ct := cotangents.get(v)) is not None:
        for a, part in zip(v.args, RULES[type(v.op)](b, v, ct), strict=True):
            cotangents.add(a, part)


def _region(b: Builder, v: Value, cts: Sequence[Value | None], cotangents: Cotangents) -> list[Value | None]:
    op = op_of(v, p.Region)
    assert op.adjoint is not None
    given = [zeros(b, y) if ct is None else ct for y, ct in zip(op.body.outputs, cts, strict=True) if y.differentiable]
    back = op.adjoint if isinstance(op.adjoint, Program) else op.adjoint(op.body)
    made = iter(b.inline(back, dict(zip(back.input_names, (*v.args, *given), strict=True))))
    return [next(made) if a.differentiable else None for a in v.args]


def _scan(b: Builder, v: Value, cts: Sequence[Value | None], cotangents: Cotangents) -> list[Value | None]:
    """The loop run the other way: from the cotangents that leave a step to those that enter it."""
    op = op_of(v, p.Scan)
    n, last = op.carries, op.carries + op.steps
    plain = len(op.body.outputs) - n
    body = Program(
        inputs=op.body.inputs, outputs=op.body.outputs[:plain], names=tuple(f"result{i}" for i in range(plain))
    )
    live = _live_inputs(op, body, [cotangents.live(a) and a.differentiable for a in v.args])
    carries, steps, constants = (
        [i for i in part if live[i]] for part in (range(n), range(n, last), range(last, len(live)))
    )
    seen = [i for i in range(n, plain) if cts[i] is not None]
    names = body.input_names
    step_back = adjoint(
        body, [names[i] for i in range(len(live)) if live[i]], [f"result{i}" for i in (*carries, *seen)]
    )

    def back(inner: Builder, c: list[Value], s: list[Value], k: list[Value]) -> tuple[list[Value], list[Value]]:
        entering, given, leaving = s[:n], s[n:last], s[last:]
        args = dict(zip(names, (*entering, *given, *k), strict=True))
        args |= {f"d:result{i}": ct for i, ct in zip((*carries, *seen), (*c[: len(carries)], *leaving), strict=True)}
        made = inner.inline(step_back, args)
        of_carries, of_steps = made[: len(carries)], made[len(carries) : len(carries) + len(steps)]
        of_constants = made[len(carries) + len(steps) :]
        sums = [inner.add(total, ct) for total, ct in zip(c[len(carries) :], of_constants, strict=True)]
        return [*of_carries, *sums], of_steps

    picks = b.picks(op, v.args)
    starts = [cts[i] or zeros(b, v.args[i]) for i in carries] + [zeros(b, v.args[i]) for i in constants]
    stacked = [*picks[plain:], *v.args[n:last], *(ct for i in seen if (ct := cts[i]) is not None)]
    left, made = b.scan(op.axis, back, starts, stacked, v.args[last:], length=op.length, reverse=not op.reverse)
    found = dict(zip((*carries, *constants, *steps), (*left, *made), strict=True))
    return [found.get(i) for i in range(len(v.args))]


def _live_inputs(op: p.Scan, body: Program, live: list[bool]) -> list[bool]:
    """Which arguments a cotangent comes to; a carry also if what is carried on depends on one that it comes to."""
    while True:
        here = reached(body, [x for x, is_live in zip(body.inputs, live, strict=True) if is_live])
        more = [i for i in range(op.carries) if body.outputs[i] in here and not live[i]]
        if not more:
            return live
        live = [is_live or i in more for i, is_live in enumerate(live)]
