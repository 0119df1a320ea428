"""The floors of the house: who may import whom, how long a file may grow, and where models have no name.

A law takes one source file and returns what breaks it, as sentences. The tables at the top are the only ones: a new
face module, a late import or an arrow is added there, with its reason, or nowhere.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mixer_ir", "lowering", "backends", "catalog")
OUTSIDE = ("tests", "examples", "benchmarks", "docs")  # never imported by the packages

# ---------------------------------------------------------------------------------------------------- the tables

ARROWS = {  # floor -> the floors that it may import; those of mixer_ir are its folders, `door` is mixer_ir/__init__.py
    "catalog": {"catalog", "door", "driver", "errors"},
    "commands": {"commands", "door", "trust", "driver", "language", "errors"},
    "trust": {"trust", "driver", "backends", "lowering", "definition", "language", "rules", "nodes", "errors"},
    "driver": {"driver", "backends", "lowering", "definition", "language", "rules", "nodes", "errors"},
    "backends": {"backends", "lowering", "errors"},
    "lowering": {"lowering", "rules", "nodes", "errors"},
    "definition": {"definition", "language", "rules", "nodes", "errors"},
    "door": {"language", "rules", "nodes", "errors"},
    "language": {"language", "rules", "nodes", "errors"},
    "rules": {"rules", "nodes", "errors"},
    "nodes": {"nodes", "errors"},
    "errors": set(),
}

OPENED_LATE = {  # what a file may import inside a function or under TYPE_CHECKING, beyond its arrows
    "mixer_ir/__init__.py": {
        "driver",
        "trust",
        "catalog",
        "a computed name",
    },  # drivers and catalog are opened on first use
    "mixer_ir/cli.py": {"driver"},  # `--help` and `list` need not wait for torch, which `bench` opens
    "mixer_ir/driver/traceable.py": {
        "driver"
    },  # graphs imports torch._dynamo, which only a process that compiles has paid for
    "catalog/__init__.py": {"catalog", "a computed name"},  # an entry is read when it is asked for
}

HEAVY = {  # libraries that may be imported inside a function, and why
    "matplotlib": "only pictures need it, and it is an extra",
    "networkx": "only analyses that want a graph need it",
    "rich": "only printing needs it",
    "sklearn": "only the demonstration needs its digits, and it is an extra",
    "sympy": "half a second, which `import mixer_ir` must not cost",
    "triton": "is not there on every platform",
}

LONGEST = 500

# In lower case, as one word. Names that are also ordinary code (lru, mega, s4, s5, h3) are left out.
MODEL = re.compile(
    r"""mamba | hydra | retnet | deltanet | deltarule | deltaproduct | gateddelta(net|rule)? | rwkv | hyena | gla | kda
    | s4d | s4nd | longvq | transformervq | [msx]lstm | griffin | recurrentgemma | rglru | comba | hgrn | mesanet
    | titans | lightningattention | performer | linformer | reformer | fnet | bigbird | longformer | nystromformer""",
    re.VERBOSE,
)


# ---------------------------------------------------------------------------------------------------- reading a file


@dataclass(frozen=True)
class Import:
    """One name brought in: `base` is the module named after `from`, `target` the module that the name is, if any."""

    base: str
    target: str
    line: int
    late: bool  # inside a function
    typing: bool  # under TYPE_CHECKING

    def floors(self) -> set[str]:
        return {floor_of(self.base), floor_of(self.target)}


@dataclass(frozen=True)
class Source:
    """One file of the four packages: its path from the root, and its text."""

    path: str
    text: str

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return self.module if self.path.endswith("__init__.py") else self.module.rpartition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def imports(self) -> list[Import]:
        return list(self._imports_in(self.tree, late=False, typing=False))

    def _imports_in(self, parent: ast.AST, *, late: bool, typing: bool) -> Iterator[Import]:
        for node in ast.iter_child_nodes(parent):
            for base, target in self._named_by(node):
                yield Import(base, target, node.lineno, late, typing)
            yield from self._imports_in(
                node,
                late=late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
                typing=typing or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)),
            )

    def _named_by(self, node: ast.AST) -> list[tuple[str, str]]:
        match node:
            case ast.Import(names=names):
                return [(alias.name, alias.name) for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                base = self._absolute(module, level)
                targets = [f"{base}.{alias.name}" for alias in names]
                return [(base, target if is_module(target) else base) for target in targets]
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[name, *_]):
                computed = called in {"import_module", "__import__"}
                target = name.value if isinstance(name, ast.Constant) else "a computed name"
                return [(target, target)] if computed else []
        return []

    def _absolute(self, module: str | None, level: int) -> str:
        if not level:
            return module or ""
        parts = self.package.split(".")
        return ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])])


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def floor_of(module: str) -> str:
    """The floor of a module, or its top-level name where it is none of ours."""
    named = {"mixer_ir": "door", "mixer_ir.errors": "errors", "mixer_ir.nodes.functions": "errors"}
    if module in named:
        return named[module]
    top, _, rest = module.partition(".")
    folder = rest.partition(".")[0]
    return top if top != "mixer_ir" else "commands" if folder in ("cli", "__main__") else folder


# ---------------------------------------------------------------------------------------------------- the laws


def imports_go_down(source: Source) -> list[str]:
    """A file imports its own floor and those that ARROWS lists for it."""
    late = OPENED_LATE.get(source.path, set())
    here = floor_of(source.module)
    ours = {*ARROWS, *OUTSIDE}
    return [
        f"{source.path}:{found.line}: {here} imports {found.target} ({floor_of(found.target)}), which lies above it"
        for found in source.imports
        if found.floors() <= ours
        and not found.floors() & (ARROWS[here] | (late if found.late or found.typing else set()))
    ]


def imports_stand_at_the_top(source: Source) -> list[str]:
    """No import inside a function, save heavy libraries and what OPENED_LATE lists."""
    late = OPENED_LATE.get(source.path, set())
    return [
        f"{source.path}:{found.line}: {found.target} is imported inside a function; move it to the top, or the idea "
        "that both files share to a third file"
        for found in source.imports
        if found.late and not found.floors() & late and found.target.partition(".")[0] not in HEAVY
    ]


def file_fits(source: Source) -> list[str]:
    """One file, one idea: at most 500 lines."""
    lines = len(source.text.splitlines())
    return [f"{source.path} has {lines} lines; {LONGEST} is the wall: find its second idea"] if lines > LONGEST else []


def models_have_no_name_below_the_catalog(source: Source) -> list[str]:
    """Below the catalog nothing is called, or compared with, the name of a model."""
    if source.path.startswith("catalog/"):
        return []
    return [
        f"{source.path}:{line}: {name!r} names a model; below the catalog there are only structures"
        for line, name in [(1, Path(source.path).stem), *names_in(source.tree)]
        if names_a_model(name)
    ]


def names_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every identifier, and every string that could be one (`if name == "gla"`); prose is free."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield line, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield line, name
            case ast.alias(name=name, asname=asname):
                yield from ((line, part) for part in [*name.split("."), asname or ""])
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield line, name
            case ast.Constant(value=str(name)) if name.replace("-", "_").isidentifier():
                yield line, name


def names_a_model(identifier: str) -> bool:
    """Whether consecutive words of an identifier spell a model: gated_delta_net, RWKV7, selectMamba2."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)]
    return any(MODEL.fullmatch(run) for start in range(len(words)) for run in accumulate(words[start:]))


