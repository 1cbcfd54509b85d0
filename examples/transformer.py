"""Classify sequences with transformer blocks: a digit is read row by row, as a text is by words.

python examples/transformer.py train [--depth 2] [--width 64] [--data FOLDER]
python examples/transformer.py evaluate
python examples/transformer.py predict picture.png ...
python examples/transformer.py describe
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import Tensor

from infinitypool import nn

from common import Program, Refused, Shape, classified, main, positive, probability


class Block(nn.Module):
    """Self-attention and a feed-forward part four times as wide, each added and normalised: N×L×width."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=False)
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class Classifier(nn.Module):
    """N×C×H×W gives N×classes; every row of a picture is one item of the sequence."""

    def __init__(
        self, shape: Shape, classes: int, width: int, heads: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        channels, rows, columns = shape
        self.embed = nn.Linear(channels * columns, width)
        self.position = nn.Parameter(0.02 * torch.randn(rows, width))
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)  # N×H×(C·W)
        x = self.blocks(self.embed(rows) + self.position)
        return self.classify(x.mean(1))


def network(choice: argparse.Namespace, shape: Shape, classes: int) -> nn.Module:
    if choice.width % choice.heads:
        raise Refused(f"--width {choice.width} does not divide into --heads {choice.heads}")
    return Classifier(shape, classes, choice.width, choice.heads, choice.depth, choice.dropout)


def samples(choice: argparse.Namespace):
    return classified(choice.data, size=choice.size, broken=choice.on_broken)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=positive, default=64, help="numbers of one item")
    parser.add_argument("--heads", type=positive, default=4, help="of the attention")
    parser.add_argument("--depth", type=positive, default=2, help="blocks")
    parser.add_argument("--dropout", type=probability, default=0.1, help="probability")


PROGRAM = Program(
    "transformer",
    __doc__,
    network,
    samples,
    options=options,
    defaults={"batch_size": 32, "lr": 3e-3},
)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
