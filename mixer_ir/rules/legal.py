"""Which forms are legal for a piece, and for each that is not, the sentence that says why."""

from __future__ import annotations

from mixer_ir.nodes.expr import SOURCE, TIME, Expr, Signal
from mixer_ir.nodes.matrix import Apply, Circulant, Fourier, LowRank, Matrix, Monarch, Resets, Softmax, Toeplitz
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Process, Run
from mixer_ir.rules.affine import NotAffine, normal_form
from mixer_ir.rules.pieces import Piece, pieces
from mixer_ir.rules.reset import is_packed_filter

FORMS = ("recurrent", "chunked", "parallel", "scan", "fft", "monarch", "direct", "flash", "dense")

STATE = "it has no state that is handed from step to step"
NOT_SOFTMAX = "it has no softmax over keys"


def legal(piece: Piece) -> dict[str, str | None]:
    """For every form, None where it is legal for this piece, else the reason why not."""
    match piece.node:
        case Process():
            return _of_process(piece.node, piece)
        case Apply(matrix=matrix):
            return _of_matrix(matrix)
        case Run(recurrence=recurrence):
            refusal = normal_form(recurrence)
            assert isinstance(refusal, NotAffine)
            return {form: None if form == "recurrent" else refusal.reason for form in FORMS}


def forms(expr: Expr) -> tuple[str, ...]:
    """The forms that are legal for a canonical expression: those that some piece has; `dense` where every piece has it.

    An expression without pieces mixes nothing along time and is its own, dense form.
    """
    found = [legal(p) for p in pieces(expr)]
    if not found:
        return ("dense",)
    every = {"dense"}
    return tuple(form for form in FORMS if (all if form in every else any)(reasons[form] is None for reasons in found))


def refusal(expr: Expr, form: str) -> str | None:
    """Why a form is not legal for a canonical expression, in one sentence; None where it is."""
    if form in forms(expr):
        return None
    reasons = [legal(p)[form] for p in pieces(expr)]
    told = [r for r in dict.fromkeys(reasons) if r is not None]
    return "; ".join(told) if told else "nothing in it mixes along time"


def _of_process(process: Process, piece: Piece) -> dict[str, str | None]:
    moving = _moving(process, piece)
    table: dict[str, str | None] = dict.fromkeys(FORMS)
    for form in ("fft", "monarch", "direct"):
        table[form] = moving
    table["flash"] = NOT_SOFTMAX
    return table


def _moving(process: Process, piece: Piece) -> str | None:
    """Why the process is not a convolution: what in it depends on t."""
    A = process.transition
    if any(TIME in e.axes for e in A.exprs):
        return f"its transition depends on t through {signals(*(e for e in A.exprs if TIME in e.axes))}"
    keys = [k for k, _ in process.inputs if TIME in k.axes]
    if keys:
        return f"its input depends on t through {signals(*keys)}"
    queries = [r.query for r in piece.reads if TIME in r.query.axes]
    if queries:
        return f"its read-out depends on t through {signals(*queries)}"
    if process.reset is not None:
        return "its state is reset inside the sequence"
    return None


def signals(*parts: Node) -> str:
    """The names of the signals over t (or s) that stand in some expressions; `the position` if there are none."""
    inside = (n for part in parts for n in walk(part))
    names = dict.fromkeys(n.name for n in inside if isinstance(n, Signal) and (TIME in n.axes or SOURCE in n.axes))
    return ", ".join(names) if names else "the position t"


def _of_matrix(M: Matrix) -> dict[str, str | None]:
    word = type(M).__name__.lower()
    table: dict[str, str | None] = {
        "recurrent": STATE,
        "chunked": STATE,
        "parallel": f"a {word} matrix is multiplied by its entries, which is the dense form",
        "scan": STATE,
        "fft": f"a {word} matrix is neither Toeplitz nor circulant",
        "monarch": f"a {word} matrix is neither Toeplitz nor circulant",
        "direct": f"a {word} matrix is not Toeplitz",
        "flash": NOT_SOFTMAX,
        "dense": None,
    }
    match M:
        case Toeplitz():
            extra: tuple[str, ...] = ("fft", "monarch", "direct")
        case Resets() if is_packed_filter(M):
            extra = ("direct",)
        case Circulant() | Fourier():
            extra = ("fft", "monarch")
        case Monarch():
            extra = ("monarch",)
        case Softmax():
            extra = ("flash", "parallel")
        case LowRank():
            extra = ("parallel",)
        case _:
            extra = ()
    return {**table, **dict.fromkeys(extra)}