LAWS = (imports_go_down, imports_stand_at_the_top, file_fits, models_have_no_name_below_the_catalog)


def cycles(sources: list[Source]) -> list[str]:
    """Modules that import each other at their tops, as a chain."""
    graph = {
        s.module: {i.target for i in s.imports if not (i.late or i.typing) and i.target != s.module} for s in sources
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" imports ".join(reversed(error.args[1]))]
    return []


# ---------------------------------------------------------------------------------------------------- the house

SOURCES = [
    Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
]


def named(law: Callable[[Source], list[str]]) -> str:
    return law.__name__


@pytest.mark.parametrize("law", LAWS, ids=named)
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.path)
def test_every_file_keeps_the_law(source, law):
    assert not law(source), "\n".join(law(source))


def test_no_modules_import_each_other_in_a_circle():
    assert not cycles(SOURCES)


# ---------------------------------------------------------------------------------------------------- the laws, broken

BAD = [
    (imports_go_down, "lowering/a.py", "import backends.eager", "lowering imports backends.eager"),
    (imports_go_down, "lowering/a.py", "import mixer_ir as mx", "lowering imports mixer_ir (door)"),
    (imports_go_down, "lowering/a.py", "from mixer_ir.driver import compiled", "lowering imports mixer_ir.driver"),
    (imports_go_down, "lowering/a.py", "from mixer_ir.trust.verify import verify", "mixer_ir.trust.verify (trust)"),
    (
        imports_go_down,
        "lowering/a.py",
        "from mixer_ir.language.mixer import Mixer",
        "mixer_ir.language.mixer (language)",
    ),
    (
        imports_go_down,
        "backends/triton/a.py",
        "from mixer_ir.nodes.matrix import Dense",
        "imports mixer_ir.nodes.matrix",
    ),
    (imports_go_down, "backends/a.py", "from mixer_ir import State", "backends imports mixer_ir (door)"),
    (imports_go_down, "backends/a.py", "def f():\n    import catalog", "backends imports catalog"),
    (imports_go_down, "catalog/a.py", "from lowering.program import Load", "catalog imports lowering.program"),
    (imports_go_down, "catalog/a.py", "from mixer_ir.nodes.matrix import Dense", "mixer_ir.nodes.matrix (nodes)"),
    (imports_go_down, "mixer_ir/nodes/a.py", "from ..driver.compiled import compile", "mixer_ir.driver.compiled"),
    (imports_go_down, "mixer_ir/nodes/a.py", "from ..rules import legal", "nodes imports mixer_ir.rules.legal (rules)"),
    (imports_go_down, "mixer_ir/nodes/a.py", "from .. import anything", "nodes imports mixer_ir (door)"),
    (imports_go_down, "mixer_ir/nodes/a.py", "if TYPE_CHECKING:\n    import lowering", "nodes imports lowering"),
    (imports_go_down, "mixer_ir/rules/a.py", "m = importlib.import_module('lowering')", "rules imports lowering"),
    (imports_go_down, "mixer_ir/driver/a.py", "from mixer_ir.trust.prove import prove", "mixer_ir.trust.prove (trust)"),
    (imports_go_down, "mixer_ir/cli.py", "from catalog import get", "commands imports catalog"),
    (imports_go_down, "mixer_ir/cli.py", "from examples import demo", "commands imports examples"),
    (imports_go_down, "mixer_ir/errors.py", "from .nodes.matrix import Dense", "errors imports mixer_ir.nodes.matrix"),
    (
        imports_go_down,
        "mixer_ir/__init__.py",
        "from .driver.compiled import compile",
        "mixer_ir.driver.compiled (driver)",
    ),
    (
        imports_stand_at_the_top,
        "lowering/a.py",
        "def f():\n    from mixer_ir.nodes.matrix import Dense",
        "a.py:2: mixer_ir",
    ),
    (imports_stand_at_the_top, "lowering/a.py", "async def f():\n    import json", "json is imported inside"),
    (imports_stand_at_the_top, "lowering/a.py", "f = lambda: __import__('json')", "json is imported inside"),
    (
        imports_stand_at_the_top,
        "mixer_ir/__init__.py",
        "def f():\n    from lowering import plan",
        "lowering is imported",
    ),
    (file_fits, "lowering/a.py", "x = 1\n" * 501, "501 lines"),
    (models_have_no_name_below_the_catalog, "lowering/a.py", "def lower_mamba2(x): ...", "'lower_mamba2'"),
    (models_have_no_name_below_the_catalog, "lowering/a.py", "class DeltaNetForm: ...", "'DeltaNetForm'"),
    (models_have_no_name_below_the_catalog, "lowering/a.py", "class RWKV7: ...", "'RWKV7'"),
    (models_have_no_name_below_the_catalog, "lowering/a.py", "if name == 'gated-delta': pass", "'gated-delta'"),
    (models_have_no_name_below_the_catalog, "lowering/a.py", "match m:\n    case 'gla': pass", "'gla'"),
    (models_have_no_name_below_the_catalog, "lowering/a.py", "def f(*, is_hydra=False): ...", "'is_hydra'"),
    (models_have_no_name_below_the_catalog, "lowering/a.py", "x = plan.longVQ", "'longVQ'"),
    (models_have_no_name_below_the_catalog, "lowering/s4d.py", "", "'s4d'"),
]

