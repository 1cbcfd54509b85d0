"""Training comes back bit for bit, from a seed and after every kind of end; processes share it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

import digits
import regularised
from common import checkpoints, commands, training

EXAMPLES = Path(digits.__file__).parent

pytestmark = pytest.mark.usefixtures("one_thread", "no_figures")


# --- measures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(200,), (3, 8, 9)])
def test_measures_are_those_of_scikit_learn(shape):
    random = torch.Generator().manual_seed(len(shape))
    truth, predicted = (torch.randint(5, shape, generator=random) for _ in range(2))
    hits = torch.rand(shape, generator=random) < 0.6
    predicted[hits] = truth[hits]
    confusion = training.count(truth, predicted, 5)
    labels = truth.flatten().numpy(), predicted.flatten().numpy()
    assert training.accuracy(confusion).item() == pytest.approx(accuracy_score(*labels))
    assert training.recall(confusion).numpy() == pytest.approx(recall_score(*labels, average=None))
    each = jaccard_score(*labels, average=None)
    assert training.iou(confusion).numpy() == pytest.approx(each)
    assert training.SEGMENT.of_all(confusion).item() == pytest.approx(each.mean())
    assert training.CLASSIFY.of_all(confusion) == training.accuracy(confusion)


def test_a_class_that_is_nowhere_has_no_measure():
    confusion = training.count(torch.tensor([0, 0, 2]), torch.tensor([0, 2, 2]), 4)
    nan = float("nan")
    assert training.recall(confusion).tolist() == pytest.approx([0.5, nan, 1, nan], nan_ok=True)
    assert training.iou(confusion).tolist() == pytest.approx([0.5, nan, 0.5, nan], nan_ok=True)
    assert training.SEGMENT.of_all(confusion).item() == 0.5


# --- what is drawn -------------------------------------------------------------------------------


def recipe(rows, *more):
    """Two epochs of four steps, with dropout in them."""
    return ("--data", rows, "--batch-size", 20, "--epochs", 2, "--variant", "dropout", *more)


@pytest.fixture(scope="module")
def uninterrupted(rows, tmp_path_factory):
    """Where such a training ended."""
    out = tmp_path_factory.mktemp("uninterrupted")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    given = ["train", "--no-tensorboard", "--out", out, *recipe(rows)]
    assert commands.main(regularised.PROGRAM, list(map(str, given))) == 0
    torch.set_num_threads(threads)
    return out


def test_a_seed_determines_training(run, unlike, rows, tmp_path, uninterrupted):
    torch.manual_seed(5)  # what was drawn before does not matter
    again, other = tmp_path / "again", tmp_path / "other"
    run(regularised.PROGRAM, "train", *recipe(rows, "--workers", 1), "--out", again)
    assert unlike(uninterrupted, again) == []
    run(regularised.PROGRAM, "train", *recipe(rows, "--seed", 1), "--out", other)
    found = unlike(uninterrupted, other)
    assert any(name.startswith(".network") for name in found)
    assert any(name.startswith(".history") for name in found)


def test_steps_epochs_and_processes_draw_apart(run, rows, tmp_path, monkeypatch):
    seeds, orders = [], []

    class Remembered(training.Share):
        def __init__(self, order, *given):
            orders.append(order.tolist())
            super().__init__(order, *given)

    seeded = training.seeded
    monkeypatch.setattr(training, "seeded", lambda *n: seeds.append(seeded(*n)) or seeds[-1])
    monkeypatch.setattr(training, "Share", Remembered)
    run(regularised.PROGRAM, "train", *recipe(rows), "--out", tmp_path)
    assert len(seeds) == len(set(seeds)) == 2 + 2 * 4 * 3  # orders of epochs; steps
    first, held_out, second, _ = orders
    assert sorted(first) == sorted(second) == list(range(70)) and held_out == list(range(20))
    assert len({tuple(first), tuple(second), tuple(range(70))}) == 3
    assert len({seeded(seed, 1, 2, rank) for seed in range(9) for rank in range(9)}) == 81


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_prepare_a_batch_alike(rank, run, rows, tmp_path, monkeypatch):
    drawn = []
    program = replace(
        regularised.PROGRAM, prepare=lambda _, x: drawn.append(torch.rand(()).item()) or x
    )
    monkeypatch.setattr(training, "rank", lambda: rank)
    run(program, "train", *recipe(rows), "--out", tmp_path)
    generator = torch.Generator()
    of_steps = [(0, epoch, step, 1) for epoch in range(2) for step in range(4)]
    expected = [
        torch.rand((), generator=generator.manual_seed(training.seeded(*of_step))).item()
        for of_step in of_steps
    ]
    assert drawn == expected


def test_what_was_seen_before_a_stop_counts_once(
    run, rows, tmp_path, signalled, monkeypatch, no_figures
):
    """All processes know how long it took, one of them what was seen."""
    signalled(1, 3, signal.SIGINT)
    run(regularised.PROGRAM, "train", *recipe(rows), "--out", tmp_path, status=130)
    state = checkpoints.load(tmp_path / "last.pt", "regularised")
    choice, given = commands.read(regularised.PROGRAM, ["train", "--out", str(tmp_path)])
    commands.follow(choice, given, state, tmp_path)
    for rank, samples in ((0, 70), (1, 0)):
        monkeypatch.setattr(training, "rank", lambda rank=rank: rank)
        sums = training.Run(regularised.PROGRAM, choice, {}, state).sums
        assert sums.samples == sums.confusion.sum() == samples and sums.seconds > 0


def shares(order, size, processes, all_work, monkeypatch):
    """What each of the processes gets of each batch."""
    found = []
    monkeypatch.setattr(training, "world", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr(training, "rank", lambda rank=rank: rank)
        share = training.Share(torch.tensor(order), size, all_work)
        found.append(list(share))
        assert len(share) == len(found[-1])
    return found


def test_processes_share_every_batch(monkeypatch):
    order = [4, 1, 7, 0, 3, 9, 2, 8, 6, 5]
    assert shares(order, 4, 1, True, monkeypatch) == [[[4, 1, 7, 0], [3, 9, 2, 8], [6, 5]]]
    two = [[[4, 7], [3, 2], [6]], [[1, 0], [9, 8], [5]]]
    assert shares(order, 4, 2, True, monkeypatch) == two
    # Nobody waits in vain: without work for all, a batch is left out when learning...
    three = shares(order, 4, 3, True, monkeypatch)
    assert three == [[[4, 0], [3, 8]], [[1], [9]], [[7], [2]]]
    # ... and measured by those that have some of it
    three = shares(order, 4, 3, False, monkeypatch)
    assert three == [[[4, 0], [3, 8], [6]], [[1], [9], [5]], [[7], [2]]]


# --- ends ----------------------------------------------------------------------------------------


@pytest.fixture
def signalled(monkeypatch):
    """Signals that come while a certain step is learnt."""
    learn = training.Run.learn
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests

    def at(epoch: int, step: int, *signals: int) -> None:
        def learning(self, *given):
            if (self.epoch, self.step) == (epoch, step):
                for number in signals:
                    os.kill(os.getpid(), number)
            return learn(self, *given)

        monkeypatch.setattr(training.Run, "learn", learning)

    yield at
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.parametrize(
    ("epoch", "step", "number"),
    [(0, 0, signal.SIGINT), (1, 2, signal.SIGINT), (1, 3, signal.SIGTERM)],
    ids=["first step", "within an epoch", "last step of an epoch"],
)
def test_training_that_was_stopped_continues_bit_for_bit(
    epoch, step, number, run, unlike, rows, tmp_path, uninterrupted, signalled
):
    signalled(epoch, step, number)
    printed = run(regularised.PROGRAM, "train", *recipe(rows), "--out", tmp_path, status=130)
    assert f"stopped in epoch {epoch + 1}" in printed and "--resume" in printed
    state = checkpoints.load(tmp_path / "last.pt", "regularised")
    assert (state["epoch"], state["step"]) == (epoch, step + 1)
    signalled(-1, -1)
    run(regularised.PROGRAM, "train", "--resume", "--out", tmp_path)
    assert unlike(uninterrupted, tmp_path) == []


def test_what_is_ignored_stays_ignored(run, rows, tmp_path, signalled):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signalled(0, 1, signal.SIGINT)
    run(regularised.PROGRAM, "train", *recipe(rows), "--out", tmp_path)
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN


def test_a_second_ctrl_c_ends_at_once(rows, tmp_path, signalled, capsys):
    signalled(1, 2, signal.SIGINT, signal.SIGINT)
    given = ["train", "--no-tensorboard", "--out", tmp_path, *recipe(rows)]
    assert commands.main(regularised.PROGRAM, list(map(str, given))) == 130
    error = capsys.readouterr().err
    assert error.startswith("regularised: ") and error.count("\n") == 1
    state = checkpoints.load(tmp_path / "last.pt", "regularised")
    assert (state["epoch"], state["step"]) == (1, 0)


KILLED = """
import os, signal, sys
from common.commands import main
import regularised, torch
from common import training

