"""Networks that others wrote: ``python -m benchmarks.networks [--only RE] [--quick] [--out DIR]``.

MONAI's and Hugging Face's models with random weights, converted, optimised and exported: results
beside the original's, times beside PyTorch eager's and ``torch.compile``'s, and where the time goes.
Writes ``networks.md`` and ``networks.json``. The whole run takes ten minutes on two cores, and the
first one half an hour, until ``torch.compile`` has its code in the cache; ``--quick``, without it, with
small inputs in one layout, a minute and a half.
"""

from __future__ import annotations

import argparse
import copy
import gc
import io
import json
import logging
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # weights are random: nothing is to be fetched

import torch
from monai.networks.nets import DenseNet, DenseNet121, UNet
from rich.console import Console
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

import infinitypool as ip
from benchmarks import report, timing
from benchmarks.run import processor

# --- the networks --------------------------------------------------------------------------


def _resnet(small: bool) -> nn.Module:
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 1, 1]}
    return ResNetForImageClassification(ResNetConfig(num_labels=1000, **(sizes if small else {})))


def _densenet(small: bool) -> nn.Module:
    if small:
        return DenseNet(2, 3, 10, init_features=16, growth_rate=8, block_config=(2, 3, 2))
    return DenseNet121(2, 3, 1000)


def _unet(dims: int, norm: str, channels: Sequence[int], dropout: float, small: bool) -> nn.Module:
    channels = channels[:3] if small else channels
    return UNet(
        dims, 1, 2, channels, (2,) * (len(channels) - 1), num_res_units=2, norm=norm, dropout=dropout
    )  # fmt: skip


def _segformer(small: bool) -> nn.Module:
    sizes = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64], "decoder_hidden_size": 32}
    return SegformerForSemanticSegmentation(
        SegformerConfig(num_labels=150, **(sizes if small else {}))
    )


