"""What `import mixer_ir as mx` gives: the frozen list of names, drivers that keep theirs, packages that are our own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mixer_ir as mx

ROOT = Path(__file__).resolve().parent.parent

LANGUAGE = """
    mixer recurrence State Mixer Expr Matrix Transition dumps loads formula
    diagonal identity lowrank semiseparable transition dense_transition toeplitz circulant vandermonde cauchy dft
    monarch dense causal band mask decay softmax normalize transpose flip shift resets
    exp exp2 log log1p expm1 sqrt abs sign sigmoid softplus relu silu gelu elu tanh sin cos erf real imag conj complex
    minimum maximum min max clamp where equal not_equal logical_and logical_or logical_not mod floordiv
    outer contract sum mean amax amin norm l2norm
    cumsum cummax cumprod delay reverse rename source index size take one_hot detach
    MixerError DeclarationError AxisError SignalError FormError OptionError BackendError StreamError SpecError
    GradientError
"""
DRIVERS = "compile CompiledMixer verify prove plot catalog"


def run(code: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Python on `code`, with `path` first on sys.path and the checkout behind it."""
    first = f"import sys; sys.path[:0] = [{str(path)!r}, {str(ROOT)!r}]\n"
    return subprocess.run([sys.executable, "-c", first + code], capture_output=True, text=True, check=False, cwd=path)


def test_the_public_names_are_these() -> None:
    assert sorted(mx.__all__) == sorted((LANGUAGE + DRIVERS).split()) == dir(mx)
    for name in LANGUAGE.split():
        assert getattr(mx, name) is not None


def test_the_language_opens_neither_torch_nor_the_drivers() -> None:
    done = run(
        "import mixer_ir; print([n for n in ('torch', 'sympy', 'mixer_ir.driver', 'catalog') if n in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_driver_keeps_its_name_when_its_file_is_opened() -> None:
    done = run(
        "import mixer_ir as mx, mixer_ir.trust.verify, mixer_ir.trust.prove, mixer_ir.driver.compiled\n"
        "from mixer_ir import verify, prove\n"
        "print(callable(mx.verify), callable(mx.prove), verify is mx.verify, callable(mx.compile))"
    )
    assert done.stdout.strip() == "True True True True", done.stderr


def test_a_name_that_is_not_there_is_told() -> None:
    with pytest.raises(AttributeError, match="mixer_ir has no 'kompile'"):
        _ = mx.kompile


@pytest.mark.parametrize("name", ["lowering", "backends", "catalog"])
def test_a_package_that_shadows_ours_is_named(tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    other.mkdir()
    (other / "__init__.py").write_text('"""Somebody else\'s package."""\n')
    done = run("import mixer_ir", tmp_path)
    assert done.returncode == 1
    assert f"mixer-ir needs its own package '{name}'" in done.stderr and str(other) in done.stderr
