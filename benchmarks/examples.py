"""The example programs with our layers and with PyTorch's: ``python -m benchmarks.examples``.

``[--only RE] [--quick] [--out DIR]``. Each program trains by itself in a process of its own, twice
with either layers, in turns. Writes ``examples.md``: seconds of an epoch (the median of all, without
evaluation), the most memory that the process held, and the scores that were reached.
"""

from __future__ import annotations

import argparse
import csv
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.run import processor

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("infinitypool", "torch")
ROUNDS = 2

# Name, program, and what it is run with
EXAMPLES = {
    "digits: conv, norm, ReLU, pool": ("digits", "--batch-size 100 --epochs 3"),
    "digits: pooling as a module": ("digits", "--form module --batch-size 100 --epochs 3"),
    "U-Net, 8 channels": ("unet", "--width 8 --epochs 2"),
    "any size": ("any_size", "--epochs 3"),
    "dropout": ("regularised", "--variant dropout --epochs 3"),
    "channel dropout": ("regularised", "--variant channel-dropout --epochs 3"),
    "group norm": ("regularised", "--variant group-norm --epochs 3"),
    "transformer": ("transformer", "--epochs 5"),
}


@dataclass
class Found:
    """What the runs with one kind of layers showed."""

    seconds: list[float] = field(default_factory=list)
    memory: float = 0.0
    scores: list[float] = field(default_factory=list)  # held out, after each epoch


def trained(program: str, options: Sequence[str], found: Found) -> None:
    """Train once, and add what it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "examples" / f"{program}.py"), "train", *options]
        command += ["--no-tensorboard", "--out", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(Path(folder) / "history.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    found.seconds += [float(row["seconds"]) for row in rows]
    found.memory = max(found.memory, *(float(row["memory_mb"]) for row in rows))
    found.scores = [float(row["test_score"]) for row in rows]


def line(name: str, options: str, ours: Found, theirs: Found) -> list[str]:
    """A row of the table."""
    mine, reference = (statistics.median(found.seconds) for found in (ours, theirs))
    scores = (" ".join(f"{score:.4f}" for score in found.scores) for found in (ours, theirs))
    return [
        name,
        f"`{options}`",
        f"{mine:.2f}",
        f"{reference:.2f}",
        f"{reference / mine:.2f}×",
        f"{ours.memory:.0f}",
        f"{theirs.memory:.0f}",
        *scores,
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Train the chosen examples and write the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.examples", description=__doc__.split("\n")[0])
    parser.add_argument("--only", metavar="RE", default="", help="examples whose name matches")
    parser.add_argument("--quick", action="store_true", help="one round of one epoch")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder")
    choice = parser.parse_args(argv)
    chosen = {name: how for name, how in EXAMPLES.items() if re.search(choice.only, name)}
    if not chosen:
        parser.error(f"--only {choice.only} matches none of {', '.join(EXAMPLES)}")
    start, rows, console = time.perf_counter(), [], Console()
    for name, (program, options) in chosen.items():
        found = {layers: Found() for layers in LAYERS}
        for _ in range(1 if choice.quick else ROUNDS):
            for layers in LAYERS:
                last = ["--epochs", "1"] if choice.quick else []
                given = [*options.split(), *last, "--layers", layers]
                trained(program, given, found[layers])
        rows.append(line(name, f"{program}.py {options}", *found.values()))
        console.print(" · ".join(rows[-1]), highlight=False)
    header = ["network", "program", "s an epoch: ours", "torch", "ratio", "MB: ours", "torch"]
    header += ["held-out score by epoch: ours", "torch"]
    text = [
        "# Examples",
        "",
        f"{time.strftime('%Y-%m-%d')}, {processor()}, Python {platform.python_version()},"
        f" torch {version('torch')}. The run took {(time.perf_counter() - start) / 60:.1f} minutes.",
        "",
        *report.table(header, rows),
    ]
    choice.out.mkdir(parents=True, exist_ok=True)
    path = choice.out / "examples.md"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    console.print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
