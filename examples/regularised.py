"""Keep a network from learning by heart: dropout, channel dropout and norms, compared.

    python examples/regularised.py compare --epochs 10 [--few 300]
    python examples/regularised.py train --variant channel-dropout
    python examples/regularised.py evaluate
    python examples/regularised.py describe --variant group-norm

`compare` trains every variant on the same pictures and draws their curves side by side; with --few
pictures to learn from, what regularises shows sooner.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import replace

import torch
from torch.utils.data import Subset

from infinitypool import nn

from common import Program, Refused, Shape, classified, figures, learn, main, positive, rank

VARIANTS = {
    "none": {},
    "dropout": {"dropout": 0.5},
    "channel-dropout": {"channel_dropout": 0.2},
    "batch-norm": {"norm": "batch"},
    "group-norm": {"norm": "group"},
}


def norm_layer(norm: str | None, channels: int) -> nn.Module:
    """A batch norm, a group norm of 8 groups, or nothing."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(8, channels) if norm == "group" else nn.Identity()


class Classifier(nn.Sequential):
    """Two blocks of convolution, norm, ReLU and pooling, and two linear layers.

    Args:
        shape: of a picture: channels, height, width
        classes: how many there are
        norm: "batch", "group" or None
        channel_dropout: probability with which a block's channels are zeroed, each as a whole
        dropout: probability with which the numbers before the linear layers are zeroed
    """

    def __init__(
        self,
        shape: Shape,
        classes: int,
        norm: str | None = None,
        channel_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        channels, height, width = shape
        layers: list[nn.Module] = []
        for block in (32, 64):
            layers += [
                nn.Conv2d(channels, block, 3, padding=1),
                norm_layer(norm, block),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Dropout2d(channel_dropout),
            ]
            channels = block
        super().__init__(
            *layers,
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(64 * (height // 4) * (width // 4), 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, classes),
        )


def network(choice: argparse.Namespace, shape: Shape, classes: int) -> nn.Module:
    return Classifier(shape, classes, **VARIANTS[choice.variant])


def samples(choice: argparse.Namespace):
    found = classified(choice.data, size=choice.size, broken=choice.on_broken)
    if choice.few is None:
        return found
    order = torch.randperm(len(found.train), generator=torch.Generator().manual_seed(0))
    return replace(found, train=Subset(found.train, order[: choice.few].tolist()))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", choices=VARIANTS, default="dropout", help="what regularises")
    parser.add_argument("--few", type=positive, help="learn from this many pictures only")


def compare(program: Program, choice: argparse.Namespace, given: set[str]) -> int:
    """train every variant and draw their curves together"""
    begun = {variant for variant in VARIANTS if (choice.out / variant / "last.pt").exists()}
    if begun and not (choice.resume or choice.fresh):
        raise Refused(f"{choice.out} has {', '.join(sorted(begun))}: give --resume or --fresh")
    found = program.samples(choice)  # read once
    program = replace(program, samples=lambda _: found)
    histories = {}
    for variant in VARIANTS:
        one = copy.copy(choice)
        one.variant, one.out, one.resume = variant, choice.out / variant, variant in begun
        one.resume &= choice.resume
        run, status = learn(program, one, given)
        if status:
            return status
        histories[variant] = run.history
    if rank() == 0:
        title = f"{run.samples.name}: {len(run.samples.train)} pictures to learn from"
        figures.comparison(choice.out / "comparison.png", histories, program.task.score, title)
        print(f"written: {choice.out / 'comparison.png'}")
    return 0


PROGRAM = Program(
    "regularised",
    __doc__,
    network,
    samples,
    options=options,
    defaults={"batch_size": 32, "lr": 2e-3},
    commands={"compare": compare},
)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
