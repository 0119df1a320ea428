"""A call like one before takes a shorter way, and gives what the whole way gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap

import mixer_ir as mx
from backends import missing

pytestmark = pytest.mark.skipif(missing("native") is not None, reason="no C compiler")


@mx.recurrence
def leaky(h: mx.State(""), x: "b t d", a: "d") -> "b t d":
    """h_t = a h_{t−1} + x_t"""
    h = a * h + x
    return h, h


@mx.mixer
def attention(q: "b t k", k: "b t k", v: "b t d") -> "b t d":
    """causal softmax attention, whose states grow"""
    return mx.softmax(mx.causal(mx.lowrank(q, k))) @ v


def signals(t: int = 6, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {"x": torch.randn(2, t, 3, dtype=dtype), "a": torch.rand(3, dtype=dtype)}


def test_other_values_give_other_results() -> None:
    f, g = mx.compile(leaky, backend="native"), mx.compile(leaky, backend="eager")
    kept = []
    for _ in range(3):
        s = signals()
        kept.append((f(**s), g(**s)))
    for y, wanted in kept:
        torch.testing.assert_close(y, wanted)


def test_other_shapes_dtypes_and_layouts_are_told_apart() -> None:
    f, g = mx.compile(leaky, backend="native"), mx.compile(leaky, backend="eager")
    for s in (signals(), signals(7), signals(dtype=torch.float32), signals(dtype=torch.bfloat16), signals()):
        for _ in range(2):
            y, wanted = f(**s), g(**s)
            assert y.dtype == wanted.dtype
            torch.testing.assert_close(y, wanted)
            s["x"] = s["x"].transpose(0, 1).contiguous().transpose(0, 1)


def test_gradients_and_transforms_go_the_whole_way() -> None:
    f, s = mx.compile(leaky, backend="native"), signals()
    f(**s), f(**s)
    x = s["x"].clone().requires_grad_()
    (found,) = torch.autograd.grad(f(x=x, a=s["a"]).sum(), x)
    (wanted,) = torch.autograd.grad(mx.compile(leaky, backend="eager")(x=x, a=s["a"]).sum(), x)
    torch.testing.assert_close(found, wanted)
    assert f(**s).grad_fn is None
    many = torch.stack([s["x"], 2 * s["x"]])
    torch.testing.assert_close(vmap(lambda x: f(x=x, a=s["a"]))(many)[1], f(x=2 * s["x"], a=s["a"]))


def test_what_does_not_fit_is_refused_after_what_did() -> None:
    f, s = mx.compile(leaky, backend="native"), signals()
    f(**s), f(**s)
    with pytest.raises(mx.AxisError, match="d = 4"):
        f(x=s["x"], a=torch.rand(4, dtype=torch.float64))
    with pytest.raises(mx.SignalError, match="without a"):
        f(x=s["x"])
    _, state = f(**s, return_state=True)
    with pytest.raises(mx.StreamError, match="not list"):
        f(**s, initial_state=[state])  # type: ignore[arg-type]


@mx.mixer
def turned(x: "b t d", table: "b n d") -> "b t d":
    """the entries of x back to front, which hangs on sizes; the rows of a table by time, which does not"""
    back = mx.take(x, mx.size("d") - 1 - mx.index("d"), axis="d")
    return back + mx.take(table, mx.index("t"), axis="n")


def test_places_that_move_with_the_stream_are_checked_at_every_call() -> None:
    f = mx.compile(turned, backend="native")
    s = {"table": torch.rand(1, 3, 2)}
    state = None
    for t in range(3):
        x = torch.rand(1, 2)
        y, state = f.step(state, x=x, **s)
        torch.testing.assert_close(y, x.flip(1) + s["table"][:, t])
    with pytest.raises(mx.SignalError, match="n = 3"):
        f.step(state, x=x, **s)


@pytest.mark.parametrize("mixer", [leaky, attention], ids=str)
def test_steps_go_on_where_the_last_one_ended(mixer: mx.Mixer) -> None:
    f, length = mx.compile(mixer, backend="native"), 40  # the states of attention grow three times
    sizes = {"b": 2, "t": length, "k": 3, "d": 3}
    s = {n: torch.rand([sizes[a] for a in axes], dtype=torch.float64) for n, axes in mixer.signals.items()}
    whole, state, steps = f(**s), None, []
    for t in range(length):
        now = {n: x[:, t : t + 1] if "t" in mixer.signals[n] else x for n, x in s.items()}
        y, state = f(**now, initial_state=state, return_state=True)
        assert state.length == t + 1
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    again = [f(**now, initial_state=state, return_state=True)[0] for _ in range(2)]
    torch.testing.assert_close(*again)
