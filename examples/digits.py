"""Classify handwritten digits with small convolutional networks, written in four forms.

    python examples/digits.py train --epochs 3 --batch-size 100 [--form FORM] [--data FOLDER]
    python examples/digits.py evaluate
    python examples/digits.py predict picture.png ... [--invert]
    python examples/digits.py describe --form blocks --kind Conv2d
    torchrun --nproc-per-node 2 examples/digits.py train

Without --data it learns scikit-learn's 8×8 digits, enlarged to 28×28; FOLDER may hold the files of
MNIST or Fashion-MNIST, or pictures in a folder for each class.
"""

from __future__ import annotations

import argparse
import sys

from torch import Tensor

from infinitypool import nn
from infinitypool.nn import functional as F

from common import Program, Shape, classified, main


class ModuleForm(nn.Module):
    """Pooling as a layer: convolution 5×5, ReLU, pooling, twice; then two linear layers."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64 * (height // 4) * (width // 4), 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


class FunctionalForm(nn.Module):
    """The same network with pooling as a function."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * (height // 4) * (width // 4), 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


def blocks(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """Three blocks of 32, 64 and 128 channels, each ended by pooling, whose layers have names.

    Parts are picked out by place or name: ``network[:4]`` is the first block, ``network.conv2`` the
    second convolution; ``describe --kind Conv2d`` lists all of them.
    """
    network = nn.Sequential()
    for i, channels_after in enumerate((32, 64, 128), 1):
        network.add_module(f"conv{i}", nn.Conv2d(channels, channels_after, 3, padding=1))
        network.add_module(f"norm{i}", nn.BatchNorm2d(channels_after))
        network.add_module(f"relu{i}", nn.ReLU())
        network.add_module(f"pool{i}", nn.MaxPool2d(2))
        channels = channels_after
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc", nn.Linear(channels * (height // 8) * (width // 8), classes))
    return network


def conv_norm_relu(channels: int, width: int) -> nn.Sequential:
    """A valid 3×3 convolution, batch normalisation, ReLU."""
    # With 15 batches an epoch, running statistics have to follow the weights sooner than usual
    norm = nn.BatchNorm2d(width, momentum=0.3)
    return nn.Sequential(nn.Conv2d(channels, width, 3), norm, nn.ReLU())


class ConvNorm(nn.Module):
    """Four blocks of 16, 32, 64 and 128 channels, pooling after the second and the fourth.

    Of 28×28 pixels 4×4 are left: 2048 numbers, then 1024, 128, and the classes.
    """

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm_relu(channels, 16),
            conv_norm_relu(16, 32),
            nn.MaxPool2d(2),
            conv_norm_relu(32, 64),
            conv_norm_relu(64, 128),
            nn.MaxPool2d(2),
        )
        height, width = (((n - 4) // 2 - 4) // 2 for n in (height, width))
        self.classifier = nn.Sequential(
            nn.Linear(128 * height * width, 1024),
            nn.ReLU(),
            nn.Linear(1024, 128),
            nn.ReLU(),
            nn.Linear(128, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


FORMS = {
    "conv-norm": ConvNorm,
    "module": ModuleForm,
    "functional": FunctionalForm,
    "blocks": blocks,
}


def network(choice: argparse.Namespace, shape: Shape, classes: int) -> nn.Module:
    return FORMS[choice.form](*shape, classes)


def samples(choice: argparse.Namespace):
    return classified(choice.data, size=choice.size, broken=choice.on_broken)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--form", choices=FORMS, default="conv-norm", help="which network")


PROGRAM = Program("digits", __doc__, network, samples, options=options)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
