"""Memory that is freed stays with the process, so that the next array need not wait for the system to clear pages.

A C library hands large blocks back to the system at once, and gets every array anew: a page fault for each 4 KiB,
which takes longer than computing what is written there. glibc learns from the largest block that was ever freed
(mallopt(3), M_MMAP_THRESHOLD): after one of almost 32 MiB, which nobody has written to, it keeps smaller ones, and up
to twice as much at the end of its heap. Where the thresholds are set by hand, or in another library, nothing changes.
"""

from __future__ import annotations

from functools import cache

import torch

LARGEST = (1 << 25) - (1 << 16)
"""bytes: a little below the most that glibc learns from"""


@cache
def keep() -> None:
    """Once a process: asks for one large block and frees it."""
    torch.empty(LARGEST, dtype=torch.uint8)
