"""The entry-wise functions in Triton: a form each, and the helpers that some of them call."""

from __future__ import annotations

from collections.abc import Iterable

FORMS: dict[str, str] = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "pow": "_pow({}, {})",
    "neg": "-{}",
    "exp": "tl.exp({})",
    "exp2": "tl.exp2({})",
    "log": "tl.log({})",
    "log2": "tl.log2({})",
    "log1p": "_log1p({})",
    "expm1": "_expm1({})",
    "sqrt": "tl.sqrt({})",
    "abs": "tl.abs({})",
    "sign": "_sign({})",
    "sigmoid": "_sigmoid({})",
    "softplus": "_softplus({})",
    "tanh": "_tanh({})",
    "sin": "_sin({})",
    "cos": "_cos({})",
    "erf": "tl.erf({})",
    "min": "tl.minimum({}, {})",
    "max": "tl.maximum({}, {})",
    "where": "tl.where({}, {}, {})",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "and": "{} & {}",
    "or": "{} | {}",
    "not": "{} == 0",
    "mod": "_mod({}, {})",
    "floordiv": "_floordiv({}, {})",
}
"""name -> text; `real`, `imag`, `conj` and `complex` are gone by then (backends/triton/real.py), in single precision
`exp` too (backends/triton/powers.py)"""

HELPERS: dict[str, str] = {
    "_exp": """
@triton.jit
def _exp(x):
    if x.dtype == tl.float32:
        return tl.exp2(x * 1.4426950408889634)
    else:
        return tl.exp(x)
""",
    "_log1p": """
@triton.jit
def _log1p(x):
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.where(u == float("inf"), u, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0))))
""",
    "_expm1": """
@triton.jit
def _expm1(x):
    u = _exp(x)
    if x.dtype == tl.float32:
        s = 1.0 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040))))))
        return tl.where(tl.abs(x) < 0.35, x * s, u - 1.0)
    else:
        log = tl.where((u == 0.0) | (u == 1.0) | (u == float("inf")), 1.0, tl.log(u))
        return tl.where(u == 1.0, x, tl.where((u == 0.0) | (u == float("inf")), u - 1.0, (u - 1.0) * (x / log)))
""",
    "_sign": """
@triton.jit
def _sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)
""",
    "_sigmoid": """
@triton.jit
def _sigmoid(x):
    e = _exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)
""",
    "_softplus": """
@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + _log1p(_exp(-tl.abs(x)))
""",
    "_tanh": """
@triton.jit
def _tanh(x):
    e = _expm1(-2.0 * tl.abs(x))
    return _sign(x) * (-e / (2.0 + e))
""",
    "_sin": """
@triton.jit
def _sin(x):
    if x.dtype == tl.float32:
        return _turned(x, 0)
    else:
        return tl.sin(x)
""",
    "_cos": """
@triton.jit
def _cos(x):
    if x.dtype == tl.float32:
        return _turned(x, 1)
    else:
        return tl.cos(x)
""",
    "_turned": """
@triton.jit
def _turned(x, ahead):
    turns = x.to(tl.float64) * 0.6366197723675814  # quarters: the angle modulo a turn, exact to float32 below 2^30
    quarter = tl.floor(turns + 0.5)
    r = ((turns - quarter) * 1.5707963267948966).to(tl.float32)
    q = (quarter - 4.0 * tl.floor(quarter * 0.25)).to(tl.int32) + ahead
    s = r * r
    sine = r * (1.0 + s * (-1 / 6 + s * (1 / 120 + s * (-1 / 5040 + s * (1 / 362880)))))
    cosine = 1.0 + s * (-1 / 2 + s * (1 / 24 + s * (-1 / 720 + s * (1 / 40320))))
    y = tl.where((q & 1) == 0, sine, cosine)
    return tl.where((q & 2) == 0, y, -y)
""",
    "_near_sin": """
@triton.jit
def _near_sin(x):
    return _near(x, 0)
""",
    "_near_cos": """
@triton.jit
def _near_cos(x):
    return _near(x, 1)
""",
    "_near": """
@triton.jit
def _near(x, ahead):
    quarter = tl.floor(x * 0.63661977 + 0.5)  # of a turn; few, so that float32 is exact enough
    r = ((x - quarter * 1.5703125) - quarter * 4.837512969970703e-4) - quarter * 7.549789948768648e-8
    q = quarter.to(tl.int32) + ahead
    s = r * r
    sine = r * (1.0 + s * (-1 / 6 + s * (1 / 120 + s * (-1 / 5040 + s * (1 / 362880)))))
    cosine = 1.0 + s * (-1 / 2 + s * (1 / 24 + s * (-1 / 720 + s * (1 / 40320))))
    y = tl.where((q & 1) == 0, sine, cosine)
    return tl.where((q & 2) == 0, y, -y)
""",
    "_pow": """
@triton.jit
def _pow(x, y):
    size = _exp(y * tl.log(tl.where(x == 0, 1.0, tl.abs(x))))
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y * 0.5) * 2.0 != y)
    signed = tl.where(x < 0, tl.where(whole, tl.where(odd, -size, size), float("nan")), size)
    at_zero = tl.where(y == 0, 1.0, tl.where(y > 0, 0.0, float("inf")))
    return tl.where(x == 0, at_zero, signed)
""",
    "_mod": """
@triton.jit
def _mod(x, y):
    return x - _floordiv(x, y) * y
""",
    "_floordiv": """
@triton.jit
def _floordiv(x, y):
    if x.dtype.is_floating():
        return tl.floor(x / y)
    else:
        q = x // y
        return q - ((q * y != x) & ((x < 0) != (y < 0))).to(q.dtype)
""",
    "_exchanged": """
@triton.jit
def _exchanged(x):
    first, second = tl.split(x)
    return tl.join(second, first)
""",
    "_larger": """
@triton.jit
def _larger(x, y):
    return tl.maximum(x, y)
""",
    "_times": """
@triton.jit
def _times(x, y):
    return x * y
""",
    "_then": """
@triton.jit
def _then(a, x, a_next, x_next):
    return a * a_next, x * a_next + x_next
""",
    "_affine": """
@triton.jit
def _affine(a, x, axis: tl.constexpr, reverse: tl.constexpr):
    _, h = tl.associative_scan((a, x), axis, _then, reverse=reverse)
    return h
""",
    "_then_pairs": """
@triton.jit
def _then_pairs(a_re, a_im, x_re, x_im, b_re, b_im, y_re, y_im):  # the later one is b, y
    re, im = a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re
    return re, im, x_re * b_re - x_im * b_im + y_re, x_re * b_im + x_im * b_re + y_im
""",
    "_affine_pairs": """
@triton.jit
def _affine_pairs(a_re, a_im, x_re, x_im, axis: tl.constexpr, reverse: tl.constexpr):
    _, _, re, im = tl.associative_scan((a_re, a_im, x_re, x_im), axis, _then_pairs, reverse=reverse)
    return re, im
""",
}
CALLS = {
    "_affine": ("_then",),
    "_affine_pairs": ("_then_pairs",),
    "_expm1": ("_exp",),
    "_sigmoid": ("_exp",),
    "_pow": ("_exp",),
    "_softplus": ("_log1p", "_exp"),
    "_tanh": ("_expm1", "_sign"),
    "_mod": ("_floordiv",),
    "_sin": ("_turned",),
    "_cos": ("_turned",),
    "_near_sin": ("_near",),
    "_near_cos": ("_near",),
}
"""helpers that a helper calls"""
TILES = {
    "_expm1": 2, "_log1p": 3, "_softplus": 4, "_tanh": 4, "_pow": 5, "_inverse": 1, "_sin": 2, "_cos": 2, "_affine": 1,
}  # fmt: skip
"""tiles that a helper holds while it works (one whose name begins so)"""


