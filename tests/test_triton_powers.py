"""Exponentials as powers of 2: the same results, the factor log₂ e multiplied once, and few digits lost."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

import catalog
from backends import reference
from backends.triton.kernel import Setting
from backends.triton.launch import prepare
from backends.triton.levels import levels
from backends.triton.partition import plan
from backends.triton.powers import LOG2E, multiple, powers
from backends.triton.real import real
from backends.triton.scales import unscaled
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.build import Builder, program
from lowering.program import Program, Value
from mixer_ir.driver.kernels import lowered
from tests.programs import arrays

SIZES = {"b": 1, "t": 20, "s": 12, "h": 2, "g": 2, "k": 4, "v": 3, "n": 3, "p": 2, "d": 3, "c": 4}
CASES = [
    ("softmax_attention", "flash"), ("softmax_attention", "dense"), ("gla", "chunked"), ("kda", "chunked"),
    ("mamba2", "chunked"), ("mlstm", "chunked"), ("mamba", "scan"),
]  # fmt: skip


def of(name: str, form: str, *, back: bool) -> Program:
    mixer = next(iter(catalog.get(name).mixers.values()))
    axes = {a for x in mixer.signals.values() for a in x}
    made = lowered(mixer, form, 8, {a: n for a, n in SIZES.items() if a in axes})
    wrt = [n for n, v in zip(made.input_names, made.inputs, strict=True) if v.differentiable]
    return real(levels(adjoint(made, wrt) if back else made))


def spelled(of: Program) -> Program:
    """The program in words that every backend knows."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in of.inputs}
    for v in of.order:
        args = [done[a] for a in v.args if v not in done]
        if isinstance(v.op, p.Map) and v.op.fn == "exp2":
            done[v] = b.map("exp", b.mul(args[0], math.log(2)))
        elif isinstance(v.op, p.Map) and v.op.fn == "log2":
            done[v] = b.mul(b.map("log", args[0]), LOG2E)
        elif isinstance(v.op, p.Scan):
            op = p.Scan(v.op.axis, v.op.length, spelled(v.op.body), v.op.carries, v.op.steps, v.op.reverse)
            done[v] = b.again(v, args, op=op)
        elif v not in done:
            done[v] = b.again(v, args)
    return Program(inputs=of.inputs, outputs=tuple(done[v] for v in of.outputs), names=of.names)


def functions(of: Program) -> list[Value]:
    """Every entry-wise function, in the bodies of loops too."""
    inner = [x for v in of.order if isinstance(v.op, p.Scan) for x in functions(v.op.body)]
    return [*inner, *(v for v in of.order if isinstance(v.op, p.Map))]


def count(of: Program, fn: str) -> int:
    return sum(isinstance(v.op, p.Map) and v.op.fn == fn for v in functions(of))


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(("name", "form"), CASES)
def test_powers_of_two_give_the_same(name: str, form: str, back: bool) -> None:
    before = of(name, form, back=back)
    after = powers(before)
    assert count(after, "exp") == 0 and count(after, "exp2") == count(before, "exp") > 0
    given = {n: -np.abs(x) if n in ("g", "w", "A") else x for n, x in arrays(before).items()}
    want, got = (reference.prepare(x)(given) for x in (before, spelled(after)))
    for result, x in want.items():
        np.testing.assert_allclose(got[result], x, rtol=1e-9, atol=1e-9)


def test_a_step_is_multiplied_once_for_all_sums_of_steps() -> None:
    for name in ("gla", "kda"):
        before = of(name, "chunked", back=False)
        assert count(powers(before), "mul") - count(before, "mul") <= 2 < count(before, "exp")


def test_a_running_maximum_is_a_logarithm_to_the_base_2_and_the_scale_of_a_score_its_factor() -> None:
    before = of("softmax_attention", "flash", back=False)
    after = powers(before)
    loop = next(v for v in after.order if isinstance(v.op, p.Scan))
    assert isinstance(loop.op, p.Scan)
    for v in loop.op.body.order:  # whole scores are multiplied nowhere but in what is subtracted from
        if isinstance(v.op, p.Map) and v.op.fn == "mul" and {"t", "s"} <= {*v.axes}:
            readers = [x.op for x in loop.op.body.order if v in x.args]
            assert readers == [p.Map("sub")]


