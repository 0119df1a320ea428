"""mx.verify: right mixers pass, and what is wrong (zeros, a step late, a false trait, a wrong gradient) does not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import mixer_ir as mx
from mixer_ir.driver import samples
from mixer_ir.trust.expected import Expected, expected, gradients_of
from mixer_ir.trust.probe import probes
from mixer_ir.trust.verify import verify

QUICK = {"lengths": (1, 2, 7), "chunks": (1, 3)}


@mx.recurrence
def gated(S: mx.State("k v"), q: "b t h k", k: "b t h k", v: "b t h v", g: "b t h", beta: "b t h"):
    S = mx.exp(g) * (S - beta * mx.outer(k, k @ S)) + beta * mx.outer(k, v)
    return S, q @ S


@mx.recurrence
def cell(h: mx.State("n"), x: "b t n", W: "m n"):
    h = mx.tanh(mx.rename(W @ h, m="n") + x)
    return h, h


@mx.mixer
def convolved(f: "t", v: "b t v"):
    return mx.toeplitz(f) @ v


@mx.mixer
def looked_up(q: "b t k", w: "c k", z: "b t", v: "b t v"):
    return mx.softmax(mx.causal(mx.lowrank(q, mx.take(w, z, axis="c")))) @ v


@mx.mixer
def both_ways(q: "b t k", k: "b t k", v: "b t v"):
    M = mx.causal(mx.lowrank(q, k))
    return (M + mx.flip(M)) @ v


@pytest.mark.parametrize("mixer", [gated, cell, convolved, looked_up, both_ways], ids=lambda m: m.name)
def test_every_form_is_right(mixer):
    report = verify(mixer, **QUICK)
    assert report.ok, str(report)
    assert {row.form for row in report.rows} >= set(mixer.forms())
    assert {row.backend for row in report.rows} >= {"eager", "reference", "symbolic"}
    assert {row.dtype for row in report.rows} == {"float64", "float32"}


def test_a_report_prints_and_serialises():
    report = verify(convolved, lengths=(2, 3), dtypes=(torch.float64,))
    assert "all right" in str(report) and "gradient" in str(report)
    read = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert read["ok"] is True and len(read["rows"]) == len(report.rows)
    assert all(row.value_error < 1e-12 for row in report.rows)


def test_states_are_handed_on_and_differentiated():
    whats = {row.what for row in verify(gated, **QUICK).rows}
    assert {"whole", "split", "steps", "initial state", "matrix"} <= whats
    assert not {"split", "steps"} & {row.what for row in verify(both_ways, **QUICK).rows}  # it sees the future


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mixer", [gated, convolved, both_ways], ids=lambda m: m.name)
def test_zeros_and_late_results_would_not_pass(mixer, dtype):
    want = expected(mixer, 7, dtype=dtype)
    assert want.insensitive() == []
    y, gradients = want.values.detach(), want.gradients
    assert want.measure(y, gradients).ok
    assert not want.measure(torch.zeros_like(y), gradients).ok
    assert not want.measure(torch.roll(y, 1, mixer.returns.index("t")), gradients).ok
    for name in gradients:
        assert not want.measure(y, {**gradients, name: torch.zeros_like(gradients[name])}).ok
        assert not want.measure(y, {**gradients, name: gradients[name] * 1.2}).ok
    assert not want.measure(torch.full_like(y, float("nan")), gradients).ok
    assert not want.measure(y[..., :1], gradients).ok


def test_a_tolerance_that_lets_zeros_pass_is_an_error(monkeypatch):
    monkeypatch.setattr("mixer_ir.trust.expected.ROUNDINGS", 1e18)
    report = verify(convolved, lengths=(4,), dtypes=(torch.float64,), backends=("eager",))
    assert not report.ok
    assert any("zeros would pass" in row.note for row in report.rows)


@mx.mixer
def remaining(q: "b t h k", k: "b t h k", v: "b t h v") -> "b t h v":
    """Attention without what a step has of itself alone: at t = 1 all cancels."""
    scores = mx.causal(mx.lowrank(mx.exp(q), mx.exp(k), over="k"))
    return mx.normalize(scores) @ v - v


def test_what_cancels_to_rounding_is_judged_by_what_cancels():
    assert verify(remaining, lengths=(1, 7), backends=("eager",)).ok
    want = expected(remaining, 1, dtype=torch.float32)
    assert want.cancelled and not expected(remaining, 7, dtype=torch.float32).cancelled
    rounding = torch.finfo(torch.float32).eps
    assert want.measure(torch.full_like(want.values, rounding)).ok
    assert not want.measure(torch.full_like(want.values, 1e4 * rounding)).ok


@pytest.mark.parametrize(
    ("mixer", "trait"),
    [(both_ways, "causal"), (both_ways, "anticausal"), (gated, "strictly_causal"), (gated, "time_invariant")],
    ids=lambda x: getattr(x, "name", x),
)
def test_a_trait_that_is_claimed_and_false_is_seen(mixer, trait):
    claimed = dict.fromkeys(("causal", "anticausal", "strictly_causal", "time_invariant"), False) | {trait: True}
    lying = SimpleNamespace(
        traits=SimpleNamespace(**claimed),
        signals=mixer.signals,
        returns=mixer.returns,
        body=mixer.body,
        value="v",
        matrix_expr=mixer.matrix_expr,
    )
    found = list(probes(lying, expected(mixer, 6)))
    assert found and not any(p.ok for p in found)


def test_errors_while_running_are_rows_that_quote_them(monkeypatch):
    from mixer_ir.driver.compiled import CompiledMixer

    def broken(*_: object, **__: object) -> None:
        raise mx.FormError("out of order")

    monkeypatch.setattr(CompiledMixer, "_advance", broken)
    report = verify(convolved, lengths=(2,), dtypes=(torch.float64,), backends=("eager",))
    assert not report.ok and "out of order" in str(report)


def test_own_signals_and_samples_are_used():
    f = torch.zeros(3, dtype=torch.float64)
    f[0] = 2.0
    report = verify(convolved, lengths=(3,), signals={"f": f}, backends=("eager",))
    assert report.ok
    seen: list[int] = []

    def sample(length: int) -> dict[str, torch.Tensor]:
        seen.append(length)
        return {"f": torch.ones(length, dtype=torch.float64)}

    assert verify(convolved, lengths=(2, 4), sample=sample, backends=("eager",)).ok
    assert set(seen) >= {2, 4}


# ---------------------------------------------------------------------------------- samples


def test_signals_are_drawn_by_their_part():
    drawn = samples.draw(gated, samples.sizes_for(gated, 9))
    assert (drawn["g"] < 0).all() and (drawn["beta"] > 0).all() and (drawn["beta"] < 1).all()
    drawn = samples.draw(looked_up, samples.sizes_for(looked_up, 9))
    assert drawn["z"].dtype == torch.int64 and drawn["z"].max() < drawn["w"].shape[0]
    drawn = samples.draw(gated.with_reset(), samples.sizes_for(gated.with_reset(), 50))
    assert drawn["reset"].dtype == torch.bool and 0 < drawn["reset"].float().mean() < 0.5


def test_equal_seeds_draw_equal_signals():
    sizes = samples.sizes_for(gated, 5)
    one, again, other = (samples.draw(gated, sizes, seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not torch.equal(one["q"], other["q"])


def test_expected_gradients_are_those_of_the_loss():
    want: Expected = expected(convolved, 4)
    v = want.signals["v"].clone().requires_grad_()
    f = want.signals["f"]
    rows = [sum(f[t - s] * v[:, s] for s in range(t + 1)) for t in range(4)]
    y = torch.stack(rows, 1)
    assert torch.allclose(y, want.values)
    assert torch.allclose(gradients_of(y, want.weights, {"v": v})["v"], want.gradients["v"])
