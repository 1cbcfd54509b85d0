"""Networks that MONAI and Hugging Face wrote, reduced in width and depth, changed by ours."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import infinitypool as ip
from benchmarks import networks
from benchmarks.networks import NETWORKS, Network, agreement, distance, evaluated, kind_of, stepped

pytestmark = pytest.mark.once

EACH = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)


@pytest.fixture(autouse=True)
def one_thread():
    """Layers as small as these gain nothing from a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def named(part: str) -> Network:
    (network,) = (n for n in NETWORKS if part in n.name)
    return network


@EACH
def test_a_converted_network_is_the_same(network):
    """In float64, where rounding hides nothing and no ReLU falls on the other side of zero.

    What differs is the order of sums: 1e-16 an operation, some hundreds of them after one another.
    """
    theirs = network.model(small=True, dtype=torch.float64)
    ours = copy.deepcopy(theirs)
    before = ours.state_dict()
    report = ip.convert(ours, report=True)
    known = [m for m in theirs.modules() if type(m) in OURS]
    assert len(report.done) == len(known) >= 13
    assert {row.note for row in report.left} == {"this library has no such layer"}
    assert not any(type(m) in OURS for m in ours.modules())
    after = ours.state_dict()
    assert list(after) == list(before)
    assert all(
        after[name] is before[name] or torch.equal(after[name], before[name]) for name in after
    )

    example = network.input(network.other, torch.float64)
    assert distance(evaluated(ours, example), evaluated(theirs, example)) < 1e-13
    for found, right in zip(stepped(ours, example), stepped(theirs, example), strict=True):
        assert distance(found, right) < 1e-12
        largest = max((r.abs().max() for r in right), default=torch.tensor(0.0))
        for one, other in zip(found, right, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11 * float(largest))

    ours.load_state_dict(theirs.state_dict())
    ip.revert(ours)
    assert [type(m) for m in ours.modules()] == [type(m) for m in theirs.modules()]
    assert torch.equal(evaluated(ours, example)[0], evaluated(theirs, example)[0])


OURS = {
    getattr(nn, name)
    for name in ip.nn.__all__
    if isinstance(getattr(nn, name, None), type)
    and issubclass(getattr(nn, name), nn.Module)
    and getattr(ip.nn, name) is not getattr(nn, name)
}


agreed = functools.cache(agreement)


@EACH
def test_every_way_gives_the_same(network):
    """Optimised, exported and in ONNX Runtime, on a batch and a size that nothing was traced with.

    Each may be as far from float64's results as PyTorch's float32 is: a few roundings a layer,
    which other orders of summing and folded weights draw anew.
    """
    found = agreed(network, small=True)
    assert not found.failed
    assert found.optimised
    allowed = 3 * found.distances["PyTorch"] + 1e-7
    assert 0 < allowed < 1e-5
    for way in ("converted", "optimised", "exported", "ONNX Runtime"):
        assert found.distances[way] < allowed, way
    assert found.distances["gradients (float64)"] < 1e-12


@EACH
def test_channels_last_stays_and_changes_nothing(network):
    model = ip.convert(network.model(small=True, dtype=torch.float64))
    example = network.input(network.other, torch.float64)
    right = evaluated(model, example)
    last = example.contiguous(memory_format=network.channels_last)
    found = evaluated(model.to(memory_format=network.channels_last), last)
    assert distance(found, right) < 1e-13


@pytest.mark.parametrize("network", [NETWORKS[0], named("dropout")], ids=lambda n: n.name)
def test_a_converted_network_compiles_without_a_break(network):
    """Traced, functionalised and differentiated as ``torch.compile`` does it; no code is made."""
    theirs = network.model(small=True, dtype=torch.float64)
    ours = ip.convert(copy.deepcopy(theirs))
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in (network.small, network.other):
        example = network.input(shape, torch.float64)
        found, right = stepped(compiled, example), stepped(theirs, example)
        for what in range(3):
            assert distance(found[what], right[what]) < 1e-12


def test_dropout_of_a_converted_network_is_drawn():
    """Its draws follow PyTorch's seed, and only in training."""
    network = named("dropout")
    model = ip.convert(network.model(small=True)).train()
    example = network.input(network.small)

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(example).detach()

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    model.eval()
    assert torch.equal(drawn(1), drawn(2))


# --- the benchmark's own machinery ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("ConvolutionBackward0", "convolution"),
        ("aten::addmm", "linear, attention"),
        ("aten::mm", "linear, attention"),
        ("aten::linear", "linear, attention"),
        ("aten::upsample_bilinear2d", None),
        ("aten::native_layer_norm_backward", "norm"),
        ("infinitypool::norm_given", "norm"),
        ("infinitypool::max_pool", "pooling"),
        ("infinitypool::dropout", "dropout"),
        ("aten::prelu", "activation"),
        ("aten::mul", None),
    ],
)
def test_kinds_of_operators(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize("change", [lambda model: model, ip.convert], ids=["PyTorch", "converted"])
@pytest.mark.parametrize(
    ("layer", "kind"),
    [(nn.Dropout(), "dropout"), (nn.InstanceNorm2d(8), "norm"), (nn.MaxPool2d(2), "pooling")],
    ids=lambda value: type(value).__name__,
)
def test_times_go_to_the_layer_that_took_them(change, layer, kind):
    """Whoever recorded a step of the backward pass, as a dropout does a multiplication, took it."""
    model = change(nn.Sequential(copy.deepcopy(layer), nn.ReLU()).train())
    example = torch.randn(2, 8, 16, 16, requires_grad=True)
    seen = networks.profiled(lambda _: model(example).sum().backward(), 2)
    steps = {kind for event, kind in seen if event.name.startswith("autograd::engine")}
    assert steps == {kind, "activation", networks.REST}
    assert {kind for event, kind in seen if "sum" in event.name.lower()} <= {kind, networks.REST}
    total = networks.seconds_by_kind(lambda _: model(example).sum().backward(), 2)
    assert {each for each, seconds in total.items() if seconds} == steps


def test_a_report_is_written(tmp_path, capsys, monkeypatch):
    """Of the small network and what was found about it above, since both take long."""
    unet = named("UNet 2-D")
    small = replace(unet, build=lambda _: unet.build(True))
    monkeypatch.setattr(networks, "NETWORKS", (*NETWORKS[:2], small, *NETWORKS[3:]))
    monkeypatch.setattr(networks, "agreement", lambda network, small: agreed(unet, small=small))
    assert (
        networks.main(["--quick", "--threads", "1", "--only", "unet 2-d", "--out", str(tmp_path)])
        == 0
    )
    assert "Failed" not in (text := (tmp_path / "networks.md").read_text(encoding="utf-8"))
    assert text.count("UNet 2-D") == 5 and "at most" in text
    rows = json.loads((tmp_path / "networks.json").read_text(encoding="utf-8"))["rows"]
    assert {(row["layout"], row["what"]) for row in rows} == {
        ("planes", what) for what in (networks.FORWARD, networks.STEP)
    }
    for row in rows:
        assert all(seconds > 0 for seconds in row["seconds"].values())
        assert len(row["seconds"]) == (3 if row["what"] == networks.FORWARD else 2)
    with pytest.raises(SystemExit):
        networks.main(["--only", "nothing of that name"])
    assert "no network matches" in capsys.readouterr().err
