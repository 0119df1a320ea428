"""Every matrix in every form equals its definition: values, on random sizes, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backends import reference
from lowering.context import Choice, SignalType
from lowering.lower import lower, lower_matrix
from lowering.program import Transform
from mixer_ir.definition import oracle
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Expr, Index, Rename, Signal, call
from mixer_ir.nodes.matrix import Apply, Matrix
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Transition

SIZES = {"b": 2, "h": 2, "k": 3, "n": 2, "v": 2, "l": 4, "i": 4, "j": 4, "c": 4, "d": 4}
LENGTHS = st.sampled_from((1, 2, 7, 63, 129))


def sig(name: str, axes: str) -> Signal:
    return Signal(name=name, axes=tuple(axes.split()))


Q, K, V = sig("q", "b t h k"), sig("k", "b t h k"), sig("v", "b t h v")
KS, VS = sig("ks", "b s h k"), sig("vs", "b s h v")
H, G, SHORT = sig("h", "h t"), sig("g", "h t"), sig("short", "h l")
D, LOG, FACTOR, RESET = sig("d", "b t h"), sig("log", "b t h"), sig("factor", "b t h k"), sig("reset", "b t")
BIAS, MASK, X, C = sig("bias", "h t s"), sig("mask", "t s"), sig("x", "t h"), sig("C", "h")
LEFT, RIGHT = sig("left", "i j c"), sig("right", "c i d")

QK = m.LowRank(q=Q, k=K, over=("k",))
CROSS = m.LowRank(q=Q, k=KS, over=("k",))
DISTANCE = call("sub", Index(axis=TIME), Rename(of=Index(axis=TIME), old=TIME, new=SOURCE))
RELATIVE = m.Dense(m=call("mul", C, call("tanh", DISTANCE)))
SEMI = m.Semiseparable(C=Q, A=Transition(log=LOG), B=K, over=("k",))

MATRICES: dict[str, Matrix] = {
    "diagonal": m.Diagonal(d=D),
    "identity": m.Identity(),
    "low rank": QK,
    "semiseparable": SEMI,
    "semiseparable, a factor a channel": m.Semiseparable(
        C=Q, A=Transition(factor=FACTOR, along="k"), B=K, over=("k",), strict=True
    ),
    "semiseparable, low rank": m.Semiseparable(
        C=Q, A=Transition(log=LOG, along="k", low_rank=((call("mul", Q, -0.3), K),)), B=K, over=("k",)
    ),
    "Toeplitz": m.Toeplitz(h=H),
    "Toeplitz, both sides": m.Toeplitz(h=H, anti=G),
    "Toeplitz, short": m.Toeplitz(h=SHORT, lags="l"),
    "Toeplitz, short, both sides": m.Toeplitz(h=SHORT, anti=SHORT, lags="l"),
    "circulant": m.Circulant(h=H),
    "Vandermonde": m.Vandermonde(x=call("tanh", X), weight=C, over=("h",)),
    "Cauchy": m.Cauchy(x=call("add", call("abs", D), 1.0), y=call("neg", call("abs", LOG))),
    "Fourier": m.Fourier(),
    "inverse Fourier": m.Fourier(inverse=True),
    "dense": m.Dense(m=BIAS),
    "relative": RELATIVE,
    "causal": m.Causal(of=QK),
    "band": m.Band(of=QK, before=3),
    "band, both sides": m.Band(of=QK, before=4, after=2),
    "mask": m.Mask(of=QK, mask=MASK),
    "decay": m.Decay(of=QK, log=LOG),
    "decay by a factor": m.Decay(of=QK, factor=D),
    "softmax": m.Softmax(of=QK),
    "softmax, causal": m.Softmax(of=m.Causal(of=QK)),
    "softmax, masked": m.Softmax(of=m.Mask(of=QK, mask=MASK)),
    "softmax, window": m.Softmax(of=m.Band(of=QK, before=5)),
    "softmax, bias": m.Softmax(of=m.Causal(of=m.Sum(terms=(QK, m.Dense(m=BIAS))))),
    "softmax, relative": m.Softmax(of=m.Causal(of=m.Sum(terms=(m.Scale(factor=C, of=QK), RELATIVE)))),
    "softmax, cap": m.Softmax(of=m.Entrywise(fn="tanh", args=(m.Causal(of=QK),))),
    "softmax, packed": m.Resets(of=m.Softmax(of=m.Causal(of=QK)), reset=RESET),
    "softmax, decay": m.Softmax(of=m.Decay(of=QK, log=LOG)),
    "softmax, sum of masks": m.Softmax(of=m.Sum(terms=(m.Causal(of=QK), m.Band(of=QK, before=4, after=2)))),
    "softmax, causal plus bias": m.Softmax(of=m.Sum(terms=(m.Causal(of=QK), m.Dense(m=BIAS)))),
    "causal part of a softmax": m.Causal(of=m.Softmax(of=QK)),
    "softmax, transposed": m.Softmax(of=m.Transpose(of=m.Causal(of=QK))),
    "softmax, flipped": m.Softmax(of=m.Flip(of=m.Decay(of=QK, log=LOG))),
    "softmax, shifted": m.Softmax(of=m.Shift(of=m.Causal(of=QK))),
    "normalize": m.Normalize(of=m.Causal(of=m.Entrywise(fn="exp", args=(QK,))), eps=1e-3),
    "normalize with a floor": m.Normalize(of=m.Causal(of=QK), floor=call("exp", D)),
    "transpose": m.Transpose(of=m.Decay(of=QK, log=LOG)),
    "flip": m.Flip(of=SEMI),
    "flipped filter": m.Flip(of=m.Toeplitz(h=H)),
    "shift": m.Shift(of=SEMI, by=2),
    "shift ahead": m.Shift(of=QK, by=-3),
    "packed": m.Resets(of=SEMI, reset=RESET),
    "packed, shifted, flipped": m.Resets(of=m.Sum(terms=(m.Shift(of=SEMI), m.Flip(of=m.Shift(of=SEMI)))), reset=RESET),
    "packed product": m.Resets(of=m.Product(factors=(SEMI, QK)), reset=RESET),
    "sum": m.Sum(terms=(SEMI, m.Diagonal(d=D), m.Flip(of=SEMI))),
    "product": m.Product(factors=(m.Diagonal(d=D), SEMI, m.Toeplitz(h=H))),
    "scale": m.Scale(factor=C, of=QK),
    "entrywise": m.Entrywise(fn="mul", args=(SEMI, QK)),
    "entrywise exp": m.Entrywise(fn="exp", args=(m.Causal(of=QK),)),
}
CROSSES: dict[str, Matrix] = {
    "low rank": CROSS,
    "softmax": m.Softmax(of=CROSS),
    "softmax, scaled": m.Softmax(of=m.Scale(factor=C, of=CROSS)),
    "scaled rows": m.Product(factors=(m.Diagonal(d=D), CROSS)),
    "bias": m.Softmax(of=m.Sum(terms=(CROSS, m.Dense(m=BIAS)))),
    "causal": m.Causal(of=CROSS),
}
FORMS: dict[str, tuple[str, ...]] = {
    "low rank": ("parallel",),
    "Toeplitz": ("fft", "monarch", "direct"),
    "Toeplitz, both sides": ("fft", "monarch", "direct"),
    "Toeplitz, short": ("fft", "monarch", "direct"),
    "Toeplitz, short, both sides": ("fft", "monarch", "direct"),
    "circulant": ("fft", "monarch"),
    "Fourier": ("fft", "monarch"),
    "inverse Fourier": ("fft", "monarch"),
    **{name: ("flash", "parallel") for name, M in MATRICES.items() if isinstance(M, m.Softmax)},
}


def draw(signal: Signal, sizes: dict[str, int], *, seed: int = 0) -> torch.Tensor:
    """Numbers for one signal, by its name."""
    shape = [sizes[a] for a in signal.axes]
    generator = torch.Generator().manual_seed(sum(map(ord, signal.name)) + seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if signal.name == "log":
        return -x.abs()
    if signal.name == "factor":
        return x / 2
    if signal.name in ("mask", "reset"):
        return x > 0.3
    return x


def signals_in(root: Expr | Matrix) -> list[Signal]:
    from mixer_ir.nodes.node import walk

    return [n for n in dict.fromkeys(walk(root)) if isinstance(n, Signal)]


def type_of(signal: Signal, x: torch.Tensor) -> SignalType:
    kind = (
        "bool" if x.dtype == torch.bool else "complex" if x.is_complex() else "real" if x.is_floating_point() else "int"
    )
    return SignalType(signal.axes, tuple(x.shape), kind)


def data_of(root: Expr | Matrix, T: int, S: int | None = None) -> dict[str, torch.Tensor]:
    sizes = {**SIZES, "t": T, "s": T if S is None else S}
    return {s.name: draw(s, sizes) for s in signals_in(root)}


def axes_of(root: Expr | Matrix) -> dict[str, Axes]:
    return {s.name: s.axes for s in signals_in(root)}


def computed(e: Apply, data: dict[str, torch.Tensor], form: str, chunk: int | None = None) -> np.ndarray:
    types = {s.name: type_of(s, data[s.name]) for s in signals_in(e)}
    lowered = lower(e, returns=e.axes, signals=types, forms={e: Choice(form, chunk)})
    return np.asarray(reference.prepare(lowered.program)({n: x.numpy() for n, x in data.items()})["y"])


def assert_close(got: np.ndarray, want: torch.Tensor) -> None:
    scale = max(1.0, want.abs().max().item())
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("T", (1, 2, 7, 17))
def test_entries_are_those_of_the_definition(name: str, T: int) -> None:
    M = MATRICES[name]
    data = {**data_of(M, T), "q": draw(Q, {**SIZES, "t": T})}
    types = {n: type_of(s, data[n]) for s in (*signals_in(M), Q) for n in (s.name,)}
    got = reference.prepare(lower_matrix(M, signals=types).program)({n: x.numpy() for n, x in data.items()})["M"]
    want, _ = oracle.entries(M, data, {**axes_of(M), "q": Q.axes})
    assert_close(np.asarray(got), want)


@pytest.mark.parametrize("name", MATRICES)
def test_dense_application(name: str) -> None:
    e = Apply(matrix=MATRICES[name], of=V)
    data = data_of(e, 9)
    assert_close(computed(e, data, "dense"), oracle.evaluate(e, data, axes_of(e)))


@pytest.mark.parametrize(("name", "form"), [(n, f) for n, forms in FORMS.items() for f in forms])
@given(T=LENGTHS)
def test_forms_equal_the_definition(name: str, form: str, T: int) -> None:
    e = Apply(matrix=MATRICES[name], of=V)
    data = data_of(e, T)
    assert_close(computed(e, data, form, 16), oracle.evaluate(e, data, axes_of(e)))


@pytest.mark.parametrize("name", CROSSES)
@pytest.mark.parametrize("S", (1, 5, 12))
def test_cross_mixing(name: str, S: int) -> None:
    e = Apply(matrix=CROSSES[name], of=VS)
    data = data_of(e, 7, S)
    want = oracle.evaluate(e, data, axes_of(e))
    assert_close(computed(e, data, "dense"), want)
    if isinstance(CROSSES[name], m.Softmax):
        assert_close(computed(e, data, "flash", 4), want)
    if name == "low rank":
        assert_close(computed(e, data, "parallel"), want)


@pytest.mark.parametrize("form", ("monarch", "dense"))
def test_a_monarch_matrix(form: str) -> None:
    M = m.Monarch(left=LEFT, right=RIGHT, grid=("i", "c"), rows=("d", "j"))
    e = Apply(matrix=M, of=V)
    data = data_of(e, 16)
    assert_close(computed(e, data, form), oracle.evaluate(e, data, axes_of(e)))


@pytest.mark.parametrize("T", (257, 512, 600))
def test_long_transforms(T: int) -> None:
    e = Apply(matrix=m.Fourier(), of=sig("v", "b t v"))
    data = data_of(e, T)
    assert_close(computed(e, data, "monarch"), torch.fft.fft(data["v"], dim=1))


@pytest.mark.parametrize("form", ("fft", "monarch", "direct", "dense"))
def test_complex_filters(form: str) -> None:
    h = call("complex", H, G)
    e = Apply(matrix=m.Toeplitz(h=h), of=V)
    data = data_of(e, 11)
    assert_close(computed(e, data, form), oracle.evaluate(e, data, axes_of(e)))


@pytest.mark.parametrize("part", ("real", "imag"))
@pytest.mark.parametrize("signal", ("real", "complex"))
def test_half_of_a_complex_convolution_takes_real_transforms(part: str, signal: str) -> None:
    """y = Re(h ∗ v) is Re h ∗ v where v is real, and h ∗ Re v where h is: through sums, products and views."""
    z, w = call("complex", H, G), call("complex", V, V)
    h, v = (z, V) if signal == "real" else (H, w)
    y = call("add", call("mul", C, Apply(matrix=m.Toeplitz(h=h), of=v)), V)
    e = call(part, y)
    data = data_of(e, 11)
    assert_close(computed(e, data, "fft"), oracle.evaluate(e, data, axes_of(e)))
    types = {s.name: type_of(s, data[s.name]) for s in signals_in(e)}
    forms = {a: Choice("fft") for a in walk(e) if isinstance(a, Apply)}
    made = lower(e, returns=e.axes, signals=types, forms=forms).program
    assert {x.op.which for x in made.order if isinstance(x.op, Transform)} == {"rfft", "irfft"}
    assert sum(isinstance(x.op, Transform) for x in made.order) == 3


@pytest.mark.parametrize(
    "name", [n for n, M in MATRICES.items() if isinstance(M, m.Toeplitz | m.Circulant | m.Fourier)]
)
@pytest.mark.parametrize("S", (1, 4, 7, 12, 20))
def test_convolutions_of_a_source_of_another_length(name: str, S: int) -> None:
    e = Apply(matrix=MATRICES[name], of=VS)
    data = {**data_of(e, 7, S), "q": draw(Q, {**SIZES, "t": 7})}
    types = {n: type_of(s, data[n]) for s in (*signals_in(e), Q) for n in (s.name,)}
    want = oracle.evaluate(e, data, {**axes_of(e), "q": Q.axes})
    for form in ("dense", *FORMS[name]):
        made = lower(e, returns=e.axes, signals=types, forms={e: Choice(form)})
        assert_close(np.asarray(reference.prepare(made.program)({n: x.numpy() for n, x in data.items()})["y"]), want)
