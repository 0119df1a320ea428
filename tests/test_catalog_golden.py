"""Numbers known from the authors' code: HiPPO's spectrum, impulse responses of S4 and S4D, initial decays."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import catalog
import mixer_ir as mx
from catalog.hippo import legs, legs_blocks, legs_normal_form


def impulse(length: int) -> Tensor:
    u = torch.zeros(1, length, 1, dtype=torch.float64)
    u[0, 0] = 1
    return u


def near(ours: Tensor, theirs: list[float], tolerance: float = 1e-9) -> bool:
    return bool((ours.double() - torch.tensor(theirs, dtype=torch.float64)).abs().max() <= tolerance)


def test_legs_matrix() -> None:
    A, B = legs(4)
    assert near(A[3], [-2.64575131, -4.58257569, -5.91607978, -4], 1e-8)
    assert near(B, [1, 1.73205081, 2.23606798, 2.64575131], 1e-8)


def test_legs_spectrum() -> None:
    A, _, _ = legs_normal_form(8)
    assert near(A.real, [-0.5] * 4, 1e-6)
    assert near(A.imag, [-19.8574104, -5.3542085, -1.9577942, -0.4274887], 2e-6)
    blocks, inverse = legs_blocks(16, 2)
    assert torch.equal(blocks, A.repeat(2))
    assert inverse.shape == (8, 16)


def test_s4_impulse_response_is_that_of_the_dense_bilinear_system() -> None:
    """LegS with 8 states, read out by ones, Δ = 0.1."""
    A, B = legs(8)
    p = torch.sqrt(torch.arange(8, dtype=torch.float64) + 0.5)
    eye = torch.eye(8, dtype=torch.float64)
    values, V = torch.linalg.eigh(-1j * (A + p[:, None] * p + 0.5 * eye).to(torch.complex128))
    inverse, complex_ = V.conj().T, torch.complex128
    y = mx.compile(catalog.get("s4").mixer)(
        u=impulse(6),
        dt=torch.tensor([0.1], dtype=torch.float64),
        A=torch.complex(torch.full_like(values, -0.5), values),
        P=inverse @ p.to(complex_),
        B=inverse @ B.to(complex_),
        C=(torch.ones(1, 8, dtype=complex_) @ V),
        D=torch.zeros(1, dtype=torch.float64),
    )
    assert near(
        y[0, :, 0], [0.8000432849, -0.2717787392, 0.1025482959, 0.160888961, 0.0576487867, -0.0180202284], 2e-10
    )


def test_s4d_impulse_response() -> None:
    """S4D-Lin with two stored modes, B = C = 1, Δ = 0.1."""
    ones = torch.ones(1, 2, dtype=torch.complex128)
    y = mx.compile(catalog.get("s4d").mixer)(
        u=impulse(5),
        dt=torch.tensor([0.1], dtype=torch.float64),
        A=torch.tensor([[-0.5, -0.5 + 1j * math.pi]], dtype=torch.complex128),
        B=ones,
        C=ones,
        D=torch.zeros(1, dtype=torch.float64),
    )
    assert near(y[0, :, 0], [0.3870112086, 0.3503411878, 0.3009849527, 0.2440201623, 0.1848089238], 1e-10)


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.999), (0.0, 0.99)])
def test_lru_eigenvalues_lie_in_the_ring(low: float, high: float) -> None:
    layer = catalog.get("lru").layer(4, d_state=4000, r_min=low, r_max=high)
    radius = torch.exp(-torch.exp(layer.nu_log))
    assert low - 1e-6 <= radius.min()
    assert radius.max() <= high + 1e-6
    gain = (1 / (1 - radius.double() ** 2)).mean()
    expected = math.log((1 - low**2) / (1 - high**2)) / (high**2 - low**2)  # the paper's E|x|² without γ
    assert abs(gain - expected) <= 0.1 * expected
    assert torch.allclose(torch.exp(layer.gamma_log) ** 2, 1 - radius**2, atol=1e-5)


def test_step_sizes_and_decays_start_in_their_ranges() -> None:
    softplus = torch.nn.functional.softplus
    mamba = catalog.get("mamba").layer(64)
    assert 9e-4 <= softplus(mamba.dt_proj.bias).min()
    assert softplus(mamba.dt_proj.bias).max() <= 0.101
    assert near(torch.exp(mamba.A_log[5]), list(range(1, 17)), 1e-5)
    griffin = catalog.get("rg_lru").layer(512, blocks=4).rg_lru
    a = torch.exp(-softplus(griffin.recurrent_param))
    assert 0.9 - 1e-5 <= a.min()
    assert a.max() <= 0.999 + 1e-5
    assert near(catalog.get("retnet").layer(64, n_head=4).gamma, [1 - 2.0 ** (-5 - h) for h in range(4)])
    decay = torch.exp(-torch.exp(-softplus(-catalog.get("rwkv7").layer(128).w0) - 0.5))
    assert 0.545 < decay.min()
    assert decay.max() < 1
