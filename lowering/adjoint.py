"""The adjoint of a program: from the cotangents of its results to those of its inputs, as another program.

One rule an operation, which reads its arguments, its result and the result's cotangent. Cotangents of complex values
follow PyTorch: for a real loss L of z = x + iy, z̄ = ∂L/∂x + i ∂L/∂y. So a holomorphic f gives x̄ = ȳ conj(f′(x)), a
linear one ȳ with the conjugate transpose, and a real value that met a complex one keeps the real part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from lowering import program as p
from lowering.adjoint_loops import scan_adjoint
from lowering.adjoint_maps import MAPS
from lowering.adjoint_sums import LINEAR
from lowering.build import Builder, program
from lowering.program import Program, Value
from lowering.prune import prune
from mixer_ir.errors import GradientError, one_of
