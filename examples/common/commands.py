"""The commands of the programs of this folder: train, evaluate, predict, describe.

A program ends with ``sys.exit(main(Program(...)))``; see :class:`training.Program`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from . import checkpoints, figures
from .files import Refused, replacing
from .pictures import read_picture, resized, times, write_mask
from .samples import Samples
from .training import (
    LAYERS,
    SEGMENT,
    Program,
    Run,
    build,
    count,
    device_of,
    fitting,
    measure,
    processes,
    rank,
    world,
)

# What a training leaves, beside TensorBoard's logs; --fresh begins by removing it.
WRITTEN = ("last.pt", "best.pt", "history.csv", "curves.png", "predictions.png")
INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended

# Options that may change when training continues. All others are the recipe: a checkpoint has them.
FREE = {"command", "out", "resume", "fresh", "device", "workers", "tensorboard"}
FREE |= {"checkpoint", "files", "invert", "on_broken", "input", "kind"}


# --- the command line ----------------------------------------------------------------------------


def limited(name: str, kind: type, allowed: Callable[[Any], bool]) -> Callable[[str], Any]:
    """What reads a number from the command line, and refuses others."""

    def number(text: str) -> Any:
        value = kind(text)
        if not allowed(value):
            raise ValueError(text)
        return value

    number.__name__ = name  # argparse says it of what is refused
    return number


positive = limited("positive", int, lambda value: value > 0)
natural = limited("natural", int, lambda value: value >= 0)
probability = limited("probability", float, lambda value: 0 <= value <= 1)
above_zero = limited("above_zero", float, lambda value: 0 < value < float("inf"))


def parser_of(program: Program) -> tuple[argparse.ArgumentParser, dict[str, Any]]:
    """The command line, and those of its commands that checkpoints have a say in."""
    first, _, rest = program.about.strip().partition("\n")
    parser = argparse.ArgumentParser(
        prog=f"{program.name}.py",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {}
    for name, text in (
        ("train", "learn, and write checkpoints and figures"),
        ("evaluate", "measure a checkpoint on what was held out"),
        ("predict", "apply a checkpoint to pictures of one's own"),
        ("describe", "show the layers, their parameters and the shapes that they give"),
        *((name, function.__doc__ or "") for name, function in program.commands.items()),
    ):
        command = parsers[name] = commands.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        common(command, name, program)
        command.set_defaults(**program.defaults)
    return parser, parsers


def common(command: argparse.ArgumentParser, name: str, program: Program) -> None:
    """The options of one command."""
    add = command.add_argument
    if name == "predict":
        add("files", nargs="+", type=Path, metavar="FILE", help="pictures")
        add("--invert", action="store_true", help="they are dark on light, the learnt ones not")
    if name in ("evaluate", "predict"):
        add("--checkpoint", type=Path, help="default: OUT/best.pt")
    if name == "describe":
        add("--input", nargs=3, type=positive, metavar=("C", "H", "W"), help="shape of a picture")
        add("--kind", help="only layers of this kind, such as Conv2d")
    else:
        add(
            "--out", type=Path, default=Path("runs", program.name), help="what is written goes here"
        )
        add("--on-broken", choices=("stop", "skip"), default="stop", help="at unreadable files")
    if name in ("train", "evaluate", *program.commands):
        add("--data", type=Path, help="folder with pictures; default: data that is already here")
        add("--size", type=positive, help="resize pictures to SIZE×SIZE")
        add("--batch-size", type=positive, default=64, help="samples of a step, over all processes")
        add("--workers", type=natural, default=0, help="processes that read pictures")
    if name in ("train", *program.commands):
        add("--epochs", type=positive, default=3, help="passes over the samples")
        add("--lr", type=above_zero, default=1e-3, help="Adam's first learning rate")
        add("--schedule", choices=("linear", "constant"), default="linear", help="of --lr")
        old = command.add_mutually_exclusive_group()
        old.add_argument(
            "--fresh", action="store_true", help="remove what an earlier training wrote"
        )
        old.add_argument(
            "--resume", action="store_true", help="continue from OUT/last.pt, bit for bit"
        )
        add("--tensorboard", action=argparse.BooleanOptionalAction, default=True, help="logs")
    add("--device", default="auto", help="cpu, cuda, ...; auto: a GPU if there is one")
    add("--seed", type=natural, default=0, help="determines everything that is drawn")
    add("--layers", choices=LAYERS, default="infinitypool", help="whose layers are used")
    program.options(command)


def read(program: Program, arguments: Sequence[str]) -> tuple[argparse.Namespace, set[str]]:
    """The options, and the names of those that were given."""
    parser, commands = parser_of(program)
    choice = parser.parse_args(arguments)
    missing = object()
    commands[choice.command].set_defaults(**dict.fromkeys(vars(choice), missing))
    given = vars(parser.parse_args(arguments)).items()
    return choice, {name for name, value in given if value is not missing}


def recipe_of(choice: argparse.Namespace) -> dict[str, Any]:
    """The options that determine a network and its training, as a checkpoint keeps them."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(choice).items()
        if name not in FREE
    }


