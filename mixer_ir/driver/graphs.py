"""Calls of compiled mixers as torch.compile sees them; imported by it when it meets the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch._dynamo

from mixer_ir.driver.traceable import LIVE


@torch._dynamo.nonstrict_trace
def call(handle: str, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A method of what goes by this word, run on tensors that have shapes and no values."""
    return getattr(LIVE[handle], method)(*args, **kwargs)
