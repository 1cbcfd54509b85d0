"""What is measured: one list, plain data, shared with the tests.

A case says which pooling, on which input, in which direction, and the bar it has to reach. It
knows no library: :mod:`benchmarks.peers` turns a case into calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

__all__ = ["CASES", "Bar", "Case"]

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1}


@dataclass(frozen=True)
class Bar:
    """What a row has to reach; every entry that is set counts."""

    pytorch: float | None = None  # at least this many times as fast as PyTorch in this layout
    peers: bool = False  # no slower than the fastest of the other peers
    floor: float | None = None  # at most this multiple of the copy floor
    reference: float | None = None  # at most this multiple of the reference case's time
    threads: float | None = None  # speed-up by a second thread, where two copies gain as much
    saved: float | None = None  # at most so many bytes kept per output
    latency: float | None = None  # at most so many microseconds a call

    def text(self) -> str:
        """The bar in words."""
        words = []
        if self.pytorch is not None:
            words.append(f"≥ {self.pytorch:g}× PyTorch")
        if self.peers:
            words.append("no slower than any other peer")
        if self.floor is not None:
            words.append(f"≤ {self.floor:g}× the copy floor")
        if self.reference is not None:
            words.append(f"≤ {self.reference:g}× the reference")
        if self.threads is not None:
            words.append(f"≥ {self.threads:g}× by a second thread, where two copies gain that")
        if self.saved is not None:
            words.append(f"≤ {self.saved:g} bytes kept per output")
        if self.latency is not None:
            words.append(f"≤ {self.latency:g} µs")
        return ", ".join(words)


@dataclass(frozen=True)
class Case:
    """One row. ``shape`` is logical (N, C, pooled axes...), in either layout."""

    group: str
    op: str  # "max" | "avg"
    shape: tuple[int, ...]
    kernel: int  # the same along every pooled axis, as are stride and padding
    stride: int
    padding: int
    bar: Bar
    dtype: str = "float32"
    layout: str = "planes"  # "planes" (N, C, ...) | "channels_last" (N, ..., C) in memory
    measure: str = "forward"  # "forward" | "indices" | "backward" | "threads" | "saved" | "latency"
    result: str = "allocated"  # "allocated" | "out"
    front: str = "torch"  # "torch" | "array": through which front infinitypool is called
    against: tuple[str, ...] | None = None  # names of the peers that take part; None is everyone
    reference: Case | None = None

    @property
    def dims(self) -> int:
        """How many axes are pooled."""
        return len(self.shape) - 2

    @property
    def name(self) -> str:
        """Unique, and what ``--only`` searches."""
        window = f"k{self.kernel}s{self.stride}p{self.padding}"
        words = [self.op, f"{self.dims}d", window, self.dtype, self.layout, self.measure]
        words += ["out"] if self.result == "out" else []
        words += ["array"] if self.front == "array" and self.result != "out" else []
        return " ".join(words)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Logical shape of the result (floor mode)."""
        spatial = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in self.shape[2:])
        return (*self.shape[:2], *spatial)

    @property
    def outputs(self) -> int:
        """Number of results."""
        return prod(self.output_shape)

    @property
    def moved_bytes(self) -> int:
        """Bytes that have to be read and written once; the copy floor is a copy of as many."""
        item = ITEM_BYTES[self.dtype]
        total = item * (prod(self.shape) + self.outputs)
        if self.measure == "indices":
            total += 8 * self.outputs
        if self.measure == "backward" and self.op == "max":  # the winners' places
            total += self.outputs * (1 if self.kernel**self.dims <= 256 else 2)
        return total

    def tiny(self) -> Case:
        """The same case on a few hundred elements, to try the machinery."""
        small = {1: (2, 3, 20), 2: (2, 3, 16, 14), 3: (1, 2, 8, 6, 10)}[self.dims]
        kernel, padding = (self.kernel, self.padding) if self.kernel <= 5 else (5, 2)
        reference = self.reference.tiny() if self.reference else None
        return replace(self, shape=small, kernel=kernel, padding=padding, reference=reference)


BATCH = (8, 64, 224, 224)
LINE = (8, 14336, 224)
VOLUME = (2, 16, 64, 128, 128)
PLANE = (1, 1, 4096, 4096)

WINDOWS = ((2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 1, 2), (13, 1, 6))
LAYOUTS = ("planes", "channels_last")
OPS = ("max", "avg")

