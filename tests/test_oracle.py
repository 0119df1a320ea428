"""The oracle against formulas written out by hand: what everything else is compared with must itself be right."""

from __future__ import annotations

import pytest
import torch

from mixer_ir.definition.oracle import entries, evaluate
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import Cumulate, Delay, Index, Signal, Take, call, contract
from mixer_ir.nodes.matrix import Apply
from mixer_ir.nodes.process import Process, Read, Recurrence, Run, State, Transition

B, T, H, K, V = 2, 6, 2, 3, 4
AXES = {"q": "bthk", "k": "bthk", "v": "bthv", "g": "bth", "a": "bthk", "h": "t", "r": "bt", "d": "bt"}
AXES = {name: tuple(axes) for name, axes in AXES.items()}
SIZES = {"b": B, "t": T, "h": H, "k": K, "v": V}
q, k, v, g, a, h, r, d = (Signal(name=n, axes=AXES[n]) for n in AXES)
I = torch.arange(T)
LAG = I[:, None] - I
QK = m.LowRank(q=q, k=k, over=("k",))
DECAYED = m.Semiseparable(C=q, A=Transition(log=g), B=k, over=("k",))


@pytest.fixture
def x():
    given = {n: torch.randn([SIZES[c] for c in axes], dtype=torch.float64) for n, axes in AXES.items()}
    given["g"] = -given["g"].abs()
    given["r"] = torch.tensor([[0, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0]], dtype=torch.bool)
    return given


def close(got, want):
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def M(matrix, x):
    return entries(matrix, x, AXES)[0]


def scores(x):
    return torch.einsum("bthk,bshk->bhts", x["q"], x["k"])


def decays(x):
    G = x["g"].cumsum(1).permute(0, 2, 1)
    return torch.where(LAG >= 0, (G[..., :, None] - G[..., None, :]).clamp(max=0).exp(), 0.0)


def by_hand(x, start=0.0, reset=None):
    S, ys = torch.zeros(B, H, K, V, dtype=torch.float64) + start, []
    for t in range(T):
        S = S if reset is None else torch.where(reset[:, t, None, None, None], 0.0, S)
        S = x["g"][:, t].exp()[..., None, None] * S + x["k"][:, t, :, :, None] * x["v"][:, t, :, None, :]
        ys.append(torch.einsum("bhk,bhkv->bhv", x["q"][:, t], S))
    return torch.stack(ys, 1)


def traced(reset=None):
    S = State(name="S", axes=("k", "v"))
    new = call("add", call("mul", call("exp", g), S), call("mul", k, v))
    rec = Recurrence(name="S", states=(S,), batch=("b", "h"), updates=(new,), output=contract(q, new, "k"), reset=reset)
    return Run(recurrence=rec, axes=tuple("bthv"))


def process(transition=None, reset=None, before=False):
    p = Process(
        name="S",
        axes=("k", "v"),
        over=("k",),
        transition=transition or Transition(log=g),
        inputs=((k, v),),
        reset=reset,
    )
    return Read(process=p, query=q, before=before)


@pytest.mark.parametrize(
    "how", [Apply(matrix=DECAYED, of=v), Apply(matrix=m.Decay(of=QK, log=g), of=v), process(), traced()]
)
def test_one_decayed_memory_in_four_spellings(x, how):
    close(evaluate(how, x, AXES, tuple("bthv")), by_hand(x))
    permuted = evaluate(how, x, AXES, tuple("hvtb"))
    close(permuted, by_hand(x).permute(2, 3, 1, 0))


@pytest.mark.parametrize("how", [process(), traced()])
def test_an_initial_state_is_decayed_and_read(x, how):
    start = torch.randn(B, H, K, V, dtype=torch.float64)
    given = {"S": (start.permute(2, 0, 1, 3), tuple("kbhv"))}
    close(evaluate(how, x, AXES, tuple("bthv"), initial=given), by_hand(x, start))


@pytest.mark.parametrize("how", [process(reset=r), traced(reset=r), Apply(matrix=m.Resets(of=DECAYED, reset=r), of=v)])
def test_a_reset_forgets_what_was_before(x, how):
    close(evaluate(how, x, AXES, tuple("bthv")), by_hand(x, reset=x["r"]))


def test_a_state_read_before_the_step_is_the_strict_matrix(x):
    late = Apply(matrix=m.Semiseparable(C=q, A=Transition(log=g), B=k, over=("k",), strict=True), of=v)
    close(evaluate(process(before=True), x, AXES, tuple("bthv")), evaluate(late, x, AXES, tuple("bthv")))
    assert evaluate(process(before=True), x, AXES, tuple("bthv"))[:, 0].abs().max() == 0


def test_low_rank_and_dense_transitions_are_one(x):
    eye = call("eq", Index(axis="n"), Index(axis="k"))
    from_parts = Transition(along="k", factor=call("exp", a), low_rank=((k, q),))
    named = call("mul", Signal(name="kn", axes=tuple("bthn")), q)
    diagonal = call("mul", call("exp", Signal(name="an", axes=tuple("bthn"))), eye)
    whole = Transition(along="k", row="n", dense=call("add", diagonal, named))
    axes = {**AXES, "kn": tuple("bthn"), "an": tuple("bthn")}
    given = {**x, "kn": x["k"], "an": x["a"]}
    one = evaluate(process(from_parts), given, axes, tuple("bthv"))
    close(evaluate(process(whole), given, axes, tuple("bthv")), one)


