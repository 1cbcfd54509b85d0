"""What is measured: one list, plain data, shared with the tests.

A case says which operation, on which input, in which direction, and the bar it has to reach. It
knows no library: :mod:`benchmarks.peers` turns a case into calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

__all__ = ["CASES", "FAMILY", "NORMS", "Bar", "Case"]

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1}


@dataclass(frozen=True)
class Bar:
    """What a row has to reach; every entry that is set counts."""

    pytorch: float | None = None  # at least this many times as fast as PyTorch in this layout
    peers: bool = False  # no slower than the fastest of the other peers
    versus: tuple[tuple[str, float], ...] = ()  # (peer, at least this many times as fast)
    floor: float | None = None  # at most this multiple of the copy floor
    read: float | None = None  # at most this multiple of the read floor
    passes: float | None = None  # at most this multiple of the read floor and the copy floor
    reference: float | None = None  # at most this multiple of the reference case's time
    threads: float | None = None  # speed-up by a second thread, where two copies gain as much
    saved: float | None = None  # at most so many bytes kept per output
    latency: float | None = None  # at most so many microseconds a call
    overhead: float | None = None  # at most so many times PyTorch's time

    def text(self) -> str:
        """The bar in words."""
        words = []
        if self.pytorch is not None:
            words.append(f"≥ {self.pytorch:g}× PyTorch")
        if self.peers:
            words.append("no slower than any other peer")
        words += [f"≥ {times:g}× {peer}" for peer, times in self.versus]
        if self.floor is not None:
            words.append(f"≤ {self.floor:g}× the copy floor")
        if self.read is not None:
            words.append(f"≤ {self.read:g}× the read floor")
        if self.passes is not None:
            words.append(f"≤ {self.passes:g}× the three-pass floor")
        if self.reference is not None:
            words.append(f"≤ {self.reference:g}× the reference")
        if self.threads is not None:
            words.append(f"≥ {self.threads:g}× by a second thread, where two copies gain that")
        if self.saved is not None:
            words.append(f"≤ {self.saved:.4g} bytes kept per output")
        if self.latency is not None:
            words.append(f"≤ {self.latency:g} µs")
        if self.overhead is not None:
            words.append(f"≤ {self.overhead:g}× PyTorch's time")
        return ", ".join(words)


@dataclass(frozen=True)
class Case:
    """One row. ``shape`` is logical (N, C, pooled axes...), in either layout."""

    group: str
    op: str  # "max", "avg", "adaptive_max", ...: a row of the table in benchmarks.peers
    shape: tuple[int, ...]
    kernel: int = 0  # the same along every pooled axis, as are stride and padding; 0: no window
    stride: int = 1
    padding: int = 0
    bar: Bar = Bar()
    size: int | None = None  # along every pooled axis of an adaptive pooling's result
    options: tuple[tuple[str, Any], ...] = ()  # further arguments of infinitypool's function
    nans: float = 0.0  # this share of the input
    dtype: str = "float32"
    layout: str = "planes"  # "planes" (N, C, ...) | "channels_last" (N, ..., C) in memory
    # "forward" | "indices" | "backward" | "step" (both) | "threads" | "saved" | "latency"
    measure: str = "forward"
    result: str = "allocated"  # "allocated" | "out"
    front: str = "torch"  # "torch" | "module" | "array": what of infinitypool is called
    graph: bool | None = None  # whether a small call records a graph; None: no gradient is in sight
    against: tuple[str, ...] | None = None  # names of the peers that take part; None is everyone
    reference: Case | None = None

    @property
    def dims(self) -> int:
        """How many axes are pooled."""
        return len(self.shape) - 2

    @property
    def name(self) -> str:
        """Unique, and what ``--only`` searches."""
        window = f"k{self.kernel}s{self.stride}p{self.padding}" if self.kernel else ""
        window += f"to{self.size}" if self.size else ""
        dims = "" if self.op in POINTWISE else f"{self.dims}d"
        layout = self.layout if self.dims else ""
        words = [self.op, dims, window, self.dtype, layout, self.measure]
        words = [word for word in words if word]
        words += ["out"] if self.result == "out" else []
        words += [self.front] if self.front != "torch" and self.result != "out" else []
        words += [f"{key}={value}" for key, value in self.options]
        words += [f"{100 * self.nans:g}% NaN"] if self.nans else []
        words += {None: [], False: ["no gradient"], True: ["with gradient"]}[self.graph]
        # neighbours in the report may differ by nothing else
        if self.op in CONCATENATED or (self.op in POINTWISE and self.shape != BATCH):
            words.append("x".join(map(str, self.shape)))
        return " ".join(words)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Logical shape of the result (floor mode)."""
        if self.op in POINTWISE:
            return self.shape
        batch, channels, *spatial = self.shape
        if self.op in CONCATENATED:
            return (batch, 4 * channels, *spatial)
        if self.op == "max_unpool":
            return (batch, channels, *(n * self.stride for n in spatial))
        if self.op == "fractional_max":
            ratio = dict(self.options)["output_ratio"]
            return (batch, channels, *(int(n * ratio) for n in spatial))
        if self.size:
            return (batch, channels, *[self.size] * self.dims)
        pooled = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in spatial)
        return (batch, channels, *pooled)

    @property
    def outputs(self) -> int:
        """Number of results."""
        return prod(self.output_shape)

    @property
    def affine(self) -> tuple[int, ...] | None:
        """Shape of a norm's weight and bias."""
        if self.op not in NORMALISING:
            return None
        axes = dict(self.options).get("axes")
        return self.shape[-axes:] if axes else self.shape[1:2]

    @property
    def region(self) -> int:
        """How many elements of a norm's input share a mean."""
        options = dict(self.options)
        if "axes" in options:
            return prod(self.affine)
        if self.op == "batch_norm":
            return prod(self.shape) // self.shape[1]
        return prod(self.shape[1:]) // options.get("num_groups", self.shape[1])

    @property
    def trains(self) -> bool:
        """Whether a batch norm takes the statistics of its input."""
        return self.op == "batch_norm" and dict(self.options)["training"]

    @property
    def window(self) -> int:
        """Elements of the largest window; of a norm, the summands of its longest sum."""
        if self.op in NORMALISING:
            if self.measure in ("backward", "step"):
                return max(self.region, self.outputs // prod(self.affine))
            return 1 if self.op == "batch_norm" and not self.trains else self.region
        if self.size:
            return prod(-(-n // self.size) + (n % self.size > 0) for n in self.shape[2:])
        return max(1, self.kernel) ** self.dims

    @property
    def floor_kind(self) -> str:
        """What the floor does: "copy"; "read" where next to nothing is written; or "passes"."""
        if self.measure == "forward" and self.size is not None:
            return "read"
        return "passes" if self.measure == "forward" and self.trains else "copy"

    @property
    def moved_bytes(self) -> int:
        """Bytes that have to be read and written once; the floor copies (or reads) as many."""
        item = ITEM_BYTES[self.dtype]
        inputs = prod(self.shape)
        if self.op in POINTWISE:
            return item * (inputs * self._tensors + prod(self.affine or ()) * self._parameters)
        total = item * (inputs + self.outputs)
        if self.op == "max_unpool":  # int64 places come in
            return total + 8 * inputs
        if self.measure == "indices":
            total += 8 * self.outputs
        if self.measure == "backward" and self.op in ("max", "adaptive_max"):  # winners' places
            total += self.outputs * (1 if self.window <= 256 else 2)
        if self.measure == "backward" and self.op == "lp":  # the input and the result again
            total *= 2
        return total

    @property
    def _tensors(self) -> int:
        """How many tensors of the input's size a norm or a dropout reads and writes."""
        if self.measure == "step":  # the input twice, and result, gradient, its own gradient
            return 5 if self.op in NORMALISING else 4
        if self.measure == "backward":
            return 3 if self.op in NORMALISING else 2
        return {"add_layer_norm": 4, "dropout_add": 3}.get(self.op, 3 if self.trains else 2)

    @property
    def _parameters(self) -> int:
        """The same of the parameters' size."""
        if self.affine is None:
            return 0
        has = 1 if self.op == "rms_norm" else 2
        return {"backward": 1 + has, "step": 1 + 2 * has}.get(self.measure, has)

    def tiny(self) -> Case:
        """The same case on a few hundred elements, to try the machinery."""
        if self.op in POINTWISE:
            small = tuple(map(min, self.shape, (2, 8, 16, 16)))  # channels in eight groups
            if not self.dims:
                small = tuple(n // 64 for n in self.shape)
            return replace(self, shape=small)
        small = {1: (2, 3, 20), 2: (2, 3, 16, 14), 3: (1, 2, 8, 6, 10)}[self.dims]
        if self.size:  # divisible, as the real sizes are
            small = (2, 3, 21, 14)
        if self.op in CONCATENATED:  # two of them are told apart by their shapes
            small = (*self.shape[:1], 3, 16, 14)
        if self.shape[:2] == (1, 1):  # one picture
            small = (1, 1, *small[2:])
        kernel, padding = (self.kernel, self.padding) if self.kernel <= 5 else (5, 2)
        reference = self.reference.tiny() if self.reference else None
        return replace(self, shape=small, kernel=kernel, padding=padding, reference=reference)


CONCATENATED = ("spp", "sppf")  # the input and three poolings of it, side by side
NORMALISING = (
    "batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm", "add_layer_norm",
)  # fmt: skip
DRAWING = ("dropout", "dropout2d", "dropout_add")
POINTWISE = NORMALISING + DRAWING  # results are of the input's shape

BATCH = (8, 64, 224, 224)
LINE = (8, 14336, 224)
VOLUME = (2, 16, 64, 128, 128)
PLANE = (1, 1, 4096, 4096)
TINY_CALL = (1, 8, 8, 8)

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
    call = Case("one small call", "", TINY_CALL, measure="latency", against=("PyTorch",))
    windows = [replace(call, op=op, kernel=2, stride=2) for op in (*OPS, "lp")]
    adaptive = [replace(call, op=op, size=4) for op in ADAPTIVE]
    return [
        *(replace(case, graph=graph, bar=Bar(overhead=1.5))
          for case in (*windows, *adaptive)
          for graph in (False, True)),
        *(replace(case, front="array", bar=Bar(latency=10)) for case in windows[:2]),
    ]  # fmt: skip


# --- the pooling family -------------------------------------------------------------------------

EXPORTS = ("PyTorch", "torch.compile", "ONNX Runtime", "OpenVINO")  # what runs a model's layers
ADAPTIVE = {"adaptive_max": "adaptive maximum", "adaptive_avg": "adaptive average"}
SIZES = (7, 1)
POOLED = (8, 64, 112, 112)  # what a 2 x 2 pooling leaves of BATCH
BLOCKS = ((8, 256, 40, 40), (1, 512, 20, 20))  # a detector's last feature maps
NANS = (0.0, 0.01)


def _adaptive() -> list[Case]:
    return [
        Case(group, op, BATCH, size=size, layout=layout,
             bar=Bar(pytorch=8 if (op, layout) == ("adaptive_max", "planes") else 1, read=1.5),
             against=EXPORTS)
        for op, group in ADAPTIVE.items()
        for layout in LAYOUTS
        for size in SIZES
    ]  # fmt: skip


def _adaptive_backward() -> list[Case]:
    return [
        Case("adaptive backward", op, BATCH, size=size, layout=layout, measure="backward",
             bar=Bar(pytorch=5), against=("PyTorch",))
        for op in ADAPTIVE
        for layout in LAYOUTS
        for size in SIZES
    ]  # fmt: skip


def _family_directions() -> list[Case]:
    """Forward with a bar, backward to be seen."""
    forward = [
        Case(
            "unpooling, power average",
            "max_unpool",
            POOLED,
            2,
            2,
            0,
            Bar(pytorch=4),
            against=EXPORTS,
        ),
        Case("unpooling, power average", "lp", BATCH, 2, 2, 0, Bar(pytorch=10), against=EXPORTS),
    ]
    return [
        row
        for case in forward
        for row in (
            *(replace(case, layout=layout) for layout in LAYOUTS),
            *(replace(case, layout=layout, measure="backward", bar=Bar(), against=("PyTorch",))
              for layout in LAYOUTS),
        )
    ]  # fmt: skip


def _blocks() -> list[Case]:
    bars = {("spp", "planes"): Bar(pytorch=15)}
    return [
        Case("detector blocks", op, shape, bar=bars.get((op, layout), Bar()), layout=layout,
             against=EXPORTS)
        for op in CONCATENATED
        for shape in BLOCKS
        for layout in LAYOUTS
    ]  # fmt: skip


def _median() -> list[Case]:
    bars = {"uint8": (("SciPy", 10), ("OpenCV", 1)), "float32": (("SciPy", 10),)}
    return [
        Case("median", "median", PLANE, 3, 1, 1, Bar(versus=versus), dtype=dtype, front="array",
             against=("OpenCV", "SciPy"))
        for dtype, versus in bars.items()
    ]  # fmt: skip


def _nan_policy() -> list[Case]:
    """Leaving NaNs out, against letting them through."""
    cases = []
    for op in OPS:
        for window in ((2, 2, 0), (3, 1, 1)):
            for nans in NANS:
                plain = Case("", op, BATCH, *window, Bar(), nans=nans, front="array", against=())
                cases.append(
                    replace(plain, group="NaN left out", options=(("nan_policy", "omit"),),
                            bar=Bar(reference=2), reference=plain)
                )  # fmt: skip
    return cases


def _without_bar() -> list[Case]:
    """Reported only."""
    half = (("output_ratio", 0.5),)
    cases = [
        Case("other kinds", "soft", BATCH, 2, 2),
        Case("other kinds", "log_sum_exp", BATCH, 2, 2),
        Case("other kinds", "gem", BATCH, size=1),
        Case("other kinds", "blur", BATCH, 3, 2, 1),
    ]
    return [
        *(replace(case, layout=layout, against=EXPORTS) for case in cases for layout in LAYOUTS),
        *(Case("other kinds", "fractional_max", BATCH, 2, options=half, measure=measure,
               against=("PyTorch",))
          for measure in ("forward", "indices")),
        Case("other kinds", "stochastic", BATCH, 2, 2, against=("PyTorch",)),
        Case("other kinds", "stochastic", BATCH, 2, 2, options=(("training", True),), against=()),
    ]  # fmt: skip


def _family_saved() -> list[Case]:
    """One channel in eight of the batch: the windows are as large."""
    small = (1, 8, *BATCH[2:])
    bars = {"adaptive_max": 2, "adaptive_avg": 0}
    return [
        Case("kept for backward", op, small, size=size, layout=layout, measure="saved",
             bar=Bar(saved=saved), against=("PyTorch",))
        for op, saved in bars.items()
        for layout in LAYOUTS
        for size in SIZES
    ]  # fmt: skip


FAMILY: tuple[Case, ...] = (  # other kinds than the maximum and the average of a fixed window
    *_adaptive(),
    *_adaptive_backward(),
    *_family_directions(),
    *_median(),
    *_blocks(),
    *_nan_policy(),
    *_without_bar(),
    *_family_saved(),
)


# --- normalisation and dropout ------------------------------------------------------------------

RUNTIMES = ("PyTorch", "torch.compile", "ONNX Runtime")
ROWS = ((4096, 768), (4096, 4096))
SMALL_PLANES = ((32, 256, 14, 14), (32, 512, 7, 7))  # a network's last layers

TRAINING = (("training", True),)
EVALUATION = (("training", False),)
IN_LAYOUTS = (  # the norms that exist in both layouts, and their arguments
    ("batch_norm", EVALUATION),
    ("group_norm", (("num_groups", 8),)),
    ("instance_norm", ()),
)
OF_LAYOUT = {
    "planes": (*IN_LAYOUTS, ("layer_norm", (("axes", 3),)), ("layer_norm", (("axes", 1),))),
    "channels_last": IN_LAYOUTS,
}
HALF = (("p", 0.5),)
TENTH = (("p", 0.1),)


def _norms() -> list[Case]:
    return [
        Case(f"norms, {layout}", op, BATCH, options=options, layout=layout,
             bar=Bar(pytorch=3, peers=True), against=RUNTIMES)
        for layout, norms in OF_LAYOUT.items()
        for op, options in norms
    ]  # fmt: skip


def _batch_norm_training() -> list[Case]:
    return [
        Case("batch norm in training", "batch_norm", BATCH, options=TRAINING, layout=layout,
             bar=Bar(pytorch=3, passes=1.5), against=RUNTIMES)
        for layout in LAYOUTS
    ]  # fmt: skip


def _norms_out() -> list[Case]:
    return [
        replace(case, group="norms into out=", result="out", front="array", against=(),
                bar=Bar(floor=2))
        for case in _norms()
    ]  # fmt: skip


def _norms_backward() -> list[Case]:
    return [
        Case(f"norms backward, {layout}", op, BATCH, options=options, layout=layout,
             measure="backward", bar=Bar(pytorch=2.5), against=("PyTorch",))
        for layout, norms in OF_LAYOUT.items()
        for op, options in (("batch_norm", TRAINING), *norms)
    ]  # fmt: skip


def _norms_of_rows() -> list[Case]:
    against = {"forward": RUNTIMES, "backward": ("PyTorch",)}
    return [
        Case("norms of rows", op, shape, options=(("axes", 1),), measure=measure,
             bar=Bar(pytorch=1), against=peers)
        for measure, peers in against.items()
        for op in ("layer_norm", "rms_norm")
        for shape in ROWS
    ]  # fmt: skip


def _dropout() -> list[Case]:
    forward = Bar(pytorch=20, floor=1.5)
    elements = [Case("dropout", "dropout", BATCH, options=p, bar=forward) for p in (HALF, TENTH)]
    channels = Case("dropout", "dropout2d", BATCH, options=HALF, bar=Bar(pytorch=3))
    return [
        *(replace(case, against=RUNTIMES) for case in elements),
        *(replace(channels, layout=layout, against=RUNTIMES) for layout in LAYOUTS),
        *(replace(case, measure="backward", bar=Bar(), against=("PyTorch",)) for case in elements),
    ]


def _norms_saved() -> list[Case]:
    """The input, the parameters and two numbers a region; dropout no tensor at all."""
    kept = [*OF_LAYOUT["planes"], ("batch_norm", TRAINING), ("rms_norm", (("axes", 1),))]
    cases = [Case("", op, (8, 16, 64, 64), options=options) for op, options in kept]
    limits = {}
    for case in cases:
        regions = case.outputs // case.region
        numbers = 2 * regions * (4 if case.options == EVALUATION else 8)  # statistics are float64
        parameters = (1 if case.op == "rms_norm" else 2) * prod(case.affine) * 4
        if case.trains:  # the running statistics may be looked at, too
            parameters *= 2
        limits[case] = 4 + (numbers + parameters) / case.outputs
    limits[replace(cases[0], op="dropout", options=HALF)] = 0
    return [
        replace(case, group="kept for backward", measure="saved", bar=Bar(saved=limit),
                against=("PyTorch",))
        for case, limit in limits.items()
    ]  # fmt: skip


def _norms_latency() -> list[Case]:
    norms = [*IN_LAYOUTS, ("batch_norm", TRAINING)]
    norms += [(op, (("axes", 1),)) for op in ("layer_norm", "rms_norm")]
    drawn = [(op, HALF) for op in ("dropout", "dropout2d")]
    call = Case("one small call", "", TINY_CALL, measure="latency", bar=Bar(latency=15))
    bars = {"torch": Bar(overhead=1.5), "module": call.bar}
    return [
        *(replace(call, op=op, options=options, front=front, graph=graph, bar=bar,
                  against=("PyTorch",))
          for op, options in (*norms, *drawn)
          for front, bar in bars.items()
          for graph in (False, True)),
        *(replace(call, op=op, options=options, front="array", against=())
          for op, options in norms if options != TRAINING),
    ]  # fmt: skip


def _fused() -> list[Case]:
    """One pass instead of two."""
    rows = ROWS[1]
    cases = [
        *(Case("", "batch_norm", BATCH, options=(*EVALUATION, ("activation", "relu")),
               layout=layout)
          for layout in LAYOUTS),
        Case("", "group_norm", BATCH, options=(("num_groups", 8), ("activation", "silu"))),
        Case("", "layer_norm", rows, options=(("axes", 1), ("activation", "gelu"))),
        Case("", "add_layer_norm", rows, options=(("axes", 1),)),
        Case("", "dropout_add", BATCH, options=HALF),
    ]  # fmt: skip
    return [replace(case, group="fused", against=RUNTIMES) for case in cases]


def _norms_in_half() -> list[Case]:
    cases = [
        Case("", "batch_norm", BATCH, options=EVALUATION),
        Case("", "layer_norm", ROWS[1], options=(("axes", 1),)),
    ]
    return [
        replace(case, group="norms in half precision", dtype=dtype, against=("PyTorch",))
        for case in cases
        for dtype in ("bfloat16", "float16")
    ]


def _small_planes() -> list[Case]:
    return [
        Case("batch norm of small planes, a step of training", "batch_norm", shape,
             options=TRAINING, layout=layout, measure="step", against=("PyTorch",))
        for shape in SMALL_PLANES
        for layout in LAYOUTS
    ]  # fmt: skip


NORMS: tuple[Case, ...] = (
    *_norms(),
    *_norms_backward(),
    *_norms_out(),
    *_batch_norm_training(),
    *_small_planes(),
    *_norms_of_rows(),
    *_dropout(),
    *_fused(),
    *_norms_in_half(),
    *_norms_saved(),
    *_norms_latency(),
)

CASES: tuple[Case, ...] = (
    *_forward(),
    *_out(),
    *_large(),
    *_dtypes(),
    *_indices(),
    *_backward(),
    *_other_dims(),
    *_threads(),
    *FAMILY,
    *_saved(),
    *_latency(),
    *NORMS,
)
