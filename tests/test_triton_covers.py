"""Every entry of what a kernel stores is stored: what says so is never wrong, and planning asks it."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

import catalog
from backends.triton import roots
from backends.triton import tile as t
from backends.triton.covers import Uncovered, covered
from backends.triton.evaluate import Buffer
from backends.triton.kernel import Setting
from backends.triton.levels import levels
from backends.triton.partition import plan
from backends.triton.real import real
from backends.triton.tile import Dim, Index
from lowering.adjoint import adjoint
from lowering.build import Builder
from mixer_ir.driver.kernels import lowered


def stored(**sizes: int) -> Buffer:
    return Buffer("y", Builder().input("y", tuple(sizes), tuple(sizes.values())))


def numbers(ix: Index) -> set[tuple[str, int, int]]:
    """What a place is made of: the name and the range of each number that runs by itself."""
    if ix.origin is not None:
        return numbers(ix.origin[0])
    if ix.parts is not None:
        return numbers(ix.parts[0]) | numbers(ix.parts[1])
    if ix.of is not None:
        return numbers(ix.of[0])
    return {(ix.text, ix.low, ix.high)} if ix.low < ix.high else set()


def at(ix: Index, here: dict[str, int]) -> int | None:
    """The place where those numbers are `here`; None where it is void."""
    if ix.origin is not None:
        before = at(ix.origin[0], here)
        return None if before is None else before + ix.origin[1]
    if ix.parts is not None:
        outer, inner, n = at(ix.parts[0], here), at(ix.parts[1], here), ix.parts[2]
        return None if outer is None or inner is None or inner >= n else outer * n + inner
    if ix.of is not None:
        whole, n, inside = at(ix.of[0], here), ix.of[1], ix.of[2]
        return None if whole is None else whole % n if inside else whole // n
    return here.get(ix.text, ix.low)


def reached(b: Buffer, where: dict[str, Index]) -> bool:
    """By trying every program and every entry of its tile."""
    runs = sorted(set().union(*map(numbers, where.values())))
    places = set()
    for values in product(*(range(low, high + 1) for _, low, high in runs)):
        here = {name: x for (name, _, _), x in zip(runs, values, strict=True)}
        places.add(tuple(at(where[a], here) for a in b.value.axes))
    return places >= set(product(*map(range, b.value.shape)))


@st.composite
def places(draw: st.DrawFn, depth: int = 2) -> Index:
    """A place made of few numbers, so that some are shared."""
    kind = draw(st.sampled_from(["tile", "program", "fixed", "joined", "part"][: 5 if depth else 3]))
    size = draw(st.sampled_from([2, 3, 4]))
    if kind == "tile":
        return t.counting(Dim(draw(st.sampled_from("ab")), draw(st.sampled_from([2, 4]))))
    if kind == "program":
        return t.scalar(f"i_{draw(st.sampled_from('ab'))}", 3)
    if kind == "joined":
        return t.joined(draw(places(depth - 1)), draw(places(depth - 1)), size)
    if kind == "part":
        ix = draw(places(depth - 1))
        return t.quotient(ix, size, -(-(ix.high + 1) // size))[draw(st.booleans())]
    return t.constant(0)


def test_what_is_seen_to_be_covered_is() -> None:
    seen = 0

    @settings(max_examples=300)
    @given(st.data())
    def law(data: st.DataObject) -> None:
        nonlocal seen
        where = {a: t.shifted(data.draw(places()), data.draw(st.sampled_from([0] * 9 + [1, -1]))) for a in "xy"}
        b = stored(**{a: data.draw(st.integers(1, max(ix.high, 0) + 1)) for a, ix in where.items()})
        try:
            covered("a kernel", b, [where])
        except Uncovered:
            return
        seen += any(n > 1 for n in b.value.shape)
        assert reached(b, where)

    law()
    assert seen > 5


def test_places_that_cover_are_seen() -> None:
    """A row cut into blocks and taken apart, a joined axis, a loop after its first turn, a loop backwards."""
    flat = t.joined(t.scalar("i_block", 3), t.counting(Dim("flat", 8)), 8)
    rest, z = t.quotient(flat, 4, 6)
    x, y = t.quotient(rest, 2, 3)
    covered("k", stored(x=3, y=2, z=4), [{"x": x, "y": y, "z": z}])
    parts = t.joined(t.scalar("i_x", 3), t.counting(Dim("x", 4)), 3)
    covered("k", stored(x=9, y=4), [{"x": parts, "y": t.counting(Dim("y", 4))}])
    later = t.reversed_(Index(t.scalar("j_x", 5).tile, 1, 4), 5)
    covered("k", stored(x=5), [{"x": t.constant(4)}, {"x": later}])


N, I, LONG = (t.counting(Dim(name, size)) for name, size in (("n", 2), ("i", 2), ("n", 16)))
FIRST, LAST = t.quotient(LONG, 4, 4)
WRONG = {
    "one number along two axes": ("share o_n_2", t.joined(N, I, 2), N),
    "half of an axis": ("has to reach 0 to 3", N, I),
    "every other entry": ("not seen to count", t.strided(t.scalar("i_x", 4), 2, 0), I),
    "two of every three": ("has to reach 0 to 2", t.joined(t.scalar("i_x", 2), N, 3), I),
    "two of every four": ("does not count an axis through", t.quotient(LAST, 2, 2)[1], FIRST),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_cover_is_named(case: str) -> None:
    why, x, y = WRONG[case]
    with pytest.raises(Uncovered, match=why):
        covered("k", stored(x=4, y=2), [{"x": x, "y": y}])


def test_a_plan_that_would_leave_entries_unwritten_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward in this form has an array with two axes, one called as what the other is made of in other arrays."""
    sizes = {"b": 2, "t": 9, "d": 2, "n": 3}
    of = levels(lowered(catalog.get("mega_ema").mixers["damped_ema"], "parallel", None, sizes))
    back = real(adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable]))
    assert plan(back, Setting()).kernels()
    monkeypatch.setattr(roots.Demands, "of", lambda self, v: self)
    with pytest.raises(Uncovered, match="share o_N_2"):
        plan(back, Setting())


def test_an_axis_is_no_part_of_itself() -> None:
    """Where one result calls i what another calls t, of which i is a part."""
    wanted = roots.Demands(blocks={"t": ("c", "i", 4)}, names={"t": {"i", "s"}}, summed={"c"})
    wanted.spread()
    assert wanted.blocks == {"t": ("c", "i", 4), "s": ("c", "i", 4)}
    assert roots._held("t", 16, wanted) == 4
