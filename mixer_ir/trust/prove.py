"""mx.prove: a symbolic proof that every form of a mixer computes what was declared, for every length and chunking.

For each part that mixes along time: the traced update is the normal form, the segment formula that lowering
interprets is a homomorphism (one step, end to end, identity, associativity), a convolution is the recurrence; and the
programs that lowering really emitted, with a symbol for every entry, are the definition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lowering.kinds import undefined
from mixer_ir.driver.choosing import checked_mixer
from mixer_ir.errors import MixerError
from mixer_ir.language.mixer import Mixer
from mixer_ir.nodes.matrix import Apply, Softmax
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Process, Run
from mixer_ir.nodes.text import formula
from mixer_ir.rules.affine import NotAffine, normal_form
from mixer_ir.rules.legal import legal
from mixer_ir.rules.pieces import Piece, pieces
from mixer_ir.trust.algebra import Algebra
from mixer_ir.trust.emitted import Emitted, complex_signals
from mixer_ir.trust.exponents import TooLarge
from mixer_ir.trust.homomorphism import Shape, claims
from mixer_ir.trust.monoids import convolution, softmax
from mixer_ir.trust.traced import fired, traced

__all__ = ["Proof", "Step", "prove"]


@dataclass(frozen=True)
class Step:
    """One step of a proof: the law, what it says here, and why it holds (or where it does not)."""

    law: str
    statement: str
    because: str
    ok: bool


@dataclass(frozen=True)
class Proof:
    """All steps; `ok` if every one holds. `str` prints them in order."""

    mixer: str
    steps: tuple[Step, ...]

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps)

    @property
    def open(self) -> tuple[Step, ...]:
        """The steps that do not hold, or have no proof."""
        return tuple(step for step in self.steps if not step.ok)

    def to_json(self) -> dict[str, Any]:
        """The proof in strings: its steps in order."""
        return {"mixer": self.mixer, "ok": self.ok, "steps": [asdict(step) for step in self.steps]}

    @property
    def _verdict(self) -> str:
        """The last line: what came out, and for which step it failed, if it did."""
        if self.ok:
            return f"{self.mixer} is proved: all {len(self.steps)} steps hold"
        if not self.steps:
            return f"{self.mixer} is NOT proved: there is no step to take"
        first = self.open[0]
        return f"{self.mixer} is NOT proved: ✗ {first.law}: {first.because}"

    def __str__(self) -> str:
        head = "proved" if self.ok else f"not proved: {len(self.open)} of {len(self.steps)} steps do not hold"
        lines = [f"{self.mixer}: {head}"]
        law = ""
        for step in self.steps:
            if step.law != law:
                law = step.law
                lines.append(law)
            lines.append(f"  {'✓' if step.ok else '✗'} {step.statement}")
            lines.append(f"      {step.because}")
        lines.append(self._verdict)
        return "\n".join(lines)


def prove(mixer: Mixer) -> Proof:
    """A proof of the mixer's forms against its declaration; `ok` is False, with the reason, where there is none."""
    checked_mixer(mixer, "prove")
    steps: list[Step] = []
    try:
        steps.extend(_steps(mixer))
    except (TooLarge, RecursionError) as error:
        why = str(error) if isinstance(error, TooLarge) else "formulas nested too deeply"
        steps.append(
            Step(
                "the proof ends",
                f"after {len(steps)} steps there would be {why}, at the smallest sizes",
                "it does not: the mixer is too large to be proved in one piece; prove the mixers that it is made of, "
                "and verify the whole by numbers (mx.verify)",
                False,
            )
        )
    return Proof(mixer.name, tuple(steps))


def _steps(mixer: Mixer) -> Iterator[Step]:
    affine, algebra, complex = True, Algebra(), complex_signals(mixer)
    if (what := undefined(mixer.body, dict.fromkeys(mixer.signals, "real"))) is not None:
        yield Step("the declaration is defined", formula(mixer.body), f"it is not: {mixer.name} {what}", False)
        return
    for run in (n for n in walk(mixer.body) if isinstance(n, Run)):
        found = normal_form(run.recurrence)
        if isinstance(found, NotAffine):
            affine = False
            yield Step(
                "the state update is affine in the state",
                f"{run.recurrence.name}: {formula(found.term)}",
                f"it is not: {found.reason}; the sequential form alone is left, and there is nothing to bracket",
                False,
            )
            continue
        for name, difference in traced(mixer, run, found, algebra, complex):
            yield Step(
                "the traced update is the normal form",
                f"{run.recurrence.name}: {name}",
                difference
                or "one step from an arbitrary state gives the same formulas entry by entry; so do all, by induction",
                difference is None,
            )
    for rule, difference in fired(mixer, algebra, complex):
        yield Step(
            "the canonical form is the declared expression",
            f"{rule.rule}: {rule.identity}",
            difference or "an identity of matrices, tested on random instances; here also on symbols, entry by entry",
            difference is None,
        )
    for piece in pieces(mixer.expr) if affine else ():
        yield from _piece(piece)
    yield from _programs(mixer, [Emitted(mixer, algebra), *([Emitted(mixer, algebra, complex)] if complex else [])])


