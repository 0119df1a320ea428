"""What a program is rewritten to before it is cut into kernels: passes in order, each knowing operations only."""

from __future__ import annotations

from functools import lru_cache

from backends.triton.carried import carried
from backends.triton.diagonals import diagonal
from backends.triton.exponentials import exponentials
from backends.triton.fission import fissioned
from backends.triton.inverses import inverted
from backends.triton.pairs import paired
from backends.triton.partials import partial
from backends.triton.powers import powers
from backends.triton.scales import unscaled
from backends.triton.sinking import sunk
from backends.triton.stages import staged
from backends.triton.sums import WHOLE
from backends.triton.sweeps import ENTRIES, swept
from backends.triton.totals import totalled
from backends.triton.unstacked import unstacked
from lowering.program import Program


@lru_cache(maxsize=16)
def prepared(program: Program, single: bool, folded: bool, stored: bool) -> tuple[Program, ...]:
    """As it is cut into kernels, states read where they are carried; then without that, if registers do not suffice.

    single   whether precision is, where a device's exponential is a power of 2     folded   see Setting
    stored   see Learnt
    """
    plain = partial(fissioned(inverted(unscaled(totalled(unstacked(paired(exponentials(program))))), WHOLE)))
    ways = (plain,) if stored else (carried(plain), plain)
    made = [swept(x, entries) for x in dict.fromkeys(ways) for entries in ENTRIES]
    late = [staged(diagonal(x if stored else sunk(x))) for x in dict.fromkeys(made)]
    return tuple(powers(x, folded=folded) if single else x for x in late)
