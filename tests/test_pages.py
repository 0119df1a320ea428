"""Large arrays ask for large pages, and are the same arrays where nobody listens."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import pytest
import torch

from backends import pages

Call = tuple[int, int, int]


def test_a_large_array_asks_for_all_pages_within_it_and_a_small_one_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Call] = []
    monkeypatch.setattr(pages, "_madvise", lambda: lambda *call: asked.append(call))
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 14, raising=False)
    pages.empty((pages.LARGE // 4 - 1,), torch.float32)
    assert not asked
    x = pages.empty((2, pages.LARGE // 8), torch.float32)
    ((start, size, advice),) = asked
    assert start % mmap.PAGESIZE == size % mmap.PAGESIZE == 0 and advice == 14
    assert 0 <= start - x.data_ptr() < mmap.PAGESIZE
    assert 0 <= x.data_ptr() + x.nbytes - (start + size) < mmap.PAGESIZE


@pytest.mark.parametrize("answer", [None, lambda *call: -1], ids=["no call", "refused"])
def test_advice_that_is_not_taken_changes_nothing(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    monkeypatch.setattr(pages, "_madvise", lambda: answer)
    x = pages.empty((pages.LARGE,), torch.float64)
    assert x.shape == (pages.LARGE,) and x.dtype == torch.float64 and float(x.fill_(2.0).sum()) == 2.0 * pages.LARGE
    assert pages.empty((pages.LARGE,), torch.float32, torch.device("meta")).device.type == "meta"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such call")
def test_the_system_has_heard_it() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        pytest.skip("this kernel has no large pages")
    x = pages.empty((1 << 26,), torch.uint8)
    middle, found = x.data_ptr() + x.nbytes // 2, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if place := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(place[1], 16) <= middle < int(place[2], 16)
        elif inside and line.startswith("VmFlags:"):
            found = line
    assert " hg" in found
