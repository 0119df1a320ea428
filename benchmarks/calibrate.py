"""Measures the rates of a backend on this machine and prints them as a Profile for lowering/profile.py.

    python -m benchmarks.calibrate [cpu | cuda | native]

Every rate is taken from a small program run by the backend itself, so that what is priced is what will run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import log2
from statistics import median
from time import perf_counter

import torch

from backends import eager, native
from lowering.build import Builder, program
from lowering.profile import Profile
from lowering.program import Value

BIG = 1 << 22
NEAR = 1 << 17
"""entries that stay in a core's cache, as the arrays of compiled programs mostly do"""
Make = Callable[..., Value]
PREPARE = {"cpu": eager.prepare, "cuda": eager.prepare, "native": native.prepare}


def seconds(make: Make, *shapes: dict[str, int], device: str, kinds: str = "", repeat: int = 15) -> float:
    """The median time of the program that `make` builds from inputs of these axes and sizes."""
    b = Builder()
    inputs = [b.input(f"x{i}", tuple(s), tuple(s.values())) for i, s in enumerate(shapes)]
    run = PREPARE[device](program({"y": make(b, *inputs)}, inputs))
    on = "cuda" if device == "cuda" else "cpu"
    tensors = {f"x{i}": torch.rand(tuple(s.values()), device=on) * 0.1 for i, s in enumerate(shapes)}
    times = []
    for _ in range(repeat + 3):
        start = perf_counter()
        run(tensors)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    return (min if device == "native" else median)(times[3:])  # a call is short, and what disturbs it only adds


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


def measure_compiled() -> Profile:
    """A profile of compiled loops: what they read is near, and what is computed entry by entry is never stored."""
    flat, rows = {"t": NEAR}, {"c": NEAR // 256, "t": 256}

    def chain(fn: Callable[[Builder, Value], Value], sizes: dict[str, int], n: int = 24) -> float:
        """Seconds that each of n turns of `fn` adds."""
        many, few = (seconds(chained(fn, count), sizes, device="native", repeat=100) for count in (n + 1, 1))
        return max((many - few) / n, 1e-10)

    call = seconds(lambda b, x: b.add(x, 0.5), {"x": 4}, device="native")

    def rate(work: float, make: Make, *shapes: dict[str, int]) -> float:
        return work / max(seconds(make, *shapes, device="native") - call, 1e-9)

    def padded(b: Builder, x: Value) -> Value:
        wide = b.pad(x, "t", 16, 0)
        return b.add(*(b.slice(wide, "t", lag, lag + NEAR) for lag in range(16)))

    entrywise = NEAR / chain(lambda b, x: b.add(b.mul(x, 0.5), 0.25), flat) * 2
    product = {"c": 16, "i": 64, "k": 64}, {"c": 16, "k": 64, "j": 64}
    real = seconds(lambda b, x, y: b.contract(x, y, ("k",)), *product, device="native") - call
    wide = seconds(
        lambda b, x, y: b.map("real", b.contract(b.cast(x, "complex"), y, ("k",))), *product, device="native"
    )
    return Profile(
        name="cpu, compiled",
        matmul=tuple((float(n), _matmul(n, "native", call)) for n in (1, 4, 16, 64, 256)),
        entrywise=entrywise,
        special=NEAR / chain(lambda b, x: b.map("exp", b.mul(x, -0.5)), flat, 8),
        reduce=NEAR / chain(lambda b, x: b.add(x, b.sum(x, ("t",))), rows),
        cumulate=NEAR / chain(lambda b, x: b.cumulate("sum", x, "t"), rows),
        affine=NEAR / chain(lambda b, x: b.affine_scan(x, x, "t"), rows),
        affine_step=chain(lambda b, x: b.affine_scan(x, x, "t"), {"t": 512, "k": 4}) / 512,
        fft=rate(NEAR * log2(1024), lambda b, x: b.transform("rfft", x, "t", 1024), {"c": NEAR // 1024, "t": 1024}),
        solve=rate(64 * 64 * 64 * 64, _solve, {"c": 64, "i": 64, "j": 64}, {"c": 64, "i": 64, "v": 64}),
        solve_each=max(
            seconds(_solve, {"c": 512, "i": 4, "j": 4}, {"c": 512, "i": 4, "v": 4}, device="native") - call, 0
        )
        / 512,
        copy=8 * entrywise,  # reading and writing are part of what an entry costs
        memory=_memory("cpu"),
        operation=chain(lambda b, x: b.add(x, b.sum(x, ("t",))), {"t": 8}, 200),
        view=0.0,
        step=max(_loop("native", 4096) - call / 4096, 1e-9),
        complex=4 * max(wide - call, 1e-9) / real,
        padded=16 * NEAR / max(seconds(padded, flat, device="native") - call, 1e-9),
    )


def _solve(b: Builder, lower: Value, r: Value) -> Value:
    return b.solve(lower, r, "i", "j")


def _matmul(n: int, device: str, operation: float) -> float:
    batch = max(1, min(16 if device == "native" else 4096, (1 << 22) // (n * 64 * 64)))
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
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    profile = measure_compiled() if device == "native" else measure(device)
    for name in profile.__dataclass_fields__:
        value = getattr(profile, name)
        if name == "matmul":
            print("    matmul=(" + ", ".join(f"({n:g}, {r:.2g})" for n, r in value) + "),")
        elif value is not None:
            print(f"    {name}={value!r}," if isinstance(value, str | int) else f"    {name}={value:.2g},")


if __name__ == "__main__":
    main()
