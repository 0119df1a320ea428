"""What is known to go wrong in Triton: versions and configurations that are refused, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata

from backends.triton.kernel import Kernel
from backends.triton.text import plain
from mixer_ir.errors import BackendError

Version = tuple[int, ...]
LEAST: Version = (3, 6)
WARPS = (8, 4, 2, 1)
"""how many warps a program may have instead"""


@dataclass(frozen=True)
class Known:
    """Kernels that `finds` finds are refused with any of these numbers of warps, where since ≤ Triton < until."""

    since: Version
    until: Version
    target: str
    warps: tuple[int, ...]
    finds: Callable[[str], bool]
    reason: str


def turned(source: str) -> bool:
    """Whether a product of 16-bit factors takes the transpose of what comes of another product."""
    return bool(_turned(source))


def turned_in_a_loop(source: str) -> bool:
    """The same inside a loop, of 64 × 64 entries or more."""
    sizes = [int(n) for n in re.findall(r"tl\.arange\(0, (\d+)\)", source)]
    return sum(n >= 64 for n in sizes) > 1 and any(line.startswith(" " * 8) for line in _turned(source))


def _turned(source: str) -> list[str]:
    """The lines with such products."""
    products: set[str] = set()
    found: list[str] = []
    for line, name, text in re.findall(r"^( +(\w+) \+?= (.*))$", source, re.MULTILINE):
        if "tl.dot(" in text and re.search(r"\.to\(tl\.b?float16\)", text):
            turns = re.findall(r"tl\.(?:trans|permute)\(\(?(\w+)", text)
            found += [line] * any(x in products for x in turns)
        if "tl.dot(" in text or products & set(re.findall(r"\w+", text)):
            products.add(name)
    return found


KNOWN = (
    Known(
        (3, 4),
        (3, 7, 1),
        "sm_90",
        (4, 8, 16),
        turned,
        "on Hopper it computes products of a transposed product wrongly in 16 bits (flash-linear-attention 640); "
        "install triton 3.7.1 or newer",
    ),
    Known(
        (3, 4),
        (3, 8),
        "sm_90",
        (4,),
        turned_in_a_loop,
        "on Hopper a loop over products of a transposed product fails with 4 warps (flash-linear-attention 984)",
    ),
)
"""ptxas 12.8 also writes to wrong addresses where a whole number 1 is an argument that it specialises on
(flash-linear-attention 1262); the kernels here take no numbers, so that they cannot meet it"""


def installed() -> Version:
    """Triton's version."""
    return numbers(metadata.version("triton"))


def numbers(version: str) -> Version:
    """3.7.1 and 3.7.1+git0 as (3, 7, 1)."""
    return tuple(int(x) for x in re.findall(r"\d+", version.partition("+")[0])[:3])


def too_old() -> str | None:
    """Why the installed version cannot be used at all; None if it can."""
    if (have := installed()) >= LEAST:
        return None
    return f"the backend 'triton' needs triton {_dotted(LEAST)} or newer, and {_dotted(have)} is installed"


def refusal(kernel: Kernel, target: str, version: Version) -> str | None:
    """Why a kernel must not run so; None if nothing is known against it."""
    for k in KNOWN:
        if (
            k.target == target
            and k.since <= version < k.until
            and kernel.warps in k.warps
            and k.finds(plain(kernel.source))
        ):
            return f"triton {_dotted(version)} is known to compile {kernel.name} wrongly: {k.reason}"
    return None


def sound(kernel: Kernel, target: str, version: Version) -> Kernel:
    """The kernel with as many warps as nothing is known against.

    Errors: BackendError with the reason, if there is no such number.
    """
    reason = refusal(kernel, target, version)
    if reason is None:
        return kernel
    for warps in WARPS:
        other = replace(kernel, warps=warps)
        if refusal(other, target, version) is None:
            return other
    raise BackendError(reason)


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