def follow(
    choice: argparse.Namespace,
    given: set[str],
    state: dict[str, Any],
    path: Path,
    may_differ: AbstractSet[str] = frozenset(),
) -> None:
    """Take the options of a checkpoint, and refuse given ones that contradict it."""
    mine = recipe_of(choice)
    for name, there in state["recipe"].items():
        if name not in given:
            setattr(choice, name, Path(there) if name == "data" and there else there)
        elif mine[name] != there and name not in may_differ:
            raise Refused(
                f"--{name.replace('_', '-')} {mine[name]}: {path} was trained with {there}: leave "
                "the option out, or train anew in another --out"
            )


def main(program: Program, arguments: Sequence[str] | None = None) -> int:
    """Run a program: its exit status, 2 where an input cannot be used, 130 where it was stopped."""
    choice, given = read(program, sys.argv[1:] if arguments is None else arguments)
    process = int(os.environ.get("LOCAL_RANK", 0))
    who = f"{program.name}, process {process}" if process else program.name
    commands = {"train": train, "evaluate": evaluate, "predict": predict, "describe": describe}
    commands |= program.commands
    try:
        with processes(device_of(choice)):
            return commands[choice.command](program, choice, given)
    except Refused as refused:
        if process == 0 or refused.alone:  # else the first process says it
            print(f"{who}: {refused}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{who}: {error.filename or choice.out}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{who}: stopped at once; what was written stays", file=sys.stderr)
        return INTERRUPTED


# --- training ------------------------------------------------------------------------------------


def columns(program: Program) -> list[tuple[str, str, str]]:
    """How a row of the history is shown: key, heading, format."""
    score = program.task.score
    return [
        ("epoch", "epoch", "{}"),
        ("train_loss", "loss", "{:.4f}"),
        ("train_score", score, "{:.4f}"),
        ("test_loss", "held-out loss", "{:.4f}"),
        ("test_score", f"held-out {score}", "{:.4f}"),
        ("seconds", "s", "{:.1f}"),
        ("samples_per_second", "samples/s", "{:.0f}"),
        ("memory_mb", "peak MB", "{:.0f}"),
    ]


def table_of(program: Program, history: list[dict[str, float]], title: str) -> Table:
    table = Table(title=title)
    for _, heading, _ in columns(program):
        table.add_column(heading, justify="right")
    for row in history:
        table.add_row(*(text.format(row[key]) for key, _, text in columns(program)))
    return table


def console_of() -> Console:
    """Where the first of all processes speaks; the others are silent."""
    width = None if sys.stdout.isatty() else 110
    quiet = rank() > 0
    return Console(quiet=quiet, markup=False, highlight=False, soft_wrap=True, width=width)


def train(program: Program, choice: argparse.Namespace, given: set[str]) -> int:
    return learn(program, choice, given)[1]


def logs_of(choice: argparse.Namespace, console: Console, epoch: int) -> Any:
    """A writer of TensorBoard's logs that continues after ``epoch``, if they are wanted."""
    if not choice.tensorboard or rank() > 0:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.print("no logs for TensorBoard: `pip install tensorboard`, or --no-tensorboard")
        return None
    return SummaryWriter(choice.out / "tensorboard", purge_step=epoch + 1)


