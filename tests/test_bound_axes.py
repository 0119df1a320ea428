"""An axis that a matrix sums over is its own: it may be called like an axis of a neighbour, or of the values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import mixer_ir as mx

COMBINED: dict[str, Callable[[mx.Matrix, mx.Matrix], mx.Matrix]] = {
    "entries": lambda X, Y: mx.causal(X * Y),
    "powers": lambda X, Y: mx.causal(0.5 * Y * Y * Y + X),
    "product": lambda X, Y: X @ Y,
    "turned": lambda X, Y: Y @ X.T,
    "sum": lambda X, Y: X + Y,
    "normalized": lambda X, Y: mx.normalize(mx.causal(mx.exp(X) * Y), floor=0.5),
    "softmax": lambda X, Y: mx.softmax(mx.causal(Y)) + mx.softmax(X * Y),
}
MATRICES = ("lowrank", "semiseparable", "delta")


def mixer(word: str, kind: str, key: str) -> mx.Mixer:
    """X is one matrix for each k, Y sums over `key`, and the values have an axis k: with `key` = k, three of a name."""
    own = f"b t {key}"

    def combined(p: "b t k n", r: "b t k n", q: own, x: own, a: own, v: "b t k"):
        X = mx.lowrank(p, r, over="n")
        match kind:
            case "lowrank":
                Y = mx.lowrank(q, x, over=key)
            case "semiseparable":
                Y = mx.semiseparable(q, mx.sigmoid(a), x, over=key)
            case _:
                Y = mx.semiseparable(q, mx.transition(0.5, [(0.2 * a, x)], along=key), x, over=key)
        return COMBINED[word](X, Y) @ v

    return mx.mixer(combined)


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("word", COMBINED)
def test_the_name_of_a_summed_axis_changes_nothing(word: str, kind: str) -> None:
    apart, clashing = mixer(word, kind, "c"), mixer(word, kind, "k")
    g = torch.Generator().manual_seed(0)
    sizes = {"b": 2, "t": 5, "k": 3, "n": 2}
    s = {
        n: torch.randn([sizes[a] for a in axes], generator=g, dtype=torch.float64, requires_grad=True)
        for n, axes in clashing.signals.items()
    }
    want = mx.compile(apart, form="dense" if "dense" in apart.forms() else "auto")(**s)
    wanted = torch.autograd.grad(want.square().sum(), list(s.values()), allow_unused=True)
    assert clashing.forms() == apart.forms()
    for form in clashing.forms():
        y = mx.compile(clashing, form=form)(**s)
        torch.testing.assert_close(y, want, rtol=1e-9, atol=1e-9, msg=lambda m, form=form: f"{form}: {m}")
        found = torch.autograd.grad(y.square().sum(), list(s.values()), allow_unused=True)
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def test_a_power_of_a_low_rank_matrix_has_a_state() -> None:
    @mx.mixer
    def taylor(q: "b t k", k: "b t k", v: "b t v"):
        A = mx.lowrank(q, k)
        return mx.normalize(mx.causal(mx.lowrank(1, 1, over="") + A + 0.5 * A * A)) @ v

    assert taylor.traits.linear_time and "chunked" in taylor.forms()
    q, k, v = (torch.randn(1, 9, n, dtype=torch.float64) for n in (3, 3, 2))
    A = torch.einsum("btk,bsk->bts", q, k)
    M = (1 + A + A**2 / 2).tril()
    want = (M / M.sum(-1, keepdim=True)) @ v
    for form in taylor.forms():
        torch.testing.assert_close(mx.compile(taylor, form=form)(q=q, k=k, v=v), want, rtol=1e-9, atol=1e-9)
