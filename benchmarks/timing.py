"""How time is taken: cold inputs in rotation, contenders in turns, a copy or a read beside them.

Every case is measured in rounds. In a round each contender has one turn; a turn of a fast
contender is two calls of which the second counts, so that its threads are awake and its memory is
recycled as in a loop, while the inputs, in rotation over more bytes than the last-level cache
holds, are never warm. The copy (the read, where next to nothing is written) is a contender of
every round, because a shared machine's memory gets faster and slower by the minute.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from benchmarks.cases import ITEM_BYTES, Case

__all__ = ["Contender", "Data", "Floor", "measure"]

CACHE_BYTES = 32 << 20  # last-level cache that has to be cold
WARM_BELOW = 0.25  # seconds; a slower call gets no warm-up of its own in each turn


class Data:
    """Inputs of a case, several of them, so that each call reads memory it has not just seen.

    The arrays have the case's memory layout: (N, C, ...) or (N, ..., C). bfloat16 is kept as its
    bits in uint16, since NumPy has no such type; ``tensors`` give it its meaning.
    """

    def __init__(self, case: Case, copies: int | None = None) -> None:
        size = prod(case.shape) * ITEM_BYTES[case.dtype]
        if copies is None:
            copies = min(max(2, -(-6 * CACHE_BYTES // size)), 256)
        self.dtype, self.layout = case.dtype, case.layout
        shape = case.shape
        if case.layout == "channels_last":
            shape = (shape[0], *shape[2:], shape[1])
        random = np.random.default_rng(20)
        first = self._fill(random, shape, case.dtype)
        if case.nans:
            first[random.random(shape, dtype=np.float32) < case.nans] = np.nan
        # the others only have to lie elsewhere; drawing them all would take most of a run
        self.arrays = [first, *(np.roll(first, i, axis=-2) for i in range(1, copies))]

    @staticmethod
    def _fill(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if dtype == "uint8":
            return random.integers(0, 256, shape, dtype=np.uint8)
        values = random.standard_normal(shape, dtype=np.float32)
        if dtype == "bfloat16":
            return (values.view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(dtype, copy=False)

    def __len__(self) -> int:
        return len(self.arrays)

    def logical(self, index: int) -> np.ndarray:
        """A view as (N, C, ...)."""
        array = self.arrays[index]
        return np.moveaxis(array, -1, 1) if self.layout == "channels_last" else array

    def tensor(self, index: int) -> Any:
        """The same memory as a PyTorch tensor (N, C, ...)."""
        import torch

        tensor = torch.from_numpy(self.arrays[index])
        if self.dtype == "bfloat16":
            tensor = tensor.view(torch.bfloat16)
        return tensor.movedim(-1, 1) if self.layout == "channels_last" else tensor


@dataclass
class Contender:
    """One library's way to compute a case: ``call(i)`` works on the i-th input."""

    name: str
    call: Callable[[int], Any]
    to_numpy: Callable[[Any], Any] = np.asarray  # result -> array(s) as (N, C, ...)
    before: Callable[[], None] | None = None  # untimed, before each turn
    calls: int = 1  # calls per sample; more than one only where a call is below a clock's tick
    samples: list[float] = field(default_factory=list)  # seconds a call
    rounds: int = 0
    warm: bool = False

    @property
    def median(self) -> float:
        """Seconds a call."""
        return statistics.median(self.samples)

    def take(self, index: int) -> float:
        """Time one sample: the call, and dropping its result as a loop would."""
        call, repeats = self.call, range(self.calls)
        start = time.perf_counter()
        for _ in repeats:
            result = call(index)
        del result
        return (time.perf_counter() - start) / self.calls