def learn(program: Program, choice: argparse.Namespace, given: set[str]) -> tuple[Run, int]:
    """Train, and show and draw what was learnt: the training and the exit status."""
    last, state = choice.out / "last.pt", None
    if choice.resume:
        state = checkpoints.load(last, program.name)
        follow(choice, given, state, last, {"epochs", "data"})
    elif last.exists() and not choice.fresh:
        raise Refused(
            f"{last} exists: --resume continues it, --fresh removes it, another --out keeps it"
        )
    recipe = recipe_of(choice)
    run = Run(program, choice, recipe, state)
    choice.out.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        for old in WRITTEN if state is None else ():
            (choice.out / old).unlink(missing_ok=True)
        for part in choice.out.glob(".*.part"):  # of a process that was killed while it wrote
            part.unlink()
        with replacing(choice.out / "options.json", "w") as file:
            json.dump(recipe, file, indent=2)
    console, samples = console_of(), run.samples
    console.print(
        f"{samples.name}: {len(samples.train)} pictures of {times(samples.shape)} to learn from, "
        f"{len(samples.test)} held out, {len(samples.classes)} classes; "
        f"{count_parameters(run.network):,} parameters, layers of {choice.layers}, "
        f"{world()} × {torch.get_num_threads()} threads"
    )
    logs = logs_of(choice, console, run.epoch)

    def finished(row: dict[str, float]) -> None:
        shown = (f"{heading} {text.format(row[key])}" for key, heading, text in columns(program))
        console.print(", ".join(shown))
        if logs is not None:
            for key, value in row.items():
                part, _, what = key.partition("_")
                name = f"{what}/{part}" if part in ("train", "test") else key
                logs.add_scalar(name, value, row["epoch"])
            logs.flush()

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        done = run.train(progress, finished)
    if logs is not None:
        logs.close()
    title = f"{program.name}: {samples.name}"
    if run.history:
        console.print(table_of(program, run.history, title))
    if rank() == 0 and run.history:
        figures.curves(choice.out / "curves.png", run.history, title, program.task.score)
    if rank() == 0 and done:
        draw_held_out(program, run.network, run.samples, choice.out / "predictions.png")
    if not done:
        console.print(f"stopped in epoch {run.epoch + 1}: --resume continues after step {run.step}")
    console.print(f"see {choice.out}: {', '.join(sorted(p.name for p in choice.out.iterdir()))}")
    return run, 0 if done else INTERRUPTED


# --- a trained network ---------------------------------------------------------------------------


