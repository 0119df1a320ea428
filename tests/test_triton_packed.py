"""Kernels where sequences are packed, rows have no key, decays are infinite and states come and go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import catalog
import mixer_ir as mx
from backends.triton import plans, sinking
from backends.triton.prepared import prepared
from benchmarks.gpu_cases import retention
from mixer_ir.driver import samples

SIZES = {"b": 1, "h": 1, "g": 1, "k": 16, "v": 16, "d": 4, "n": 4}
FORMS = {
    "softmax_attention": ("flash", 64),
    "linear_attention": ("chunked", 64),
    "gla": ("chunked", 64),
    "deltanet": ("chunked", 64),
    "mamba": ("scan", None),
}
ENDS = [1, 64, 129]
"""pieces of 1, 63 and 65 steps; all together are no multiple of a block"""
RAGGED, EVEN = ENDS, [*ENDS, 192]


@pytest.fixture
def own_plans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is found that was planned otherwise."""
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    monkeypatch.setattr(plans, "MEMORY", {})
    prepared.cache_clear()


def drawn(mixer: mx.Mixer, length: int) -> dict[str, Tensor]:
    """Signals of one short head."""
    sizes = {a: SIZES.get(a, n) for a, n in samples.sizes_for(mixer, length).items()}
    return samples.draw(mixer, sizes, seed=0)


def weighed(y: Tensor) -> Tensor:
    """A sum of all entries, each with a weight of its own."""
    return (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).sum()


def with_gradients(signals: Mapping[str, Tensor], run: Callable[[dict[str, Tensor]], list[Tensor]]) -> list[Tensor]:
    """What `run` gives, and the gradients of its signals."""
    given = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in signals.items()}
    made = run(given)
    gradients = torch.autograd.grad(sum(map(weighed, made)), [x for x in given.values() if x.requires_grad])
    return [x.detach().double() for x in (*made, *gradients)]


def close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    """No NaN either."""
    assert len(ours) == len(theirs)
    for x, y in zip(ours, theirs, strict=True):
        assert (x - y).abs().max() <= tolerance * max(1.0, float(y.abs().max()))


def apart(mixer: mx.Mixer, ends: list[int], **signals: Tensor) -> Tensor:
    """Each piece by a call of its own, step by step or with all entries of its matrix, on PyTorch's operators."""
    f = mx.compile(mixer, form="recurrent" if "recurrent" in mixer.forms() else "dense", backend="eager")
    timed = {n: mixer.signals[n].index("t") for n in signals if "t" in mixer.signals[n]}
    pieces = []
    for start, end in zip([0, *ends], ends, strict=False):
        cut = {n: signals[n].narrow(axis, start, end - start) for n, axis in timed.items()}
        pieces.append(f(**{**signals, **cut}))
    return torch.cat(pieces, 1)


def packed(mixer: mx.Mixer, form: str, chunk: int | None, ends: list[int], **signals: Tensor) -> Tensor:
    """All pieces in one call: told of by their lengths, or by `reset` in a sequence of whole blocks."""
    options = {"chunk": chunk} if chunk else {}
    if ends[-1] % 64:
        cu = torch.tensor([0, *ends])
        return mx.compile(mixer, form=form, backend="triton", **options)(**signals, cu_seqlens=cu)
    reset = torch.zeros(1, ends[-1], dtype=torch.bool)
    reset[:, [0, *ends[:-1]]] = True
    return mx.compile(mixer.with_reset(), form=form, backend="triton", **options)(**signals, reset=reset)


