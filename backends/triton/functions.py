"""The entry-wise functions in Triton: a form each, and the helpers that some of them call."""

from __future__ import annotations

FORMS: dict[str, str] = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "pow": "_pow({}, {})",
    "neg": "-{}",
    "exp": "tl.exp({})",
    "log": "tl.log({})",
    "log1p": "_log1p({})",
    "expm1": "_expm1({})",
    "sqrt": "tl.sqrt({})",
    "abs": "tl.abs({})",
    "sign": "_sign({})",
    "sigmoid": "_sigmoid({})",
    "softplus": "_softplus({})",
    "tanh": "_tanh({})",
    "sin": "tl.sin({})",
    "cos": "tl.cos({})",
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
"""name -> text; `real`, `imag`, `conj` and `complex` are gone by then (backends/triton/real.py)"""

HELPERS: dict[str, str] = {
    "_log1p": """
@triton.jit
def _log1p(x):
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.where(u == float("inf"), u, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0))))
""",
    "_expm1": """
@triton.jit
def _expm1(x):
    u = tl.exp(x)
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
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)
""",
    "_softplus": """
@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + _log1p(tl.exp(-tl.abs(x)))
""",
    "_tanh": """
@triton.jit
def _tanh(x):
    e = _expm1(-2.0 * tl.abs(x))
    return _sign(x) * (-e / (2.0 + e))
""",
    "_pow": """
@triton.jit
def _pow(x, y):
    size = tl.exp(y * tl.log(tl.where(x == 0, 1.0, tl.abs(x))))
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
}
CALLS = {"_softplus": ("_log1p",), "_tanh": ("_expm1", "_sign"), "_mod": ("_floordiv",)}
"""helpers that a helper calls"""


def inverse(n: int) -> str:
    """A helper: the inverse of I − L for a strictly lower triangular L (n × n), by substitution and merging."""
    step = min(n, 16)
    lines = [
        "",
        "@triton.jit",
        f"def _inverse_{n}(L):",
        f"    row, col = tl.arange(0, {n})[:, None], tl.arange(0, {n})[None, :]",
        "    eye = (row == col).to(L.dtype)",
        "    L = tl.where(col < row, L, 0.0)",
        f"    own = tl.where(row // {step} == col // {step}, L, 0.0)",
        "    X = eye",
        f"    for i in range(1, {step}):  # row i of every {step} x {step} block: e_i + L[i, :] X",
        f"        left = tl.sum(tl.where(row % {step} == i, own, 0.0), axis=0)",
        "        sums = tl.sum(left[:, None] * X, axis=0)",
        f"        X = tl.where((row % {step} == i) & (row // {step} == col // {step}), sums[None, :] + eye, X)",
    ]
    while step < n:
        lines += [
            f"    below = (row // {step} == col // {step} + 1) & (row // {2 * step} == col // {2 * step})",
            "    cross = tl.where(below, L, 0.0)  # merged: [[X1, 0], [X2 L21 X1, X2]]",
            '    X += tl.dot(tl.dot(X, cross, input_precision="ieee").to(X.dtype), X, input_precision="ieee")',
        ]
        step *= 2
    return "\n".join([*lines, "    return X", ""])


def needed(names: set[str], sizes: set[int]) -> str:
    """The text of the helpers named and of those that they call."""
    todo, found = list(names), set()
    while todo:
        name = todo.pop()
        if name in HELPERS and name not in found:
            found.add(name)
            todo += CALLS.get(name, ())
    return "".join(f"\n{text}" for name, text in HELPERS.items() if name in found) + "".join(
        f"\n{inverse(n)}" for n in sorted(sizes)
    )