def test_toeplitz_and_its_modifiers(x):
    lower = torch.where(LAG >= 0, x["h"][LAG.clamp(min=0)], 0.0)
    upper = torch.where(LAG < 0, x["h"][(-LAG).clamp(min=0)], 0.0)
    close(M(m.Toeplitz(h=h), x), lower)
    close(M(m.Toeplitz(h=h, anti=h), x), lower + upper)
    close(M(m.Circulant(h=h), x), x["h"][LAG % T])
    close(M(m.Shift(of=m.Toeplitz(h=h)), x), torch.cat([torch.zeros(1, T), lower[:-1]]))
    close(M(m.Flip(of=m.Toeplitz(h=h)), x), lower.T.contiguous())
    short = Signal(name="w", axes=("l",))
    given, axes = {**x, "w": x["h"][:2]}, {**AXES, "w": ("l",)}
    close(entries(m.Toeplitz(h=short, lags="l"), given, {**axes})[0], lower * (LAG < 2))


def test_flip_runs_backward_with_every_signal_in_place(x):
    back = {n: s.flip(1) if "t" in AXES[n] and s.dim() > 1 else s for n, s in x.items()}
    close(M(m.Flip(of=DECAYED), x), M(DECAYED, back).flip(-1, -2))
    close(M(m.Flip(of=m.Flip(of=DECAYED)), x), M(DECAYED, x))
    close(M(m.Flip(of=m.Causal(of=QK)), x), scores(x).triu())


def test_softmax_counts_what_masks_leave(x):
    s, inf = scores(x), float("-inf")
    close(M(m.Softmax(of=QK), x), s.softmax(-1))
    close(M(m.Softmax(of=m.Band(of=QK, before=3)), x), s.masked_fill((LAG < 0) | (LAG >= 3), inf).softmax(-1))
    biased = m.Sum(terms=(m.Causal(of=QK), m.Causal(of=m.Dense(m=call("sub", Index(axis="s"), Index(axis="t"))))))
    close(M(m.Softmax(of=biased), x), (s - LAG).masked_fill(LAG < 0, inf).softmax(-1))
    piece = x["r"].cumsum(1)
    apart = (piece[:, None, :, None] != piece[:, None, None, :]) | (LAG < 0)
    packed = m.Resets(of=m.Softmax(of=m.Causal(of=QK)), reset=r)
    close(M(packed, x), s.masked_fill(apart, inf).softmax(-1))
    none = m.Softmax(of=m.Mask(of=QK, mask=call("lt", Index(axis="s"), 0)))
    assert M(none, x).abs().max() == 0


def test_normalised_products_and_sums(x):
    s = scores(x).tril()
    close(M(m.Normalize(of=m.Causal(of=QK), eps=0.5), x), s / (s.sum(-1, keepdim=True) + 0.5))
    left, right = m.Diagonal(d=d), m.Causal(of=QK)
    close(M(m.Product(factors=(left, right)), x), x["d"][:, None, :, None] * s)
    close(M(m.Product(factors=(right, left)), x), s * x["d"][:, None, None, :])
    close(M(right + m.Identity(), x), s + torch.eye(T))
    close(M(right.T, x), s.mT)
    turn = m.Product(factors=(m.Fourier(inverse=True), m.Fourier()))
    close(M(turn, x), torch.eye(T, dtype=torch.complex128))


def test_cross_mixing_is_rectangular(x):
    keys = Signal(name="kk", axes=tuple("bshk"))
    given, axes = {**x, "kk": torch.randn(B, 4, H, K, dtype=torch.float64)}, {**AXES, "kk": tuple("bshk")}
    got, order = entries(m.Softmax(of=m.LowRank(q=q, k=keys, over=("k",))), given, axes)
    assert order == ("b", "h", "t", "s")
    close(got, torch.einsum("bthk,bshk->bhts", x["q"], given["kk"]).softmax(-1))


def test_along_time(x):
    close(evaluate(Cumulate(fn="sum", of=g), x, AXES), x["g"].cumsum(1))
    by_piece = evaluate(Cumulate(fn="sum", of=g, reset=r), x, AXES)
    close(by_piece[0, 2:4], x["g"][0, 2:4].cumsum(0))
    late = evaluate(Delay(of=g, by=2), x, AXES)
    close(late[:, 2:], x["g"][:, :-2])
    assert late[:, :2].abs().max() == 0
    assert evaluate(Delay(of=g, by=1, reset=r), x, AXES)[0, 2].abs().max() == 0
    z = Signal(name="z", axes=("b", "t"))
    given, axes = {**x, "z": torch.randint(T, (B, T))}, {**AXES, "z": ("b", "t")}
    close(evaluate(Take(table=h, axis="t", index=z), given, axes), x["h"][given["z"]])


def test_it_is_differentiable(x):
    small = {n: s.requires_grad_() if s.is_floating_point() else s for n, s in x.items()}
    w = torch.randn(B, T, H, V, dtype=torch.float64)
    names = ("q", "k", "v", "g")
    want = torch.autograd.grad((by_hand(small) * w).sum(), [small[n] for n in names])
    for how in (process(), traced(), Apply(matrix=DECAYED, of=v)):
        got = torch.autograd.grad((evaluate(how, small, AXES, tuple("bthv")) * w).sum(), [small[n] for n in names])
        for one, two in zip(got, want, strict=True):
            close(one, two)
