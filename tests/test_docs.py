"""The documentation runs: every Python block of the README and the quickstart, in order, a page a namespace."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

import pytest

from examples import compose_matrices

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/quickstart.md")


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page: str) -> None:
    code = blocks((ROOT / page).read_text(encoding="utf-8"))
    assert code, f"{page} shows no code"
    namespace: dict[str, object] = {"__name__": "page"}
    for i, block in enumerate(code):
        name = f"<{page} block {i}>"  # declarations are traced, and errors quoted, from the source in linecache
        linecache.cache[name] = (len(block), None, block.splitlines(keepends=True), name)
        exec(compile(block, name, "exec"), namespace)


def test_the_example_of_matrices_runs(capsys: pytest.CaptureFixture[str]) -> None:
    compose_matrices.main()
    errors = re.findall(r"y = M v up to (\S+)", capsys.readouterr().out)
    assert len(errors) == 3 and max(map(float, errors)) < 1e-5


def test_a_false_claim_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        exec(blocks("```python\nassert 1 + 1 == 3\n```\n")[0], {})


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(ROOT)) for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
