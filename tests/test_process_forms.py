"""Every form of a process gives what the loop over time gives: reads, last state, and all gradients."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from backends.autograd import differentiable
from lowering.build import Builder, program
from lowering.parts import Options, gather
from lowering.process import lower_process
from lowering.program import Program, Value
from mixer_ir.errors import FormError

SIZES = {"b": 2, "h": 2, "k": 3, "v": 2, "l": 3}
TOLERANCE = 1e-9  # float64: a few hundred roundings at unit scale


@dataclass
class Case:
    """A random process: tensors by name with their axes, and how they go together."""

    steps: int
    seed: int
    decay: str
    rank: int
    inputs: int
    before: tuple[bool, ...]
    initial: bool
    reset: bool
    complex: bool
    shared: bool
    thin: bool
    still: bool
    tensors: dict[str, Tensor] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)
        for i in range(self.inputs):
            self.add(f"k{i}", "bthk", moving=not self.still)
            self.add(f"v{i}", "bthv")
        for i in range(len(self.before)):
            self.add(f"q{i}", "bthk", moving=not self.still)
        for i in range(self.rank):
            self.add(f"a{i}", "bthk", scale=0.3, moving=not self.still)
            self.add(f"b{i}", "bthk", scale=0.3, moving=not self.still)
        if self.shared:
            self.add("beta", "bth")
        if self.decay in ("log", "factor"):
            self.add("decay", "bthk", scale=0.7, moving=not self.still)
        if self.decay in ("scalar log", "scalar factor"):
            self.add("decay", "bth", scale=0.7, moving=not self.still)
        if self.decay == "dense":
            self.add("decay", "hlk", scale=0.5)
        if "factor" in self.decay:
            zero = torch.rand(self.tensors["decay"].shape, generator=self.random) < 0.2
            self.tensors["decay"] = torch.where(zero, 0.0, self.tensors["decay"])
        if "log" in self.decay:
            self.tensors["decay"] = -self.tensors["decay"].abs()
        if self.initial:
            self.add("initial", "bhkv", thin=False)
        if self.reset:
            self.tensors["reset"] = torch.rand((2, self.steps), generator=self.random) < 0.2
            self.axes["reset"] = "bt"
        for x in self.tensors.values():
            x.requires_grad_(x.is_floating_point() or x.is_complex())

    def add(self, name: str, axes: str, *, scale: float = 1.0, moving: bool = True, thin: bool = True) -> None:
        if self.thin and thin:  # leave out batch axes here and there: they broadcast
            axes = "".join(a for a in axes if a not in "bh" or torch.rand((), generator=self.random) < 0.6)
        if not moving:
            axes = axes.replace("t", "")
        shape = [self.steps if a == "t" else SIZES[a] for a in axes]
        kind = torch.complex128 if self.complex and "log" not in self.decay else torch.float64
        self.tensors[name] = scale * torch.randn(shape, generator=self.random, dtype=kind)
        self.axes[name] = axes

    def full(self, name: str, axes: str) -> Tensor:
        """A tensor with all axes."""
        x, have = self.tensors[name], self.axes[name]
        for i, a in enumerate(axes):
            if a not in have:
                x = x.unsqueeze(i)
        return x.expand([self.steps if a == "t" else SIZES[a] for a in axes])

    def vectors(self, name: str) -> Tensor:
        if self.shared and name == "a0":
            return -self.full("beta", "bth").unsqueeze(-1) * self.full("k0", "bthk")
        return self.full(name, "bthk")

    @property
    def floating(self) -> dict[str, Tensor]:
        return {n: x for n, x in self.tensors.items() if x.requires_grad}


def looped(case: Case) -> dict[str, Tensor]:
    """The definition, one step after the other."""
    state = torch.zeros(2, 2, 3, 2, dtype=next(iter(case.floating.values())).dtype)
    state = case.tensors["initial"] if case.initial else state
    reads: list[list[Tensor]] = [[] for _ in case.before]
    for t in range(case.steps):
        if case.reset:
            state = torch.where(case.tensors["reset"][:, t, None, None, None], 0.0, state)
        old, state = state, moved(case, state, t)
        for i in range(case.rank):
            auxiliary = torch.einsum("bhk,bhkv->bhv", case.vectors(f"b{i}")[:, t], old)
            state = state + torch.einsum("bhk,bhv->bhkv", case.vectors(f"a{i}")[:, t], auxiliary)
        for i in range(case.inputs):
            key, value = case.full(f"k{i}", "bthk")[:, t], case.full(f"v{i}", "bthv")[:, t]
            state = state + torch.einsum("bhk,bhv->bhkv", key, value)
        for i, before in enumerate(case.before):
            seen = old if before else state
            reads[i].append(torch.einsum("bhk,bhkv->bhv", case.full(f"q{i}", "bthk")[:, t], seen))
    return {"state": state, **{f"y{i}": torch.stack(y, 1) for i, y in enumerate(reads)}}


def moved(case: Case, state: Tensor, t: int) -> Tensor:
    if case.decay == "none":
        return state
    if case.decay == "dense":
        return torch.einsum("bhlk,bhkv->bhlv", case.full("decay", "bhlk"), state)
    scalar = "scalar" in case.decay
    step = case.full("decay", "bth" if scalar else "bthk")[:, t]
    step = step.exp() if "log" in case.decay else step
    return (step.unsqueeze(-1) if scalar else step).unsqueeze(-1) * state


def lowered(case: Case, form: str, options: Options) -> Program:
    """The process in one form, with results in the loop's order of axes."""
    b = Builder()
    sizes = {**SIZES, "t": case.steps}
    x: dict[str, Value] = {}
    for name, axes in case.axes.items():
        tensor = case.tensors[name]
        kind = "bool" if tensor.dtype == torch.bool else "complex" if tensor.is_complex() else "real"
        x[name] = b.input(name, tuple(axes), tuple(tensor.shape), kind)
    pairs = [(x[f"a{i}"], x[f"b{i}"]) for i in range(case.rank)]
    if case.shared:
        pairs[0] = (b.mul(b.map("neg", x["beta"]), x["k0"]), pairs[0][1])
    dense = case.decay == "dense"
    parts = gather(
        b,
        over=("k",),
        state=("k", "v"),
        sizes=sizes,
        inputs=[(x[f"k{i}"], x[f"v{i}"]) for i in range(case.inputs)],
        queries=[(x[f"q{i}"], before) for i, before in enumerate(case.before)],
        log=x["decay"] if "log" in case.decay else None,
        factor=x["decay"] if "factor" in case.decay else None,
        dense=x["decay"] if dense else None,
        low_rank=pairs,
        along="k",
        row="l" if dense else None,
        reset=x.get("reset"),
        initial=x.get("initial"),
    )
    reads, state = lower_process(b, parts, form, options)
    outputs = {"state": b.order(b.expand(state, {a: sizes[a] for a in "bhkv"}), tuple("bhkv"))}
    for i, y in enumerate(reads):
        outputs[f"y{i}"] = b.order(b.expand(y, {a: sizes[a] for a in "bthv"}), tuple("bthv"))
    return program(outputs, list(x.values()))


