"""HiPPO-LegS: the state matrix that remembers the past as Legendre coefficients, and its normal form."""

from __future__ import annotations

import torch
from torch import Tensor

from catalog.parts import share


def legs(size: int) -> tuple[Tensor, Tensor]:
    """A[n, k] = −√(2n+1) √(2k+1) for n > k, −(n+1) for n = k, else 0;  B[n] = √(2n+1).  float64"""
    n = torch.arange(size, dtype=torch.float64)
    root = torch.sqrt(2 * n + 1)
    return -torch.tril(root[:, None] * root, -1) - torch.diag(n + 1), root


def legs_normal_form(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Λ, P, B (size / 2, complex) with A = V (diag(Λ) − P P*) V*, for the eigenvalues with Im Λ < 0.

    A + p pᵀ with p_n = √(n + ½) is −½ I plus a skew-symmetric matrix, hence normal.
    """
    values, _, P, B = _normal(size)
    half = share(size, 2, "d_state by conjugate pairs")
    return tuple(part[:half].to(torch.complex64) for part in (values, P, B))  # type: ignore[return-value]


def legs_blocks(size: int, blocks: int) -> tuple[Tensor, Tensor]:
    """Λ (size / 2) of `blocks` copies of the normal part, and V* (size / 2, size), block-diagonal, complex."""
    block = share(size, blocks, "d_state among blocks")
    half = share(block, 2, "a block of d_state by conjugate pairs")
    values, V, _, _ = _normal(block)
    inverse = torch.block_diag(*[V.conj().T[:half]] * blocks)
    return values[:half].repeat(blocks).to(torch.complex64), inverse.to(torch.complex64)


def _normal(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvalues by growing imaginary part, eigenvectors V, and P, B in their basis."""
    A, B = legs(size)
    p = torch.sqrt(torch.arange(size, dtype=torch.float64) + 0.5)
    skew = A + p[:, None] * p + 0.5 * torch.eye(size, dtype=torch.float64)
    frequencies, V = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    values = torch.complex(torch.full_like(frequencies, -0.5), frequencies)
    return values, V, V.conj().T @ p.to(V.dtype), V.conj().T @ B.to(V.dtype)