FORWARD_BARS = {
    ("max", "planes"): Bar(pytorch=15, peers=True),
    ("max", "channels_last"): Bar(pytorch=5, peers=True),
    ("avg", "planes"): Bar(pytorch=5, peers=True),
    ("avg", "channels_last"): Bar(pytorch=1, peers=True),  # PyTorch is one of the peers here
}
OUT_FLOORS = {2: 1.5, 3: 1.5, 13: 3.0}  # by kernel; none is asked of 5


def _forward() -> list[Case]:
    return [
        Case(f"{op} forward, {layout}", op, BATCH, *window, bar, layout=layout)
        for (op, layout), bar in FORWARD_BARS.items()
        for window in WINDOWS
    ]


def _out() -> list[Case]:
    return [
        Case(
            "into out=", op, BATCH, *window, Bar(floor=OUT_FLOORS.get(window[0])),
            layout=layout, result="out", front="array", against=(),
        )
        for op in OPS
        for layout in LAYOUTS
        for window in WINDOWS
    ]  # fmt: skip


def _large() -> list[Case]:
    """A window of 51 costs what one of 3 does; PyTorch would take half a minute a call."""
    cases = []
    for op in OPS:
        for layout in LAYOUTS:
            small = Case("", op, BATCH, 3, 1, 1, Bar(), layout=layout)
            cases.append(
                replace(small, group="large windows", kernel=51, padding=25,
                        bar=Bar(reference=2), reference=small, against=())
            )  # fmt: skip
    return cases


def _dtypes() -> list[Case]:
    cases = []
    for op in OPS:
        for layout in LAYOUTS:
            for window in ((2, 2, 0), (3, 1, 1)):
                previous = Case("", op, BATCH, *window, Bar(), layout=layout)
                half = replace(previous, group="other dtypes", dtype="float16")
                for dtype, compared in (
                    ("float16", previous), ("bfloat16", previous), ("uint8", half),
                ):  # fmt: skip
                    cases.append(
                        replace(previous, group="other dtypes", dtype=dtype, reference=compared,
                                bar=Bar(reference=1), against=("PyTorch", "ONNX Runtime", "OpenCV"))
                    )  # fmt: skip
    return cases


def _indices() -> list[Case]:
    cases = []
    for layout in LAYOUTS:
        for window in WINDOWS:
            plain = Case("", "max", BATCH, *window, Bar(), layout=layout)
            cases.append(
                replace(plain, group="indices", measure="indices", reference=plain,
                        bar=Bar(reference=2), against=("PyTorch",))
            )  # fmt: skip
    return cases


def _backward() -> list[Case]:
    return [
        Case(f"backward, {layout}", op, BATCH, *window, Bar(pytorch=4), layout=layout,
             measure="backward", against=("PyTorch",))
        for layout in LAYOUTS
        for op in OPS
        for window in WINDOWS
    ]  # fmt: skip


def _other_dims() -> list[Case]:
    return [
        Case("1-D and 3-D", op, shape, *window, Bar(pytorch=5))
        for op in OPS
        for shape, window in ((LINE, (2, 2, 0)), (VOLUME, (2, 2, 0)), (VOLUME, (3, 1, 1)))
    ]


def _threads() -> list[Case]:
    return [
        Case("one plane, a second thread", op, PLANE, *window, Bar(threads=1.6), measure="threads",
             result="out", front="array", against=())
        for op in OPS
        for window in ((2, 2, 0), (3, 1, 1))
    ]  # fmt: skip


def _saved() -> list[Case]:
    shape = (1, 8, 64, 64)
    windows = {"max": (*WINDOWS, (16, 1, 8)), "avg": WINDOWS}
    return [
        Case("kept for backward", op, shape, *window, Bar(saved=1 if op == "max" else 0),
             layout=layout, measure="saved", against=("PyTorch",))
        for op in OPS
        for layout in LAYOUTS
        for window in windows[op]
    ]  # fmt: skip


def _latency() -> list[Case]:
    return [
        Case("one small call", op, (1, 8, 8, 8), 2, 2, 0, Bar(latency=10), measure="latency",
             front=front, against=("PyTorch",))
        for op in OPS
        for front in ("torch", "array")
    ]  # fmt: skip


CASES: tuple[Case, ...] = (
    *_forward(),
    *_out(),
    *_large(),
    *_dtypes(),
    *_indices(),
    *_backward(),
    *_other_dims(),
    *_threads(),
    *_saved(),
    *_latency(),
)