@st.composite
def cases(draw: st.DrawFn, *, still: bool = False) -> Case:
    decay = draw(st.sampled_from(("none", "log", "factor", "scalar log", "scalar factor", "dense")))
    rank = 0 if decay == "dense" else draw(st.integers(0, 2))
    inputs = draw(st.integers(1, 2))
    return Case(
        steps=draw(st.sampled_from((1, 2, 3, 5, 8, 13, 33))),
        seed=draw(st.integers(0, 1 << 30)),
        decay=decay,
        rank=rank,
        inputs=inputs,
        before=draw(st.sampled_from(((False,), (True,), (False, True)))),
        initial=draw(st.booleans()),
        reset=not still and draw(st.booleans()),
        complex=draw(st.booleans()),
        shared=rank > 0 and not still and draw(st.booleans()),
        thin=draw(st.booleans()),
        still=still,
    )


def agree(case: Case, form: str, options: Options) -> None:
    """Values and all gradients of a random weighting of all results."""
    made, expected = differentiable(lowered(case, form, options))(case.tensors), looped(case)
    generator = torch.Generator().manual_seed(1)
    loss, wanted = torch.zeros(()), torch.zeros(())
    for name, y in expected.items():
        scale = max(1.0, y.abs().max().item())
        assert (made[name] - y).abs().max() <= TOLERANCE * scale, name
        weight = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        loss, wanted = (
            total + (weight * z.real).sum() + (0.5 * weight * z.imag).sum()
            if z.is_complex()
            else total + (weight * z).sum()
            for total, z in ((loss, made[name]), (wanted, y))
        )
    inputs = case.floating
    ours = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    theirs = torch.autograd.grad(wanted, list(inputs.values()), allow_unused=True)
    for name, a, b in zip(inputs, ours, theirs, strict=True):
        a, b = (torch.zeros_like(inputs[name]) if g is None else g for g in (a, b))
        scale = max(1.0, b.abs().max().item())
        assert (a - b).abs().max() <= 10 * TOLERANCE * scale, f"gradient of {name}"


relaxed = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("form", ["recurrent", "parallel", "scan", "dense"])
@relaxed
@given(case=cases(), stretch=st.sampled_from((None, 1, 4, 5)))
def test_forms_agree_with_the_loop(form: str, case: Case, stretch: int | None) -> None:
    agree(case, form, Options(stretch=stretch))


@relaxed
@given(
    case=cases(),
    chunk=st.sampled_from((1, 2, 3, 4, 7, 8, 64)),
    stretch=st.sampled_from((None, 8)),
    filled=st.booleans(),
)
def test_chunks_agree_with_the_loop(case: Case, chunk: int, stretch: int | None, filled: bool) -> None:
    agree(case, "chunked", Options(chunk=chunk, stretch=stretch, filled=filled))


@pytest.mark.parametrize("decay", ["none", "log", "factor", "scalar log", "scalar factor", "dense"])
@pytest.mark.parametrize("still", [False, True])
def test_what_fills_the_last_chunk_up_reaches_no_state(decay: str, still: bool) -> None:
    rank = 0 if decay == "dense" else 1
    case = Case(13, 0, decay, rank, 1, (False, True), True, False, False, False, False, still)
    agree(case, "chunked", Options(chunk=4, filled=True))


@pytest.mark.parametrize("form", ["fft", "monarch", "direct"])
@relaxed
@given(case=cases(still=True))
def test_convolutions_agree_with_the_loop(form: str, case: Case) -> None:
    agree(case, form, Options())


def test_a_process_that_changes_is_no_convolution() -> None:
    case = Case(5, 0, "log", 0, 1, (False,), False, False, False, False, False, False)
    with pytest.raises(FormError, match="depends on t"):
        lowered(case, "fft", Options())


def test_an_unknown_form_is_refused() -> None:
    case = Case(5, 0, "log", 0, 1, (False,), False, False, False, False, False, False)
    with pytest.raises(FormError, match=r"no form 'flash'; it has recurrent, chunked"):
        lowered(case, "flash", Options())