@dataclass(frozen=True)
class Network:
    """A model of somebody else's, and what it is fed with."""

    name: str
    build: Callable[[bool], nn.Module]  # of a reduced width and depth, or not
    shape: tuple[int, ...]  # what is timed
    small: tuple[int, ...]  # for the reduced model
    other: tuple[int, ...]  # another batch, another size: what was traced with small must take it

    @property
    def channels_last(self) -> torch.memory_format:
        return torch.channels_last if len(self.shape) == 4 else torch.channels_last_3d

    def model(self, small: bool = False, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The same random weights every time, in evaluation mode."""
        torch.manual_seed(20)
        model = self.build(small).to(dtype)
        settle(model, self.input(self.small, dtype))
        return model

    @staticmethod
    def input(shape: Sequence[int], dtype: torch.dtype = torch.float32, seed: int = 5) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).to(dtype)


NETWORKS = (
    Network(
        "ResNet-50 (Hugging Face)", _resnet, (8, 3, 224, 224), (2, 3, 64, 64), (3, 3, 96, 64)
    ),
    Network("DenseNet-121 (MONAI)", _densenet, (8, 3, 224, 224), (2, 3, 64, 64), (3, 3, 96, 64)),
    Network(
        "UNet 2-D, instance norm, dropout (MONAI)",
        partial(_unet, 2, "instance", (32, 64, 128, 256, 512), 0.1),
        (4, 1, 256, 256), (2, 1, 32, 32), (3, 1, 64, 48),
    ),
    Network(
        "UNet 3-D, batch norm (MONAI)",
        partial(_unet, 3, "batch", (16, 32, 64, 128, 256), 0.0),
        (1, 1, 96, 96, 96), (2, 1, 32, 32, 32), (3, 1, 48, 32, 32),
    ),
    Network(
        "SegFormer-B0 (Hugging Face)", _segformer, (4, 3, 256, 256), (2, 3, 64, 64), (3, 3, 96, 64)
    ),
)  # fmt: skip


def settle(model: nn.Module, example: Tensor) -> None:
    """Norms as training leaves them: fresh ones scale by one and shift by nothing, which hides
    whatever is done wrong with their parameters."""
    for module in model.modules():
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(example)
    model.eval()


def quiet(model: nn.Module) -> nn.Module:
    """Nothing is dropped: a draw of ours is not PyTorch's, so only then are results comparable."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):  # Hugging Face's whole paths
            module.drop_prob = 0.0
    return model


def tensor(output: Any) -> Tensor:
    """The result of a forward: Hugging Face's models put it into an object."""
    return getattr(output, "logits", output)


# --- whether results agree -------------------------------------------------------------------


def distance(found: Iterable[Tensor], truth: Iterable[Tensor]) -> float:
    """The norm of all differences over that of all values."""
    wrong = right = 0.0
    for one, true in zip(found, truth, strict=True):
        wrong += float((one.double() - true.double()).square().sum())
        right += float(true.double().square().sum())
    return (wrong / right) ** 0.5 if right else wrong


def evaluated(model: nn.Module, example: Tensor) -> list[Tensor]:
    """What the model answers in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return [tensor(model(example)).clone()]


def stepped(model: nn.Module, example: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """A training step without drops: results, gradients of input and parameters, buffers after it."""
    model = quiet(model).train()
    model.zero_grad()
    example = example.clone().requires_grad_()
    result = tensor(model(example))
    result.backward(Network.input(result.shape, result.dtype, seed=6))
    gradients = [example.grad, *(p.grad for p in model.parameters())]
    buffers = [b.clone() for b in model.buffers() if b.is_floating_point()]
    model.eval()
    return [result.detach()], gradients, buffers


def exported(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """``torch.export`` for any batch and size."""
    free = {d: torch.export.Dim.DYNAMIC for d in (0, *range(2, example.ndim))}
    return torch.export.export(model.eval(), (example,), dynamic_shapes=(free,))


def onnx_session(program: torch.export.ExportedProgram) -> Any:
    """ONNX Runtime with what PyTorch's exporter writes."""
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # torchvision is not wanted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the exporter's own
        written = torch.onnx.export(program, verbose=False)
    file = io.BytesIO()
    written.save(file)
    return onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


def onnx_results(session: Any, example: Tensor) -> list[Tensor]:
    """What ONNX Runtime answers."""
    (name,) = (argument.name for argument in session.get_inputs())
    return [torch.from_numpy(session.run(None, {name: example.numpy()})[0])]


@dataclass
class Agreement:
    """Relative distances from float64's results, and what was done to the model."""

    layers: int = 0
    replaced: int = 0
    optimised: dict[str, int] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # what -> why


def agreement(network: Network, small: bool) -> Agreement:
    """Converted, optimised, exported: how far each is from the original in float64."""
    found = Agreement()
    model = network.model(small)
    first, other = network.input(network.small), network.input(network.other)
    truth = copy.deepcopy(model).double()
    ours = copy.deepcopy(model)
    done = ip.convert(ours, report=True)
    found.layers = sum(not m._modules for m in ours.modules())
    found.replaced = len(done.done)

    def put(what: str, results: Callable[[], list[Tensor]], right: list[Tensor]) -> None:
        try:
            found.distances[what] = distance(results(), right)
        except Exception as error:  # noqa: BLE001 - a row that says so is worth more than a run that ends
            found.failed[what] = _words(error)

    right = evaluated(truth, other.double())
    put("PyTorch", lambda: evaluated(model, other), right)
    put("converted", lambda: evaluated(ours, other), right)

    def optimised() -> list[Tensor]:
        fast = ip.optimize(copy.deepcopy(model), first)
        found.optimised = fast.report.counts
        return evaluated(fast, other)

    put("optimised", optimised, right)

    def in_onnx() -> list[Tensor]:
        return onnx_results(onnx_session(program[0]), other)

    program: list[torch.export.ExportedProgram] = []

    def in_graph() -> list[Tensor]:
        program.append(exported(ours, first))
        return [tensor(program[0].module()(other)).detach()]

    put("exported", in_graph, right)
    if program:
        put("ONNX Runtime", in_onnx, right)
    # In float64: a ReLU that float32 puts on the other side of zero changes gradients by per cents.
    _, right, _ = stepped(truth, other.double())
    put("gradients (float64)", lambda: stepped(ip.convert(truth), other.double())[1], right)
    return found


# --- where the time goes ---------------------------------------------------------------------

# The first that an operator's name, or else its callers', speaks of.
KINDS = {
    "convolution": re.compile(r"conv", re.I),
    "linear, attention": re.compile(
        r"(?<!bi)(?<!tri)linear|mm(backward|$)|matmul|attention|softmax", re.I
    ),
    "norm": re.compile(r"norm", re.I),
    "pooling": re.compile(r"pool|mean", re.I),  # a global average is PyTorch's mean
    "dropout": re.compile(r"drop", re.I),
    "activation": re.compile(r"relu|gelu|silu|threshold", re.I),
}
REST = "the rest"
# What this library makes quicker or leaves out. The other kinds bound what can be gained.
OURS_TO_GAIN = ("norm", "pooling", "dropout", "activation")


def kind_of(name: str) -> str | None:
    """What an operator is for, or None where its name does not say."""
    name = name.removeprefix("infinitypool::")  # is no pooling
    return next((kind for kind, words in KINDS.items() if words.search(name)), None)


@contextmanager
def _without_messages() -> Iterator[None]:
    """The profiler says on every start and stop that it does."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def profiled(call: Callable[[int], Any], repeats: int) -> list[tuple[Any, str]]:
    """Every operator of so many calls, and what the outermost that it is a part of is for.

    A step of the backward pass whose name says nothing (a multiplication, a view) belongs to the
    operator of the forward pass that recorded it.
    """
    profiler = profile(activities=[ProfilerActivity.CPU])
    with _without_messages():
        profiler.start()
    for index in range(repeats):
        call(index)
    with _without_messages():
        profiler.stop()
    kinds: dict[int, str | None] = {}
    recorded: dict[int, str | None] = {}  # the last operator before the next number made the node
    events = sorted(profiler.events(), key=lambda e: (e.time_range.start, -e.time_range.end))
    for event in events:
        above = kinds.get(event.cpu_parent.id) if event.cpu_parent else None
        kind = above or kind_of(event.name)
        if event.sequence_nr >= 0:
            if event.name.startswith("autograd::engine"):
                kind = kind or recorded.get(event.sequence_nr)
            recorded[event.sequence_nr] = kind
        kinds[event.id] = kind
    return [(event, kinds[event.id] or REST) for event in events]


def seconds_by_kind(call: Callable[[int], Any], repeats: int) -> dict[str, float]:
    """Self times of all operators of a call, added up."""
    total = dict.fromkeys((*KINDS, REST), 0.0)
    for event, kind in profiled(call, repeats):
        total[kind] += event.self_cpu_time_total * 1e-6 / repeats
    return total


# --- how long it takes ------------------------------------------------------------------------

EAGER, CONVERTED, OPTIMISED = "PyTorch", "converted", "optimised"
COMPILED, BOTH = "torch.compile", "converted, torch.compile"
FORWARD, STEP = "forward", "training step"
LAYOUTS = ("planes", "channels last")


@dataclass
class Row:
    """One network in one memory layout, forward or a training step; times in seconds a call."""

    network: str
    shape: tuple[int, ...]
    layout: str
    what: str
    seconds: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)  # the first call, which compiles
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)  # way -> kind -> seconds
    failed: dict[str, str] = field(default_factory=dict)  # way -> why


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _call(model: nn.Module, what: str, inputs: Sequence[Tensor]) -> Callable[[int], Any]:
    """A forward without gradients, or a forward in training mode and all gradients of it."""
    model.train(what == STEP)
    if what == FORWARD:

        def forward(index: int) -> Any:
            with torch.no_grad():
                return tensor(model(inputs[index]))

        return forward
    gradient = torch.ones_like(tensor(model(inputs[0]))) / 1000

    def step(index: int) -> None:
        model.zero_grad(set_to_none=True)
        tensor(model(inputs[index])).backward(gradient)

    return step


def _compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model)


def timed(network: Network, layout: str, what: str, quick: bool) -> Row:
    """All ways of computing the same, in turns, and then each of the uncompiled ones by kind."""
    shape = network.other if quick else network.shape
    form = network.channels_last if layout == "channels last" else torch.contiguous_format
    row = Row(network.name, shape, layout, what)
    inputs = [network.input(shape, seed=s).to(memory_format=form) for s in (1, 2)]
    model = network.model().to(memory_format=form)
    ways: dict[str, Callable[[nn.Module], nn.Module]] = {EAGER: lambda model: model}
    ways[CONVERTED] = ip.convert
    if what == FORWARD:
        ways[OPTIMISED] = lambda model: ip.optimize(model, inputs[0])
    if layout == "planes" and not quick:  # inductor chooses layouts of its own
        ways[COMPILED] = _compiled
        ways[BOTH] = lambda model: _compiled(ip.convert(model))
    contenders = []
    for name, way in ways.items():
        try:
            call = _call(way(copy.deepcopy(model)), what, inputs)
            start = time.perf_counter()
            call(0)
            row.first[name] = time.perf_counter() - start
        except Exception as error:  # noqa: BLE001 - a cell that says why, not the end of the run
            row.failed[name] = _words(error)
        else:
            contenders.append(timing.Contender(name, call))
    timing.measure(contenders, len(inputs), quick)
    for contender in contenders:
        row.seconds[contender.name] = contender.median
        row.samples[contender.name] = contender.samples
        if contender.name not in (COMPILED, BOTH):
            row.kinds[contender.name] = seconds_by_kind(contender.call, len(inputs))
    return row


# --- what is written --------------------------------------------------------------------------


def _cell(row: Row, way: str) -> str:
    """Milliseconds, and how many times as long PyTorch eager took."""
    if way not in row.seconds:
        return "failed" if way in row.failed else "–"
    text = report.milliseconds(row.seconds[way])
    if way == EAGER or EAGER not in row.seconds:
        return text
    return f"{text} ({report.fold(row.seconds[EAGER], row.seconds[way])})"


def times_table(rows: Iterable[Row]) -> list[str]:
    """A line for each row, a column for each way."""
    ways = (EAGER, CONVERTED, OPTIMISED, COMPILED, BOTH)
    body = (
        [row.network, "×".join(map(str, row.shape)), row.layout, row.what]
        + [_cell(row, way) for way in ways]
        for row in rows
    )
    return report.table(["network", "input", "layout", "", *ways], body)


def kinds_table(rows: Iterable[Row]) -> list[str]:
    """Where the time goes, before and after; what PyTorch's convolutions leave to be gained."""
    body = []
    for row in rows:
        for way, kinds in row.kinds.items():
            total = sum(kinds.values())
            ours = sum(kinds[kind] for kind in OURS_TO_GAIN)
            bound = f"{total / (total - ours):.2f}×" if way == EAGER else ""
            head = [row.network, row.layout, row.what] if way == EAGER else ["", "", ""]
            shares = [f"{100 * seconds / total:.1f} %" for seconds in kinds.values()]
            body.append([*head, way, report.milliseconds(total), *shares, bound])
    return report.table(["network", "layout", "", "", "ms", *KINDS, REST, "at most"], body)


def agreement_table(found: dict[str, Agreement]) -> list[str]:
    """How far every way is from float64, and what was done to the model."""
    ways = list(dict.fromkeys(way for one in found.values() for way in one.distances))
    body = []
    for name, one in found.items():
        done = ", ".join(f"{count} {action}" for action, count in one.optimised.items())
        cells = (f"{one.distances[w]:.0e}" if w in one.distances else "failed" for w in ways)
        body.append([name, f"{one.replaced} of {one.layers}", done or "–", *cells])
    return report.table(["network", "layers replaced", "optimised", *ways], body)


def markdown(found: dict[str, Agreement], rows: list[Row], about: dict[str, Any]) -> str:
    """The whole report."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    text = [
        "# Networks",
        "",
        f"{about['date']}, {about['processor']}, Python {about['python']}, {about['threads']} threads,"
        f" {about['isa']}. {versions}. The run took {about['minutes']:.1f} minutes.",
        "",
        "Random weights, float32. *Converted* is `ip.convert(model)`, *optimised*"
        " `ip.optimize(model, example)`. Times are medians in milliseconds, measured in turns; in"
        " brackets how many times as long PyTorch eager took. A training step is forward in training"
        " mode and all gradients, without the optimizer's update.",
        "",
        "## Times",
        "",
        *times_table(rows),
        "",
        "## Where the time goes",
        "",
        "Self times of all operators in PyTorch's profiler, by what the outermost of them is for."
        " *At most* is how much quicker the network would be if norms, poolings, dropout and"
        " activations took no time at all: the rest is PyTorch's, whatever we do.",
        "",
        *kinds_table(rows),
        "",
        "## Whether results agree",
        "",
        "‖found − right‖ / ‖right‖, where right is the original in float64, on a batch and a size"
        " that nothing was traced or optimised with; all ways in float32. Exported by `torch.export`"
        " with free batch, height and width, and from that to ONNX. Gradients are those of the input"
        " and all parameters of the converted network in float64, with dropout off, as its draws"
        " are not PyTorch's.",
        "",
        *agreement_table(found),
    ]
    failures = [
        *((name, what, why) for name, one in found.items() for what, why in one.failed.items()),
        *(
            (f"{r.network}, {r.layout}, {r.what}", w, why)
            for r in rows
            for w, why in r.failed.items()
        ),
    ]
    if failures:
        text += ["", "## Failed", "", *report.table(["where", "what", "why"], failures)]
    compiling = [row for row in rows if COMPILED in row.first]
    if compiling:
        body = (
            [row.network, row.layout, row.what]
            + [f"{row.first[w]:.0f}" if w in row.first else "–" for w in (COMPILED, BOTH)]
            for row in compiling
        )
        header = ["network", "layout", "", COMPILED, BOTH]
        text += [
            "",
            "## Seconds of the first call, which compiles",
            "",
            *report.table(header, body),
        ]
    return "\n".join(text) + "\n"


def write(
    folder: Path, found: dict[str, Agreement], rows: list[Row], about: dict[str, Any]
) -> list[Path]:
    """Write ``networks.md`` and ``networks.json``; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "networks.md", folder / "networks.json"]
    listed = {
        "about": about,
        "agreement": {name: asdict(one) for name, one in found.items()},
        "rows": [asdict(row) for row in rows],
    }
    paths[0].write_text(markdown(found, rows, about), encoding="utf-8")
    paths[1].write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and measure the chosen networks, and write the report; 1 where anything failed."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.networks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", metavar="RE", default="", help="networks whose name matches")
    parser.add_argument(
        "--quick", action="store_true", help="small inputs, one layout, nothing compiled"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--threads", type=int, default=2, help="for everyone (default 2)")
    parser.add_argument("--agree", action="store_true", help="compare results, time nothing")
    choice = parser.parse_args(argv)
    try:
        chosen = [n for n in NETWORKS if re.search(choice.only, n.name, re.I)]
    except re.error as error:
        parser.error(f"--only: {error}")
    if not chosen:
        parser.error(f"no network matches --only; known are {', '.join(n.name for n in NETWORKS)}")

    start = time.perf_counter()
    torch.set_num_threads(choice.threads)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)

    def tell(line: str, failed: dict[str, str]) -> None:
        console.print(line, *(f"    {what}: {why}" for what, why in failed.items()), sep="\n")

    layouts = () if choice.agree else LAYOUTS[:1] if choice.quick else LAYOUTS
    found: dict[str, Agreement] = {}
    rows: list[Row] = []
    interrupted = False
    try:
        for network in chosen:
            found[network.name] = one = agreement(network, small=choice.quick)
            said = ", ".join(f"{way} {value:.0e}" for way, value in one.distances.items())
            tell(f"{network.name}: {said}", one.failed)
            for layout in layouts:
                for what in (FORWARD, STEP):
                    row = timed(network, layout, what, choice.quick)
                    rows.append(row)
                    said = "; ".join(f"{way} {_cell(row, way)}" for way in row.seconds)
                    tell(f"{network.name}, {layout}, {what}: {said}", row.failed)
                    torch._dynamo.reset()
                    gc.collect()
    except KeyboardInterrupt:  # what has been measured is worth a report
        interrupted = True
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": f"{processor()}, {platform.system()}",
        "python": platform.python_version(),
        "threads": choice.threads,
        "isa": ip.config()["isa"],
        "versions": {n: version(n) for n in ("torch", "monai", "transformers", "onnxruntime")},
        "minutes": (time.perf_counter() - start) / 60,
        "arguments": list(sys.argv[1:] if argv is None else argv),
    }
    for path in write(choice.out, found, rows, about):
        console.print(f"wrote {path}")
    if interrupted:
        return 130
    return int(any(one.failed for one in (*found.values(), *rows)))


if __name__ == "__main__":
    sys.exit(main())
