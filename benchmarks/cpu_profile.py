"""Where the time goes: parts of some runs by themselves, beside the whole, on the native backend.

A part is run with the arguments that it has in the whole: the linear maps of a layer or model, its mixers, the matrix
products of a chunked form (by torch.bmm), a scan without its exponentials. Beside them what the machine allows: a scan
without functions beside a copy, memory that is written for the first time beside memory that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

import mixer_ir as mx
from backends import missing, pages
from benchmarks.cpu_cases import CASES, WIDE, Case, Noted
from benchmarks.cpu_layers import Settings, on, transformers_model
from benchmarks.limits import planned
from lowering import program as p
from lowering.program import Program
from mixer_ir.driver.timing import interleaved

Row = dict[str, Any]
Runs = dict[str, Callable[[], object]]


@mx.recurrence
def fixed_factors(h: mx.State("n"), x: "b t d", dt: "b t d", A: "d n", B: "b t n", C: "b t n", D: "d") -> "b t d":
    """The selective scan without its exponentials: h_t = A h_{t−1} + Δ_t B_t x_t,   y_t = C_tᵀ h_t + D x_t"""
    h = A * h + dt * B * x
    return h, C @ h + D * x


@mx.recurrence
def plain_scan(h: mx.State(""), x: "b t d", a: "b t d") -> "b t d":
    """A scan without functions: h_t = a_t h_{t−1} + x_t"""
    h = a * h + x
    return h, h


PLAIN = "plain scan, forward"
COPY = "copying as much"


def rows(t: int = 2048, depth: int = 24) -> list[Row]:
    """Every whole with its parts; nothing where there is no compiler."""
    if missing("native") is not None:
        return []
    with torch.no_grad():
        tokens = [row for dtype in (torch.float32, torch.bfloat16) for row in model(depth, dtype)]
        of_products = [row for case in WIDE for row in products(case, t)]
        return [*memory(), *plain(t), *scan(t), *layer(t), *tokens, *of_products]


def told(what: str, runs: Runs) -> Iterator[Row]:
    """The first of the runs is the whole."""
    times = interleaved(runs, rounds=3)
    whole = next(iter(times.values()))
    for part, seconds in times.items():
        yield {"what": what, "part": part, "ms": seconds * 1e3, "share of the whole": seconds / whole}


def memory(entries: int = 1 << 27) -> Iterator[Row]:
    """Filling half a gigabyte that is there, and as much that the system hands out anew and takes back."""
    there = torch.zeros(entries)
    runs: Runs = {
        "memory that is there": lambda: there.fill_(1),
        "fresh memory": lambda: torch.empty(entries).fill_(1),
        "fresh memory in large pages": lambda: pages.empty((entries,), torch.float32).fill_(1),
    }
    yield from told(f"filling {entries * 4 >> 20} MiB", runs)


def plain(t: int) -> Iterator[Row]:
    """A scan that only multiplies and adds, and a copy of as many bytes as it reads and writes."""
    x, a = torch.randn(1, t, 1536), torch.rand(1, t, 1536)
    f = mx.compile(plain_scan, form="recurrent", backend="native")
    yield from told(f"{PLAIN}, T = {t}", {"whole": lambda: f(x=x, a=a), COPY: copying(3 * x.numel())})


def copying(entries: int) -> Callable[[], object]:
    """A copy that reads half as many entries and writes the other half."""
    source, target = torch.zeros(entries // 2), torch.zeros(entries // 2)
    return lambda: target.copy_(source)


def scan(t: int) -> Iterator[Row]:
    """The selective scan, the same with factors that are given, and a copy of the arrays that it reads and writes."""
    (case,) = (c for c in CASES if c.name == "mamba")
    s = case.signals(t)
    whole, part = (mx.compile(m, form="recurrent", backend="native") for m in (case.declared, fixed_factors))
    fixed = {**s, "A": torch.exp(s["A"] / 16)}
    yield from told(
        f"selective scan, forward, T = {t}",
        {
            "whole": lambda: whole(**s),
            "without exponentials": lambda: part(**fixed),
            COPY: copying(3 * s["x"].numel()),
        },
    )


def layer(t: int) -> Iterator[Row]:
    """A Mamba-130m layer."""
    ours = mx.catalog.get("mamba").layer(d_model=768).eval()
    whole = on(ours, "native")
    x = torch.randn(1, t, 768)
    noted = Noted("whole", backend="native")
    ours.mix(x, noted)
    runs: Runs = {"whole": lambda: whole(x), "linear maps": replayed(ours, lambda: whole(x))}
    for mixer, signals in noted.signals.items():
        f = mx.compile(mixer, backend="native")
        runs[mixer.name] = lambda f=f, signals=signals: f(**signals)  # type: ignore[misc]
    yield from told(f"Mamba-130m layer, forward, T = {t}", runs)


def model(depth: int, dtype: torch.dtype) -> Iterator[Row]:
    """One token of a model of such layers; of that of transformers, with the same weights."""
    ours = mx.catalog.get("mamba").model(n_layer=depth).eval().to(dtype)
    tokens = torch.randint(50280, (1, 16))
    _, states = on(ours, "eager", ours.prefill)(tokens, last=1)
    step = on(ours, "native", ours.step)
    whole = lambda: step(states, tokens[:, 0])  # noqa: E731
    runs: Runs = {"whole": whole, "linear maps": replayed(ours, whole)}
    if find_spec("transformers"):
        theirs = transformers_model(ours, Settings(depth=depth)).to(dtype)
        cache = theirs(tokens, use_cache=True).cache_params
        runs["transformers, whole"] = lambda: theirs(tokens[:, :1], cache_params=cache, use_cache=True)
    yield from told(f"a token of a model of {depth} such layers, {str(dtype).removeprefix('torch.')}", runs)


def replayed(module: nn.Module, run: Callable[[], object]) -> Callable[[], object]:
    """All the linear maps that `run` calls, with the arguments that it gives them."""
    calls: list[tuple[nn.Module, Tensor]] = []
    maps = [m for m in module.modules() if isinstance(m, nn.Linear)]
    hooks = [m.register_forward_pre_hook(lambda m, x: calls.append((m, x[0]))) for m in maps]
    run()
    for hook in hooks:
        hook.remove()
    return lambda: [m(x) for m, x in calls]


def products(case: Case, t: int) -> Iterator[Row]:
    """The chunked form at wide heads, and the matrix products of its program."""
    s = case.signals(t)
    f = mx.compile(case.declared, backend="native")
    shapes = list(contracted(planned(case.declared, s)))
    factors = [(torch.randn(b, m, k), torch.randn(b, k, n), times) for times, b, m, k, n in shapes]
    runs: Runs = {
        "whole": lambda: f(**s),
        "its products by torch.bmm": lambda: [torch.bmm(x, y) for x, y, times in factors for _ in range(times)],
    }
    yield from told(f"{case.name}, K = V = 128, forward, T = {t}", runs)


def contracted(program: Program, times: int = 1) -> Iterator[tuple[int, int, int, int, int]]:
    """(how often, batch, m, k, n) of every product of matrices in a program."""
    for value in program.order:
        match value.op:
            case p.Contract(over=over):
                x, y = (a.sizes for a in value.args)
                k = prod(x[a] for a in over)
                m = prod(size for a, size in x.items() if a not in y)
                n = prod(size for a, size in y.items() if a not in x)
                batch = prod(size for a, size in x.items() if a in y and a not in over)
                if m > 1 and n > 1:
                    yield times, batch, m, k, n
            case p.Scan(body=body, length=length):
                yield from contracted(body, times * length)
            case p.Region(body=body):
                yield from contracted(body, times)
