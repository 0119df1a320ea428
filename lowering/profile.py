"""Device profiles: the measured rates by which programs are priced. `benchmarks/calibrate.py` prints one."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from math import exp, inf, log

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Profile:
    """Rates in units a second, overheads in seconds.

    matmul      floating-point operations, by the smallest of the three sizes of a product
    entrywise   entries of + − × and the like           special     entries of exp, tanh, sigmoid …
    reduce      entries summed                          cumulate    entries cumulated
    affine      entries of an affine scan               affine_step its overhead a step
    fft         n log₂ n of transforms                  solve       floating-point operations of triangular solves
    copy        bytes moved                             memory      bytes that a program may hold at once
    operation   overhead of one that computes           view        overhead of one that only looks differently
    step        overhead of one turn of a loop          complex     times as long as real ones products take
    padded      entries read through padding, where that is not stored
    pair        times as long as real ones complex states that are scanned, and sums over them, take
    """

    name: str
    matmul: Curve
    entrywise: float
    special: float
    reduce: float
    cumulate: float
    affine: float
    affine_step: float
    fft: float
    solve: float
    solve_each: float
    copy: float
    memory: float
    operation: float
    view: float
    step: float
    complex: float = field(default=4.0)
    padded: float = field(default=inf)
    pair: float = field(default=4.0)
    width: int = field(default=4)
    """bytes of a real number"""
    fresh: float = field(default=inf)
    """bytes of memory that is handed out anew"""
    spelled: frozenset[str] = frozenset()
    """labels of the regions that the backend spells as a whole"""
    longest: int = 0
    """complex numbers of the longest transform whose chains of products one kernel computes, or a few; 0: none is"""
    tile: int = 0
    """those that a kernel holds at once: longer ones go through memory on the way"""
    tensor: float = inf
    """floating-point operations of the products of such chains"""
    held: int | None = None
    """entries of one array that are held at once, where it is not what lowering/stretch.py says"""
    kept: int | None = None
    """entries of the states that a loop over steps keeps for the way back; None: as lowering/stretch.py says"""
    keys: tuple[int, ...] = (64, 128, 256, 512)
    """blocks of keys that are worth trying"""
    groups: int | None = None
    """of rows that take softmax over their own keys each, where it is not what lowering/flash.py says; 0: a loop leaves
    out what masks close"""
    chunks: tuple[int, ...] = (16, 32, 64, 128, 256)
    """lengths of chunks that are worth trying"""
    rows: int | None = None
    """of a chunk's triangular system, where chunks are to have no more: a step of several updates has one for each"""
    filled: bool = False
    """whether the last chunk is filled up: what is read beyond an end costs nothing, a chunk of another length does"""
    cumulate_step: float = 0.0
    """overhead of a cumulation a step"""
    each: float = 1.0
    """overheads of an operation for each matrix of a batch whose entries do not lie side by side"""
    affine_turn: float | None = None
    """overhead of an affine scan along time for each block of steps, where it is computed in blocks"""
    composed: bool = True
    """whether scans that compose matrices are worth trying"""
    solved: frozenset[str] = frozenset(("real", "complex"))
    """kinds of numbers in triangular systems that the backend solves"""
    turn: Profile | None = None
    """by what the body of a loop is priced, where it is not this"""


def on_curve(curve: Curve, x: float) -> float:
    """The rate at x: straight lines between the points, both axes logarithmic; level outside."""
    xs = [point for point, _ in curve]
    i = bisect_left(xs, x)
    if i == 0 or i == len(curve):
        return curve[min(i, len(curve) - 1)][1]
    (x0, y0), (x1, y1) = curve[i - 1], curve[i]
    share = (log(x) - log(x0)) / (log(x1) - log(x0))
    return exp(log(y0) + share * (log(y1) - log(y0)))


CPU = Profile(  # two cores with AVX-512, float32
    name="cpu",
    matmul=((1, 6e9), (4, 4e10), (16, 1.2e11), (64, 1.4e11), (256, 1.8e11)),
    entrywise=5.5e9,
    special=2e9,
    reduce=2e10,
    cumulate=2.4e9,
    affine=1.5e9,
    affine_step=2.7e-6,
    fft=5e9,
    solve=1e11,
    solve_each=1.5e-7,
    copy=2.5e10,
    memory=6e9,
    operation=3e-6,
    view=1.5e-6,
    step=4e-6,
    fresh=2e9,
    spelled=frozenset(("decay", "decay back", "decay of numbers")),
)

NATIVE = Profile(
    name="cpu, compiled",
    matmul=((1, 4e10), (4, 1e10), (16, 1e11), (64, 2e11), (256, 2.3e11)),
    entrywise=6e10,
    special=8e9,
    reduce=6e10,
    cumulate=6e9,
    affine=3e9,
    affine_step=5e-9,
    fft=6e9,
    solve=1.2e11,
    solve_each=5e-8,
    copy=3e11,
    memory=6e9,
    operation=1e-8,
    view=0.0,
    step=2e-8,
    complex=10.0,
    padded=3e9,
    spelled=frozenset(("decay", "decay back")),
    held=1 << 14,
)
"""the same two cores running compiled loops: what one loop reads is never stored, a view costs nothing"""

GPU = Profile(
    name="cuda",
    matmul=((1, 2e11), (4, 1e12), (16, 5e12), (64, 2e13), (256, 4e13)),
    entrywise=3e11,
    special=2.5e11,
    reduce=4e11,
    cumulate=1e11,
    affine=1e10,
    affine_step=2e-5,
    fft=5e11,
    solve=5e11,
    solve_each=1e-7,
    copy=1.5e12,
    memory=2e10,
    operation=8e-6,
    view=1.5e-6,
    step=3e-6,
    held=1 << 24,
    keys=(64,),
    groups=1,
)

_KERNELS = Profile(  # an H100: what kernels reach of its published rates; a byte that is moved counts, not an operation
    name="cuda, generated kernels",
    matmul=((1, 2e12), (8, 1e13), (16, 1e14), (64, 3e14)),
    entrywise=1e13,
    special=3e12,
    reduce=1e13,
    cumulate=2e12,
    affine=1e12,
    affine_step=2e-7,
    affine_turn=8e-7,
    cumulate_step=1e-7,
    fft=5e11,
    solve=2e13,
    solve_each=0.0,
    copy=3e12,
    memory=inf,
    operation=1e-6,
    view=0.0,
    step=3e-6,
    pair=1.7,
    longest=1 << 14,
    tile=1 << 11,
    tensor=7e13,
    held=1 << 62,
    kept=1 << 31,
    keys=(64,),
    groups=0,
    chunks=(64,),
    rows=64,
    filled=True,
    each=0.0,
    composed=False,
    solved=frozenset(("real",)),
)
KERNELS = replace(_KERNELS, turn=replace(_KERNELS, copy=inf, operation=0.0))
"""the kernels of backends/triton: chains of transforms are held in tiles, a loop is one kernel whose turns keep what
they compute in registers, sequences are not cut into stretches; tiles are made for chunks of 64, and of 64 rows. A
scan that composes matrices has kernels that wait for each other at each of its log T levels, which prices do not tell,
and complex triangular systems are real ones of twice the rows, whose kernels take long to plan: neither is chosen
where there is another form. What of a program is in memory between kernels its operations do not tell, so no form is
refused for that.
"""

PROFILES = {"cpu": CPU, "cuda": GPU}


def profile_of(device: str) -> Profile:
    """The profile of a kind of device; of one that was never measured, that of a CPU."""
    return PROFILES.get(device, CPU)
