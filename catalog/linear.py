"""Linear maps, y_t = W x_t + b: the mixer whose matrix is the identity along time, run as all others are."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixer_ir as mx
from mixer_ir.driver.repeating import watched

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SMALL, SMALL_TRAINED = 1 << 18, 1 << 24
"""multiplications below which a call takes longer than PyTorch needs for all of them; and with gradients"""


@mx.mixer
def projection(x: "b t d", W: "e d") -> "b t e":
    """y_t = W x_t"""
    return W @ x


@functools.cache
def compiled(backend: str, rows: int, columns: int) -> mx.CompiledMixer:
    """The mixer for the matrices of one size, with room for programs of many lengths."""
    return mx.compile(projection, backend=backend)


class Linear(nn.Linear):
    """nn.Linear with its parameters and their first values, on `backend` ("auto", or as for mx.compile).

    "auto" starts with PyTorch's operators and goes over to compiled C where that is measured to be faster, as it is for
    few rows, which come to reading W once; "native" is compiled C. Where that has no place the map is F.linear itself:
    on other backends and devices, for small maps, for tensors of other types (fake ones, subclasses), dtypes that
    differ, weights that do not lie row by row, under autocast, torch.compile, torch.func, forward-mode derivatives and
    torch.use_deterministic_algorithms.
    """

    backend: str = "auto"

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out_features] of x [..., in_features]."""
        if not self._compiles(x):
            if x.dtype is not self.weight.dtype and not torch.is_autocast_enabled(x.device.type):
                raise mx.SignalError(
                    f"a linear map of {self.weight.dtype} weights is given {x.dtype}: cast one of them, as in "
                    f"x.to({self.weight.dtype}), or run under torch.autocast"
                )
            return F.linear(x, self.weight, self.bias)
        f = compiled(self.backend, self.out_features, self.in_features)
        y: Tensor = f(x=x.reshape(1, -1, self.in_features), W=self.weight)
        y, bias = y.view(*x.shape[:-1], self.out_features), getattr(self, "bias", None)
        return y if bias is None else y + bias

    def _compiles(self, x: Tensor) -> bool:
        W = self.weight
        if self.backend not in ("auto", "native") or torch.compiler.is_dynamo_compiling() or watched((x, W)):
            return False
        if not (x.is_cpu and W.is_cpu and x.dtype is W.dtype and x.dtype in FLOATS and W.is_contiguous()):
            return False
        if x.numel() == 0 or x.dim() == 0 or x.shape[-1] != W.shape[1] or torch.is_autocast_enabled("cpu"):
            return False
        trained = torch.is_grad_enabled() and (x.requires_grad or W.requires_grad)
        return x.numel() * W.shape[0] >= (SMALL_TRAINED if trained else SMALL)
