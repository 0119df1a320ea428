"""The numbers that the project wants to reach on two cores, each with where it stands in the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.cpu_cases import LONG, WIDE
from benchmarks.cpu_forms import IMPORT, infer_1048576, train_65536
from benchmarks.cpu_layers import MODEL
from benchmarks.cpu_mixers import DECODING, FORWARD, GOAL_LENGTH, OURS, TRAINING
from benchmarks.cpu_profile import COPY, PLAIN
from benchmarks.limits import Rates, Work

HF = "transformers"
ELSEWHERE = {case.family for case in (*WIDE, *LONG)}
HEADED = ("gla", "mamba2", "gated_deltanet", "kda", "rwkv7")


@dataclass(frozen=True)
class Results:
    """What a run wrote, as it was read from JSON."""

    data: Mapping[str, Any]

    def row(self, mixer: str, t: int, work: str, contender: str, family: str | None = None) -> dict[str, Any] | None:
        """A row that was measured; without a family, outside those that have mixers of other families."""
        for r in self.data["rows"]:
            at = (r["mixer"], r["T"], r["work"], r["contender"])
            here = r["family"] == family if family else r["family"] not in ELSEWHERE
            if at == (mixer, t, work, contender) and here and "seconds" in r:
                return dict(r)
        return None

    def ratio(self, mixer: str, t: int, work: str, theirs: str, ours: str = "auto") -> float | None:
        """How many times as long as ours another contender takes; ours is what a user gets who asks for no backend."""
        a, b = self.row(mixer, t, work, ours), self.row(mixer, t, work, theirs)
        return b["seconds"] / a["seconds"] if a and b else None

    def share(self, mixer: str, t: int, work: str, family: str | None = None) -> float | None:
        """The part of the machine's limit that the native backend reaches."""
        r = self.row(mixer, t, work, "native", family)
        return self.limit(r)[0] / r["seconds"] if r else None

    def limit(self, row: Mapping[str, Any]) -> tuple[float, str]:
        """(seconds at the machine's limit, what bounds them)."""
        return Work(row["bytes"], row["operations"]).limit(Rates(**self.data["rates"]))

    def growth(self, mixer: str) -> float | None:
        """Seconds a token at the longest length over those at the shortest."""
        found = [r for r in self.data["rows"] if r["family"] == LONG[0].family and r["mixer"] == mixer]
        native = [r for r in found if r["contender"] == "native" and "seconds" in r]
        return native[0]["tokens"] / native[-1]["tokens"] if len(native) > 1 else None

    def table(self, name: str) -> list[dict[str, Any]]:
        """A table; empty where it was not run, or its contenders differ."""
        return [row for row in self.data["tables"].get(name, ()) if "differs" not in row]


@dataclass(frozen=True)
class Goal:
    """A number at least (or, with `most`, at most) as large as the target."""

    text: str
    target: float
    found: Callable[[Results], float | None]
    most: bool = False

    def reached(self, value: float) -> bool:
        return value <= self.target if self.most else value >= self.target


def _ratio(mixer: str, t: int, work: str, theirs: str) -> Callable[[Results], float | None]:
    return lambda r: r.ratio(mixer, t, work, theirs)


def _share(mixer: str, t: int, work: str, family: str | None = None) -> Callable[[Results], float | None]:
    return lambda r: r.share(mixer, t, work, family)


def _growth(mixer: str) -> Callable[[Results], float | None]:
    return lambda r: r.growth(mixer)


def _in_table(table: str, column: str, **where: Any) -> Callable[[Results], float | None]:
    """The largest entry of a column among the rows that have these values."""

    def found(r: Results) -> float | None:
        values = [row[column] for row in r.table(table) if all(row[k] == v for k, v in where.items())]
        return max(values, default=None)

    return found


def _planned(r: Results) -> float | None:
    """The share of the sweep in which the planner's form is within 1.3 of the best."""
    rows = r.table("planner")
    return sum(row["within 1.3"] for row in rows) / len(rows) if rows else None


def _slowest(table: str) -> Callable[[Results], float | None]:
    """The slowest first call of a table, forward or backward."""

    def found(r: Results) -> float | None:
        rows = [row for row in r.table(table) if row["mixer"] != IMPORT]
        return max((max(row["forward"], row["backward"]) for row in rows), default=None)

    return found