def _inverse(n: int) -> str:
    """The inverse of I − L for a strictly lower triangular L (n × n): of its blocks by substitution, then merged."""
    step = min(n, 16)
    count = n // step
    lines = [
        "",
        "@triton.jit",
        f"def _inverse_{n}(L):",
        f"    row, col = tl.arange(0, {n})[:, None], tl.arange(0, {n})[None, :]",
        "    L = tl.where(col < row, L, 0.0)",
        f"    own = tl.where(row // {step} == col // {step}, L, 0.0)",
        f"    own = tl.sum(tl.reshape(own, [{count}, {step}, {count}, {step}]), axis=2)  # the blocks of the diagonal",
        f"    i_row, i_col = tl.arange(0, {step})[None, :, None], tl.arange(0, {step})[None, None, :]",
        "    eye = (i_row == i_col).to(L.dtype)",
        f"    X = tl.broadcast_to(eye, [{count}, {step}, {step}])",
        f"    for i in range(1, {step}):  # row i of every block: e_i + L[i, :] X",
        "        left = tl.sum(tl.where(i_row == i, own, 0.0), axis=1)",
        "        sums = tl.sum(left[:, :, None] * X, axis=1)",
        "        X = tl.where(i_row == i, sums[:, None, :] + eye, X)",
    ]
    while step < n:
        pairs = n // (2 * step)
        lines += [
            f"    # pairs of blocks of {step}: [[X1, 0], [X2 L21 X1, X2]]",
            f"    cross = (row // {step} == col // {step} + 1) & (row // {2 * step} == col // {2 * step})",
            f"    L21 = tl.reshape(tl.where(cross, L, 0.0), [{pairs}, {2 * step}, {pairs}, {2 * step}])",
            f"    L21 = tl.sum(tl.reshape(tl.sum(L21, axis=2), [{pairs}, 2, {step}, 2, {step}]), axis=3)",
            "    L21 = tl.sum(L21, axis=1)",
            f"    X1, X2 = tl.split(tl.permute(tl.reshape(X, [{pairs}, 2, {step}, {step}]), [0, 2, 3, 1]))",
            '    below = tl.dot(X2, L21, input_precision="ieee").to(X.dtype)',
            '    below = tl.dot(below, X1, input_precision="ieee").to(X.dtype)',
            "    halves = tl.join(tl.join(X1, tl.zeros_like(X1)), tl.join(below, X2))",
            f"    X = tl.reshape(tl.permute(halves, [0, 4, 1, 3, 2]), [{pairs}, {2 * step}, {2 * step}])",
        ]
        step *= 2
    return "\n".join([*lines, f"    return tl.reshape(X, [{n}, {n}])", ""])


HELPERS |= {f"_inverse_{n}": _inverse(n) for n in (2, 4, 8, 16, 32, 64, 128)}


def needed(names: Iterable[str]) -> str:
    """The text of the helpers named and of those that they call."""
    todo, found = list(names), set()
    while todo:
        name = todo.pop()
        if name in HELPERS and name not in found:
            found.add(name)
            todo += CALLS.get(name, ())
    return "".join(f"\n{text}" for name, text in HELPERS.items() if name in found)
