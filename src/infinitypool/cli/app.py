"""The four commands. Every refusal ends as one line on stderr and exit status 2."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import infinitypool as ip
from infinitypool.cli import options, shapes
from infinitypool.cli.options import Refused

__all__ = ["app", "run"]


class Op(str, Enum):
    """The poolings of the array front that fit a picture."""

    max = "max"
    min = "min"
    avg = "avg"
    sum = "sum"


# typer's base of all usage errors; it has no public name that every version shares.
_UsageProblem = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="infinitypool",
    help="Pooling at the speed of memory: pictures, output sizes, measurements.",
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
    kernel: str, stride: str | None, padding: str, dilation: str, ceil: bool
) -> dict[str, Any]:
    """The options that all pooling commands share, as keywords of the public functions."""
    return {
        "kernel_size": options.integers(kernel, "--kernel"),
        "stride": None if stride is None else options.integers(stride, "--stride"),
        "padding": options.padding(padding),
        "dilation": options.integers(dilation, "--dilation"),
        "ceil_mode": ceil,
    }


@contextmanager
def _judged_by_the_library() -> Iterator[None]:
    """The library refuses bad values in words that name argument, value and rule: pass them on."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(str(error)) from None


def _console() -> Console:
    # Into a pipe or file there is no width to respect: a formula must not be cut at 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=180)


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


@app.command()
def image(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A PNG, JPEG or TIFF picture.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT", help="The extension chooses the format."),
    ],
    kernel: Kernel,
    op: Annotated[
        Op,
        typer.Option(
            "--op", help="What a window is reduced to; a sum saturates at the picture's bit depth."
        ),
    ] = Op.max,
    stride: Stride = None,
    padding: Padding = "0",
    dilation: Dilation = "1",
    ceil: Ceil = False,
) -> None:
    """Pool a picture; its mode and bit depth are kept.

    Sizes are rows × columns, and so is the order of K[,K]. Channels (alpha too) stay apart. Palette
    pictures become RGB. Orientation and colour profile are carried over.
    """
    from infinitypool.cli import pictures

    window = _window(kernel, stride, padding, dilation, ceil)
    chosen = pictures.target_format(output)
    picture = pictures.read(source)
    start = time.perf_counter()
    with _judged_by_the_library():
        pooled = getattr(ip, f"{op.value}_pool")(picture.pixels, axes=(0, 1), **window)
    milliseconds = (time.perf_counter() - start) * 1e3
    if limits := pictures.depth_limits(picture):
        # np.clip compares in the sum's own 64 bits, so nothing wraps on the way down
        low, high = (pooled.dtype.type(max(v, np.iinfo(pooled.dtype).min)) for v in limits)
        pooled = np.clip(pooled, low, high)
    pooled = pooled.astype(picture.pixels.dtype, copy=False)
    result = pictures.Picture(pooled, picture.mode, picture.extras)
    pictures.write(output, chosen, result)
    note = f" ({picture.note})" if picture.note else ""
    typer.echo(
        f"{source}{note} {_by(picture.pixels.shape[:2])} {picture.mode} -> "
        f"{output} {_by(pooled.shape[:2])}, {op.value}, {milliseconds:.2f} ms"
    )


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
    window = _window(kernel, stride, padding, dilation, ceil)
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
    """Measure against other libraries (in a source checkout; options go to the benchmark)."""
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
