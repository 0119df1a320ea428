"""The command line: `mixer-ir list | show | verify | prove | kernels | bench | plot | demo`.

Exit status: 0 done, 1 a check failed, 2 bad usage or bad input. Errors are one or two lines on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy  # noqa: F401  # before torch, whose C code imports it deaf to Ctrl-C

import mixer_ir as mx
from mixer_ir.errors import MixerError, OptionError, SpecError, one_of
from mixer_ir.language.mixer import Mixer

NAME_HELP = "a mixer of the catalog (see `mixer-ir list`), or a .json file written with mx.dumps"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        status = run(arguments)
        sys.stdout.flush()
        return status
    except MixerError as error:
        print(f"mixer-ir: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mixer-ir: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _unheard()
        return 0


def _unheard() -> None:
    """Whoever read the output has gone (as `head` does): what is still to be written goes nowhere, at exit too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As always, but what a command does not know is told beside that command's help."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"mixer-ir: {message}\nsee `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    described = "A compiler for sequence mixers: one declaration, every form."
    parser = _Parser(prog="mixer-ir", description=described, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mixer-ir {mx.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], help_: str, *, named: bool = True) -> Any:
        sub = commands.add_parser(name, help=help_, description=help_, allow_abbrev=False)
        sub.set_defaults(run=run)
        if named:
            sub.add_argument("name", metavar="NAME", help=NAME_HELP)
        return sub

    listing = command("list", _list, "the mixers of the catalog", named=False)
    listing.add_argument("--json", action="store_true", help="for a program to read")

    show = command("show", _show, "a mixer's equation, signals, structure, rewrites and legal forms")
    show.add_argument("--json", action="store_true", help="for a program to read")

    verify = command("verify", _verify, "every form on every backend against the dense matrix, values and gradients")
    verify.add_argument("--lengths", type=_numbers, metavar="N,N…", help="sequence lengths (default 1,2,7,64,129)")
    verify.add_argument("--seed", type=int, default=0, help="of the random signals (default 0)")
    verify.add_argument("--json", action="store_true", help="for a program to read")

    kernels = command("kernels", _kernels, "the GPU kernels generated for a device, which need not be here")
    kernels.add_argument("--target", default="sm_90", metavar="TARGET", help="sm_80, sm_90 (default), sm_100 or gfx942")
    kernels.add_argument("--form", default="auto", help="one of the mixer's forms (default: chosen by predicted time)")
    kernels.add_argument("--out", type=Path, metavar="DIR", help="write each mixer's kernels to a file in DIR")

    bench = command("bench", _bench, "every form on every backend, compared and then timed side by side")
    bench.add_argument("--t", type=_number, default=1024, metavar="T", help="time steps (default 1024)")
    bench.add_argument("--sizes", type=_sizes, default={}, metavar="AXIS=N,…", help="other sizes, as in b=2,h=8,k=64")
    for what, one in (("form", "F"), ("backend", "B")):
        words = f"these {what}s alone (auto is one)"
        bench.add_argument(f"--{what}", nargs="+", action="extend", default=[], metavar=one, help=words)
    bench.add_argument("--backward", action="store_true", help="forward and backward, in every floating signal")
    bench.add_argument("--dtype", default="float32", help="of the signals: float32 (default), float64, bfloat16, …")
    bench.add_argument(
        "--limit", type=_seconds, default=5.0, metavar="SECONDS", help="leave out what is predicted to take longer (5)"
    )
    bench.add_argument("--seed", type=int, default=0, help="of the random signals (default 0)")
    bench.add_argument("--json", action="store_true", help="for a program to read")

    prove = command("prove", _prove, "a symbolic proof that all forms agree, for every length and every chunking")
    prove.add_argument("--json", action="store_true", help="for a program to read")

    plot = command("plot", _plot, "a picture of the mixing matrix on random signals")
    plot.add_argument("--out", type=Path, metavar="FILE", help="the picture (default NAME.png)")
    plot.add_argument("--length", type=int, default=64, metavar="T", help="time steps (default 64)")
    plot.add_argument("--seed", type=int, default=0, help="of the random signals (default 0)")

    demo = command("demo", _demo, "define, verify, prove, train, decode and draw, in a few minutes", named=False)
    demo.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="where pictures go (default out/)")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers from 1, as in 1,7,64")
    return tuple(int(part) for part in parts)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _sizes(text: str) -> dict[str, int]:
    parts = [part.partition("=") for part in text.split(",")]
    if not all(axis and n.isascii() and n.isdigit() and int(n) for axis, _, n in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of sizes from 1, as in b=2,h=8,k=64")
    if any(axis == "t" for axis, _, _ in parts):
        raise argparse.ArgumentTypeError("the number of time steps is given with --t")
    return {axis: int(n) for axis, _, n in parts}


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _mixers(name: str) -> dict[str, Mixer]:
    """The mixers that a name on the command line stands for."""
    if not name.endswith(".json"):
        return dict(mx.catalog.get(name).mixers)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read {name}: {error}") from error
    try:
        mixer = mx.loads(text)
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from error
    return {mixer.name: mixer}


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _list(arguments: argparse.Namespace) -> int:
    entries = [mx.catalog.get(name) for name in mx.catalog.list()]
    if arguments.json:
        _print_json([{"name": e.name, "paper": e.paper, "year": e.year, "title": e.title} for e in entries])
        return 0
    width = max(len(e.name) for e in entries)
    for e in entries:
        print(f"{e.name:{width}}  {e.year}  {e.title} ({e.paper})")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    mixers = _mixers(arguments.name)
    if arguments.json:
        _print_json(
            [
                {
                    "name": m.name,
                    "signals": {name: list(axes) for name, axes in m.signals.items()},
                    "returns": list(m.returns),
                    "equation": str(m),
                    "traits": m.traits.to_json(),
                    "forms": list(m.forms()),
                    "rules": list(dict.fromkeys(fired.rule for fired in m.rules)),
                }
                for m in mixers.values()
            ]
        )
        return 0
    for m in mixers.values():
        print(f"{m}\n")
        print(f"traits  {m.traits}")
        print(f"forms   {', '.join(m.forms())}")
        for rule, identity in {fired.rule: " ".join(fired.identity.split()) for fired in m.rules}.items():
            print(f"rule    {rule}: {identity}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    options = {} if arguments.lengths is None else {"lengths": arguments.lengths}
    reports = [mx.verify(m, seed=arguments.seed, **options) for m in _mixers(arguments.name).values()]
    return _report(reports, arguments.json)


def _kernels(arguments: argparse.Namespace) -> int:
    if arguments.out is not None:
        _made(arguments.out)
    for key, m in _mixers(arguments.name).items():
        made = mx.compile(m, form=arguments.form).kernels(arguments.target)
        if arguments.out is None:
            print(made)
            continue
        path = arguments.out / f"{key}_{arguments.target}.py"
        try:
            path.write_text(f"{made}\n", encoding="utf-8")
        except OSError as error:
            raise OptionError(f"cannot write {path}: {error.strerror}") from error
        print(f"wrote {path}\n{made.table}")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from mixer_ir.driver.bench import bench, dtype_named

    dtype = dtype_named(arguments.dtype)
    mixers = _mixers(arguments.name).values()
    of = {m.name: {a for axes in m.signals.values() for a in axes} for m in mixers}
    known = set().union(*of.values())
    if foreign := [a for a in arguments.sizes if a not in known]:
        raise OptionError(f"{arguments.name} has no axis {foreign[0]!r}; its axes: {one_of(sorted(known))}")
    reports = []
    try:
        for m in mixers:
            sizes = {a: n for a, n in {"t": arguments.t, **arguments.sizes}.items() if a in of[m.name]}
            reports.append(
                bench(
                    m,
                    sizes=sizes,
                    forms=arguments.form,
                    backends=arguments.backend,
                    backward=arguments.backward,
                    dtype=dtype,
                    limit=arguments.limit,
                    seed=arguments.seed,
                    saying=_progress,
                )
            )
    finally:
        _progress("")
    return _report(reports, arguments.json)


def _progress(line: str) -> None:
    """What goes on, on one line that the next one replaces; where nobody watches, nothing."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]}\x1b[K", end="", file=sys.stderr, flush=True)


def _prove(arguments: argparse.Namespace) -> int:
    return _report([mx.prove(m) for m in _mixers(arguments.name).values()], arguments.json)


def _report(reports: Sequence[Any], as_json: bool) -> int:
    try:
        if as_json:
            _print_json([report.to_json() for report in reports])
        else:
            print("\n\n".join(str(report) for report in reports))
        sys.stdout.flush()
    except BrokenPipeError:  # the status still tells
        _unheard()
    return 0 if all(report.ok for report in reports) else 1


def _plot(arguments: argparse.Namespace) -> int:
    for i, (key, m) in enumerate(_mixers(arguments.name).items()):
        out = arguments.out or Path(f"{Path(arguments.name).stem}.png")
        out = out if i == 0 else out.with_stem(f"{out.stem}_{key}")
        mx.plot(m, length=arguments.length, seed=arguments.seed, out=out)
        print(f"wrote {out}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    _made(arguments.out)
    return int(mx.catalog.demo(arguments.out))


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make the directory {folder}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
