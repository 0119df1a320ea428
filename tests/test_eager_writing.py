"""Where the eager backend writes: results are those of the reference, and nothing that is read again is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.eager import prepare as eagerly
from backends.reference import prepare as plainly
from lowering.build import Builder, program
from lowering.program import Program, Value


def loop(reverse: bool, *, twice: bool = False, systems: int = 0, upper: bool = False, alike: bool = False) -> Program:
    """S ← 0.5 S + kᵀ x with x = (I − L)⁻¹ (w S + u), results: x, the state on entry (perhaps twice), S, and more."""
    b = Builder()
    c, n, k, v = 5, systems or 3, 4, 2
    given = {
        "w": b.input("w", ("c", "h", "i", "k"), (c, 2, n, k)),
        "u": b.input("u", ("c", "h", "i", "v"), (c, 2, n, v)),
        "y": b.input("y", ("c", "h", "i", "k"), (c, 2, n, k)),
        "S": b.input("S", ("h", "k", "v"), (2, k, v)),
        "L": b.input("L", ("h", "i", "s"), (2, n, n)) if alike else b.input("L", ("c", "h", "i", "s"), (c, 2, n, n)),
    }

    def body(
        i: Builder, carries: list[Value], here: list[Value], fixed: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        (S,), (w, u, y, L) = carries, (*here, *fixed)
        x = i.add(u, i.contract(w, S, ("k",)))
        if systems:
            x = i.solve(L, x, "i", "s", upper=upper)
        left = i.add(i.mul(S, 0.5), i.contract(y, x, ("i",)))
        squares = i.order(i.map("exp", i.mul(x, -0.1)), ("v", "h", "i"))
        return [left], [x, S, *([i.add(S, 0.0)] if twice else []), squares, i.sum(S, ("v",))]

    steps, fixed = [given[name] for name in ("w", "u", "y", *(() if alike else "L"))], [given["L"]] if alike else []
    (last,), results = b.scan("c", body, [given["S"]], steps, fixed, length=c, reverse=reverse)
    return program({"last": last, **{f"y{j}": y for j, y in enumerate(results)}}, list(given.values()))


def drawn(of: Program) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {n: torch.randn(v.shape, dtype=torch.float64) * 0.3 for n, v in zip(of.input_names, of.inputs, strict=True)}


def agree(of: Program) -> None:
    arrays = drawn(of)
    before = {n: x.clone() for n, x in arrays.items()}
    run, want = eagerly(of), plainly(of)({n: x.numpy() for n, x in arrays.items()})
    first = run(arrays)
    kept = {n: y.clone() for n, y in first.items()}
    second = run(arrays)
    for name, y in want.items():
        np.testing.assert_allclose(first[name].numpy(), y, rtol=1e-11, atol=1e-11)
        assert torch.equal(second[name], kept[name]), f"{name} is another in the second call"
        assert torch.equal(first[name], kept[name]), f"the second call wrote into {name} of the first"
    for name, x in before.items():
        assert torch.equal(arrays[name], x), f"{name} was written into"


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_loop_hands_its_state_on_where_it_is_kept(reverse: bool, twice: bool) -> None:
    agree(loop(reverse, twice=twice))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("size", [1, 5, 16, 48])
def test_systems_of_a_loop_are_solved_for_all_steps_at_once(size: int, alike: bool, upper: bool) -> None:
    agree(loop(reverse=upper, systems=size, upper=upper, alike=alike))


def test_the_last_state_is_not_a_part_of_all_states() -> None:
    """Who keeps a state keeps no more than that."""
    of = loop(reverse=False)
    last = eagerly(of)(drawn(of))["last"]
    assert last.untyped_storage().nbytes() == last.numel() * last.element_size()


def test_values_that_are_read_again_or_known_before_the_call_stay() -> None:
    b = Builder()
    x, y = b.input("x", ("i", "k"), (3, 4)), b.input("y", ("k", "j"), (4, 3))
    product = b.contract(x, y, ("k",))
    known = b.map("exp", b.cast(b.add(b.iota("i", 3), b.iota("j", 3)), "real"))
    shared = b.mul(product, 2.0)
    total = b.add(known, product)
    results = {"a": b.add(shared, known), "b": b.sub(shared, total), "c": b.map("exp", b.mul(known, -0.1)), "d": total}
    results["e"] = b.mul(b.map("cos", b.cast(b.add(b.iota("i", 3), b.iota("j", 3)), "real")), shared)
    agree(program(results, [x, y]))


def test_a_sum_of_two_products_is_added_where_the_first_lies() -> None:
    b = Builder()
    x, y = b.input("x", ("b", "i", "k"), (2, 3, 4)), b.input("y", ("b", "k", "j"), (2, 4, 3))
    turned = b.contract(b.rename(b.rename(y, "j", "i"), "k", "m"), b.rename(b.rename(x, "i", "j"), "k", "m"), ("m",))
    agree(program({"z": b.add(b.contract(x, y, ("k",)), turned), "w": b.add(turned, 1.0)}, [x, y]))
