"""Mixers as people write them: S_t = …, y_t = …, with what is used twice named once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mixer_ir.nodes.expr import (
    SOURCE,
    TIME,
    Axes,
    Call,
    Contract,
    Cumulate,
    Delay,
    Detach,
    Expr,
    Index,
    Join,
    Literal,
    Reduce,
    Rename,
    Reverse,
    Signal,
    Size,
    Take,
    without,
)
from mixer_ir.nodes.functions import FUNCTIONS
from mixer_ir.nodes.matrix import (
    Apply,
    Band,
    Cauchy,
    Causal,
    Circulant,
    Decay,
    Dense,
    Diagonal,
    Entrywise,
    Flip,
    Fourier,
    Identity,
    LowRank,
    Mask,
    Matrix,
    Monarch,
    Normalize,
    Product,
    Resets,
    Scale,
    Semiseparable,
    Shift,
    Softmax,
    Sum,
    Toeplitz,
    Transpose,
    Vandermonde,
)
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Process, Read, Recurrence, Run, State, Transition

LOOSE, PLUS, DOT, TIMES, POWER, ATOM = range(6)
LONG = 28  # a text longer than this is named, if it is used twice

Written = tuple[str, int]  # a text, and how tightly it binds

BINDS = {
    "add": PLUS, "sub": PLUS, "mul": TIMES, "div": TIMES, "mod": TIMES, "floordiv": ATOM, "neg": PLUS, "pow": POWER,
    "lt": LOOSE, "le": LOOSE, "eq": LOOSE, "ne": LOOSE, "and": LOOSE, "or": LOOSE, "not": LOOSE,
}  # fmt: skip


def formula(node: Node) -> str:
    """An expression or a matrix as mathematics; lines that define shared parts and states come first."""
    writer = Writer(node)
    return "\n".join([*writer.definitions, writer.of(node)])


def mixer_text(name: str, signals: Any, body: Expr, returns: Axes, doc: str) -> str:
    """A mixer as text: its name, its signals by axes, and its equations."""
    groups: dict[Axes, list[str]] = {}
    for signal, axes in signals.items():
        groups.setdefault(axes, []).append(signal)
    listed = "   ".join(f"{', '.join(names)} ({' '.join(axes)})" for axes, names in groups.items())
    writer = Writer(body)
    equations = [*writer.definitions, f"y_t = {writer.of(body)}"]
    about = [f"  {line}" for line in doc.splitlines()[:1] if line]
    return "\n".join([f"{name}: {listed} → ({' '.join(returns)})", *about, *(f"    {line}" for line in equations)])


class Writer:
    """Texts of a graph's nodes, each written once, children first."""

    def __init__(self, root: Node) -> None:
        self.texts: dict[Node, Written] = {}
        self.definitions: list[str] = []
        self.names: Counter[str] = Counter()
        nodes = list(walk(root))
        uses = Counter(child for n in nodes for child in n.children())
        taken = {n.name for n in nodes if isinstance(n, Signal | State | Process)}
        updates: dict[Node, State] = {
            u: s for n in nodes if isinstance(n, Recurrence) for u, s in zip(n.updates, n.states, strict=True)
        }
        several = sum(isinstance(n, Recurrence) for n in nodes) > 1
        for n in nodes:
            text, binds = self.write(n)
            if n in updates and not isinstance(n, Literal | Signal | State):
                prefix = f"{updates[n].name}_t"
                self.definitions.append(f"{prefix} = {text}")
                text, binds = prefix, ATOM
            elif n is not root and isinstance(n, Expr | Matrix) and uses[n] > 1 and len(text) > LONG:
                text, binds = self.named(n, text, taken), ATOM
            elif isinstance(n, Recurrence):
                self.plain_updates(n, several)
            self.texts[n] = text, binds

    def of(self, node: Node, at_least: int = LOOSE) -> str:
        """The text of a node, in parentheses where it binds more loosely than its place."""
        text, binds = self.texts[node]
        return text if binds >= at_least else f"({text})"

    def named(self, node: Expr | Matrix, text: str, taken: set[str]) -> str:
        """A name for a text that is used more than once, defined on a line of its own."""
        letter = "M" if isinstance(node, Matrix) else "w"
        self.names[letter] += 1
        while f"{letter}{self.names[letter]}" in taken:
            self.names[letter] += 1
        name = f"{letter}{self.names[letter]}{'' if isinstance(node, Matrix) else subscript(node.axes)}"
        self.definitions.append(f"{name} = {text}")
        return name

    def plain_updates(self, of: Recurrence, several: bool) -> None:
        """The updates that have no line yet: a state that is kept, or becomes a signal or a number."""
        for state, update in zip(of.states, of.updates, strict=True):
            if isinstance(update, Literal | Signal | State):
                self.definitions.append(f"{state.name}_t = {self.of(update)}")
        if of.reset is not None or several:
            when = "" if of.reset is None else f", from zero where {self.of(of.reset)}"
            self.definitions.append(f"({of.name}: {', '.join(s.name for s in of.states)}{when})")

    def write(self, node: Node) -> Written:
        """The text of one node from those of its children."""
        match node:
            case Expr():
                return self.expr(node)
            case Matrix():
                return self.matrix(node), PLUS if isinstance(node, Sum) else TIMES if isinstance(
                    node, Product | Scale
                ) else ATOM
            case Transition():
                alone = node.log is not None and not node.low_rank
                return self.transition(node), ATOM if alone else PLUS
            case Process():
                return self.process(node), ATOM
        return "", ATOM

    def expr(self, e: Expr) -> Written:
        match e:
            case Literal(value=value):
                return number(value)
            case Signal(name=name, axes=axes):
                return name + subscript(axes), ATOM
            case State(name=name):
                return f"{name}_{{t−1}}", ATOM
            case Call(fn=fn, args=args):
                return self.call(fn, args)
            case Contract(left=left, right=right, over=over):
                sign = "·" if over == left.axes[-1:] else f"·{{{' '.join(over)}}}"
                return f"{self.of(left, POWER)} {sign} {self.of(right, POWER)}", DOT
            case Reduce(fn=fn, of=of, over=over):
                sign = {"sum": "Σ"}.get(fn, fn)
                return f"{sign}_{{{' '.join(over)}}} {self.of(of, POWER)}", DOT
            case Cumulate(fn=fn, of=of, reset=reset):
                return f"cum{fn}({self.of(of)}{self.piece(reset)})", ATOM
            case Delay(of=Signal(name=name), by=by, reset=None):
                return f"{name}_{{t{'−' if by >= 0 else '+'}{abs(by)}}}", ATOM
            case Delay(of=of, by=by, reset=reset):
                return f"delay({self.of(of)}, {by}{self.piece(reset)})", ATOM
            case Reverse(of=of):
                return f"reverse({self.of(of)})", ATOM
            case Rename(of=Signal(name=name), old="t", new="s"):
                return f"{name}_s", ATOM
            case Rename(of=of, old=old, new=new):
                return f"{self.of(of, ATOM)}[{old}→{new}]", ATOM
            case Index(axis=axis):
                return axis if axis in (TIME, SOURCE) else f"index({axis})", ATOM
            case Size(axis=axis):
                return "T" if axis == TIME else f"size({axis})", ATOM
            case Take(table=table, index=index):
                return f"{self.of(table, ATOM)}[{self.of(index)}]", ATOM
            case Join(parts=parts):
                return f"[{'; '.join(self.of(p) for p in parts)}]", ATOM
            case Detach(of=of):
                return f"detach({self.of(of)})", ATOM
            case Apply(matrix=matrix, of=of):
                return f"{self.of(matrix, POWER)} {self.of(of, POWER)}", DOT
            case Read(process=process, query=query, before=before):
                return f"{self.of(query, POWER)} · {process.name}{'_{t−1}' if before else '_t'}", DOT
            case Run(recurrence=recurrence):
                return self.texts[recurrence.output]
        raise AssertionError(f"{type(e).__name__} has no text")

    def call(self, fn: str, args: tuple[Expr, ...]) -> Written:
        binds = BINDS.get(fn, ATOM)
        match fn:
            case "mul":
                a, b = (without(x.axes, (TIME, SOURCE)) for x in args)
                sign = " " if set(a) <= set(b) or set(b) <= set(a) else " ⊗ "
                return f"{self.of(args[0], TIMES)}{sign}{self.of(args[1], TIMES)}", binds
            case "div":
                return f"{self.of(args[0], TIMES)} / {self.of(args[1], POWER)}", binds
            case "sub" | "neg":
                texts = [*(self.of(a, PLUS) for a in args[:-1]), self.of(args[-1], TIMES)]
            case "complex" | "pow" | "not":
                texts = [self.of(a, ATOM) for a in args]
            case _ if binds == LOOSE:
                texts = [self.of(a, PLUS) for a in args]
            case _:
                texts = [self.of(a, LOOSE if binds == ATOM and fn != "floordiv" else binds) for a in args]
        return FUNCTIONS[fn].text.format(*texts), binds

    def piece(self, reset: Expr | None) -> str:
        return "" if reset is None else f"; reset {self.of(reset)}"

    def transition(self, A: Transition) -> str:
        if A.dense is not None and not A.low_rank:
            return self.of(A.dense, PLUS)
        plain = "1" if A.log is None else f"exp({self.of(A.log)})"
        for given in (A.factor, A.dense):
            plain = plain if given is None else self.of(given, PLUS)
        return " + ".join([plain, *(f"{self.of(a, TIMES)} {self.of(b, POWER)}ᵀ" for a, b in A.low_rank)])

    def process(self, p: Process) -> str:
        terms = [f"{self.of(p.transition, TIMES)} {p.name}_{{t−1}}"]
        for key, value in p.inputs:
            plain = isinstance(value, Literal) and value.value == 1
            terms.append(self.of(key, TIMES) if plain else f"{self.of(key, TIMES)} ⊗ {self.of(value, TIMES)}")
        self.definitions.append(f"{p.name}_t = {' + '.join(terms)}{self.piece(p.reset)}")
        return p.name

    def matrix(self, M: Matrix) -> str:
        word = type(M).__name__.lower()
        match M:
            case Diagonal(d=d):
                return f"diag({self.of(d)})"
            case Identity():
                return "I"
            case LowRank(q=q, k=k, over=over):
                return f"lowrank({self.of(q)}, {self.of(k)}{summed(over)})"
            case Semiseparable(C=C, A=A, B=B, over=over, strict=strict):
                parts = ", ".join(self.of(x) for x in (C, A, B))
                return f"semiseparable({parts}{summed(over)}{', strict' if strict else ''})"
            case Toeplitz(h=h, anti=anti):
                return f"toeplitz({self.of(h)}{'' if anti is None else f', anti {self.of(anti)}'})"
            case Circulant(h=h):
                return f"circulant({self.of(h)})"
            case Vandermonde(x=x, weight=weight, over=over):
                return f"vandermonde({self.of(x)}{'' if weight is None else f', {self.of(weight)}'}{summed(over)})"
            case Cauchy(x=x, y=y, over=over):
                return f"cauchy({self.of(x)}, {self.of(y)}{summed(over)})"
            case Fourier(inverse=inverse):
                return "dft⁻¹" if inverse else "dft"
            case Monarch(left=left, right=right):
                return f"monarch({self.of(left)}, {self.of(right)})"
            case Dense(m=m):
                return f"[{self.of(m)}]"
            case Band(of=of, before=before, after=after):
                return f"band({self.of(of)}, {before}{'' if after == 0 else f', after {after}'})"
            case Mask(of=of, mask=mask):
                return f"mask({self.of(of)}, {self.of(mask)})"
            case Decay(of=of, log=log, factor=factor):
                one = Literal(value=1) if factor is None else factor
                return f"decay({self.of(of)}, {f'exp({self.of(log)})' if log is not None else self.of(one)})"
            case Normalize(of=of, eps=eps, floor=floor):
                more = "" if not eps else f", eps {number(eps)[0]}"
                return f"normalize({self.of(of)}{more}{'' if floor is None else f', floor {self.of(floor)}'})"
            case Shift(of=of, by=by):
                return f"shift({self.of(of)}{'' if by == 1 else f', {by}'})"
            case Transpose(of=of):
                return f"{self.of(of, ATOM)}ᵀ"
            case Resets(of=of, reset=reset):
                return f"resets({self.of(of)}, {self.of(reset)})"
            case Causal(of=of) | Softmax(of=of) | Flip(of=of):
                return f"{word}({self.of(of)})"
            case Sum(terms=terms):
                return " + ".join(self.of(m, PLUS) for m in terms)
            case Product(factors=factors):
                return " ".join(self.of(m, POWER) for m in factors)
            case Scale(factor=factor, of=of):
                return f"{self.of(factor, POWER)} {self.of(of, POWER)}"
            case Entrywise(fn="mul", args=args):
                return " ⊙ ".join(self.of(m, ATOM) for m in args)
            case Entrywise(fn=fn, args=args):
                return f"{fn}[{', '.join(self.of(m) for m in args)}]"
        raise AssertionError(f"{type(M).__name__} has no text")


def summed(over: Axes) -> str:
    """`; k`: the axes that a matrix's entries are sums over."""
    return f"; {' '.join(over)}" if over else ""


def subscript(axes: Axes) -> str:
    """`_t`, `_s` or `_{t s}` for what depends on time."""
    times = [a for a in axes if a in (TIME, SOURCE)]
    return "" if not times else f"_{times[0]}" if len(times) == 1 else "_{t s}"


def number(value: complex | float) -> Written:
    """A number, with a real minus."""
    if isinstance(value, complex):
        i = "i" if abs(value.imag) == 1 else f"{abs(value.imag):.12g}i"
        if value.real:
            return f"({value.real:.12g} {'-' if value.imag < 0 else '+'} {i})".replace("-", "−"), ATOM
        text = f"-{i}" if value.imag < 0 else i
    else:
        text = str(value) if isinstance(value, bool | int) else f"{value:.12g}"
    return text.replace("-", "−").replace("inf", "∞"), PLUS if text.startswith("-") else ATOM
