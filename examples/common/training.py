"""The training loop that the programs of this folder share, its metrics and its processes.

Nothing random is carried from step to step: what is drawn in a step depends on the seed, the epoch,
the step and the process alone. So training that was stopped, or killed, continues bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import infinitypool.nn

from . import checkpoints
from .files import Refused, replacing
from .pictures import times
from .samples import Samples

Shape = tuple[int, int, int]  # channels, height, width of a picture

# --- what is learnt, and how well ----------------------------------------------------------------


def accuracy(confusion: Tensor) -> Tensor:
    """Share of hits, of counts [truth, prediction]."""
    return confusion.diagonal().sum() / confusion.sum()


def recall(confusion: Tensor) -> Tensor:
    """Share of hits in each class, of counts [truth, prediction]; NaN where none is."""
    return confusion.diagonal() / confusion.sum(1)


def iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, of counts [truth, prediction]; NaN where none is."""
    hits = confusion.diagonal()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def count(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """How often each class [truth, prediction] was taken for which."""
    pairs = truth.flatten() * classes + predicted.flatten()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).cpu()


class Task(NamedTuple):
    """What is to be learnt, and what the score and that of each class are."""

    score: str
    of_all: Callable[[Tensor], Tensor]
    of_class: str
    of_each: Callable[[Tensor], Tensor]


CLASSIFY = Task("accuracy", accuracy, "recall", recall)
SEGMENT = Task("mean IoU", lambda confusion: iou(confusion).nanmean(), "IoU", iou)


@dataclass
class Sums:
    """What an epoch has seen so far."""

    confusion: Tensor
    loss: float = 0.0
    samples: int = 0
    seconds: float = 0.0

    @classmethod
    def none(cls, classes: int) -> Sums:
        return cls(torch.zeros(classes, classes, dtype=torch.int64))

    def add(self, logits: Tensor, targets: Tensor, loss: float) -> None:
        self.confusion += count(targets, logits.detach().argmax(1), len(self.confusion))
        self.loss += loss * len(targets)
        self.samples += len(targets)

    def over_processes(self) -> Sums:
        """The sums of all processes."""
        if world() == 1:
            return self
        flat = [*self.confusion.flatten().tolist(), self.loss, self.samples]
        numbers = torch.tensor(flat, dtype=torch.float64, device=device_of_processes())
        dist.all_reduce(numbers)
        *counts, loss, samples = numbers.tolist()
        confusion = torch.tensor(counts).long().view_as(self.confusion)
        return Sums(confusion, loss, int(samples), self.seconds)

    def results(self, task: Task, part: str) -> dict[str, float]:
        score = task.of_all(self.confusion).item()
        return {f"{part}_loss": self.loss / self.samples, f"{part}_score": score}


# --- the program ---------------------------------------------------------------------------------


def call(network: nn.Module, pictures: Tensor) -> Tensor:
    """Logits N×classes, or N×classes×H×W, of pictures N×C×H×W."""
    return network(pictures)


def as_it_is(choice: argparse.Namespace, pictures: Tensor) -> Tensor:
    return pictures


@dataclass(frozen=True)
class Program:
    """What one file of this folder adds to the rest.

    Attributes:
        name: of the program, of the folder that it writes, and in its checkpoints
        about: its documentation
        network: from the options, the shape of a picture and the number of classes
        samples: what it learns from, from the options
        task: :data:`CLASSIFY` or :data:`SEGMENT`
        options: adds the program's own options to the command line
        prepare: what is done to a batch before the network learns from it, from the options and
            N×C×H×W; what it draws is the same in all processes
        forward: how the network is called, with pictures of any number
        example: shapes of pictures that ``describe`` shows by default
        any_size: whether pictures of any size can be predicted as they are
        defaults: of the options that all programs have
        commands: more commands: how each is run, of the program, the options and the names of
            those that were given
    """

    name: str
    about: str
    network: Callable[[argparse.Namespace, Shape, int], nn.Module]
    samples: Callable[[argparse.Namespace], Samples]
    task: Task = CLASSIFY
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    prepare: Callable[[argparse.Namespace, Tensor], Tensor] = as_it_is
    forward: Callable[[nn.Module, Tensor], Tensor] = call
    example: tuple[Shape, ...] = ((1, 28, 28),)
    any_size: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    commands: dict[str, Callable[[Program, argparse.Namespace, set[str]], int]] = field(
        default_factory=dict
    )


