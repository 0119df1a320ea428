"""The static table of generated kernels: python -m benchmarks.kernels [--target sm_90] [NAME …]

Compiles the chunked (or else the chosen) form of catalog mixers, forward and backward, for a device that need not be
here, and writes benchmarks/results/static-<target>.md: launches, registers, spills, shared memory, tensor-core
instructions, occupancy. Nothing is run. Several minutes a mixer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import triton

import catalog
from backends.triton.kernel import Setting
from backends.triton.static import HEAD, Kernels, kernels_of
from lowering.adjoint import adjoint
from mixer_ir.errors import MixerError
from mixer_ir.kernels import lowered

RESULTS = Path(__file__).parent / "results"
NAMES = ("linear_attention", "retnet", "gla", "mamba2", "deltanet", "gated_deltanet", "kda", "rwkv7")


def compiled(name: str, target: str, width: int) -> Kernels:
    """The kernels of a mixer at B = 8, T = 4096, H = 16 and heads of `width`; those that fail are named."""
    mixer = catalog.get(name).mixer
    axes = {a for of in mixer.signals.values() for a in of}
    form = "chunked" if "chunked" in mixer.forms() else "auto"
    of = lowered(mixer, form, 64 if form == "chunked" else None, {a: width for a in "kvn" if a in axes})
    back = adjoint(of, [n for n, v in zip(of.input_names, of.inputs, strict=True) if v.differentiable])
    return kernels_of(f"{name}, {form}", of, back, target, Setting(dot="bf16"), strict=False)


def section(name: str, made: Kernels) -> str:
    """One mixer's table."""
    rows = [["pass", *HEAD], ["---"] * (len(HEAD) + 1)]
    rows += [["forward", *c.row()] for c in made.forward] + [["backward", *c.row()] for c in made.backward]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    spilling = sum(bool(c.spills) for c in (*made.forward, *made.backward))
    counts = f"{len(made.forward)} forward and {len(made.backward)} backward launches, {spilling} kernels spill"
    failed = "".join(f"\n\nnot compiled: {line.splitlines()[0]}" for line in made.failed)
    return f"## {made.title}\n\n{counts}{failed}\n\n{table}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--target", default="sm_90")
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    head = (
        f"# Generated kernels compiled for {arguments.target}: B = 8, T = 4096, H = 16, heads of {arguments.width}\n\n"
        f"Static counts from compiled code (triton {triton.__version__}); nothing was run. float32 arrays, bfloat16 "
        "factors of products. 'spilled B' counts each instruction once.\n"
    )
    parts = [head]
    for name in arguments.names:
        try:
            parts.append(section(name, compiled(name, arguments.target, arguments.width)))
        except MixerError as error:
            parts.append(f"## {name}\n\nnot compiled: {error}\n")
        print(parts[-1], flush=True)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"static-{arguments.target}.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
