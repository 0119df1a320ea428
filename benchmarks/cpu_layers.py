"""Whole layers beside those of transformers and mambapy, with the same weights, and a whole language model.

The limit of a row counts the weights, input and output once, and the operations of the linear maps alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

import mixer_ir as mx
from backends import missing
from benchmarks.cpu_mixers import DECODING, FORWARD, OURS, TRAINING, Row
from benchmarks.limits import Work, size
from catalog.linear import Linear
from catalog.streaming import MixerLayer
from mixer_ir.driver.settling import settle
from mixer_ir.driver.timing import ResultsDiffer, race

FAMILY = "layers and a model"
MODEL = "Mamba-130m model"

Module = tuple[nn.Module, Callable[[Tensor], Tensor]]
"""with its function of x"""
Run = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Settings:
    """Lengths of a layer's forward pass and of forward and backward; layers of the model, and its prompt."""

    forward: int = 2048
    training: int = 512
    depth: int = 24
    prompt: int = 2048
    vocab: int = 50280


@dataclass(frozen=True)
class Layer:
    """A layer of the catalog and the same layer elsewhere: (package, from our weights to a function of x)."""

    title: str
    name: str
    config: dict[str, Any]
    others: tuple[tuple[str, Callable[[nn.Module], Module]], ...]


def rows(settings: Settings) -> Iterator[Row]:
    """All rows, as they are measured."""
    for layer in TABLE:
        yield from beside(layer, settings)
    yield from language_model(settings)


# -------------------------------------------------------------------------------------------------------- one layer


def copied(theirs: nn.Module, ours: nn.Module) -> Module:
    """Another package's module with our weights."""
    theirs.load_state_dict(ours.state_dict())
    return theirs, theirs


def transformers_mamba(ours: nn.Module) -> Module:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    return copied(MambaMixer(MambaConfig(hidden_size=768), 0), ours)


def mambapy_mamba(ours: nn.Module) -> Module:
    from mambapy.mamba import MambaBlock, MambaConfig

    return copied(MambaBlock(MambaConfig(d_model=768, n_layers=1)), ours)


def transformers_mamba2(ours: nn.Module) -> Module:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    return copied(Mamba2Mixer(Mamba2Config(hidden_size=768, num_heads=24, n_groups=1), 0), ours)


def transformers_griffin(ours: nn.Module) -> Module:
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    config = RecurrentGemmaConfig(hidden_size=1024, lru_width=1024, num_attention_heads=8, num_hidden_layers=3)
    theirs, _ = copied(RecurrentGemmaRecurrentBlock(config, 0), ours)
    return theirs, lambda x: theirs(x, torch.arange(x.shape[1])[None], None, use_cache=False)[0]


BUDGET, LONG = 2.0, 6.0
"""seconds for rounds of short runs; seconds of a run that is made once"""
TABLE = (
    Layer("Mamba-130m", "mamba", {"d_model": 768}, (("transformers", transformers_mamba), ("mambapy", mambapy_mamba))),
    Layer("Mamba-2-130m", "mamba2", {"d_model": 768}, (("transformers", transformers_mamba2),)),
    Layer("Griffin", "rg_lru", {"d_model": 1024, "blocks": 8}, (("transformers", transformers_griffin),)),
)


def beside(layer: Layer, settings: Settings) -> Iterator[Row]:
    """A layer forward, and forward and backward: gradients of its weights and of its input."""
    torch.manual_seed(0)
    ours = mx.catalog.get(layer.name).layer(**layer.config).eval()
    modules: dict[str, Module] = {b: (ours, on(ours, b)) for b in here()}
    absent = [name for name, _ in layer.others if find_spec(name) is None]
    modules |= {name: make(ours) for name, make in layer.others if name not in absent}
    for what, t in ((FORWARD, settings.forward), (TRAINING, settings.training)):
        x = torch.randn(1, t, ours.d_model, requires_grad=what == TRAINING)
        if what == FORWARD:
            runs = {name: partial(_output, f, x) for name, (_, f) in modules.items()}
        else:
            cotangent = torch.randn(x.shape)
            runs = {name: partial(_gradients, m.eval(), f, x, cotangent) for name, (m, f) in modules.items()}
        yield from raced(layer.title, what, t, runs, work(ours, x, 3 if what == TRAINING else 1))
        for name in absent:
            yield row(layer.title, what, t, name, skipped="not installed")


def here() -> list[str]:
    """The backends of ours that run on this machine."""
    return [b for b in OURS if missing(b) is None]


