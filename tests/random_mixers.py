"""Random mixers: declarations drawn from the language's grammar, as Python text that a person can read and run.

A draw is a tree of pieces; each piece is a line of the grammar with the pieces it is made of. Shrinking puts a part of
the same kind in the place of a piece, until nothing smaller fails.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import mixer_ir as mx

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9)


@dataclass(frozen=True)
class Piece:
    """`text` with {0}, {1} … standing for the parts. Pieces of one kind may stand in each other's place."""

    kind: str
    text: str
    parts: tuple[Piece, ...] = ()

    def __str__(self) -> str:
        return self.text.format(*(str(p) for p in self.parts))

    def below(self) -> Iterator[Piece]:
        for part in self.parts:
            yield part
            yield from part.below()

    def smaller(self) -> Iterator[Piece]:
        """This piece with a part of the same kind in its place, or with one of its parts made smaller."""
        yield from (p for p in self.below() if p.kind == self.kind)
        for i, part in enumerate(self.parts):
            for new in part.smaller():
                yield replace(self, parts=(*self.parts[:i], new, *self.parts[i + 1 :]))


@dataclass(frozen=True)
class Declaration:
    """A mixer, or a recurrence where `states` is not empty, in pieces; `sizes` are those it is tried on."""

    states: tuple[tuple[str, str], ...]
    updates: tuple[Piece, ...]
    output: Piece
    axes: dict[str, str]
    sizes: dict[str, int]
    resets: bool = False
    seed: int = 0
    chunk: int = 2

    @property
    def signals(self) -> dict[str, str]:
        """The signals that the text still uses."""
        used = set(re.findall(r"\b[a-zA-Z_]\w*\b", " ".join(str(p) for p in (*self.updates, self.output))))
        return {name: axes for name, axes in self.axes.items() if name in used}

    def __str__(self) -> str:
        states = [f'{name}: mx.State("{axes}")' for name, axes in self.states]
        signals = [f'{name}: "{axes}"' for name, axes in self.signals.items()]
        kind = "recurrence" if self.states else "mixer"
        lines = [f"@mx.{kind}", f"def drawn({', '.join(states + signals)}):"]
        for (name, _), update in zip(self.states, self.updates, strict=True):
            lines.append(f"    {name}1 = {update}")
        result = [*(f"{name}1" for name, _ in self.states), str(self.output)]
        return "\n".join([*lines, f"    return {', '.join(result)}"])

    def build(self) -> mx.Mixer:
        """The mixer that the text declares."""
        space: dict[str, object] = {"mx": mx}
        exec(compile(str(self), f"<drawn {self.seed}>", "exec"), space)
        mixer = space["drawn"]
        assert isinstance(mixer, mx.Mixer)
        return mixer.with_reset() if self.resets else mixer

    def smaller(self) -> Iterator[Declaration]:
        """Every declaration one step simpler than this one."""
        if self.resets:
            yield replace(self, resets=False)
        for new in self.output.smaller():
            yield replace(self, output=new)
        for i, update in enumerate(self.updates):
            for new in update.smaller():
                yield replace(self, updates=(*self.updates[:i], new, *self.updates[i + 1 :]))
            if len(self.states) > 1:
                rest = [j for j in range(len(self.states)) if j != i]
                yield replace(
                    self,
                    states=tuple(self.states[j] for j in rest),
                    updates=tuple(self.updates[j] for j in rest),
                )
        for axis, n in self.sizes.items():
            for less in (1, n - 1) if n > 1 and axis not in self.bound else ():
                follows = {"n": "m"} | ({} if self.cross else {"t": "s"})
                yield replace(self, sizes={**self.sizes, axis: less, follows.get(axis, axis): less})

    @property
    def grid(self) -> bool:
        """Whether a Monarch matrix is in it, whose grid has as many places as there are steps."""
        return any("w" in axes.split() for axes in self.signals.values())

    @property
    def bound(self) -> set[str]:
        """The axes whose sizes follow from others': m is as long as n, s as t, a grid has T places."""
        return {"m", *("" if self.cross else "s"), *("twxyz" if self.grid else "")}

    @property
    def cross(self) -> bool:
        """Whether it mixes across two sequences; signals over s are then whole at every step."""
        return any("s" in axes.split() and "t" not in axes.split() for axes in self.signals.values())


