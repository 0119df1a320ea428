"""What declarations mean: axes, the matrix of a mixer, mixers in mixers, resets; checked against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mixer_ir as mx
from mixer_ir.definition.oracle import entries, evaluate
from mixer_ir.nodes.expr import BATCH, TIME, Contract, Literal, Rename, Signal
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Run
from tests.declared import ALL, convolutions, full, gated_delta, gates, nested, normalised, quasiseparable, selective

SIZES = {"b": 2, "t": 6, "s": 6, "h": 2, "k": 2, "v": 3, "n": 3, "m": 3, "d": 2, "c": 3, "j": 3, "i": 2, "l": 3, "p": 2}


def drawn(mixer: mx.Mixer, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random values for a mixer's signals."""
    g = torch.Generator().manual_seed(seed)
    shapes = {n: [SIZES[a] for a in axes] for n, axes in mixer.signals.items()}
    made = {n: 0.7 * torch.randn(shape, generator=g, dtype=torch.float64) for n, shape in shapes.items()}
    if "code" in made:
        made["code"] = torch.randint(0, SIZES["n"], made["code"].shape, generator=g)
    return made


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a + 0j, b + 0j, rtol=1e-9, atol=1e-9)


def value(mixer: mx.Mixer, signals: dict[str, torch.Tensor]) -> torch.Tensor:
    return evaluate(mixer.body, signals, dict(mixer.signals), mixer.returns)


@pytest.mark.parametrize("mixer", ALL, ids=lambda m: m.name)
def test_a_declared_mixer_has_a_value_with_the_axes_it_returns(mixer: mx.Mixer) -> None:
    y = value(mixer, drawn(mixer))
    assert list(y.shape) == [SIZES[a] for a in mixer.returns]
    assert y.isfinite().all() and y.abs().max() > 0


@pytest.mark.parametrize("mixer", ALL, ids=lambda m: m.name)
def test_the_canonical_form_has_the_same_value(mixer: mx.Mixer) -> None:
    s = drawn(mixer)
    canonical = evaluate(mixer.expr, s, dict(mixer.signals), mixer.returns)
    close(canonical, value(mixer, s))


VALUES = {
    "gated_delta": "v", "normalised": "v", "selective": "u", "full": "u", "quasiseparable": "x", "cross": "v",
    "window": "v", "convolutions": "u", "structures": "v",
}  # fmt: skip


@pytest.mark.parametrize("mixer", ALL, ids=lambda m: m.name)
def test_the_matrix_applied_to_the_value_signal_is_the_mixer(mixer: mx.Mixer) -> None:
    assert mixer.value == VALUES.get(mixer.name)
    if mixer.value is None:
        with pytest.raises(mx.DeclarationError, match="is not a matrix applied to one of its signals"):
            _ = mixer.matrix_expr
        return
    s = drawn(mixer)
    v = mixer.signals[mixer.value]
    for matrix in (mixer.matrix_expr, mixer.M(**{n: Signal(name=n, axes=a) for n, a in used(mixer).items()})):
        M, axes = entries(matrix, s, dict(mixer.signals))
        y = apply_matrix(M, axes, s[mixer.value], tuple("s" if a == TIME else a for a in v), mixer.returns)
        close(y, value(mixer, s))


def apply_matrix(M: torch.Tensor, axes: tuple[str, ...], v: torch.Tensor, of: tuple[str, ...], out: tuple[str, ...]):
    return torch.einsum(f"{''.join(axes)},{''.join(of)}->{''.join(out)}", M, v.to(M.dtype))


def used(mixer: mx.Mixer) -> dict[str, tuple[str, ...]]:
    names = {n.name for n in walk(mixer.matrix_expr) if isinstance(n, Signal)}
    return {n: a for n, a in mixer.signals.items() if n in names}


# -------------------------------------------------------------------------------------------------- axes