def on(module: nn.Module, backend: str, call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A module as a function, its mixers and linear maps on a backend."""
    layers = [m for m in module.modules() if isinstance(m, MixerLayer | Linear)]

    def run(*args: Any, **named: Any) -> Any:
        for m in layers:
            m.backend = backend
        return (call or module)(*args, **named)

    return run


@torch.no_grad()
def _output(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor]:
    return (f(x),)


def _gradients(module: nn.Module, f: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    weights = [p for _, p in sorted(module.named_parameters())]
    return torch.autograd.grad(f(x), [x, *weights], cotangent)


def work(module: nn.Module, x: Tensor, passes: int) -> Work:
    """The weights, the input and an output as large once; the products of all linear maps, `passes` times."""
    maps = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
    moved = sum(size(p) for p in module.parameters()) + 2 * size(x)
    return Work(passes * moved, 2.0 * passes * maps * x.shape[1])


def raced(title: str, what: str, t: int, runs: dict[str, Run], due: Work) -> Iterator[Row]:
    """The rows of a race; one that says so where two differ."""
    settle(runs["auto"])
    try:
        times = race(runs, budget=BUDGET, long=LONG, fresh=here())
    except ResultsDiffer as error:
        yield row(title, what, t, next(iter(runs)), differs=str(error))
        return
    for name, timing in times.items():
        tokens = (1 if what == DECODING else t) / timing.seconds
        found = {"seconds": timing.seconds, "rounds": timing.rounds, "tokens": tokens}
        yield row(title, what, t, name, **found, **asdict(due))


def row(title: str, what: str, t: int, contender: str, **found: Any) -> Row:
    return {"family": FAMILY, "mixer": title, "T": t, "work": what, "contender": contender, **found}


# -------------------------------------------------------------------------------------------------------- the model


def transformers_model(ours: nn.Module, settings: Settings) -> nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    theirs = MambaForCausalLM(
        MambaConfig(hidden_size=768, num_hidden_layers=settings.depth, vocab_size=settings.vocab)
    ).eval()
    theirs.backbone.load_state_dict({n: w for n, w in ours.state_dict().items() if not n.startswith("lm_head")})
    theirs.tie_weights()
    return theirs


@torch.no_grad()
def language_model(settings: Settings) -> Iterator[Row]:
    """Mamba-130m with random weights at batch 1: the last logits of a prompt, and one token after a short one."""
    torch.manual_seed(0)
    ours = mx.catalog.get("mamba").model(n_layer=settings.depth, vocab=settings.vocab).eval()
    absent = find_spec("transformers") is None
    theirs = None if absent else transformers_model(ours, settings)
    tokens = torch.randint(settings.vocab, (1, settings.prompt))

    def prompt(f: Callable[..., Any]) -> tuple[Tensor]:
        return (f(tokens, last=1)[0],)

    runs: dict[str, Run] = {b: partial(prompt, on(ours, b, ours.prefill)) for b in here()}
    if theirs is not None:
        runs["transformers"] = lambda: (theirs(tokens, use_cache=True, logits_to_keep=1).logits,)
    yield from raced(f"{MODEL}, float32", "prompt", settings.prompt, runs, _model_work(ours, settings.prompt))
    for dtype in (torch.float32, torch.bfloat16):
        yield from _decoding(dtype, ours.to(dtype), theirs and theirs.to(dtype), tokens[:, :64])
    if absent:
        yield row(f"{MODEL}, float32", "prompt", settings.prompt, "transformers", skipped="not installed")


def _decoding(dtype: torch.dtype, ours: nn.Module, theirs: nn.Module | None, tokens: Tensor) -> Iterator[Row]:
    """One token after a short prompt."""
    _, states = on(ours, "eager", ours.prefill)(tokens, last=1)
    token = tokens[:, 0]

    def step(f: Callable[..., Any]) -> tuple[Tensor]:
        return (f(states, token)[0],)

    runs: dict[str, Run] = {b: partial(step, on(ours, b, ours.step)) for b in here()}
    if theirs is not None:
        cache = theirs(tokens, use_cache=True, logits_to_keep=1).cache_params
        runs["transformers"] = lambda: (theirs(token[:, None], cache_params=cache, use_cache=True).logits[:, 0],)
    title = f"{MODEL}, {str(dtype).removeprefix('torch.')}"
    yield from raced(title, DECODING, tokens.shape[1], runs, _model_work(ours, 1))


def _model_work(model: nn.Module, t: int) -> Work:
    """The weights once; the products of all linear maps, the head's for one token."""
    head = model.lm_head.weight.numel()
    maps = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)) - head
    return Work(sum(size(p) for p in model.parameters()), 2.0 * (maps * t + head))
