"""Linear maps as mixers: nn.Linear in everything but the time that it takes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, jvp, vmap
from torch.nn import functional as F

import mixer_ir as mx
from backends import missing
from catalog import linear
from catalog.linear import Linear
from catalog.mamba import Mamba

native = pytest.mark.skipif(missing("native") is not None, reason="no C compiler")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _small_maps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SMALL", 0)
    monkeypatch.setattr(linear, "SMALL_TRAINED", 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that mixers are asked for."""
    found: list[str] = []
    kept = linear.compiled

    def asked(backend: str, rows: int, columns: int) -> object:
        found.append(backend)
        return kept(backend, rows, columns)

    monkeypatch.setattr(linear, "compiled", asked)
    return found


def made(rows: int, columns: int, dtype: torch.dtype = torch.float32, *, bias: bool = True) -> Linear:
    torch.manual_seed(rows + columns)
    f = Linear(columns, rows, bias=bias).to(dtype)
    f.backend = "native"
    return f


def near(y: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    allowed = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    assert y.dtype == dtype
    assert (y.double() - wanted).abs().max() <= allowed * wanted.abs().max().clamp(min=1)


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "columns", "batch"),
    [
        (512, 64, (1,)),
        (513, 100, (3,)),
        (63, 600, (1, 7)),
        (600, 63, (63,)),
        (1024, 65, (2, 3)),
        (7, 1, (5,)),
        (1, 7, ()),
    ],
)
def test_it_is_the_product(
    dtype: torch.dtype, rows: int, columns: int, batch: tuple[int, ...], calls: list[str]
) -> None:
    f = made(rows, columns, dtype)
    x = torch.randn(*batch, columns).to(dtype)
    with torch.no_grad():
        y = f(x)
        near(y, F.linear(x.double(), f.weight.double(), f.bias.double()), dtype)
        again = torch.randn(*batch, columns).to(dtype)
        near(f(again), F.linear(again.double(), f.weight.double(), f.bias.double()), dtype)
    assert calls == ["native", "native"]


@native
@pytest.mark.parametrize("wrt", ["x", "weight", "both"])
def test_its_gradients_are_those_of_the_product(wrt: str) -> None:
    f = made(33, 17, torch.float64)
    x = torch.randn(2, 5, 17, dtype=torch.float64, requires_grad=wrt != "weight")
    f.weight.requires_grad_(wrt != "x")
    of = [z for z in (x, f.weight) if z.requires_grad]

    def second(map: Callable[[Tensor], Tensor]) -> list[Tensor]:
        first = torch.autograd.grad(map(x).pow(3).sum(), of, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.pow(2).sum() for g in first), of)]

    for found, wanted in zip(second(f), second(lambda z: F.linear(z, f.weight, f.bias)), strict=True):
        near(found, wanted, torch.float64)


def test_its_parameters_are_those_of_torch() -> None:
    f = made(5, 3)
    torch.manual_seed(8)
    g = nn.Linear(3, 5)
    assert isinstance(f, nn.Linear)
    assert [(n, p.shape) for n, p in f.state_dict().items()] == [(n, p.shape) for n, p in g.state_dict().items()]
    assert torch.equal(f.weight, g.weight)
    assert torch.equal(f.bias, g.bias)
    for again in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert again.backend == "native"
        assert torch.equal(again.weight, f.weight)


def test_a_layer_runs_its_maps_where_its_mixers_run() -> None:
    layer = Mamba(8, d_state=2)
    maps = [m for m in layer.modules() if isinstance(m, Linear)]
    assert {m.backend for m in maps} == {"auto"}
    layer.backend = "eager"
    assert {m.backend for m in maps} == {"eager"}
    assert copy.deepcopy(layer).in_proj.backend == pickle.loads(pickle.dumps(layer)).backend == "eager"


def _autocast(f: Linear, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return f(x)


def _turned(f: Linear, x: Tensor) -> Tensor:
    f.weight = nn.Parameter(f.weight.detach().t().contiguous().t())
    return f(x)


def _replaced(f: Linear, x: Tensor) -> Tensor:
    weights = torch.stack([f.weight.detach(), 2 * f.weight.detach()])
    return vmap(lambda w: functional_call(f, {"weight": w}, (x,)))(weights)


WATCHED: dict[str, Callable[[Linear, Tensor], Tensor]] = {
    "vmap": lambda f, x: vmap(f)(x),
    "functional_call": _replaced,
    "jvp": lambda f, x: jvp(f, (x,), (x,))[1],
    "autocast": _autocast,
    "a weight by columns": _turned,
    "an empty batch": lambda f, x: f(x[:0]),
    "another backend": lambda f, x: (setattr(f, "backend", "eager"), f(x))[1],
}


@pytest.mark.parametrize("how", WATCHED)
def test_where_others_look_on_it_is_that_of_torch(how: str, calls: list[str]) -> None:
    f, x = made(6, 4), torch.randn(3, 4)
    g = nn.Linear(4, 6)
    g.load_state_dict(f.state_dict())
    wanted, found = WATCHED[how](g, x), WATCHED[how](f, x)  # type: ignore[arg-type]
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)
    assert not (set(calls) if how != "an empty batch" else set())


def test_fakes_subclasses_and_graphs_are_left_to_torch(calls: list[str]) -> None:
    f, x = made(6, 4), torch.randn(3, 4)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert f(mode.from_tensor(x)).shape == (3, 6)
    assert made(6, 4).to("meta")(x.to("meta")).shape == (3, 6)
    assert torch.equal(torch.compile(f, backend="eager", fullgraph=True)(x), F.linear(x, f.weight, f.bias))
    assert calls == []


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        made(6, 4)(torch.randn(3, 5))
    with pytest.raises(mx.SignalError, match=r"float32 weights is given torch\.float64"):
        made(6, 4)(torch.randn(3, 4, dtype=torch.float64))


@native
def test_threads_may_share_a_map() -> None:
    f = made(300, 200)
    xs = [torch.randn(2, 200) for _ in range(32)]
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        wanted = [F.linear(x, f.weight, f.bias) for x in xs]

        def run(x: Tensor) -> Tensor:
            with torch.no_grad():
                return f(x)

        for y, z in zip(pool.map(run, xs), wanted, strict=True):
            near(y, z.double(), torch.float32)