def outcome(program: Program, network: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable classes and their probabilities, without a gradient."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        probability, predicted = program.forward(network, pictures.to(device)).softmax(1).max(1)
    return predicted.cpu(), probability.cpu()


def draw_held_out(program: Program, network: nn.Module, samples: Samples, path: Path) -> None:
    """Some of the pictures that were held out and what the network says of them."""
    most = figures.MOST_ROWS if program.task is SEGMENT else 24
    number = min(most, len(samples.test))
    chosen = torch.arange(number) * len(samples.test) // number  # files come class by class
    pictures, truth = zip(*(samples.test[i] for i in chosen.tolist()), strict=True)
    pictures, truth = torch.stack(pictures), torch.stack([torch.as_tensor(t) for t in truth])
    predicted, probability = outcome(program, network, pictures)
    classes = samples.classes
    if program.task is SEGMENT:
        scores = [
            program.task.of_all(count(t, p, len(classes)))
            for t, p in zip(truth, predicted, strict=True)
        ]
        figures.segmentations(path, pictures, truth, predicted, classes, scores)
    else:
        figures.classifications(path, pictures, truth, predicted, probability, classes)


def restored(
    program: Program, choice: argparse.Namespace, given: set[str]
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, and the checkpoint."""
    path = choice.checkpoint or choice.out / "best.pt"
    state = checkpoints.load(path, program.name)
    follow(choice, given, state, path, {"layers", "data", "size", "batch_size", "seed", "epochs"})
    network = build(program, choice, tuple(state["shape"]), len(state["classes"]))
    checkpoints.fit(network, state, path)
    return network.to(device_of(choice)), state


def evaluate(program: Program, choice: argparse.Namespace, given: set[str]) -> int:
    network, state = restored(program, choice, given)
    samples, task, console = program.samples(choice), program.task, console_of()
    sides = 1 if program.any_size else 3
    if (samples.shape[:sides], list(samples.classes)) != (
        tuple(state["shape"][:sides]),
        state["classes"],
    ):
        raise Refused(
            f"{samples.name}: {len(samples.classes)} classes, pictures of {times(samples.shape)}; the "
            f"network learnt {len(state['classes'])} classes of {times(state['shape'])}: give other --data"
        )
    sums = measure(program, choice, network, samples)
    results = sums.results(task, "test")
    table = Table(title=f"{program.name}: {samples.name}, {len(samples.test)} held out")
    for heading in ("class", "samples" if task is not SEGMENT else "pixels", task.of_class):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    each = zip(samples.classes, sums.confusion.sum(1), task.of_each(sums.confusion), strict=True)
    for name, number, value in each:
        table.add_row(name, f"{number:,}", f"{value:.4f}")
    console.print(table)
    console.print(f"loss {results['test_loss']:.4f}, {task.score} {results['test_score']:.4f}")
    if rank() == 0:
        choice.out.mkdir(parents=True, exist_ok=True)
        path = choice.out / "predictions.png"
        draw_held_out(program, network, samples, path)
        console.print(f"written: {path}")
    return 0


def predict(program: Program, choice: argparse.Namespace, given: set[str]) -> int:
    """One line a file; masks as pictures of their own, and figures."""
    network, state = restored(program, choice, given)
    channels, *size = state["shape"]
    classes, console = state["classes"], console_of()
    choice.out.mkdir(parents=True, exist_ok=True)
    stems = Counter(file.stem for file in choice.files)
    if program.task is SEGMENT and stems.most_common(1)[0][1] > 1:
        stem = stems.most_common(1)[0][0]
        raise Refused(
            f"{stem}-mask.png: several files would be written as this: predict one by one"
        )
    # Otherwise it is seen as those were that the network learnt from
    as_it_is = program.any_size and choice.size is None
    shown = []
    for file in choice.files:
        try:
            picture = read_picture(file, channels)
            picture = 1 - picture if choice.invert else picture
            seen = picture if as_it_is else resized(picture, tuple(size))
            with fitting(seen.shape, str(file), "give a larger one"):
                predicted, probability = outcome(program, network, seen[None])
        except Refused as refused:
            if choice.on_broken == "stop":
                raise
            console.print(f"left out: {refused}")
            continue
        if program.task is SEGMENT:
            if seen is not picture:  # the mask is that of the file
                mask = predicted[None].to(torch.uint8)
                predicted = F.interpolate(mask, picture.shape[1:], mode="nearest-exact")[0].long()
            mask = choice.out / f"{file.stem}-mask.png"
            write_mask(mask, predicted[0])
            figure = choice.out / f"{file.stem}-prediction.png"
            figures.segmentations(
                figure, picture[None], None, predicted, classes, names=[file.name]
            )
            shares = predicted.flatten().bincount(minlength=len(classes)) / predicted.numel()
            parts = ", ".join(f"{n} {s:.1%}" for n, s in zip(classes, shares.tolist(), strict=True))
            console.print(f"{file}: {parts}; written: {mask}, {figure}")
        else:
            console.print(f"{file}: {classes[predicted[0]]} ({probability[0]:.1%})")
            thumbnail = resized(picture, tuple(size))
            shown.append((thumbnail, predicted[0], probability[0], file.name))
    if shown:
        pictures, predicted, probability, names = zip(*shown, strict=True)
        path = choice.out / "predicted.png"
        figures.classifications(
            path, torch.stack(pictures), None, predicted, probability, classes, names
        )
        console.print(f"written: {path}")
    return 0


# --- its layers ----------------------------------------------------------------------------------


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def describe(program: Program, choice: argparse.Namespace, given: set[str]) -> int:
    """Each layer in the order in which it is called, with the shape that it gives."""
    console = console_of()
    for shape in [tuple(choice.input)] if choice.input else program.example:
        network = build(program, choice, shape, getattr(choice, "classes", 10)).eval()
        table = Table()
        for heading in ("layer", "kind", "parameters", "result"):
            table.add_column(heading, justify="left" if heading in ("layer", "kind") else "right")
        called: list[str] = []

        def show(
            module: nn.Module,
            _: Any,
            result: Any,
            *,
            name: str,
            table: Table = table,
            called: list[str] = called,
        ) -> None:
            if any(part.startswith(f"{name}.") for part in called):
                return  # a layer that is made of layers
            called.append(name)
            kind = type(module).__name__
            if choice.kind in (None, kind):
                shape = times((result if isinstance(result, Tensor) else result[0]).shape)
                table.add_row(name, kind, f"{count_parameters(module):,}", shape)

        for name, module in network.named_children():
            for inner, part in module.named_modules(prefix=name):
                part.register_forward_hook(partial(show, name=inner))
        with fitting(shape, advice="give a larger --input"), torch.inference_mode():
            result = network(torch.zeros(1, *shape))
        console.print(
            table,
            f"{times((1, *shape))} → {times(result.shape)}, {count_parameters(network):,} parameters\n",
        )
    return 0