@dataclass
class Draw:
    """One random declaration in the making."""

    rng: random.Random
    axes: dict[str, str] = field(default_factory=dict)

    def signal(self, name: str, own: str = "t", *, batch: bool = True) -> Piece:
        """A new signal with the axes `own`, and some of b and h before or between them."""
        wanted = own.split()
        extra = [a for a in ("b", "h") if batch and self.rng.random() < 0.6]
        time = [a for a in wanted if a == "t"] or [a for a in wanted if a == "s"]
        axes = [*(a for a in extra if a == "b"), *time, *(a for a in extra if a == "h")]
        axes += [a for a in wanted if a not in time]
        unique = f"{name}{sum(n.rstrip('0123456789') == name for n in self.axes)}"
        self.axes[unique] = " ".join(axes)
        return Piece(f"signal {own}", unique)

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def time(self, own: str = "", p: float = 0.8) -> str:
        """`t` and the axes `own`, or (less often) `own` alone: a part that does not change in time."""
        return f"t {own}".strip() if self.chance(p) or not own else own

    # ------------------------------------------------------------------ features and values

    def feature(self, own: str = "k", *, complex: bool = False) -> Piece:
        """A key or a query; a name with Z is of complex numbers."""
        if complex and self.chance(0.1):
            return Piece(f"feature {own}", "{0}", (self.signal("Z", self.time(own, 0.9)),))
        x = self.signal("q", self.time(own, 0.9))
        match self.rng.randrange(7):
            case 0:
                return Piece(f"feature {own}", "mx.exp({0})", (x,))
            case 1:
                return Piece(f"feature {own}", f'mx.softmax({{0}}, axis="{own}")', (x,))
            case 2:
                return Piece(f"feature {own}", f'mx.l2norm({{0}}, over="{own}")', (x,))
            case 3:
                return Piece(f"feature {own}", "mx.elu({0})", (x,))
        return x

    def value(self, depth: int) -> Piece:
        """What a matrix is applied to."""
        v = self.signal("v", self.rng.choice(["t v", "t v", "t v", "t", "t", "t k", "t n"]))
        if depth <= 0 or self.chance(0.6):
            return Piece("value", "{0}", (v,))
        inner = self.value(depth - 1)
        gate = self.signal("u", "t")
        return self.rng.choice(
            [
                Piece("value", "mx.silu({0}) * {1}", (gate, inner)),
                Piece("value", "mx.delay({0}, 1)", (inner,)),
                Piece("value", "mx.cumsum({0})", (inner,)),
                Piece("value", "mx.reverse({0})", (inner,)),
                Piece("value", "({0} @ {1})", (self.matrix(depth - 1), inner)),
                Piece("value", "({0} + {1})", (inner, self.value(depth - 1))),
                Piece("value", "mx.tanh({0})", (inner,)),
                Piece("value", "mx.where({0} > 0, {1}, 0.5 * {1})", (gate, inner)),
            ]
        )

    # ------------------------------------------------------------------ matrices

    def decay(self, own: str) -> Piece:
        """A transition without low rank, over `own` or scalar."""
        over = self.rng.choice([own, ""])
        at = self.time(over, 0.75) if over else self.rng.choice(["t", "t", ""])
        match self.rng.randrange(6):
            case 0:
                return Piece("decay", "{0}", (self.signal("a", at),))
            case 1:
                return Piece("decay", "mx.sigmoid({0})", (self.signal("x", at),))
            case 2 if own:
                return Piece("decay", "mx.complex({0}, {1})", (self.signal("a", own), self.signal("a", own)))
            case 3:
                A, dt = self.signal("x", over), self.signal("x", "t")
                return Piece("decay", "mx.exp(-mx.exp({0}) * mx.softplus({1}))", (A, dt))
        return Piece("decay", "mx.exp({0})", (self.signal("g", at),))

    def semiseparable(self) -> Piece:
        own = self.rng.choice(["k", "k", "n"])
        C, B = self.feature(own, complex=True), self.feature(own, complex=True)
        A = self.decay(own)
        if self.chance(0.3):
            a, b = self.signal("a", f"t {own}"), self.signal("a", f"t {own}")
            pairs = ((a, b), (self.signal("a", f"t {own}"), b))[: self.rng.choice([1, 1, 2])]
            text = ", ".join(f"({{{2 * i}}}, {{{2 * i + 1}}})" for i in range(len(pairs)))
            low = Piece("low rank", f"[{text}]", tuple(p for pair in pairs for p in pair))
            A = Piece("transition", "mx.transition({0}, low_rank={1})", (A, low))
        text = f'mx.semiseparable({{0}}, {{1}}, {{2}}, over="{own}")'
        made = Piece("matrix", text, (C, A, B))
        return Piece("matrix", "mx.real({0})", (made,)) if re.search(r"complex|Z\d", str(made)) else made

    def leaf(self) -> Piece:
        """A matrix without matrices in it."""
        match self.rng.randrange(16):
            case 0:
                return Piece("matrix", "mx.diagonal({0})", (self.signal("d"),))
            case 1 | 2 if self.chance(0.2):  # k is an axis of the matrix, beside one that is summed over
                q, k = self.signal("q", "t k n"), self.signal("q", "t k n")
                return Piece("matrix", 'mx.lowrank({0}, {1}, over="n")', (q, k))
            case 1 | 2:
                return Piece("matrix", 'mx.lowrank({0}, {1}, over="k")', (self.feature(), self.feature()))
            case 3 | 4 | 5 | 6:
                return self.semiseparable()
            case 7 | 8:
                return Piece("matrix", "mx.toeplitz({0})", (self.signal("f"),))
            case 9:
                return Piece("matrix", "mx.toeplitz({0}, anti={1})", (self.signal("f"), self.signal("f")))
            case 10:
                return Piece("matrix", 'mx.toeplitz({0}, lags="l")', (self.signal("f", "l"),))
            case 11:
                return Piece("matrix", "mx.circulant({0})", (self.signal("f"),))
            case 12:
                return Piece(
                    "matrix", 'mx.vandermonde({0}, {1}, over="k")', (self.signal("x", "t k"), self.signal("w", "k"))
                )
            case 13:
                x, y = self.signal("x", "t k"), self.signal("y", "t k")
                return Piece("matrix", 'mx.cauchy(2 + mx.sigmoid({0}), mx.sigmoid({1}), over="k")', (x, y))
            case 14:
                return Piece("matrix", "mx.dense({0})", (self.signal("m", "t s"),))
            case 15:
                left, right = self.signal("l", "y x w", batch=False), self.signal("r", "w y z", batch=False)
                return Piece("matrix", 'mx.monarch({0}, {1}, grid="y w", rows="z x")', (left, right))
        return Piece("matrix", f"mx.real(mx.dft({self.rng.choice(['', 'inverse=True'])}))")

    def matrix(self, depth: int) -> Piece:
        if depth <= 0 or self.chance(0.25):
            return self.leaf()
        deeper = self.matrix(depth - 1)
        match self.rng.randrange(20):
            case 0 | 1 | 2:
                return Piece("matrix", "({0} + {1})", (deeper, self.matrix(depth - 1)))
            case 3:
                return Piece("matrix", "({0} @ {1})", (deeper, self.matrix(depth - 1)))
            case 4:
                return Piece("matrix", "({0} * {1})", (deeper, self.matrix(depth - 1)))
            case 5:
                return Piece(
                    "matrix", "({0} * {1})", (self.rng.choice([Piece("number", "2"), self.signal("c", "")]), deeper)
                )
            case 6:
                return Piece("matrix", "(mx.diagonal({0}) @ {1})", (self.signal("d"), deeper))
            case 7:
                return Piece("matrix", "({1} @ mx.diagonal({0}))", (self.signal("d"), deeper))
            case 8 | 9:
                return Piece("matrix", "mx.causal({0})", (deeper,))
            case 10:
                w, after = self.rng.choice([1, 2, 3]), self.rng.choice([0, 0, 1])
                return Piece("matrix", f"mx.band({{0}}, {w}, after={after})", (deeper,))
            case 11:
                return Piece("matrix", "mx.flip({0})", (deeper,))
            case 12:
                return Piece("matrix", f"mx.shift({{0}}, {self.rng.choice([1, 1, 2])})", (deeper,))
            case 13:
                return Piece("matrix", "{0}.T", (deeper,))
            case 14:
                return Piece(
                    "matrix",
                    "mx.decay({0}, {1})",
                    (deeper, self.decay("") if self.chance(0.7) else Piece("decay", "0.9")),
                )
            case 15:
                return Piece("matrix", "mx.softmax({0})", (self.scores(depth - 1),))
            case 16:
                floor = self.rng.choice(["floor=1.0", "floor=0.5, eps=0.1"])
                return Piece("matrix", f"mx.normalize({{0}}, {floor})", (deeper,))
            case 17:
                return Piece("matrix", "mx.resets({0}, {1})", (deeper, self.signal("reset", "t")))
            case 18:
                return Piece(
                    "matrix", "mx.mask({0}, {1} > 0)", (deeper, self.signal("m", self.rng.choice(["t s", "t"])))
                )
        q, k = (Piece("feature k", "mx.exp({0})", (self.signal("q", "t k"),)) for _ in "qk")
        kernel = Piece("matrix", 'mx.lowrank({0}, {1}, over="k")', (q, k))
        return Piece("matrix", "mx.normalize(mx.causal({0}))", (kernel,))

    def scores(self, depth: int) -> Piece:
        """What a softmax is taken of."""
        scores = Piece("matrix", 'mx.lowrank({0}, {1}, over="k")', (self.feature(), self.feature()))
        if self.chance(0.25):
            scores = Piece("matrix", "({0} + mx.dense({1}))", (scores, self.signal("m", "t s")))
        if self.chance(0.2):
            table, code = self.signal("w", "c k", batch=False), self.signal("z", "t")
            looked = Piece("feature k", 'mx.take({0}, {1}, axis="c")', (table, code))
            scores = Piece("matrix", 'mx.lowrank({0}, {1}, over="k")', (self.feature(), looked))
        match self.rng.randrange(4):
            case 0:
                return Piece("matrix", "mx.causal({0})", (scores,))
            case 1:
                return Piece("matrix", f"mx.band({{0}}, {self.rng.choice([1, 2, 4])})", (scores,))
            case 2 if depth > 0:
                return Piece("matrix", "({0} + mx.causal({1}))", (scores, self.leaf()))
        return scores

    def across(self, depth: int) -> Piece:
        """A matrix from the positions s of another sequence to t."""
        if depth <= 0 or self.chance(0.2):
            q, k = self.signal("q", "t k"), self.signal("k", "s k")
            scores = Piece("across", 'mx.lowrank({0}, {1}, over="k")', (q, k))
            if self.chance(0.3):
                scores = Piece("across", "({0} + mx.dense({1}))", (scores, self.signal("m", "t s")))
            return scores
        deeper = self.across(depth - 1)
        gate, keep = self.signal("g", "t"), self.signal("m", self.rng.choice(["t s", "s"]))
        return self.rng.choice(
            [
                Piece("across", "({0} + {1})", (deeper, self.across(depth - 1))),
                Piece("across", "({0} * {1})", (deeper, self.across(depth - 1))),
                Piece("across", "mx.causal({0})", (deeper,)),
                Piece("across", f"mx.band({{0}}, {self.rng.choice([1, 2, 4])}, after=1)", (deeper,)),
                Piece("across", "mx.mask({0}, {1} > 0)", (deeper, keep)),
                Piece("across", "mx.softmax({0})", (deeper,)),
                Piece("across", "mx.softmax({0})", (deeper,)),
                Piece("across", "mx.normalize(mx.exp({0}))", (deeper,)),
                Piece("across", "(mx.diagonal({1}) @ {0})", (deeper, gate)),
                Piece("across", "({0} @ mx.diagonal({1}))", (deeper, self.signal("g", "s"))),
                Piece("across", "mx.decay({0}, mx.sigmoid({1}))", (deeper, gate)),
                Piece("across", "mx.shift({0})", (deeper,)),
                Piece("across", "(0.5 * {0})", (deeper,)),
            ]
        )

    # ------------------------------------------------------------------ recurrences

    def step_decay(self, own: str) -> Piece:
        return Piece("decay", "0.8") if self.chance(0.1) else self.decay(own)

    def update(self, state: str, key: str, value: str, read: Piece | None) -> Piece:
        """decay, Householder-like corrections and inputs, in some order, on the state."""
        now = Piece("state", state)
        if self.chance(0.85):
            now = Piece("state", "({0} * {1})", (self.step_decay(key), now))
        for _ in range(self.rng.choice([0, 0, 0, 1, 1, 2])):
            k, beta = self.signal("a", f"t {key}"), self.signal("beta", "t")
            text = (
                "({0} - {1} * mx.outer({2}, {2} @ {0}))"
                if value and self.chance(0.5)
                else "({0} - {1} * {2} * ({2} @ {0}))"
            )
            now = Piece("state", text, (now, beta, k))
        for _ in range(self.rng.choice([1, 1, 1, 2])):
            k, v = self.feature(key, complex=True), self.signal("v", f"t {value}".strip())
            if read is not None and self.chance(0.3):
                v = read
            scale = self.rng.choice([Piece("number", "1"), self.signal("beta", "t"), Piece("number", "0.5")])
            now = Piece("state", "({0} + {1} * {2} * {3})", (now, scale, k, v))
        return now

    def output(self, states: tuple[tuple[str, str], ...], value: str) -> Piece:
        """Read-outs of the states, before or after the step, with skips and gates."""
        name, _ = states[0]
        q = self.feature(states[0][1].split()[0])
        whole = states[0][1] == "n" and self.chance(0.3)
        after = "1" if self.chance(0.75) else ""
        out = Piece("out", f"{name}{after}") if whole else Piece("out", f"{{0}} @ {name}{after}", (q,))
        if whole:
            out = Piece("out", "mx.real({0})", (out,))
        if self.chance(0.2) and not whole:
            out = Piece("out", f"({{0}} + {{1}} @ {name})", (out, self.feature(states[0][1].split()[0])))
        for other, axes in states[1:]:
            key = axes.split()[0]
            read = Piece("out", f"{{0}} @ {other}1", (self.feature(key),))
            out = self.rng.choice(
                [
                    Piece("out", "({0} + {1})", (out, read)),
                    Piece("out", "({0} / mx.maximum(mx.abs({1}), 1.0))", (out, read)),
                ]
            )
        if self.chance(0.3):
            out = Piece("out", "({0} + {1} * {2})", (out, self.signal("d", ""), self.signal("v", f"t {value}".strip())))
        if self.chance(0.2):
            out = Piece("out", "mx.silu({0}) * {1}", (self.signal("u", "t"), out))
        return Piece("out", "mx.real({0})", (out,))

    def recurrence(self) -> tuple[tuple[tuple[str, str], ...], tuple[Piece, ...], Piece]:
        if self.chance(0.08):
            return self.sequential()
        if self.chance(0.12):
            return self.dense_recurrence()
        if self.chance(0.15):
            return self.coupled()
        key, value = self.rng.choice([("k", "v"), ("k", "v"), ("k", "v"), ("n", ""), ("n", "v")])
        states: tuple[tuple[str, str], ...] = (("S", f"{key} {value}".strip()),)
        updates = [self.update("S", key, value, None)]
        if self.chance(0.25):
            states += (("N", key),)
            updates.append(self.update("N", key, "", None))
        elif self.chance(0.15) and value:
            states += (("R", f"{key} {value}"),)
            read = Piece("signal t v", f"({{0}} @ {self.rng.choice(['S', 'S1'])})", (self.feature(key),))
            updates.append(self.update("R", key, value, read))
        return states, tuple(updates), self.output(states, value)

    def coupled(self) -> tuple[tuple[tuple[str, str], ...], tuple[Piece, ...], Piece]:
        """Two or three states that feed each other: linearly, some through a delta rule, some after their step."""
        key, value = self.rng.choice([("k", "v"), ("k", "v"), ("n", ""), ("n", "v")])
        names = self.rng.choice([("S", "R"), ("S", "R"), ("S", "R", "P")])
        updates = []
        for i, name in enumerate(names):
            now = Piece("state", "({0} * {1})", (self.step_decay(key), Piece("state", name)))
            for j, other in enumerate(names):
                if j == i or (len(names) > 2 and self.chance(0.4)):
                    continue
                seen = Piece("state", f"{other}1" if j < i and self.chance(0.5) else other)
                share = self.rng.choice([Piece("number", "0.3"), Piece("number", "-0.2"), self.signal("beta", "t")])
                now = Piece("state", "({0} + 0.3 * {1} * {2})", (now, share, seen))
            if self.chance(0.4):
                a, other = self.signal("a", f"t {key}"), Piece("state", self.rng.choice(names))
                now = Piece("state", "({0} - 0.3 * {1} * ({1} @ {2}))", (now, a, other))
            if i == 0 or self.chance(0.5):
                k, v = self.feature(key), self.signal("v", f"t {value}".strip())
                now = Piece("state", "({0} + {1} * {2})", (now, k, v))
            updates.append(now)
        states = tuple((name, f"{key} {value}".strip()) for name in names)
        return states, tuple(updates), self.output(states, value)

    def sequential(self) -> tuple[tuple[tuple[str, str], ...], tuple[Piece, ...], Piece]:
        """A cell that is not affine in its state."""
        x, f = self.signal("x", "t n"), self.signal("x", "t n")
        update = Piece("state", "mx.sigmoid({0}) * H + mx.tanh({1} + 0.5 * H)", (f, x))
        return (("H", "n"),), (update,), Piece("out", "{0} @ H1", (self.feature("n"),))

    def dense_recurrence(self) -> tuple[tuple[tuple[str, str], ...], tuple[Piece, ...], Piece]:
        at = self.rng.choice(["m n", "m n", "t m n"])
        A, B, x = self.signal("a", at), self.signal("q", self.time("m")), self.signal("v", "t")
        update = Piece("state", 'mx.rename({0} @ H + {1} * {2}, m="n")', (A, B, x))
        if self.chance(0.3):  # the same, as factors of the row and of the column
            row, column = self.signal("w", "n"), self.signal("w", "m")
            text = '(0.5 * H + mx.contract({0} * {1} * {2}, mx.rename(H, n="m"), over="m") + {3} * {4})'
            update = Piece("state", text, (row, column, A, self.signal("q", "n"), x))
        return (("H", "n"),), (update,), Piece("out", "{0} @ H1", (self.feature("n"),))


