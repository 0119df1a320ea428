"""mixer-ir: a compiler for sequence mixers. `import mixer_ir as mx` is all that is needed.

The language is here at once; what runs it (compile, verify, prove, plot, the catalog) is opened on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixer_ir.errors import (
    AxisError,
    BackendError,
    DeclarationError,
    FormError,
    GradientError,
    MixerError,
    OptionError,
    SignalError,
    SpecError,
    StreamError,
)
from mixer_ir.language.declaration import State
from mixer_ir.language.declare import mixer, recurrence
from mixer_ir.language.mixer import Mixer
from mixer_ir.language.spec import dumps, loads
from mixer_ir.language.structures import (
    band,
    cauchy,
    causal,
    circulant,
    decay,
    dense,
    dense_transition,
    dft,
    diagonal,
    flip,
    identity,
    lowrank,
    mask,
    monarch,
    normalize,
    resets,
    semiseparable,
    shift,
    toeplitz,
    transition,
    transpose,
    vandermonde,
)
from mixer_ir.language.words import (
    abs,
    clamp,
    complex,
    conj,
    cos,
    elu,
    equal,
    erf,
    exp,
    exp2,
    expm1,
    floordiv,
    gelu,
    imag,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    max,
    maximum,
    min,
    minimum,
    mod,
    not_equal,
    real,
    relu,
    sigmoid,
    sign,
    silu,
    sin,
    softplus,
    sqrt,
    tanh,
    where,
)
from mixer_ir.nodes.along import (
    amax,
    amin,
    contract,
    cummax,
    cumprod,
    cumsum,
    delay,
    detach,
    index,
    l2norm,
    mean,
    norm,
    one_hot,
    outer,
    rename,
    reverse,
    size,
    softmax,
    source,
    sum,
    take,
)
from mixer_ir.nodes.expr import Expr
from mixer_ir.nodes.matrix import Matrix
from mixer_ir.nodes.process import Transition
from mixer_ir.nodes.text import formula

if TYPE_CHECKING:
    import catalog
    from mixer_ir.driver.compiled import CompiledMixer, compile
    from mixer_ir.driver.plot import plot
    from mixer_ir.trust.prove import prove
    from mixer_ir.trust.verify import verify

__all__ = [
    # declaring
    "mixer", "recurrence", "State", "Mixer", "Expr", "Matrix", "Transition", "dumps", "loads", "formula",
    # what runs a mixer
    "compile", "CompiledMixer", "verify", "prove", "plot", "catalog",
    # matrices
    "diagonal", "identity", "lowrank", "semiseparable", "transition", "dense_transition", "toeplitz", "circulant",
    "vandermonde", "cauchy", "dft", "monarch", "dense",
    "causal", "band", "mask", "decay", "softmax", "normalize", "transpose", "flip", "shift", "resets",
    # signals, entry by entry
    "exp", "exp2", "log", "log1p", "expm1", "sqrt", "abs", "sign", "sigmoid", "softplus", "relu", "silu", "gelu", "elu",
    "tanh", "sin", "cos", "erf", "real", "imag", "conj", "complex", "minimum", "maximum", "min", "max", "clamp",
    "where", "equal", "not_equal", "logical_and", "logical_or", "logical_not", "mod", "floordiv",
    # signals, along axes and along time
    "outer", "contract", "sum", "mean", "amax", "amin", "norm", "l2norm",
    "cumsum", "cummax", "cumprod", "delay", "reverse", "rename", "source", "index", "size", "take", "one_hot", "detach",
    # errors
    "MixerError", "DeclarationError", "AxisError", "SignalError", "FormError", "OptionError", "BackendError",
    "StreamError", "SpecError", "GradientError",
]  # fmt: skip

__version__ = "0.1.0"

DRIVERS = {  # opened on first use: name -> the module that has it
    "compile": "mixer_ir.driver.compiled",
    "CompiledMixer": "mixer_ir.driver.compiled",
    "verify": "mixer_ir.trust.verify",
    "prove": "mixer_ir.trust.prove",
    "plot": "mixer_ir.driver.plot",
}


def __getattr__(name: str) -> Any:
    if name == "catalog":
        return import_module("catalog")
    if name not in DRIVERS:
        raise AttributeError(f"mixer_ir has no {name!r}", name=name, obj=sys.modules[__name__])
    found = getattr(import_module(DRIVERS[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


def _from_here(name: str) -> None:
    """Raise MixerError unless the package `name` is the one beside this one."""
    wanted, spec = Path(__file__).resolve().parent.parent / name, find_spec(name)
    if spec is None:
        raise MixerError(f"mixer-ir needs its own package {name!r}, but {wanted} is not there; install mixer-ir again")
    found = Path(next(iter(spec.submodule_search_locations or []), spec.origin or "")).resolve()
    if found != wanted:
        raise MixerError(
            f"mixer-ir needs its own package {name!r} from {wanted}, but {found} stands before it on sys.path; "
            "rename that, or move its folder behind on the path"
        )


for _name in ("lowering", "backends", "catalog"):
    _from_here(_name)