def test_result_axes_follow_the_contract() -> None:
    assert gated_delta.returns == ("b", "t", "h", "v")
    assert selective.returns == ("b", "t", "d")
    assert convolutions.returns == ("b", "t", "d")
    assert normalised.returns == ("b", "t", "v")

    @mx.mixer
    def last_wins(v: "b t v h", x: "b t h v"):
        return mx.identity() @ (v + x)

    @mx.mixer
    def first_seen(q: "b t h k", k: "b t h k", v: "t v"):
        return mx.lowrank(q, k) @ v

    @mx.mixer
    def annotated(q: "b t h k", k: "b t h k", v: "t v") -> "h v b t":
        return mx.lowrank(q, k) @ v

    assert last_wins.returns == ("b", "t", "h", "v")
    assert first_seen.returns == ("b", "t", "h", "v")
    assert annotated.returns == ("h", "v", "b", "t")


def test_at_contracts_all_shared_state_axes_inside_a_recurrence() -> None:
    @mx.recurrence
    def both(S: mx.State("k v"), w: "b t k v", x: "b t k", v: "b t v"):
        return 0.5 * S + mx.outer(x, v), w @ S

    (found,) = {n for n in walk(both.body) if isinstance(n, Contract)}
    assert found.over == ("k", "v")


def test_a_state_left_on_a_row_axis_is_called_by_its_own_again() -> None:
    run = full.body
    assert isinstance(run, Run)
    (update,) = run.recurrence.updates
    assert isinstance(update, Rename) and (update.old, update.new) == ("m", "n")
    assert run.recurrence.batch == ("b", "h")


def test_several_states_and_their_batch_axes() -> None:
    run = gates.body
    assert isinstance(run, Run)
    assert [s.name for s in run.recurrence.states] == ["c", "h"]
    assert run.recurrence.batch == ("b",)


def test_numbers_of_numpy_are_numbers() -> None:
    @mx.mixer
    def scaled(v: "b t"):
        return np.float32(0.5) * v + v * np.int64(2) + np.float64(1.0) * (mx.identity() @ v)

    kinds = {type(n.value) for n in walk(scaled.body) if isinstance(n, Literal)}
    assert kinds == {int, float}


def test_annotations_may_be_evaluated_from_any_scope() -> None:
    import mixer_ir as local

    wide = "b t h"

    @local.recurrence
    def f(S: local.State("k"), k: "b t h k", g: wide):
        return g * S + k, k @ S

    assert f.signals == {"k": ("b", "t", "h", "k"), "g": ("b", "t", "h")}


# -------------------------------------------------------------------------------------------------- mixers in mixers


def test_a_mixer_called_on_expressions_is_its_body_with_them_in_place() -> None:
    s = drawn(nested)
    first = value(gated_delta, {**s, "v": torch.nn.functional.silu(s["v"])})
    second = 2 * value(gated_delta, {**s, "g": torch.full_like(s["g"], -0.1)})
    torch.testing.assert_close(value(nested, s), first + second)


def test_a_mixer_in_a_mixer_refuses_what_it_does_not_take() -> None:
    x = mx.mixer(_plain)
    assert x.signals == {"v": ("b", "t", "v")}
    with pytest.raises(mx.SignalError, match="gated_delta is missing the signal 'k'"):
        gated_delta.M(q=1)
    with pytest.raises(mx.SignalError, match="gated_delta takes no 'v' here; it takes q, k, g, beta"):
        gated_delta.M(v=1)
    with pytest.raises(mx.DeclarationError, match=r"compile it first: mx.compile\(gated_delta\)"):
        gated_delta(q=torch.zeros(1), k=1, v=1, g=1, beta=1)


def _plain(v: "b t v"):
    return mx.identity() @ v


