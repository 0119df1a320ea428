"""Work for processes that are cut off: it imports little, so that they start at once."""

from __future__ import annotations

import os
import time

from benchmarks.boxed import Alone, Result


def chores(task: str, alone: Alone) -> Result:
    """Work for the boxes."""
    if task == "dies":
        os._exit(3)
    if task == "sleeps alone":
        with alone():
            time.sleep(60)
    if task == "sleeps":
        time.sleep(60)
    with alone():
        return {"did": task}
