"""What the native backend moves into loops, how it lays arrays out, its positions and its transforms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from backends import native, reference
from backends.native import sharing
from backends.native.index import Cut, Index, Variable
from backends.native.orienting import oriented
from backends.native.sinking import sunk
from backends.uniform import uniform
from lowering import program as p
from lowering.build import Builder, program
from lowering.program import Program

needs_a_compiler = pytest.mark.skipif(native.missing() is not None, reason="no C compiler")


def evaluated(index: Index, values: dict[str, int]) -> int:
    """The text as C computes it: division towards zero."""
    text = str(index).replace("/", "//")
    names = {k: _Towards(v) for k, v in values.items()}
    return int(eval(text, {}, names))


class _Towards(int):
    """Whole numbers that divide as in C."""

    def __mul__(self, other):
        return _Towards(int(self) * int(other))

    __rmul__ = __mul__

    def __add__(self, other):
        return _Towards(int(self) + int(other))

    __radd__ = __add__

    def __floordiv__(self, other):
        return _Towards(int(int(self) / int(other)))

    def __mod__(self, other):
        return _Towards(int(self) - int(other) * int(int(self) / int(other)))


@pytest.mark.parametrize(("a", "b", "constant", "n"), [(-1, 0, 15, 2), (-1, 2, 15, 4), (1, -3, 30, 7), (-2, -3, 45, 4)])
def test_quotients_of_what_runs_backwards(a: int, b: int, constant: int, n: int) -> None:
    i, j = (Variable(t, 8, frozenset((t,)), whole=True) for t in "ij")
    index = Index.of(i) * a + Index.of(j) * b + constant
    try:
        whole, rest = index.divided(n)
    except Cut:
        pytest.fail("a loop that is whole cannot be cut")
    for x, y in itertools.product(range(8), range(8)):
        at = {"i": x, "j": y}
        value = a * x + b * y + constant
        assert (evaluated(whole, at), evaluated(rest, at)) == divmod(value, n)


def scanned() -> Program:
    """A loop that leaves a state for every step, of which only sums are read: over time, and over the state."""
    b = Builder()
    t, d, n = 19, 32, 8
    a, x = b.input("a", ("t", "d", "n"), (t, d, n)), b.input("x", ("t", "d"), (t, d))
    w = b.input("w", ("d", "m"), (d, n))

    def body(inner, carries, steps, fixed):
        state = inner.add(inner.mul(steps[0], carries[0]), steps[1])
        return [state], [inner.expand(state, {"d": d, "n": n})]

    (last,), (states,) = b.scan("t", body, [b.full(0.0, {"d": d, "n": n})], [a, x])
    named = b.rename(states, "n", "m")
    results = {"over t": b.contract(named, x, ("t",)), "over n": b.contract(named, w, ("m",)), "last": last}
    return program(results, [a, x, w])


def loops(of: Program) -> list[p.Scan]:
    return [v.op for v in of.order if isinstance(v.op, p.Scan)]


def given(of: Program) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {v.op.name: rng.uniform(-1, 1, v.shape) for v in of.inputs if isinstance(v.op, p.Input)}


def test_sums_go_into_the_loop() -> None:
    before = scanned()
    after = sunk(before)
    (loop,) = loops(after)
    assert loop.carries == 2  # the state and the sum over time
    assert all("n" not in v.axes for v in loop.body.outputs[loop.carries :])  # no state is left for every step
    want, got = (reference.prepare(q)(given(before)) for q in (before, after))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-12)


@needs_a_compiler
@pytest.mark.parametrize("tile", [8, 16])
def test_lanes_and_sums(tile: int, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    monkeypatch.setattr(sharing, "WORTH", 1)
    monkeypatch.setattr(sharing, "TILE", tile)
    of = scanned()
    arrays = given(of)
    want = reference.prepare(of)(arrays)
    got = native.prepare(of)({n: torch.from_numpy(x) for n, x in arrays.items()})
    for name in want:
        np.testing.assert_allclose(got[name].numpy(), want[name], rtol=1e-12, atol=1e-12)


@needs_a_compiler
@pytest.mark.parametrize("which", ["fft", "ifft", "rfft", "irfft"])
def test_transforms_of_every_size(which: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Along either axis: few and many at once, powers of two, products of small primes, and others."""
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    b, inputs, results, arrays = Builder(), [], {}, {}
    for i, (n, count, axes) in enumerate(itertools.product((1, 2, 8, 30, 14, 64), (3, 5, 70), ("tc", "ct"))):
        length = n // 2 + 1 if which == "irfft" else n
        shape = (length, count) if axes == "tc" else (count, length)
        x = b.input(f"x{i}", tuple(axes), shape, "real" if which == "rfft" else "complex")
        real = torch.randn(shape, dtype=torch.float64)
        arrays[f"x{i}"] = real if which == "rfft" else torch.complex(real, torch.randn(shape, dtype=torch.float64))
        inputs.append(x)
        results[f"y{i}"] = b.transform(which, x, "t", n)
        expected = getattr(torch.fft, which)(arrays[f"x{i}"], n=n, dim=axes.index("t"))
        arrays[f"want{i}"] = expected
    of = program(results, inputs)
    got = native.prepare(of)({n: x for n, x in arrays.items() if n.startswith("x")})
    for i in range(len(inputs)):
        torch.testing.assert_close(got[f"y{i}"], arrays[f"want{i}"], rtol=1e-12, atol=1e-12)


