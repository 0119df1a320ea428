"""Updates that are products of rank-one changes: which are found, and that chunks of single updates are the loop."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import mixer_ir as mx
from mixer_ir.driver.kernels import planned
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Process
from tests.test_triton import run_both


@mx.recurrence
def mirrors(
    S: mx.State("k v"), q: "b t h k", k: "b t h k", l: "b t h k", v: "b t h v", w: "b t h v", g: "b t h", b: "b t h"
):
    """a delta rule of two pairs a step, behind a gate"""
    S = mx.exp(g) * S
    S = S - b * mx.outer(k, k @ S) + b * mx.outer(k, v)
    S = S - mx.outer(l, l @ S) + mx.outer(l, w)
    return S, q @ S


@mx.recurrence
def gated_between(
    S: mx.State("k v"), q: "b t h k", k: "b t h k", l: "b t h k", v: "b t h v", g: "b t h", f: "b t h", reset: "b t"
):
    """a gate before each of three updates; they erase along other keys than they write; read before and after"""
    before = q @ S
    S = mx.exp(g) * S
    S = S - mx.outer(k, l @ S) + mx.outer(l, v)
    S = mx.sigmoid(f) * S
    S = S - mx.outer(l, k @ S)
    S = mx.exp(g) * S
    S = S - 0.5 * mx.outer(k, l @ S) + mx.outer(k, v)
    return S, q @ S + before


@mx.recurrence
def both_at_once(S: mx.State("k v"), q: "b t h k", k: "b t h k", l: "b t h k", v: "b t h v"):
    """a sum of two pairs, which is no product"""
    S = S - 0.5 * mx.outer(k, k @ S) - 0.5 * mx.outer(l, l @ S) + mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def vectors_of_decays(S: mx.State("k v"), q: "b t h k", k: "b t h k", l: "b t h k", v: "b t h v", g: "b t h k"):
    S = mx.exp(g) * S
    S = S - mx.outer(k, k @ S) + mx.outer(k, v)
    S = S - mx.outer(l, l @ S)
    return S, q @ S


COUNTS = [(mirrors, 2), (gated_between, 3), (both_at_once, 0), (vectors_of_decays, 0)]
PRODUCTS = [mirrors, gated_between]


@pytest.mark.parametrize(("mixer", "count"), COUNTS, ids=lambda x: getattr(x, "name", x))
def test_a_product_is_found_by_what_every_path_passes(mixer: mx.Mixer, count: int) -> None:
    (process,) = (n for n in walk(mixer.expr) if isinstance(n, Process))
    assert len(process.factors) == count
    assert all(len(f.transition.low_rank) == 1 for f in process.factors)


@pytest.mark.parametrize("mixer", PRODUCTS, ids=lambda m: m.name)
def test_products_are_proved(mixer: mx.Mixer) -> None:
    proof = mx.prove(mixer)
    assert proof.ok and "is its factors, one after the other" in str(proof)


def drawn(mixer: mx.Mixer, length: int, batch: int = 2) -> dict[str, Tensor]:
    sizes = {"b": batch, "h": 2, "k": 3, "v": 4, "t": length}
    given: dict[str, Tensor] = {}
    for name, axes in mixer.signals.items():
        shape = [sizes[a] for a in axes]
        x = torch.rand(shape) < 0.2 if name == "reset" else torch.randn(shape, dtype=torch.float64)
        x = -x.abs() if name == "g" else F.normalize(x, dim=-1) if name in "kl" else x
        given[name] = x if name == "reset" else x.requires_grad_()
    return given


@pytest.mark.parametrize(("length", "chunk"), [(2, 1), (7, 4), (63, 16), (129, 64)])
@pytest.mark.parametrize("mixer", PRODUCTS, ids=lambda m: m.name)
def test_chunks_of_updates_are_the_loop(mixer: mx.Mixer, length: int, chunk: int) -> None:
    """Values, the last state and all gradients, from a state that was given."""
    torch.manual_seed(length)
    given = drawn(mixer, length)
    start = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    leaves = [*(x for x in given.values() if x.requires_grad), start]
    weights: list[Tensor] = []
    found = []
    for options in ({"form": "recurrent"}, {"form": "chunked", "chunk": chunk}):
        y, state = mx.compile(mixer, backend="eager", **options)(**given, initial_state={"S": start}, return_state=True)
        results = [y, state["S"]]
        weights = weights or [torch.randn(x.shape, dtype=torch.float64) for x in results]
        loss = sum((x * w).sum() for x, w in zip(results, weights, strict=True))
        found.append([*results, *torch.autograd.grad(loss, leaves)])
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_kernels_of_a_product_are_as_many_as_a_delta_rules() -> None:
    sizes = {"b": 8, "t": 4096, "h": 16, "k": 64, "v": 64}
    launches = [sum(n for _, n, _ in steps) for steps in planned(mirrors, "chunked", 64, sizes)[1].passes("sm_90")]
    assert launches[0] <= 3 and launches[1] <= 6


@pytest.mark.parametrize(("mixer", "length", "chunk"), [(mirrors, 9, 4), (gated_between, 7, 6), (mirrors, 130, 64)])
def test_kernels_compute_what_programs_say(mixer: mx.Mixer, length: int, chunk: int) -> None:
    run_both(mixer, "chunked", length, 1e-7, chunk=chunk)


PIECES = [0, 1, 64, 129]
"""where pieces begin and end: less than a chunk, all but a step of one, one and a step"""


def by_steps(mixer: mx.Mixer, given: Mapping[str, Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """Each piece by a call of its own, step by step on PyTorch's operators: (outputs, last states)."""
    f = mx.compile(mixer, form="recurrent", backend="eager")
    made = []
    for i, (a, b) in enumerate(pairwise(PIECES)):
        piece = {n: x[:, a:b] for n, x in given.items()}
        made.append(f(**piece, initial_state={"S": start[i : i + 1]}, return_state=True))
    return torch.cat([y for y, _ in made], 1), torch.cat([state["S"] for _, state in made])


@pytest.mark.slow
def test_kernels_of_packed_products_take_states_and_leave_them() -> None:
    """Values, last states and all gradients, where pieces are of 1, 63 and 65 steps."""
    torch.manual_seed(0)
    given = drawn(mirrors, PIECES[-1], batch=1)
    start = torch.randn(len(PIECES) - 1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    f = mx.compile(mirrors, form="chunked", chunk=64, backend="triton")
    y, state = f(**given, cu_seqlens=torch.tensor(PIECES), initial_state={"S": start}, return_state=True)
    found = []
    weights = [torch.randn_like(x) for x in (y, state["S"])]
    for results in (by_steps(mirrors, given, start), (y, state["S"])):
        loss = sum((x * w).sum() for x, w in zip(results, weights, strict=True))
        found.append([*results, *torch.autograd.grad(loss, [*given.values(), start])])
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
