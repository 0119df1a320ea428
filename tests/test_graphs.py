"""Compiled mixers inside torch.compile, autocast and function transforms: one operator, differentiable."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import catalog
import mixer_ir as mx
from backends import ops
from mixer_ir.driver import samples
from mixer_ir.driver.streaming import StreamState
from mixer_ir.errors import BackendError, GradientError

BACKENDS = ["eager", "native"]


def compiled(
    backend: str, name: str = "gla", form: str = "chunked"
) -> tuple[mx.CompiledMixer, dict[str, torch.Tensor]]:
    mixer = next(iter(catalog.get(name).mixers.values()))
    f = mx.compile(mixer, form=form, backend=backend, **({"chunk": 4} if form == "chunked" else {}))
    return f, {n: x.float() for n, x in samples.draw(mixer, samples.sizes_for(mixer, 6), seed=0).items()}


def operator(f: mx.CompiledMixer, signals: dict[str, torch.Tensor]) -> tuple[str, list[torch.Tensor]]:
    """The key and the inputs of the operator that a call comes to."""
    kept = []

    def spy(owner, inputs):
        kept.append((owner, list(inputs)))
        return owner.values(inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "observed", lambda inputs: True)
        patch.setattr(ops, "call", spy)
        f(**signals)
    owner, inputs = kept[0]
    ops.OWNERS[owner.key] = owner
    return owner.key, inputs


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_is_well_behaved(backend, dtype):
    f, signals = compiled(backend)
    key, inputs = operator(f, {n: x.to(dtype).requires_grad_() for n, x in signals.items()})
    near = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    told = torch.library.opcheck(torch.ops.mixer_ir.run.default, (key, inputs), **near)
    assert set(told.values()) == {"SUCCESS"}


class Block(torch.nn.Module):
    """A layer that calls a mixer in every way: on a sequence, from a state, a step on."""

    def __init__(self, f: mx.CompiledMixer) -> None:
        super().__init__()
        self.f, self.w = f, torch.nn.Parameter(torch.eye(3))

    def forward(self, q, k, v, g):
        q = q @ self.w
        y, state = self.f.prefill(q=q, k=k, v=v, g=g)
        z = self.f(q=q, k=k, v=v, g=g, initial_state=state)
        last, state = self.f.step(state, q=q[:, 0], k=k[:, 0], v=v[:, 0], g=g[:, 0])
        return (y * z).sum() + last.sum(), state


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_whole_graph_with_states_and_steps(backend):
    """Values, states and gradients are those without torch.compile, at one length and then at another."""
    f, _ = compiled(backend)
    block = Block(f)
    traced = torch.compile(block, fullgraph=True, backend="aot_eager")
    for length in (6, 9):
        signals = samples.draw(f.mixer, samples.sizes_for(f.mixer, length), seed=length)
        signals = {n: x.float() for n, x in signals.items()}
        found = []
        for run in (block, traced):
            block.zero_grad()
            y, state = run(**signals)
            y.backward()
            assert type(state) is StreamState and state.length == length + 1
            found.append([y.detach(), block.w.grad.clone(), *(x.detach() for x in state.values())])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_inductor_takes_it():
    f, signals = compiled("eager")
    block = Block(f)
    torch.testing.assert_close(torch.compile(block, fullgraph=True)(**signals)[0], block(**signals)[0])


def test_adjoints_are_found_by_their_keys():
    """A graph that another process made asks for a backward pass that this one never took."""
    f, signals = compiled("eager")
    key, _ = operator(f, signals)
    name = ops.adjoint_key(key, ["q"], ["y"])
    assert name not in ops.OWNERS
    assert ops.owner_of(name).program.names == ("d:q",)
    with pytest.raises(BackendError, match="does not know"):
        ops.owner_of("another program")


def test_keys_are_the_same_in_every_process():
    code = (
        "from tests.test_graphs import compiled, operator; print(operator(*compiled('eager'))[0])"  # in a fresh process
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == operator(*compiled("eager"))[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend):
    """Inside autocast a mixer computes in the dtypes that its signals have."""
    f, signals = compiled(backend)
    with torch.autocast("cpu", torch.bfloat16):
        y = f(**signals)
    assert y.dtype == torch.float32
    assert torch.equal(y, f(**signals))


@pytest.mark.parametrize("backend", BACKENDS)
def test_narrow_signals_stay_narrow(backend):
    """bfloat16 in, bfloat16 out and kept for the backward pass; states in float32; computed in float32."""
    f, signals = compiled(backend)
    given = {n: x.bfloat16().requires_grad_() for n, x in signals.items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.dtype) or x, lambda x: x):
        y, state = f(**given, return_state=True)
    assert set(kept) == {torch.bfloat16}
    assert y.dtype == torch.bfloat16 and {x.dtype for x in state.values()} == {torch.float32}
    y.float().sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 for x in given.values())
    exact = f(**{n: x.detach().float() for n, x in given.items()})
    assert torch.equal(y, exact.bfloat16())


def test_transforms_of_compiled_code():
    """vmap runs compiled code once for each entry; forward mode says that it is not derived."""
    f, signals = compiled("native")
    g, _ = compiled("eager")
    batch = torch.stack([signals["q"], 2 * signals["q"]])
    rest = {n: x for n, x in signals.items() if n != "q"}
    ours, theirs = (torch.func.vmap(lambda q, h=h: h(q=q, **rest))(batch) for h in (f, g))
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (torch.func.vmap(torch.func.grad(lambda q, h=h: h(q=q, **rest).sum()))(batch) for h in (f, g))
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(GradientError, match="forward-mode"):
        torch.func.jvp(lambda q: f(q=q, **rest), (signals["q"],), (signals["q"],))