def _piece(piece: Piece) -> Iterator[Step]:
    match piece.node:
        case Process():
            yield from _process(piece.name, piece.node, piece)
        case Apply(matrix=Softmax()):
            for claim in softmax():
                yield Step(
                    f"{piece.name}: (max, sum, accumulator) is a monoid",
                    claim.statement,
                    _why(claim.ok, claim.difference),
                    claim.ok,
                )
        case Apply(matrix=M):
            yield Step(
                f"{piece.name}: the matrix by its entries",
                f"M = {formula(M)}",
                "each form sums M[t, s] v_s in some order; that its program does is shown below, at small lengths",
                True,
            )
        case Run():
            return


def _process(name: str, process: Process, piece: Piece) -> Iterator[Step]:
    before, low_rank = tuple(r.before for r in piece.reads), bool(process.transition.low_rank)
    most = max((len(f.inputs) for f in process.factors), default=0)  # and one that an update's own direction may have
    counts = dict.fromkeys((len(process.inputs), *((most, most + 1) if process.factors else ())))
    sharing = [(n, shared) for n in counts for shared in ([None, *range(n)] if low_rank else [None])]
    proved = True
    for n, shared in sharing:
        shape = Shape(before, n, low_rank, shared)
        where = "" if shared is None else f" (where a = k{shared})"
        where += "" if n == len(process.inputs) else f" of {n} inputs, as its updates may have"
        try:
            found = list(claims(shape))
        except (KeyError, ValueError) as error:
            found, proved = [], False
            yield Step(f"{name}: the formula{where}", "its blocks are those of the process", f"not {error}", False)
        for claim in found:
            proved = proved and claim.ok
            because = _why(claim.ok, f"{claim.difference} is left over")
            yield Step(f"{name}: {claim.law}{where}", claim.statement, because, claim.ok)
    yield Step(
        f"{name}: the formula of any length is the loop",
        "F(1 … T) = step T after … after step 1, and F(segment 1 · segment 2 · …) = F(1 … T) for every cut",
        "induction on the length: one step is the update, and a segment and a step end to end are one segment",
        proved,
    )
    if legal(piece)["fft"] is None:
        for law in convolution(before, bool(process.inputs)):
            yield Step(
                f"{name}: recurrence = convolution with the impulse response",
                law.statement,
                _why(law.ok, f"{law.difference} is left over"),
                law.ok,
            )


def _why(ok: bool, otherwise: str) -> str:
    return "both sides are the same polynomial in symbols that do not commute" if ok else f"they differ: {otherwise}"


def _programs(mixer: Mixer, kinds: Sequence[Emitted]) -> Iterator[Step]:
    """The programs that lowering emits, in symbols: for each kind of signals."""
    known, algebra = kinds[0].known, kinds[0].algebra
    known += "".join(f"; with complex {', '.join(x.complex)}" for x in kinds if x.complex)
    for form in mixer.forms():
        tried: dict[str, str | None] = {}
        try:
            for emitted in kinds:
                tried |= emitted.checks(form)
            wrong = next((f"{what}: {difference}" for what, difference in tried.items() if difference), "")
        except (MixerError, AssertionError, ArithmeticError, TypeError, ValueError, IndexError, KeyError) as error:
            wrong = f"the program cannot be made or read: {type(error).__name__}: {error}"
        yield Step(
            "the emitted programs are the definition",
            f"form {form}: {', '.join(tried)}{known}{algebra.compared}",
            wrong
            or "with a symbol for every entry, each result is the formula of the declared loop or sum: both have "
            "one value where symbols stand for random numbers of a field of 2¹²⁷ (others do with a chance below 10⁻³⁰)",
            not wrong,
        )
