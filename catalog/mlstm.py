"""mLSTM: the matrix memory of xLSTM with exponential input gates, held in range by a running maximum."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from catalog.entry import Entry
from catalog.linear import Linear
from catalog.parts import heads, share
from catalog.streaming import MixerLayer, Run

PAPER, YEAR = "arXiv 2405.04517", 2024


@mx.mixer(paper=PAPER, year=YEAR)
def mlstm(q: "b t h k", k: "b t h k", v: "b t h v", i: "b t h", f: "b t h") -> "b t h v":
    """C_t = σ(f_t) C_{t−1} + e^{i_t} k_t v_tᵀ,  n_t = σ(f_t) n_{t−1} + e^{i_t} k_t,  y_t = C_tᵀ q_t / max(|n_t·q_t|, 1)

    Written with weights divided by e^{m_t}, m_t = max(m_{t−1} + log σ(f_t), i_t) = F_t + max_{s ≤ t} (i_s − F_s), where
    F_t = Σ_{s ≤ t} log σ(f_s); so no exponent is positive but by rounding; the normaliser is max(|n_t·q_t|, e^{−m_t}).
    Any m would do, as it cancels: so the digits that m loses where F is large are not missed, and m has no gradient.
    f must be finite, as F never comes back from −∞ (the layer's lies within ± gate_cap).
    """
    forget = -mx.softplus(-f)
    F_t = mx.cumsum(forget)
    m_t = mx.detach(F_t + mx.cummax(i - F_t))
    decay = mx.exp(mx.minimum(forget + mx.delay(m_t) - m_t, 0.1))  # the first step's decay acts on nothing
    weights = mx.semiseparable(q, decay, mx.exp(i - m_t) * k)
    floor = mx.exp(mx.minimum(-m_t, 60))  # past e^60 the quotient is 0 in every precision
    return mx.normalize(weights, floor=floor) @ v


class MLSTM(MixerLayer):
    """xLSTM-7B's mLSTM layer: projections, soft-capped gates, norm of each head, sigmoid output gate."""

    def __init__(
        self,
        d_model: int,
        *,
        n_head: int = 8,
        qk_factor: float = 0.5,
        v_factor: float = 1,
        gate_cap: float = 15,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(d_model)
        self.n_head, self.gate_cap, self.norm_eps = n_head, gate_cap, norm_eps
        keys, values = int(d_model * qk_factor), int(d_model * v_factor)
        self.q = Linear(d_model, keys, bias=False)
        self.k = Linear(d_model, keys, bias=False)
        self.v = Linear(d_model, values, bias=False)
        self.ogate_preact = Linear(d_model, values, bias=False)
        self.igate_preact = Linear(d_model, n_head)
        self.fgate_preact = Linear(d_model, n_head)
        self.multihead_norm = nn.LayerNorm(values, eps=norm_eps, bias=False)
        self.out_proj = Linear(values, d_model, bias=False)
        self.scale = share(keys, n_head, "d_model · qk_factor among n_head") ** -0.5
        share(values, n_head, "d_model · v_factor among n_head")
        nn.init.zeros_(self.igate_preact.weight)
        nn.init.zeros_(self.fgate_preact.weight)
        nn.init.normal_(self.igate_preact.bias, std=0.1)
        self.fgate_preact.bias = nn.Parameter(torch.linspace(3, 6, n_head))

    def mix(self, x: Tensor, run: Run, **also: Tensor) -> Tensor:
        q, k, v = (heads(project(x), self.n_head) for project in (self.q, self.k, self.v))
        i, f = (self._capped(gate(x)) for gate in (self.igate_preact, self.fgate_preact))
        y = run(mlstm, q=q * self.scale, k=k, v=v, i=i, f=f)
        y = F.layer_norm(y, y.shape[-1:], eps=self.norm_eps).flatten(2) * self.multihead_norm.weight
        return self.out_proj(self.ogate_preact(x).sigmoid() * y)

    def _capped(self, gate: Tensor) -> Tensor:
        return self.gate_cap * torch.tanh(gate / self.gate_cap)


ENTRY = Entry(
    name="mlstm",
    title="mLSTM (xLSTM's matrix memory)",
    paper=PAPER,
    year=YEAR,
    mixers={mlstm.name: mlstm},
    layer=MLSTM,
    facts={
        "layer": "that of xLSTM-7B, arXiv 2503.13427; its authors add 1e-6 to the normaliser",
        "model": "xLSTM-7B has 6,865,424,896 parameters; not in this catalog",
    },
    small={"d_model": 32, "n_head": 2},
)