def draw(seed: int) -> Declaration:
    """The declaration number `seed`."""
    rng = random.Random(seed)
    made = Draw(rng)
    sizes = {"b": rng.choice([1, 2]), "t": rng.choice(LENGTHS), "h": rng.choice([1, 2])}
    sizes |= {a: rng.choice([1, 2, 2, 3]) for a in "kvnlc"}
    sizes["m"] = sizes["n"]
    sizes["s"] = sizes["t"]
    sizes["y"] = sizes["z"] = rng.choice([i for i in range(1, sizes["t"] + 1) if sizes["t"] % i == 0])
    sizes["x"] = sizes["w"] = sizes["t"] // sizes["y"]
    chunk, resets = rng.choice([1, 2, 3, 4, 8]), rng.random() < 0.15
    if rng.random() < 0.55:
        states, updates, output = made.recurrence()
        return Declaration(states, updates, output, made.axes, sizes, resets, seed, chunk)
    if made.chance(0.12):
        sizes["s"] = rng.choice(LENGTHS)
        v = made.signal("v", rng.choice(["s v", "s"]))
        output = Piece("value", "({0} @ {1})", (made.across(rng.choice([0, 1, 2, 2, 3])), v))
        return Declaration((), (), output, made.axes, sizes, False, seed, chunk)
    matrix = made.matrix(rng.choice([0, 1, 2, 2, 3]))
    output = Piece("value", "({0} @ {1})", (matrix, made.value(rng.choice([0, 0, 1, 2]))))
    if made.chance(0.2):
        output = Piece("value", "mx.silu({0}) * {1}", (made.signal("u"), output))
    return Declaration((), (), output, made.axes, sizes, resets, seed, chunk)
