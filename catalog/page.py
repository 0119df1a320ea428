"""The catalog as a page: `python -m catalog.page > docs/catalog.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import catalog
from catalog.entry import Entry
from mixer_ir import Mixer

HEAD = """# The catalog

Published sequence mixers, each a declaration of a few lines. `catalog.get(name)` gives the entry: its `mixer` (or
`mixers`), a `layer` on [batch, time, d_model] with `prefill` and `step`, a `model` where there is one, and its `facts`.
Nothing below the declaration is written for a mixer: forms, gradients and decoding steps are derived.

This page is written by `python -m catalog.page > docs/catalog.md`.
"""


def page() -> str:
    """The whole page as Markdown."""
    rows = [
        f"| [`{e.name}`](#{_anchor(e)}) | {e.title} | {e.year} | {_link(e.paper)} | {'yes' if e.model else ''} |"
        for e in catalog.ENTRIES.values()
    ]
    table = "\n".join(["| name | mixer | year | paper | model |", "|---|---|---|---|---|", *rows])
    entries = "\n".join("\n".join(_entry(e)) for e in catalog.ENTRIES.values())
    return f"{HEAD}\n{table}\n\n{entries}"


def _entry(entry: Entry) -> Iterator[str]:
    yield f"## {entry.name}\n"
    yield f"{entry.title}, {entry.year}, {_link(entry.paper)}.\n"
    for mixer in entry.mixers.values():
        yield from _mixer(mixer)
    if entry.facts:
        yield "\n".join(f"- {key}: {value}" for key, value in entry.facts.items()) + "\n"
    if entry.counts:
        yield "\n".join(["| parameters of | configuration | |", "|---|---|---:|", *_counts(entry)]) + "\n"


def _mixer(mixer: Mixer) -> Iterator[str]:
    equation, *more = (line.strip() for line in mixer.doc.strip().splitlines())
    signals = ", ".join(f"{name} ({' '.join(axes)})" for name, axes in mixer.signals.items())
    yield f"**{mixer.name}** — {signals}\n"
    yield f"    {equation}\n"
    if text := " ".join(line for line in more if line):
        yield f"{text}\n"
    yield f"Forms: {', '.join(mixer.forms())}.\n"


def _counts(entry: Entry) -> Iterator[str]:
    for count in entry.counts:
        config = ", ".join(f"{key} {value}" for key, value in count.config.items())
        yield f"| {count.of} | {config} | {count.parameters:,} |"


def _link(paper: str) -> str:
    return f"[{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv ')})"


def _anchor(entry: Entry) -> str:
    return entry.name


if __name__ == "__main__":
    sys.stdout.write(page())