LAYERS = {"infinitypool": infinitypool.nn, "torch": torch.nn}


def build(program: Program, choice: argparse.Namespace, shape: Shape, classes: int) -> nn.Module:
    """The network with its first weights, which the seed determines.

    ``--layers torch`` builds it as if the program said ``from torch import nn``.
    """
    source = sys.modules[program.network.__module__]
    source.nn = LAYERS[choice.layers]
    source.F = source.nn.functional
    torch.manual_seed(choice.seed)
    with fitting(shape):
        return program.network(choice, shape, classes)


@contextmanager
def fitting(shape: Sequence[int], name: str = "", advice: str = "give --size") -> Iterator[None]:
    """Refuses a picture, or file of such a name, of which a network's layers leave nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # layers without an element warn before they fail
            yield
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if "memory" in reason:
            advice = "give a smaller one"
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if not f.filename.startswith(torch.__path__[0])][-1]
        raise Refused(
            f"{name or 'a picture'} of {times(shape)} does not fit this network: {reason} "
            f"({Path(ours.filename).name}:{ours.lineno}); {advice}"
        ) from error


def device_of(choice: argparse.Namespace) -> torch.device:
    name = choice.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":  # each process has a GPU of its own
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise Refused(f"--device {choice.device} cannot be used here: {reason}") from error


# --- more than one process -----------------------------------------------------------------------


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def device_of_processes() -> torch.device:
    """Where tensors lie that processes exchange."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """The processes that ``torchrun`` started work together; a program without it works alone."""
    if "LOCAL_RANK" not in os.environ:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def any_process(flag: bool) -> bool:
    """Whether it is true for one of the processes."""
    if world() == 1:
        return flag
    flags = torch.tensor(float(flag), device=device_of_processes())
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def spread(network: nn.Module, layers: str) -> nn.Module:
    """The network as one of several processes trains it: gradients and statistics are shared."""
    if world() == 1:
        return network
    network = LAYERS[layers].SyncBatchNorm.convert_sync_batchnorm(network)
    if layers == "torch" and device_of_processes().type == "cpu":
        if any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
            raise Refused("--layers torch: PyTorch's SyncBatchNorm needs GPUs: run one process")
    return DistributedDataParallel(network)


# --- batches -------------------------------------------------------------------------------------


def seeded(*numbers: int) -> int:
    """One seed of several numbers, whose neighbours have nothing in common."""
    numbers = (len(numbers), *numbers)  # zeros at the end would not count
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class Share:
    """This process's part of the batches of one pass: of each, every N-th sample.

    A last batch that has no sample for every process is left out where ``all_work``.
    """

    def __init__(self, order: Tensor, batch_size: int, all_work: bool) -> None:
        least = world() if all_work else rank() + 1
        self.batches = [batch for batch in order.split(batch_size) if len(batch) >= least]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[rank() :: world()].tolist() for batch in self.batches)


def batches(
    choice: argparse.Namespace, samples: Dataset, share: Share
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures and targets, on the device that is chosen."""
    device = device_of(choice)
    try:
        for pictures, targets in DataLoader(
            samples, batch_sampler=share, num_workers=choice.workers
        ):
            yield pictures.to(device), targets.to(device)
    except Refused as refused:
        refused.alone = True
        raise