def test_what_more_is_made_of_than_exponents_is_not_multiplied_in_their_place() -> None:
    """A sum of many numbers that is one exponent; a state that is a result; an exponent that is one."""
    b = Builder()
    x = b.input("x", ("t", "n"), (5, 64))
    long = program({"y": b.map("exp", b.sum(x, ("n",)))}, [x])
    made = powers(long)
    assert all(v.shape != x.shape for v in functions(made))
    total = b.cumulate("sum", x, "n")
    both = powers(program({"y": b.map("exp", total), "total": total}, [x]))
    assert both.output("total").op == total.op and both.output("total").args == (x,)
    given = arrays(long)
    for before in (long, program({"y": b.map("exp", total), "total": total}, [x])):
        want, got = (reference.prepare(z)(given) for z in (before, spelled(powers(before))))
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-12)


def test_single_precision_raises_two_and_double_e() -> None:
    before = of("gla", "chunked", back=True)
    for setting, here, not_here in ((Setting(), "tl.exp2(", "tl.exp("), (Setting("tl.float64"), "tl.exp(", "tl.exp2(")):
        text = "".join(k.source for k in plan(before, setting).kernels())
        assert here in text and not_here not in text.replace("return tl.exp(x)", "")


def test_masked_and_far_exponents_in_the_interpreter() -> None:
    """e^(−∞) = 0, e^0 = 1 to the bit, and the error beside float64 is that of one product and one power."""
    b = Builder()
    x = b.input("x", ("t",), (64,))
    keep = b.map("lt", b.iota("t", 64), 40)
    step = b.where(keep, x, -math.inf)
    sums = b.cumulate("sum", x, "t")
    of = program(
        {"masked": b.map("exp", step), "sums": b.map("exp", sums), "nothing": b.map("exp", b.mul(x, 0.0))}, [x]
    )
    given = -np.abs(arrays(of)["x"]).astype(np.float32)
    made = {n: y.numpy() for n, y in prepare(of)({"x": torch.from_numpy(given)}).items()}
    want = reference.prepare(of)({"x": given.astype(np.float64)})
    assert (made["masked"][40:] == 0).all() and (made["nothing"] == 1).all()
    exact = np.cumsum(given.astype(np.float64))
    plain = np.abs(np.exp(np.cumsum(given)) / np.exp(exact) - 1).max()
    assert np.abs(made["sums"] / want["sums"] - 1).max() <= 2 * plain + 1e-6


@pytest.mark.parametrize("back", [False, True])
def test_the_scale_of_a_score_stands_behind_its_product(back: bool) -> None:
    """Queries are read as they lie; what a loop sums is multiplied after it; the results are the same."""
    before = of("softmax_attention", "flash", back=back)
    after = unscaled(before)
    for v in after.order:
        if isinstance(v.op, p.Scan):
            assert all(multiple(a) is None for a in v.args)
    given = arrays(before)
    want, got = (reference.prepare(x)(given) for x in (before, after))
    for name, x in want.items():
        np.testing.assert_allclose(got[name], x, rtol=1e-10, atol=1e-10)


def test_a_number_stays_where_a_loop_would_multiply_more() -> None:
    b = Builder()
    q, k = b.input("q", ("t", "k"), (8, 2)), b.input("k", ("n", "s", "k"), (3, 16, 2))

    def step(
        i: Builder, carry: list[Value], steps: list[Value], constants: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        return [i.add(carry[0], i.contract(constants[0], steps[0], ("k",)))], []

    (total,), _ = b.scan("n", step, [b.full(0.0, {"t": 8, "s": 16})], [k], [b.mul(q, 0.5)])
    before = program({"y": total}, [q, k])
    assert unscaled(before) is before
