"""The five commands. Every refusal ends as one line on stderr and exit status 2."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import infinitypool as ip
from infinitypool.cli import kinds, listing, options, shapes
from infinitypool.cli.options import Refused

__all__ = ["app", "run"]


# typer's base of all usage errors; it has no public name that every version shares.
_UsageProblem = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="infinitypool",
    help="Pooling at the speed of memory: pool a picture, work out output sizes, list the kinds of "
    "pooling, measure against other libraries, report the installation.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Kernel = Annotated[
    str,
    typer.Option("--kernel", metavar="K[,K]", help="Window size: one number, or one per axis."),
]
Stride = Annotated[
    str | None,
    typer.Option(
        "--stride",
        metavar="S[,S]",
        help="Step between windows.",
        show_default="the kernel",
    ),
]
Padding = Annotated[
    str,
    typer.Option(
        "--padding",
        metavar="P",
        help="1, or 1,2 (one for each axis), or 0:1,2:3 (before:after), or same, or valid.",
    ),
]
Dilation = Annotated[
    str, typer.Option("--dilation", metavar="D[,D]", help="Step between the elements of a window.")
]
Ceil = Annotated[bool, typer.Option("--ceil", help="Round the output size up instead of down.")]


def _window(
    kernel: str | None,
    stride: str | None,
    padding: str | None,
    dilation: str | None,
    ceil: bool,
    other_words: bool = False,
) -> dict[str, Any]:
    """The options that all pooling commands share, as keywords of the public functions."""
    window: dict[str, Any] = {}
    if kernel is not None:
        window["kernel_size"] = options.integers(kernel, "--kernel")
    if stride is not None:
        window["stride"] = options.integers(stride, "--stride")
    if padding is not None:
        window["padding"] = options.padding(padding, other_words)
    if dilation is not None:
        window["dilation"] = options.integers(dilation, "--dilation")
    return window | ({"ceil_mode": True} if ceil else {})


@contextmanager
def _judged_by_the_library() -> Iterator[None]:
    """The library refuses bad values in words that name argument, value and rule: pass them on."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(str(error)) from None


def _console() -> Console:
    # Into a pipe or file there is no width to respect: a formula must not be cut at 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=1000)


