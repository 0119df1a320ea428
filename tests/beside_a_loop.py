"""A mixer that is in no catalog beside a loop of its own, and what is held against that loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import mixer_ir as mx

SIZES = {"b": 2, "h": 2, "k": 3, "v": 2, "d": 3, "n": 3, "m": 3, "r": 2, "s": 5, "j": 3, "c": 6, "l": 4}
LENGTH, CUT = 9, 5
CUTS = (0, 3, 4, LENGTH)
"""the packed pieces"""


@dataclass(frozen=True)
class Case:
    mixer: mx.Mixer
    loop: Callable[..., Tensor]
    draw: Mapping[str, Callable[[Tensor], Tensor]]
    packs: bool
    filters: tuple[str, ...]
    proved: bool


class Cases(list[Case]):
    """The cases of one theme."""

    def by(self, loop: Callable[..., Tensor], *, packs: bool = True, filters: str = "", proved: bool = True, **draw):
        """A mixer declared below, defined by `loop`.

        draw      what makes signals of normal numbers suit (a decay negative, say)
        packs     whether `loop` on each piece alone is what a packed call must give
        filters   signals over t that are the same for every piece
        """

        def keep(mixer: mx.Mixer) -> mx.Mixer:
            self.append(Case(mixer, loop, draw, packs, tuple(filters.split()), proved))
            return mixer

        return keep

    def each(self, law: Callable[[Case], None], *, of: Callable[[Case], Any] = lambda c: True) -> Callable[..., None]:
        """A test that a law holds of each case, or of some."""

        @pytest.mark.parametrize("case", [c for c in self if of(c)], ids=lambda c: c.mixer.name)
        def test(case: Case) -> None:
            law(case)

        return test


def negative(x: Tensor) -> Tensor:
    return -x.abs()


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]


def read(q: Tensor, S: Tensor) -> Tensor:
    return torch.einsum("...k,...kv->...v", q.to(S.dtype), S)


def scan(step: Callable[..., tuple], *start: Tensor, over: tuple[Tensor, ...]) -> Tensor:
    """The outputs of `step(*states, *signals at t)`, stacked along the second axis."""
    states, found = start, []
    for t in range(over[0].shape[1]):
        *states, y = step(*states, *(x[:, t] for x in over))
        found.append(y)
    return torch.stack(found, 1)


def memory(k: Tensor, v: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(*k[:, 0].shape, v.shape[-1], dtype=dtype)


def over_state(x: Tensor) -> Tensor:
    return x[..., None, None]


def drawn(case: Case, length: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(length)
    found = {}
    for name, axes in case.mixer.signals.items():
        x = torch.randn([length if a == "t" else SIZES[a] for a in axes], generator=g, dtype=torch.float64)
        x = case.draw.get(name, lambda x: x)(x)
        found[name] = x.to(dtype) if x.is_floating_point() else x
    return found


def between(case: Case, signals: Mapping[str, Tensor], low: int, high: int, *, whole: tuple[str, ...] = ()):
    """The signals from `low` on and before `high`; those named `whole` from their beginning."""
    found = {}
    for n, x in signals.items():
        axes = case.mixer.signals[n]
        found[n] = x.narrow(axes.index("t"), 0 if n in whole else low, high - low) if "t" in axes else x
    return found


def with_gradients(call: Callable[..., Tensor], signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The result, and the gradients of a loss that weighs all of its entries differently."""
    leaves = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in signals.items()}
    y = call(**leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    wanted = [n for n, x in leaves.items() if x.requires_grad]
    torch.autograd.backward((weights * y).sum())
    gradients = {n: leaves[n].grad for n in wanted}
    return {"result": y.detach()} | {
        f"gradient in {n}": torch.zeros_like(leaves[n]) if g is None else g for n, g in gradients.items()
    }


def assert_same(got: Mapping[str, Tensor], want: Mapping[str, Tensor], of: str) -> None:
    for n, x in want.items():
        off, size = float((got[n] - x).abs().max()), float(x.abs().max())
        assert off <= 1e-9 * max(size, 1e-3), f"{of}: {n} is off by {off:.1e} of {size:.1e}"


# ------------------------------------------------------------------------------------------ what holds of all


def forms_are_the_loop(case: Case) -> None:
    """Values and gradients of every form, of one step and of several."""
    for length in (1, LENGTH):
        signals = drawn(case, length)
        want = with_gradients(case.loop, signals)
        for form in ("auto", *case.mixer.forms()):
            chunk = {"chunk": 4} if form in ("chunked", "flash") else {}
            f = mx.compile(case.mixer, form=form, **chunk)
            assert_same(with_gradients(f, signals), want, f"{form}, t = {length}")


def streams_and_pieces_are_the_loop(case: Case) -> None:
    """A prefill and steps after it; a packed call, piece by piece."""
    f, signals = mx.compile(case.mixer), drawn(case, LENGTH)
    at, want = case.mixer.returns.index("t"), case.loop(**signals)
    if case.mixer.traits.streamable:
        y, state = f.prefill(**between(case, signals, 0, CUT))
        found = [y]
        for t in range(CUT, LENGTH):
            one = between(case, signals, t, t + 1)
            y, state = f.step(state, **{n: x.squeeze(a.index("t")) if "t" in (a := case.mixer.signals[n]) else x
                                        for n, x in one.items()})  # fmt: skip
            found.append(y.unsqueeze(at))
        assert_same({"result": torch.cat(found, at)}, {"result": want}, "prefill and steps")
    if case.packs:
        first = torch.zeros(LENGTH, dtype=torch.bool)
        first[list(CUTS[:-1])] = True
        reset = first if "b" not in case.mixer.returns else first.expand(SIZES["b"], LENGTH)
        pieces = [
            case.loop(**between(case, signals, low, high, whole=case.filters)) for low, high in itertools.pairwise(CUTS)
        ]
        assert_same({"result": f(**signals, reset=reset)}, {"result": torch.cat(pieces, at)}, "packed")


def matrix_text_and_precision_hold(case: Case) -> None:
    """Text that reads back, an explanation, lower precisions, and the matrix where there is one."""
    mixer, signals = case.mixer, drawn(case, 4)
    again = mx.loads(mx.dumps(mixer))
    assert again.expr is mixer.expr and str(again) == str(mixer)
    f, want = mx.compile(again), case.loop(**signals)
    assert mixer.name in str(f.explain(**signals)) and str(mixer.traits)
    for dtype, off in ((torch.float32, 1e-4), (torch.bfloat16, 0.15)):
        y = f(**{n: x.to(dtype) if x.is_floating_point() else x for n, x in signals.items()})
        assert y.dtype == dtype
        assert float((y.double() - want).abs().max()) <= off * float(want.abs().max()), dtype
    if mixer.value is not None:
        M, axes = f.matrix(**signals), [a for a in mixer.returns if a in mixer.matrix_expr.axes]
        v = signals[mixer.value].to(M.dtype)
        column = ["s" if a == "t" else a for a in mixer.signals[mixer.value]]
        y = torch.einsum(f"{''.join(axes)}ts,{''.join(column)}->{''.join(mixer.returns)}", M, v)
        assert_same({"result": y}, {"result": want}, "matrix")


def what_is_affine_is_proved(case: Case) -> None:
    proof = mx.prove(case.mixer)
    assert proof.ok == case.proved, str(proof)