@pytest.mark.parametrize("ends", [RAGGED, EVEN], ids=["by lengths", "by resets"])
@pytest.mark.parametrize("name", FORMS)
def test_pieces_are_what_calls_of_their_own_give(name: str, ends: list[int]) -> None:
    mixer, (form, chunk) = catalog.get(name).mixer, FORMS[name]
    signals = drawn(mixer, ends[-1])
    want = with_gradients(signals, lambda given: [apart(mixer, ends, **given)])
    close(with_gradients(signals, lambda given: [packed(mixer, form, chunk, ends, **given)]), want, 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("name", ["softmax_attention", "gla", "deltanet"])
def test_pieces_in_narrow_dtypes(name: str, dtype: torch.dtype, tolerance: float) -> None:
    mixer, (form, chunk) = catalog.get(name).mixer, FORMS[name]
    signals = {n: x.to(dtype) for n, x in drawn(mixer, RAGGED[-1]).items()}
    wide = {n: x.double() for n, x in signals.items()}
    want = with_gradients(wide, lambda given: [apart(mixer, RAGGED, **given)])
    close(with_gradients(signals, lambda given: [packed(mixer, form, chunk, RAGGED, **given)]), want, tolerance)


@pytest.mark.parametrize("name", FORMS)
def test_one_step_alone(name: str) -> None:
    mixer, (form, chunk) = catalog.get(name).mixer, FORMS[name]
    for ends in ([1], [1, 2]):
        signals = drawn(mixer, ends[-1])
        want = with_gradients(signals, lambda given, ends=ends: [apart(mixer, ends, **given)])
        ours = with_gradients(signals, lambda given, ends=ends: [packed(mixer, form, chunk, ends, **given)])
        close(ours, want, 1e-12)


@pytest.mark.parametrize(("form", "chunk"), [("chunked", 4), ("scan", None), ("parallel", None)])
def test_decays_that_leave_nothing(form: str, chunk: int | None) -> None:
    """Log-decays of −∞ at some steps, and at all of one coordinate; the last chunk has one step."""
    mixer = catalog.get("gla").mixer
    signals = drawn(mixer, 9)
    signals["g"][:, ::5] = -math.inf
    signals["g"][..., 3] = -math.inf
    options = {"chunk": chunk} if chunk else {}
    want, ours = (
        with_gradients(signals, lambda given, how=how: [mx.compile(mixer, **how)(**given)])
        for how in ({"form": "recurrent", "backend": "eager"}, {"form": form, "backend": "triton", **options})
    )
    close(ours, want, 1e-12)


# ------------------------------------------------------------------------------------------------- rows without a key


@mx.mixer
def some_keys(q: "b t h k", k: "b t h k", v: "b t h v", kept: "b t") -> "b t h v":
    """Keys that are not kept are not seen: the first rows see none."""
    return mx.softmax(mx.causal(mx.mask(mx.lowrank(q, k), mx.source(kept) > 0))) @ v


@mx.mixer
def some_rows(q: "b t h k", k: "b t h k", v: "b t h v", kept: "b t") -> "b t h v":
    """Rows that are not kept see nothing."""
    return mx.softmax(mx.causal(mx.mask(mx.lowrank(q, k), kept > 0))) @ v


@mx.mixer
def earlier_keys(q: "b t h k", k: "b t h k", v: "b t h v") -> "b t h v":
    """The keys before a row: the first of a piece has none."""
    return mx.softmax(mx.mask(mx.lowrank(q, k), mx.source(mx.index("t")) < mx.index("t"))) @ v


@pytest.mark.parametrize("ends", [RAGGED, EVEN], ids=["by lengths", "by resets"])
@pytest.mark.parametrize("mixer", [some_keys, some_rows, earlier_keys], ids=lambda m: m.name)
def test_rows_that_see_no_key_are_zero(mixer: mx.Mixer, ends: list[int]) -> None:
    """And nothing of their gradients comes through; whole blocks of them, and pieces."""
    signals = drawn(mixer, ends[-1])
    if "kept" in signals:
        signals["kept"] = torch.ones(1, ends[-1], dtype=torch.int64)
        signals["kept"][:, :70] = signals["kept"][:, 100:110] = 0
    want = with_gradients(signals, lambda given: [apart(mixer, ends, **given)])
    assert (want[0].abs().sum((0, 2, 3)) == 0).sum() >= len(ends) - 1
    close(with_gradients(signals, lambda given: [packed(mixer, "flash", 64, ends, **given)]), want, 1e-12)


# ------------------------------------------------------------------------------------------------------------- states


READ, STORED = 1, 1 << 62
"""from how many values on loops read their states"""


@pytest.mark.parametrize(
    ("name", "length", "lanes"),
    [
        ("retention", 21, READ),
        ("retention", 24, READ),
        ("gated_deltanet", 21, READ),
        ("gated_deltanet", 21, STORED),
        ("gla", 21, STORED),
        ("mamba2", 21, STORED),
    ],
)
def test_gradients_of_states(
    name: str, length: int, lanes: int, own_plans: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the one that comes in, from the one that goes out, whether loops read their states or store them."""
    monkeypatch.setattr(sinking, "LANES", lanes)
    mixer = retention if name == "retention" else catalog.get(name).mixer
    signals = drawn(mixer, length)
    _, before = mx.compile(mixer, backend="eager")(**signals, return_state=True)
    states = {f"state {n}": x for n, x in before.items()}

    def run(form: str, backend: str, given: dict[str, Tensor], **options: int) -> list[Tensor]:
        f = mx.compile(mixer, form=form, backend=backend, **options)
        first = {n.removeprefix("state "): x for n, x in given.items() if n in states}
        y, last = f(**{n: x for n, x in given.items() if n not in states}, initial_state=first, return_state=True)
        return [y, *last.values()]

    want = with_gradients(signals | states, lambda given: run("recurrent", "eager", given))
    close(with_gradients(signals | states, lambda given: run("chunked", "triton", given, chunk=8)), want, 1e-12)