torch.set_num_threads(1)
learn = training.Run.learn

def learning(self, *given):
    if (self.epoch, self.step) == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(self, *given)

training.Run.learn = learning
main(regularised.PROGRAM, sys.argv[1:])
"""


def test_training_that_was_killed_continues_bit_for_bit(run, unlike, rows, tmp_path, uninterrupted):
    given = map(str, ["train", "--no-tensorboard", "--out", tmp_path, *recipe(rows)])
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, *given], env=environment, timeout=240)
    assert killed.returncode == -signal.SIGKILL
    state = checkpoints.load(tmp_path / "last.pt", "regularised")
    assert (state["epoch"], state["step"]) == (1, 0)  # the running epoch is lost, no more
    run(regularised.PROGRAM, "train", "--resume", "--out", tmp_path)
    assert unlike(uninterrupted, tmp_path) == []


def test_a_finished_training_takes_more_epochs(run, tmp_path, uninterrupted):
    for path in uninterrupted.iterdir():
        shutil.copy(path, tmp_path)
    before = checkpoints.load(tmp_path / "last.pt", "regularised")
    run(regularised.PROGRAM, "train", "--resume", "--out", tmp_path)
    assert checkpoints.load(tmp_path / "last.pt", "regularised")["epoch"] == 2
    run(regularised.PROGRAM, "train", "--resume", "--epochs", 3, "--out", tmp_path)
    after = checkpoints.load(tmp_path / "last.pt", "regularised")
    assert [row["epoch"] for row in after["history"]] == [1, 2, 3]
    assert after["history"][:2] == before["history"]
    assert not torch.equal(after["network"]["0.weight"], before["network"]["0.weight"])


# --- more than one process -----------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def moves(before: dict, after: dict) -> dict[str, torch.Tensor]:
    """How far training has moved each tensor of a network with batch norms.

    Biases that a batch norm takes away again have no gradient but rounding errors, of which Adam
    makes steps of the usual length: they are left out, as are the means that they are part of.
    """
    return {
        name: tensor.double() - before[name].double()
        for name, tensor in after.items()
        if not re.fullmatch(r"features\.\d\.(0\.bias|1\.running_mean)", name)
    }


def test_two_processes_learn_what_one_learns(run, rows, tmp_path):
    # 70 pictures in batches of 13: no process ever sees as many of a batch as the other
    given = ("--data", rows, "--batch-size", 13, "--epochs", 2)
    one, two = tmp_path / "one", tmp_path / "two"
    run(digits.PROGRAM, "train", *given, "--out", one)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    launch += [EXAMPLES / "digits.py", "train", "--no-tensorboard"]
    together = subprocess.run(
        list(map(str, [*launch, *given, "--out", two])),
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=240,  # processes that do not find each other wait for half an hour
    )
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("epoch 1,") == 1 and "2 × 1 threads" in together.stdout

    first, second = (checkpoints.load(out / "last.pt", "digits") for out in (one, two))
    assert len(first["history"]) == 2
    for ours, theirs in zip(first["history"], second["history"], strict=True):
        for name in ("epoch", "train_score", "test_score"):
            assert ours[name] == theirs[name]
        for name in ("train_loss", "test_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
    choice, _ = commands.read(digits.PROGRAM, ["train"])
    before = training.build(digits.PROGRAM, choice, (1, 16, 16), 10).state_dict()
    ours, theirs = (moves(before, state["network"]) for state in (first, second))
    assert ours.keys() == theirs.keys()
    far = {name: ((ours[name] - theirs[name]).norm() / ours[name].norm()).item() for name in ours}
    assert max(far.values()) < 1e-3, far

    # What processes have learnt together, one continues
    run(digits.PROGRAM, "train", "--resume", "--epochs", 3, "--out", two)
    assert len(checkpoints.load(two / "last.pt", "digits")["history"]) == 3