def measure(
    program: Program, choice: argparse.Namespace, network: nn.Module, samples: Samples
) -> Sums:
    """The sums over what was held out, shared between the processes."""
    sums = Sums.none(len(samples.classes))
    share = Share(torch.arange(len(samples.test)), choice.batch_size, False)
    network.eval()
    with torch.inference_mode():
        for pictures, targets in batches(choice, samples.test, share):
            logits = program.forward(network, pictures)
            sums.add(logits, targets, F.cross_entropy(logits, targets).item())
    network.train()
    return sums.over_processes()


# --- training ------------------------------------------------------------------------------------


class Stop:
    """Whether somebody wants this program to end; a second Ctrl-C ends it at once.

    A signal that is ignored, as in the background of a shell, stays ignored.
    """

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> Stop:
        handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        self.before = {s: h for s, h in handlers.items() if h is not signal.SIG_IGN}
        for number in self.before:
            signal.signal(number, self.want)
        return self

    def want(self, number: int, frame: Any) -> None:
        self.wanted = True
        signal.signal(number, self.before[number])

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held, in MB: on the GPU if it works there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Run:
    """One training: the network, its optimiser, and how far it has come.

    Args:
        program: what is trained
        choice: the options, as the command line gives them
        recipe: those of them that a checkpoint keeps
        state: the checkpoint to continue from, if any
    """

    def __init__(
        self,
        program: Program,
        choice: argparse.Namespace,
        recipe: dict[str, Any],
        state: dict[str, Any] | None = None,
    ) -> None:
        self.program, self.choice, self.recipe = program, choice, recipe
        self.last, self.best = choice.out / "last.pt", choice.out / "best.pt"
        self.device = device_of(choice)
        self.samples = program.samples(choice)
        self.check_counts()
        self.network = build(program, choice, self.samples.shape, len(self.samples.classes))
        with fitting(self.samples.shape), torch.inference_mode():
            program.forward(self.network.eval(), torch.zeros(1, *self.samples.shape))
        self.network.to(self.device).train()
        self.epoch, self.step = 0, 0  # finished epochs, and steps of the running one
        self.history: list[dict[str, float]] = []
        self.sums = self.no_sums()
        if state is not None:
            learnt = (list(self.samples.shape), list(self.samples.classes), len(self.samples.train))
            if learnt != (state["shape"], state["classes"], state["pictures"]):
                raise Refused(
                    f"{self.samples.name} is not what {self.last} was trained with: classes, number "
                    "or size of pictures differ; give that --data, or train anew in another --out"
                )
            checkpoints.fit(self.network, state, self.last)
            self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
            *seen, self.sums.seconds = state["sums"]
            if rank() == 0:
                self.sums = Sums(*seen, self.sums.seconds)
        self.spread = spread(self.network, choice.layers)
        self.optimiser = torch.optim.Adam(self.spread.parameters(), lr=choice.lr)
        if state is not None:
            self.optimiser.load_state_dict(state["optimiser"])

    def check_counts(self) -> None:
        have, wanted = len(self.samples.train), self.choice.batch_size
        if have < wanted:
            raise Refused(
                f"{self.samples.name}: {have} pictures to learn from are fewer than a batch: give "
                f"--batch-size {have} or less"
            )
        if wanted < world():
            raise Refused(f"--batch-size {wanted}: {world()} processes need {world()} or more")

    def no_sums(self) -> Sums:
        return Sums.none(len(self.samples.classes))

    def rate(self) -> float:
        """The learning rate of this step: it falls to nothing in a line, or stays."""
        if self.choice.schedule == "constant":
            return self.choice.lr
        steps = -(-len(self.samples.train) // self.choice.batch_size)
        done = (self.epoch * steps + self.step) / (self.choice.epochs * steps)
        return self.choice.lr * (1 - done)

    def draw(self, *what: int) -> None:
        """Determine all that is drawn from now on, until the next call."""
        torch.manual_seed(seeded(self.choice.seed, self.epoch, self.step, *what))

    def learn(self, source: Iterator[tuple[Tensor, Tensor]], of_batch: int) -> float:
        """One step, in which all processes see ``of_batch`` samples; its loss here."""
        self.draw(0, rank())
        pictures, targets = next(source)
        self.draw(1)
        pictures = self.program.prepare(self.choice, pictures)
        self.draw(2, rank())
        logits = self.program.forward(self.spread, pictures)
        loss = F.cross_entropy(logits, targets)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.zero_grad()
        # Gradients are averaged over processes; weighted like this, it is the average of the batch
        (loss * (len(targets) * world() / of_batch)).backward()
        self.optimiser.step()
        self.step += 1
        value = loss.item()
        self.sums.add(logits, targets, value)
        return value

    def train(self, progress: Progress, finished: Callable[[dict[str, float]], None]) -> bool:
        """Train until all epochs are done, or until it is to stop; whether they are.

        ``finished`` is called with each epoch's row of the history.
        """
        size, samples = self.choice.batch_size, len(self.samples.train)
        with Stop() as stop:
            while self.epoch < self.choice.epochs:
                generator = torch.Generator().manual_seed(seeded(self.choice.seed, self.epoch))
                share = Share(torch.randperm(samples, generator=generator), size, True)
                bar = progress.add_task(
                    f"epoch {self.epoch + 1}/{self.choice.epochs}",
                    total=len(share),
                    completed=self.step,
                    note="",
                )
                whole = [len(batch) for batch in share.batches]
                del share.batches[: self.step]  # what was seen before a stop
                start, before = time.perf_counter(), self.sums.samples
                seconds = self.sums.seconds
                source = batches(self.choice, self.samples.train, share)
                for of_batch in whole[self.step :]:
                    loss = self.learn(source, of_batch)
                    self.sums.seconds = seconds + time.perf_counter() - start
                    speed = (self.sums.samples - before) * world() / (self.sums.seconds - seconds)
                    progress.update(bar, advance=1, note=f"loss {loss:.3f}, {speed:.0f}/s")
                    if any_process(stop.wanted):
                        self.save(self.last)
                        return False
                progress.remove_task(bar)
                finished(self.end_epoch())
        return True

    def end_epoch(self) -> dict[str, float]:
        """Measure, remember and write down what an epoch has brought."""
        sums, task = self.sums.over_processes(), self.program.task
        row = {"epoch": self.epoch + 1}
        held_out = measure(self.program, self.choice, self.network, self.samples)
        row |= sums.results(task, "train") | held_out.results(task, "test")
        row["seconds"] = sums.seconds
        row["samples_per_second"] = sums.samples / sums.seconds
        row["memory_mb"] = peak_memory(self.device)
        is_best = all(row["test_score"] > earlier["test_score"] for earlier in self.history)
        self.history.append(row)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, self.no_sums()
        # Killed before the last of these, a resumed training comes here again
        if rank() == 0:
            with replacing(self.choice.out / "history.csv", "w") as file:
                table = csv.DictWriter(file, row)
                table.writeheader()
                table.writerows(self.history)
        if is_best:
            self.save(self.best)
        self.save(self.last)
        return row

    def save(self, path: Path) -> None:
        """Write all that training needs to continue from here; the first of all processes does."""
        sums = self.sums.over_processes()
        failure = None
        try:
            if rank() == 0:
                checkpoints.save(path, self.state(sums))
        except Refused as refused:
            failure = refused
        if any_process(failure is not None):
            raise failure or Refused(f"{path} cannot be written")

    def state(self, sums: Sums) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "program": self.program.name,
            "recipe": self.recipe,
            "shape": list(self.samples.shape),
            "classes": list(self.samples.classes),
            "pictures": len(self.samples.train),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": [sums.confusion, sums.loss, sums.samples, sums.seconds],
            "history": self.history,
        }