GOOD = [
    (
        imports_go_down,
        "lowering/a.py",
        "from mixer_ir.nodes.matrix import Dense\nfrom mixer_ir.errors import MixerError",
    ),
    (
        imports_go_down,
        "backends/triton/a.py",
        "from lowering.program import Load\nfrom mixer_ir.errors import MixerError",
    ),
    (
        imports_go_down,
        "backends/triton/a.py",
        "from .. import eager\nfrom ..eager import run\nimport torch, numpy as np",
    ),
    (imports_go_down, "catalog/a.py", "import mixer_ir as mx\nfrom mixer_ir import State, recurrence"),
    (
        imports_go_down,
        "mixer_ir/cli.py",
        "import mixer_ir as mx\nfrom .driver.compiled import compile",
    ),
    (imports_go_down, "mixer_ir/__init__.py", "from .nodes.matrix import Dense\nif TYPE_CHECKING:\n    import catalog"),
    (imports_stand_at_the_top, "mixer_ir/__init__.py", "def __getattr__(n):\n    from .driver.compiled import compile"),
    (imports_stand_at_the_top, "mixer_ir/driver/plot.py", "def plot():\n    import matplotlib.pyplot as plt"),
    (imports_stand_at_the_top, "catalog/__init__.py", "def get(n):\n    import_module(f'catalog.{n}')"),
    (file_fits, "lowering/a.py", "x = 1\n" * 500),
    (
        models_have_no_name_below_the_catalog,
        "lowering/a.py",
        '"""As in Mamba and RWKV."""\nglance = lru_cache(mega_bytes)',
    ),
    (models_have_no_name_below_the_catalog, "catalog/mamba.py", "def mamba(): ..."),
]


@pytest.mark.parametrize(("law", "path", "text", "message"), BAD)
def test_the_law_sees_what_breaks_it(law, path, text, message):
    assert message in "\n".join(law(Source(path, text)))


@pytest.mark.parametrize(("law", "path", "text"), GOOD)
def test_the_law_lets_good_code_pass(law, path, text):
    assert not law(Source(path, text))


def test_a_circle_is_seen():
    circle = [Source("lowering/a.py", "from lowering.b import x"), Source("lowering/b.py", "import lowering.a")]
    late = [circle[0], Source("lowering/b.py", "if TYPE_CHECKING:\n    import lowering.a")]
    assert "lowering.a imports lowering.b" in "".join(cycles(circle)) and not cycles(late)