def _auto(r: Results) -> float | None:
    """The share of cells in which "auto" is within 1.3 of the faster of native and eager."""
    cells: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in r.data["rows"]:
        if "seconds" in row:
            at = (row["family"], row["mixer"], row["T"], row["work"])
            cells.setdefault(at, {})[row["contender"]] = row["seconds"]
    whole = [c for c in cells.values() if set(OURS) <= set(c)]
    told = [c["auto"] <= 1.3 * min(c["native"], c["eager"]) for c in whole]
    return sum(told) / len(told) if told else None


def goals() -> list[Goal]:
    """All of them, in the order of the report."""
    return [*_layers(), *_headed(), *_limits(), *_forms()]


def _layers() -> Iterator[Goal]:
    layer, model = "Mamba-130m", f"{MODEL}, float32"
    yield Goal("a Mamba-130m layer, forward, T = 2,048, beside transformers", 6, _ratio(layer, 2048, FORWARD, HF))
    yield Goal("the same, forward + backward, T = 512", 80, _ratio(layer, 512, TRAINING, HF))
    yield Goal("the same, beside mambapy", 5, _ratio(layer, 512, TRAINING, "mambapy"))
    yield Goal("its scan alone, forward, T = 2,048, beside a loop", 9, _ratio("mamba", 2048, FORWARD, "torch loop"))
    yield Goal("a model of 24 such layers, one token, beside transformers", 2, _ratio(model, 64, DECODING, HF))
    yield Goal("the same with bfloat16 weights", 2, _ratio(f"{MODEL}, bfloat16", 64, DECODING, HF))
    yield Goal("the same model, a prompt of 2,048 tokens", 6, _ratio(model, 2048, "prompt", HF))


def _headed() -> Iterator[Goal]:
    for name in HEADED:
        at = (name, GOAL_LENGTH, TRAINING)
        yield Goal(f"{name}, forward + backward, T = 2,048, beside fla-core's reference", 10, _ratio(*at, "fla-core"))
        yield Goal("the same, beside the eager backend's chunks", 3, _ratio(*at, "eager"))


def _limits() -> Iterator[Goal]:
    for name in ("mamba", "rg_lru"):
        yield Goal(f"{name}, forward, T = 2,048: share of the copy bandwidth", 0.7, _share(name, 2048, FORWARD))
    bare = _in_table("profile", "share of the whole", what=f"{PLAIN}, T = {GOAL_LENGTH}", part=COPY)
    yield Goal("a scan without functions, forward, T = 2,048: share of the copy bandwidth", 0.7, bare)
    for case in WIDE:
        for work in (FORWARD, TRAINING):
            share = _share(case.name, GOAL_LENGTH, work, case.family)
            yield Goal(f"{case.name}, K = V = 128, T = 2,048, {work}: share of the matmul rate", 0.7, share)
    for case in LONG:
        text = f"{case.name}, forward: time a token at T = 1,048,576 over that at 65,536"
        yield Goal(text, 1.2, _growth(case.name), most=True)


def _forms() -> Iterator[Goal]:
    yield Goal("'auto' within 1.3 of the faster of native and eager", 0.9, _auto)
    yield Goal("seconds of the slowest compilation", 1.5, _slowest("compile"), most=True)
    for name in ("gated_linear", "gated_delta"):
        loop = _in_table("speed", "ratio", mixer=name, work=FORWARD)
        yield Goal(f"{name}, eager chunks, forward, T = 4,096, beside a time loop", 5, loop)
    yield Goal("fft beside dense, T = 16,384", 20, _in_table("speed", "ratio", mixer="convolution"))
    yield Goal("planner within 1.3 of the best form", 0.9, _planned)
    yield Goal("seconds to import it after torch", 0.4, _in_table("start", "forward", mixer=IMPORT), most=True)
    yield Goal("seconds of the slowest first call beyond its run time", 0.5, _slowest("start"), most=True)
    for work, most in ((train_65536, 2.5), (infer_1048576, 6)):
        yield Goal(f"GiB: {work.__doc__}", most, _in_table("memory", "GiB", work=work.__doc__), most=True)