class Floor:
    """How fast this machine copies and reads right now, each by the best of several ways.

    Copies go into warm memory. A read has to do something with what it reads; the reductions
    here are the fastest of a dozen that were tried, and within a tenth of each other, so that
    they show the memory's speed and not their own arithmetic's. What has to see all of its input
    before it writes (a batch norm in training) has three passes as its floor: a read and a copy.
    """

    def __init__(self, nbytes: int, threads: int) -> None:
        count = nbytes // 4
        self.sources = [np.full(count, value, np.float32) for value in (1, 2)]
        self.target = np.zeros(count, np.float32)
        self.nbytes = {"copy": 2 * 4 * count, "read": 4 * count}  # a copy reads and writes
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)
        self.all: dict[str, list[float]] = {}
        try:
            import torch

            self.tensors = [torch.from_numpy(source) for source in self.sources]
            self.tensor = torch.from_numpy(self.target)
        except ImportError:
            self.tensors = []

    def halves(self, index: int, together: bool = True) -> None:
        """``np.copyto`` of one part a thread; together, or one after the other."""
        source = self.sources[index % 2]
        pairs = zip(
            np.array_split(self.target, self.threads),
            np.array_split(source, self.threads),
            strict=True,
        )
        if together:
            list(self.pool.map(lambda pair: np.copyto(*pair), pairs))
        else:
            for pair in pairs:
                np.copyto(*pair)

    def read(self, index: int) -> None:
        """The bitwise or of one part a thread."""
        parts = np.array_split(self.sources[index % 2].view(np.uint32), self.threads)
        list(self.pool.map(np.bitwise_or.reduce, parts))

    def contenders(self, kind: str = "copy") -> list[Contender]:
        """Fresh contenders for one case; ``kind`` is "copy", "read" or "passes", which is both."""
        ways = {"copy: NumPy": self.halves, "read: NumPy or": self.read}
        if self.tensors:
            ways["copy: PyTorch"] = lambda i: self.tensor.copy_(self.tensors[i % 2])
            ways["read: PyTorch sum"] = lambda i: self.tensors[i % 2].sum()
            ways["read: PyTorch amax"] = lambda i: self.tensors[i % 2].amax()
        kinds = ("copy", "read") if kind == "passes" else (kind,)
        return [Contender(name, way) for name, way in ways.items() if name.startswith(kinds)]

    def speed(self, ways: Sequence[Contender]) -> float:
        """Bytes a second of the best way in these rounds; of a read and then a copy, if of both."""
        best: dict[str, float] = {}
        for way in ways:
            self.all.setdefault(way.name, []).extend(way.samples)
            kind = way.name.partition(":")[0]
            best[kind] = max(best.get(kind, 0.0), self._bytes(way.name) / way.median)
        if len(best) == 1:
            return best.popitem()[1]
        return 3 / (1 / best["read"] + 2 / best["copy"])  # a copy moves twice what a read does

    def overall(self) -> dict[str, float]:
        """Bytes a second over the whole run, by way."""
        return {name: self._bytes(name) / statistics.median(s) for name, s in self.all.items()}

    def _bytes(self, name: str) -> int:
        return self.nbytes[name.partition(":")[0]]


def rounds_for(seconds: float, quick: bool) -> int:
    """How many samples a contender of this speed gives."""
    if seconds > 1:
        return 2 if quick else 3
    if seconds > 0.3:
        return 2 if quick else 5
    if seconds < 0.002:  # a microsecond here or there counts
        return 5 if quick else 25
    return 3 if quick else 9


def measure(contenders: Sequence[Contender], inputs: int, quick: bool) -> None:
    """Fill the contenders' samples, in turns."""
    position = 0

    def take(contender: Contender) -> float:
        nonlocal position
        position += 1
        return contender.take(position % inputs)

    for contender in contenders:
        if contender.before:
            contender.before()
        seconds = take(contender)  # some libraries prepare themselves in their first calls
        if seconds < 1:
            seconds = min(seconds, take(contender))
        contender.rounds = rounds_for(seconds, quick)
        contender.warm = seconds < WARM_BELOW
        if seconds > 1:  # too dear to throw away
            contender.samples.append(seconds)
            contender.rounds -= 1
    gc.disable()  # a collection in the middle of a sample would count as somebody's work
    try:
        for number in range(max((c.rounds for c in contenders), default=0)):
            for contender in contenders:
                if number >= contender.rounds:
                    continue
                if contender.before:
                    contender.before()
                if contender.warm:
                    take(contender)
                contender.samples.append(take(contender))
    finally:
        gc.enable()
