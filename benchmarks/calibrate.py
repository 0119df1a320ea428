"""Measures the rates of the eager backend on this machine and prints them as a Profile for lowering/profile.py.

    python -m benchmarks.calibrate [cpu | cuda]

Every rate is taken from a small program run by the backend itself, so that what is priced is what will run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import log2
from statistics import median
from time import perf_counter

import torch

from backends import eager
from lowering.build import Builder, program
from lowering.profile import Profile
from lowering.program import Value

BIG = 1 << 22
Make = Callable[..., Value]


def seconds(make: Make, *shapes: dict[str, int], device: str, kinds: str = "", repeat: int = 15) -> float:
    """The median time of the program that `make` builds from inputs of these axes and sizes."""
    b = Builder()
    inputs = [b.input(f"x{i}", tuple(s), tuple(s.values())) for i, s in enumerate(shapes)]
    run = eager.prepare(program({"y": make(b, *inputs)}, inputs))
    tensors = {f"x{i}": torch.rand(tuple(s.values()), device=device) * 0.1 for i, s in enumerate(shapes)}
    times = []
    for _ in range(repeat + 3):
        start = perf_counter()
        run(tensors)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    return median(times[3:])


def chained(fn: Callable[[Builder, Value], Value], n: int) -> Make:
    """A program that does `fn` n times over."""

    def make(b: Builder, x: Value) -> Value:
        for _ in range(n):
            x = fn(b, x)
        return x

    return make


def measure(device: str) -> Profile:
    """A profile of this machine."""

    def per_op(fn: Callable[[Builder, Value], Value], **sizes: int) -> float:
        many, few = (seconds(chained(fn, n), sizes, device=device) for n in (40, 8))
        return max((many - few) / 32, 1e-8)

    def rate(work: float, make: Make, *shapes: dict[str, int]) -> float:
        return work / max(seconds(make, *shapes, device=device) - operation, 1e-9)

    operation = per_op(lambda b, x: b.add(x, 0.5), x=4)
    view = per_op(lambda b, x: b.order(x, x.axes[::-1]), x=4, y=4)
    flat = {"t": BIG}
    rows = {"c": BIG // 256, "t": 256}
    step = _loop(device) - operation
    return Profile(
        name=device,
        matmul=tuple((float(n), _matmul(n, device, operation)) for n in (1, 4, 16, 64, 256)),
        entrywise=rate(BIG, lambda b, x: b.add(x, 0.5), flat),
        special=rate(BIG, lambda b, x: b.map("exp", x), flat),
        reduce=rate(BIG, lambda b, x: b.sum(x, ("t",)), rows),
        cumulate=rate(BIG, lambda b, x: b.cumulate("sum", x, "t"), rows),
        affine=rate(BIG, lambda b, x: b.affine_scan(x, x, "t"), rows),
        affine_step=seconds(lambda b, x: b.affine_scan(x, x, "t"), {"t": 512, "k": 4}, device=device) / 512,
        fft=rate(BIG * log2(4096), lambda b, x: b.transform("rfft", x, "t", 4096), {"c": BIG // 4096, "t": 4096}),
        solve=rate(256 * 64 * 64 * 64, _solve, {"c": 256, "i": 64, "j": 64}, {"c": 256, "i": 64, "v": 64}),
        solve_each=seconds(_solve, {"c": 512, "i": 4, "j": 4}, {"c": 512, "i": 4, "v": 4}, device=device) / 512,
        copy=rate(8 * BIG, lambda b, x: b.flip(x, "t"), rows),
        memory=_memory(device),
        operation=operation,
        view=view,
        step=max(step, 1e-7),
    )


def _solve(b: Builder, lower: Value, r: Value) -> Value:
    return b.solve(lower, r, "i", "j")


def _matmul(n: int, device: str, operation: float) -> float:
    batch = max(1, min(4096, (1 << 22) // (n * 64 * 64)))
    shapes = {"c": batch, "i": 64, "k": n}, {"c": batch, "k": n, "j": 64}
    if n > 64:
        shapes = {"c": 4, "i": n, "k": n}, {"c": 4, "k": n, "j": n}
    x, y = shapes
    work = 2.0 * x["c"] * x["i"] * n * y["j"]
    return work / max(seconds(lambda b, x, y: b.contract(x, y, ("k",)), *shapes, device=device) - operation, 1e-9)


def _loop(device: str, turns: int = 256) -> float:
    def make(b: Builder, x: Value, start: Value) -> Value:
        last, _ = b.scan("t", lambda i, c, s, k: ([i.add(c[0], s[0])], []), [start], [x])
        return last[0]

    return seconds(make, {"t": turns, "k": 4}, {"k": 4}, device=device) / turns


def _memory(device: str) -> float:
    """Half of what the device has."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory / 2
    with open("/proc/meminfo", encoding="ascii") as lines:
        return int(next(lines).split()[1]) * 1024 / 2


def main() -> None:
    profile = measure(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    for name in profile.__dataclass_fields__:
        value = getattr(profile, name)
        if name == "matmul":
            print("    matmul=(" + ", ".join(f"({n:g}, {r:.2g})" for n, r in value) + "),")
        else:
            print(f"    {name}={value!r}," if isinstance(value, str | int) else f"    {name}={value:.2g},")


if __name__ == "__main__":
    main()
