"""Published sequence mixers, each a declaration of a few lines with its citation, its layer and its facts."""

from __future__ import annotations

import builtins
import difflib

import mixer_ir as mx
from catalog import (
    deltanet,
    gated_deltanet,
    gla,
    hydra,
    hyena,
    kda,
    linear_attention,
    lru,
    mamba,
    mamba2,
    mega_ema,
    mlstm,
    retnet,
    rg_lru,
    rwkv7,
    s4,
    s4d,
    s5,
    softmax_attention,
    transformer_vq,
)
from catalog.demo import demo
from catalog.entry import Entry

__all__ = ["ENTRIES", "Entry", "demo", "get", "list"]

ENTRIES: dict[str, Entry] = {
    module.ENTRY.name: module.ENTRY
    for module in (
        softmax_attention,
        linear_attention,
        retnet,
        gla,
        mamba,
        mamba2,
        deltanet,
        gated_deltanet,
        kda,
        rwkv7,
        mlstm,
        s4,
        s4d,
        lru,
        s5,
        hyena,
        hydra,
        transformer_vq,
        mega_ema,
        rg_lru,
    )
}


def list() -> builtins.list[str]:
    """The names of all entries."""
    return builtins.list(ENTRIES)


def get(name: str) -> Entry:
    """The entry of that name; an OptionError names the nearest one where there is none."""
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(str(name).lower(), ENTRIES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(ENTRIES)}"
    raise mx.OptionError(f"the catalog has no mixer {name!r}; {hint}")