@needs_a_compiler
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("columns", [1, 3, 8, 37])
def test_solves_of_every_size(columns: int, upper: bool, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """What stands on the other side of the diagonal, or on it, is not read."""
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    b, inputs, results = Builder(), [], {}
    for n, axes in itertools.product((1, 2, 8, 21), ("bij", "jib")):
        sizes = {"b": 2, "i": n, "j": n, "v": columns}
        lower = b.input(f"l{n}{axes}", tuple(axes), tuple(sizes[a] for a in axes))
        right = b.input(f"r{n}{axes}", ("b", "i", "v"), (2, n, columns))
        inputs += [lower, right]
        results[f"w{n}{axes}"] = b.solve(lower, right, "i", "j", upper=upper)
    of = program(results, inputs)
    arrays = {n: x if n[0] == "r" else x / 4 for n, x in given(of).items()}
    want = reference.prepare(of)(arrays)
    got = native.prepare(of)({n: torch.from_numpy(x) for n, x in arrays.items()})
    for name in want:
        np.testing.assert_allclose(got[name].numpy(), want[name], rtol=1e-11, atol=1e-11)


def test_products_lie_as_the_inputs_do() -> None:
    """A product's columns are the axis that is innermost in the inputs, under whatever name, in a loop's body too."""
    b = Builder()
    x, w = b.input("x", ("t", "i", "k"), (5, 16, 32)), b.input("w", ("s", "i"), (16, 16))

    def body(inner, carries, steps, fixed):
        named = inner.rename(steps[0], "k", "_k")
        return [], [inner.contract(named, fixed[0], ("i",)), inner.contract(fixed[0], named, ("i",))]

    _, made = b.scan("t", body, [], [x], [w])
    before = uniform(program({"y": made[0], "z": made[1]}, [x, w]))
    (loop,) = loops(uniform(oriented(before)))
    assert [v.axes for v in loop.body.outputs] == [("s", "_k"), ("s", "_k")]
    arrays = given(before)
    want, got = (reference.prepare(q)(arrays) for q in (before, uniform(oriented(before))))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-12)


@needs_a_compiler
def test_an_expression_of_any_length(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    b = Builder()
    x = b.input("x", ("t",), (40,))
    y = x
    for i in range(700):
        y = b.add(b.mul(y, 0.5), b.slice(b.pad(x, "t", i % 5, 0), "t", 0, 40))
    z = x
    for i in range(700):  # nothing but looking elsewhere
        z = b.slice(b.pad(z, "t", i % 2, (i + 1) % 2), "t", (i + 1) % 2, 40 + (i + 1) % 2)
    of = program({"y": y, "z": z}, [x])
    want, got = reference.prepare(of)(given(of)), native.prepare(of)({"x": torch.from_numpy(given(of)["x"])})
    for name in want:
        np.testing.assert_allclose(got[name].numpy(), want[name], rtol=1e-12, atol=1e-12)


@needs_a_compiler
@pytest.mark.parametrize("real", ["", "x", "y"])
def test_products_of_complex_numbers(real: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """By parts where they are large, in a loop too; one factor may be real."""
    monkeypatch.setenv("MIXER_IR_CACHE", str(tmp_path))
    b = Builder()
    shapes = {"x": ("t", "i", "k"), "y": ("k", "j")}
    sizes = {"t": 3, "i": 13, "k": 21, "j": 18}
    x, y = (b.input(n, a, tuple(sizes[c] for c in a), "real" if n == real else "complex") for n, a in shapes.items())

    def body(inner, carries, steps, fixed):
        return [], [inner.contract(inner.cast(steps[0], "complex"), fixed[0], ("k",))]

    _, (z,) = b.scan("t", body, [], [x], [y])
    of = program({"z": z, "w": b.contract(x, b.map("exp", y), ("k",))}, [x, y])
    arrays = {n: v + (0 if n == real else 0.5j * v[::-1]) for n, v in given(of).items()}
    want = reference.prepare(of)(arrays)
    got = native.prepare(of)({n: torch.from_numpy(v) for n, v in arrays.items()})
    for name in want:
        np.testing.assert_allclose(got[name].numpy(), want[name], rtol=1e-11, atol=1e-11)
