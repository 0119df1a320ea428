"""Pictures of mixing matrices: |M[t, s]| of one batch entry and head, on a symmetric logarithmic colour scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mixer_ir.driver.choosing import checked_mixer
from mixer_ir.driver.compiled import compile as compile_mixer
from mixer_ir.driver.samples import draw, sizes_for
from mixer_ir.errors import BackendError, OptionError
from mixer_ir.language.mixer import Mixer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def picture(mixer: Mixer, *, length: int = 64, seed: int = 0) -> Tensor:
    """The matrix (t s) of the first batch entry and head, on random signals of `length` steps."""
    signals = draw(mixer, sizes_for(mixer, length), seed)
    M: Tensor = compile_mixer(mixer).matrix(**signals)
    return M.reshape(-1, *M.shape[-2:])[0]


def plot(mixer: Mixer, *, length: int = 64, seed: int = 0, out: Path | str | None = None) -> Figure:
    """Draw a mixer's matrix; written to `out` where one is given.

    Raises BackendError where matplotlib is not installed, and what `matrix` raises.
    """
    try:
        from matplotlib import colors
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("pictures need matplotlib: pip install 'mixer-ir[demo]'") from error

    if length < 1:
        raise OptionError(f"length = {length}: a picture needs at least one step")
    M = picture(checked_mixer(mixer, "plot"), length=length, seed=seed)
    parts = [M.real, M.imag] if M.is_complex() else [M]
    figure = Figure(figsize=(4.2 * len(parts), 4.4), layout="constrained")
    for axes, part, title in zip(
        figure.subplots(1, len(parts), squeeze=False)[0], parts, ("", " (imaginary)"), strict=False
    ):
        top = float(part.abs().max()) or 1.0
        scale = colors.SymLogNorm(linthresh=top / 100, vmin=-top, vmax=top)
        drawn = axes.imshow(part.detach().numpy(), cmap="RdBu_r", norm=scale, interpolation="nearest")
        axes.set(title=f"{mixer.name}{title}", xlabel="s (input)", ylabel="t (output)")
        figure.colorbar(drawn, ax=axes, shrink=0.8)
    if out is not None:
        try:
            figure.savefig(out, dpi=150)
        except (OSError, ValueError) as error:
            raise OptionError(f"cannot write a picture to {out}: {error}") from error
    return figure