def _by(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"infinitypool {ip.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def _with_own_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every argument that only some kinds have.

    They arrive as keywords of the array functions, None where they were not given.
    """
    signature = inspect.signature(command, eval_str=True)
    fixed = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = []
    for name, (annotation, text) in kinds.own_options().items():
        option = kinds.option(name)
        metavar = {} if annotation is bool else {"metavar": option.strip("-").upper()}
        given = Annotated[annotation | None, typer.Option(option, help=text, **metavar)]
        own.append(inspect.Parameter(name, fixed[-1].kind, default=None, annotation=given))
    command.__signature__ = signature.replace(parameters=[*fixed, *own])  # type: ignore[attr-defined]
    return command


def _chosen(entry: kinds.Entry, given: dict[str, Any]) -> str:
    """The array function for the options that were given, if it takes them all."""
    name, adaptive = entry.functions[0], False
    if "output_size" in given and "output_size" not in entry.arguments:
        if "kernel_size" in given:
            raise Refused(
                "--size and --kernel exclude each other: --size is the output's, whose windows "
                "follow from it"
            )
        if entry.adaptive is None:
            raise Refused(f"--size: {entry.name} has no adaptive form; give --kernel")
        name, adaptive = entry.adaptive, True
    taken = inspect.signature(getattr(ip, name)).parameters
    for keyword in given:
        if keyword in taken:
            continue
        option = kinds.option(keyword)
        if adaptive and keyword not in kinds.own_options():
            raise Refused(f"{option} does not go with --size, from which all windows follow")
        own = entry.options()
        has = f"its own are {', '.join(own)}" if own else "it has none of its own"
        raise Refused(f"{option}: {entry.name} has no such argument; {has}")
    for keyword, parameter in taken.items():
        if parameter.default is parameter.empty and keyword not in {"x", *given}:
            instead = ", or --size" if keyword == "kernel_size" and entry.adaptive else ""
            raise Refused(
                f"Missing option '{kinds.option(keyword)}'{instead}: {entry.name} needs it"
            )
    return name


@app.command()
@_with_own_options
def image(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A PNG, JPEG or TIFF picture.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT", help="The extension chooses the format."),
    ],
    op: Annotated[
        str,
        typer.Option(
            "--op",
            metavar="NAME",
            help="What a window is reduced to (see infinitypool list): "
            f"{', '.join(kinds.entries())}. A sum saturates at the picture's bit depth. Kinds that "
            "take floating point alone are computed in float32 (32-bit integers in float64), "
            "rounded to nearest, and saturate as well.",
        ),
    ] = "max",
    kernel: Annotated[
        str | None,
        typer.Option(
            "--kernel",
            metavar="K[,K]",
            help="Window size: one number, or one per axis. Needed where --size is not given.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="H,W",
            help="Instead of --kernel and --stride: the output's rows and columns, to which the "
            "windows adapt. With fractional_max beside --kernel.",
        ),
    ] = None,
    stride: Stride = None,
    padding: Annotated[
        str | None,
        typer.Option(
            "--padding",
            metavar="P",
            help="1, or 1,2 (one for each axis), or 0:1,2:3 (before:after), or same, or valid; "
            "for blur also reflect, replicate or zeros.",
        ),
    ] = None,
    dilation: Annotated[
        str | None,
        typer.Option("--dilation", metavar="D[,D]", help="Step between the elements of a window."),
    ] = None,
    ceil: Ceil = False,
    **own: Any,
) -> None:
    """Pool a picture; its mode and bit depth are kept.

    Sizes are rows × columns, and so is the order of K[,K]. Channels (alpha too) stay apart. Palette
    pictures become RGB. Orientation and colour profile are carried over.
    """
    from infinitypool.cli import pictures

    entry = kinds.find(op, "--op")
    surroundings = inspect.signature(getattr(ip, entry.functions[0])).parameters.get("padding")
    words = surroundings is not None and isinstance(surroundings.default, str)
    given = _window(kernel, stride, padding, dilation, ceil, words)
    if size is not None:
        given["output_size"] = options.integers(size, "--size")
    given |= {name: value for name, value in own.items() if value is not None}
    function = getattr(ip, _chosen(entry, given))
    if not entry.dtypes:
        raise Refused(f"--op {op}: the native core of this build does not have it")
    if "rng" in given:
        given["rng"] = options.seed(given["rng"], "--seed")
    if "output_ratio" in given:
        given["output_ratio"] = options.reals(given["output_ratio"], "--ratio")
    chosen = pictures.target_format(output)
    picture = pictures.read(source)
    if "samples" in inspect.signature(function).parameters:
        # One pair of numbers for all channels: with their own, colours would move apart.
        numbers = np.random.default_rng(given.pop("rng", None)).random(2)
        given["samples"] = np.broadcast_to(numbers, (*picture.pixels.shape[2:], 2))
    start = time.perf_counter()
    with _judged_by_the_library():
        result = pictures.pool(picture, function, entry.dtypes, axes=(0, 1), **given)
    milliseconds = (time.perf_counter() - start) * 1e3
    pictures.write(output, chosen, result)
    note = f" ({picture.note})" if picture.note else ""
    typer.echo(
        f"{source}{note} {_by(picture.pixels.shape[:2])} {picture.mode} -> "
        f"{output} {_by(result.pixels.shape[:2])}, {function.__name__.removesuffix('_pool')}, "
        f"{milliseconds:.2f} ms"
    )


@app.command("list")
def list_kinds(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One kind, at length.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List the kinds of pooling: formula, arguments, dtypes, gradient."""
    found = kinds.entries()
    one = None if name is None else kinds.find(name, "NAME")
    if as_json:
        rows = [listing.row(entry) for entry in found.values()] if one is None else listing.row(one)
        typer.echo(json.dumps(rows, indent=2, allow_nan=False))
        return
    console = _console()
    what = listing.table(found.values(), console) if one is None else listing.page(one)
    console.print(what, highlight=False, markup=False)


@app.command()
def shape(
    sizes: Annotated[list[str], typer.Argument(metavar="SIZE...", help="The input's sizes.")],
    kernel: Kernel,
    stride: Stride = None,
    padding: Padding = "0",
    dilation: Dilation = "1",
    ceil: Ceil = False,
    axes: Annotated[
        str | None,
        typer.Option(
            "--axes",
            metavar="A[,A]",
            help="The pooled axes.",
            show_default="as many last axes as K has numbers, the last two for a single number",
        ),
    ] = None,
) -> None:
    """Work out the output size, with the formula filled in."""
    window = {"stride": None, "ceil_mode": False}
    window |= _window(kernel, stride, padding, dilation, ceil)
    lengths = []
    for text in sizes:
        size = options.integers(text, "SIZE")
        if not isinstance(size, int):
            raise Refused(f"SIZE {text!r}: separate the sizes by spaces")
        lengths.append(size)
    if axes is not None:
        chosen = options.integers(axes, "--axes")
        pooled = chosen if isinstance(chosen, tuple) else (chosen,)
    else:
        k = window["kernel_size"]
        count = len(k) if isinstance(k, tuple) else min(2, len(lengths))
        if count > len(lengths):
            raise Refused(f"--kernel {kernel} has {count} numbers for {len(lengths)} sizes")
        pooled = tuple(range(len(lengths) - count, len(lengths)))
    with _judged_by_the_library():
        answer = shapes.rows(tuple(lengths), axes=pooled, **window)
    table = Table(title=f"{_by(lengths)} → {_by([row.output for row in answer])}")
    table.add_column("axis", justify="right")
    table.add_column("input", justify="right")
    table.add_column("output size")
    table.add_column("output", justify="right", style="bold")
    notes = any(row.note for row in answer)
    if notes:
        table.add_column("note")
    for row in answer:
        cells = [str(row.axis), str(row.size), row.formula, str(row.output)]
        table.add_row(*cells, *([row.note] if notes else []))
    _console().print(table, highlight=False, markup=False)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def bench(context: typer.Context) -> None:
    """Measure against other libraries, in a source checkout.

    Options go to the benchmark.
    """
    here = Path(ip.__file__).resolve().parent
    for root in (here.parents[1], Path.cwd()):
        if (root / "benchmarks" / "run.py").is_file() and (root / "src" / "infinitypool").is_dir():
            break
    else:
        raise Refused(
            "bench: the benchmark belongs to the source checkout, not to the installed package;"
            " get the sources and run `make bench` there"
        )
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "benchmarks.run", *context.args]
    raise typer.Exit(subprocess.call(command, env={**os.environ, "PYTHONPATH": path}))


@app.command()
def info() -> None:
    """Version, instruction set, threads, OpenMP runtime, allocator."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()

    def add(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                add(f"{name} {key}".strip(), entry)
        elif isinstance(value, (list, tuple, set)):
            add(name, ", ".join(map(str, value)))
        else:
            table.add_row(name, str(value))

    add("", ip.config())
    _console().print(table, highlight=False, markup=False)


def run(arguments: list[str]) -> int:
    """Run one command line and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without × or → must not end the program
            stream.reconfigure(errors="backslashreplace")
    try:
        return app(arguments, prog_name="infinitypool", standalone_mode=False) or 0
    except _UsageProblem as error:
        return _refuse(error.format_message())
    except Refused as error:
        return _refuse(str(error))
    except MemoryError:
        return _refuse("out of memory")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _refuse(message: str) -> int:
    print(f"infinitypool: {' '.join(message.split())}", file=sys.stderr)
    return 2