def test_a_recurrence_in_a_recurrence_keeps_its_own_words() -> None:
    @mx.recurrence
    def outside(n: mx.State("k"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h", beta: "b t h"):
        y = gated_delta(q=q, k=k, v=v, g=g, beta=beta)
        n = mx.exp(g) * n + k
        return n, y + (gated_delta.M(q=q, k=k, g=g, beta=beta) @ v) * (q @ n)

    s = drawn(outside)
    keys = mx.recurrence(_keys)
    n = value(keys, {name: s[name] for name in keys.signals})
    y = value(gated_delta, s)
    close(value(outside, s), y + y * n[..., None])


def test_states_of_one_name_do_not_meet() -> None:
    @mx.recurrence
    def twice(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h", beta: "b t h"):
        y = gated_delta(q=q, k=k, v=v, g=g, beta=beta)
        return mx.tanh(S) + mx.outer(k, y), q @ S + y

    s = drawn(twice)
    y = value(gated_delta, s)
    S, want = torch.zeros(SIZES["b"], SIZES["h"], SIZES["k"], SIZES["v"], dtype=torch.float64), []
    for t in range(SIZES["t"]):
        want.append(torch.einsum("bhk,bhkv->bhv", s["q"][:, t], S) + y[:, t])
        S = S.tanh() + s["k"][:, t, :, :, None] * y[:, t, :, None, :]
    close(value(twice, s), torch.stack(want, 1))
    close(evaluate(twice.expr, s, dict(twice.signals), twice.returns), torch.stack(want, 1))
    assert mx.loads(mx.dumps(twice)) == twice


def _keys(n: mx.State("k"), q: "b t h k", k: "b t h k", g: "b t h"):
    n = mx.exp(g) * n + k
    return n, q @ n


# -------------------------------------------------------------------------------------------------- resets


@mx.mixer
def backward_taps(x: "b t n", z: "b t n", a: "b t", v: "b t v"):
    tapped = mx.semiseparable(x + mx.delay(z, 1), mx.sigmoid(a), mx.cumsum(z) + mx.index("t"))
    return (mx.flip(tapped) + mx.flip(mx.flip(mx.shift(tapped))) + tapped) @ v


@mx.mixer
def implicit_filter(rate: "d", u: "b t d"):
    lag = mx.index("t")
    return lag * (mx.toeplitz(mx.exp(-mx.abs(rate) * lag) + mx.cumsum(lag)) @ u)


STREAMS = [m for m in ALL if m.name not in ("cross", "convolutions", "structures", "grid")]
STREAMS += [backward_taps, implicit_filter]


@pytest.mark.parametrize("mixer", STREAMS, ids=lambda m: m.name)
def test_a_reset_separates_packed_pieces(mixer: mx.Mixer) -> None:
    packed = mixer.with_reset()
    assert packed.with_reset() is packed and list(packed.signals) == [*mixer.signals, "reset"]
    s = drawn(mixer)
    at = [0, 2, 3]
    axes = packed.signals["reset"]
    shape = [SIZES[a] for a in axes]
    flags = torch.zeros(SIZES["t"], dtype=torch.bool)
    flags[at] = True
    y = value(packed, {**s, "reset": flags.expand(shape)})
    pieces = []
    for start, end in zip(at, [*at[1:], SIZES["t"]], strict=True):
        cut = {
            n: x.narrow(a.index(TIME), start, end - start) if TIME in (a := mixer.signals[n]) else x
            for n, x in s.items()
        }
        pieces.append(value(mixer, cut))
    close(y, torch.cat(pieces, mixer.returns.index(TIME)))
    canonical = evaluate(packed.expr, {**s, "reset": flags.expand(shape)}, dict(packed.signals), packed.returns)
    close(canonical, y)


def test_a_declared_reset_that_the_body_leaves_alone_is_the_boundary() -> None:
    @mx.recurrence
    def memory(S: mx.State("k"), k: "b t k", reset: "b t"):
        return S + k, k @ S

    @mx.recurrence
    def own(S: mx.State("k"), k: "b t k", reset: "b t"):
        S = mx.where(reset, 0.0, S) + k
        return S, k @ S

    assert isinstance(memory.body, Run) and memory.body.recurrence.reset is not None
    assert isinstance(own.body, Run) and own.body.recurrence.reset is None
    assert memory.with_reset() is memory


def test_what_has_no_meaning_on_a_piece_is_refused() -> None:
    @mx.mixer
    def backwards(v: "b t v"):
        return mx.reverse(v)

    @mx.mixer
    def mean(v: "b t v"):
        return mx.cumsum(v) / mx.size("t")

    with pytest.raises(mx.DeclarationError, match="backwards reverses a signal in time"):
        backwards.with_reset()
    with pytest.raises(mx.DeclarationError, match="mean uses the sequence's length"):
        mean.with_reset()
    assert BATCH in quasiseparable.with_reset().signals["reset"]
