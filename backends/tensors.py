"""PyTorch spellings of the operations, one function each: how an operation is called is settled before the call."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from backends.loops import affine_scan, scan
from backends.plan import Call, Run
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value
from mixer_ir.functions import WIDTH, Kind
