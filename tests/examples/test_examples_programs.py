"""The programs' networks are those that they say, with our layers or PyTorch's; every one learns."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import infinitypool.nn

import any_size
import digits
import regularised
import transformer
import unet
from common import Program, checkpoints
from common.commands import read
from common.training import build

pytestmark = pytest.mark.usefixtures("one_thread")


def made(program: Program, *options: str, shape=(1, 28, 28), classes=10) -> nn.Module:
    """The network that these options of the program build."""
    choice, _ = read(program, ["describe", *options])
    return build(program, choice, shape, classes)


def leaves(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if not list(module.children())]


def kinds(network: nn.Module) -> list[str]:
    return [type(module).__name__ for module in leaves(network)]


def of_kind(network: nn.Module, kind: str) -> list[nn.Module]:
    return [module for module in network.modules() if type(module).__name__ == kind]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --- the networks of the table -------------------------------------------------------------------


def test_unet_gives_388_of_572():
    network = made(unet.PROGRAM, "--width", "2", shape=(1, 572, 572), classes=2)
    with torch.inference_mode():
        assert network(torch.rand(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    assert len(of_kind(network, "MaxPool2d")) == 1  # called four times
    assert [m.kernel_size for m in of_kind(network, "ConvTranspose2d")] == [(2, 2)] * 4
    sizes = [m.kernel_size for m in of_kind(network, "Conv2d")]
    assert sizes == [(3, 3)] * 18 + [(1, 1)]
    assert {m.padding for m in of_kind(network, "Conv2d")} == {(0, 0)}
    assert len(of_kind(network, "ReLU")) == 18


def test_unet_crops_the_middle_of_what_it_skips():
    x = torch.rand(2, 3, 64, 50)
    assert torch.equal(unet.cropped(x, torch.empty(2, 1, 56, 18)), x[..., 4:-4, 16:-16])
    assert torch.equal(unet.cropped(x, x), x)


def test_unet_has_the_parameters_of_the_paper():
    def convolution(before: int, after: int, size: int) -> int:
        return before * after * size**2 + after

    levels = [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    expected = sum(convolution(a, b, 3) + convolution(b, b, 3) for a, b in levels)
    for a, b in levels[1:]:
        expected += convolution(b, a, 2) + convolution(b, a, 3) + convolution(a, a, 3)
    expected += convolution(64, 2, 1)
    assert parameters(made(unet.PROGRAM, classes=2)) == expected == 31_030_658


@pytest.mark.parametrize("layers", ["infinitypool", "torch"])
def test_pooling_as_a_layer_and_as_a_function_is_one_network(layers):
    module, functional = (
        made(digits.PROGRAM, "--form", form, "--layers", layers)
        for form in ("module", "functional")
    )
    assert "MaxPool2d" in kinds(module) and "MaxPool2d" not in kinds(functional)
    assert [m.kernel_size for m in of_kind(module, "Conv2d")] == [(5, 5)] * 2
    functional.load_state_dict(module.state_dict())
    pictures = torch.rand(3, 1, 28, 28)
    result = module(pictures)
    assert result.shape == (3, 10) and torch.equal(result, functional(pictures))


def test_the_mnist_classifier_has_four_blocks_and_2048_numbers():
    network = made(digits.PROGRAM, "--form", "conv-norm")
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    features = [*block, *block, "MaxPool2d"] * 2
    assert kinds(network) == features + ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [m.out_channels for m in of_kind(network, "Conv2d")] == [16, 32, 64, 128]
    linear = of_kind(network, "Linear")
    assert [m.in_features for m in linear] == [2048, 1024, 128]
    assert linear[-1].out_features == 10
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_parts_of_the_three_blocks_are_found_by_name():
    network = made(digits.PROGRAM, "--form", "blocks")
    names = [f"{kind}{i}" for i in (1, 2, 3) for kind in ("conv", "norm", "relu", "pool")]
    assert [name for name, _ in network.named_children()] == [*names, "flatten", "fc"]
    first = network[:4]
    assert kinds(first) == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert first(torch.rand(2, 1, 28, 28)).shape == (2, 32, 14, 14)
    convolutions = of_kind(network, "Conv2d")
    assert [m.out_channels for m in convolutions] == [32, 64, 128]
    assert convolutions[1] is network.conv2
    learnt = [f"{kind}{i}" for i in (1, 2, 3) for kind in ("conv", "norm")] + ["fc"]
    expected = [f"{name}.{part}" for name in learnt for part in ("weight", "bias")]
    assert [name for name, _ in network.named_parameters()] == expected
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_the_fixed_classifier_fits_56_of_224():
    network = made(any_size.PROGRAM, "--form", "fixed", shape=(3, 224, 224))
    assert network.fc1.in_features == network.conv2.out_channels * 56 * 56
    assert network(torch.rand(1, 3, 224, 224)).shape == (1, 10)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network(torch.rand(1, 3, 112, 112))


def test_the_other_classifier_takes_any_size():
    network = made(any_size.PROGRAM, shape=(3, 224, 224)).eval()
    block = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert kinds(network) == [*block * 3, "AdaptiveAvgPool2d", "Linear"]
    with torch.inference_mode():
        for size in ((224, 224), (112, 112), (96, 96), (8, 40)):
            assert network(torch.rand(1, 3, *size)).shape == (1, 10)


def test_training_sees_the_sizes_that_are_asked_for():
    choice, _ = read(any_size.PROGRAM, ["train", "--scales", "0.5", "2"])
    pictures = torch.rand(2, 1, 24, 20)
    seen = {any_size.scaled(choice, pictures).shape for _ in range(20)}
    assert seen == {(2, 1, 12, 10), (2, 1, 48, 40)}
    choice.form = "fixed"
    assert any_size.scaled(choice, pictures) is pictures


@pytest.mark.parametrize(
    ("variant", "regularises"),
    [
        ("none", []),
        ("dropout", [("Dropout", 0.5)] * 2),
        ("channel-dropout", [("Dropout2d", 0.2)] * 2),
        ("batch-norm", [("BatchNorm2d", 32), ("BatchNorm2d", 64)]),
        ("group-norm", [("GroupNorm", 32), ("GroupNorm", 64)]),
    ],
)
def test_a_variant_holds_what_it_is_called_by(variant, regularises):
    network = made(regularised.PROGRAM, "--variant", variant)
    found = []
    for before, module in zip([None, *leaves(network)], leaves(network), strict=False):
        kind = type(module).__name__
        if kind.startswith("Dropout") and module.p > 0:
            found.append((kind, module.p))
            after_pooling = {"Dropout": ("Flatten", "ReLU"), "Dropout2d": ("MaxPool2d",)}
            assert type(before).__name__ in after_pooling[kind]
        elif "Norm" in kind:
            found.append((kind, getattr(module, "num_features", None) or module.num_channels))
            assert type(before).__name__ == "Conv2d"
    assert found == regularises
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_a_transformer_block_is_attention_then_feed_forward():
    torch.manual_seed(0)
    width, heads, length = 12, 3, 5
    block = transformer.Block(width, heads, dropout=0.0)
    for parameter in block.parameters():  # biases and norms begin as if they were not there
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, length, width)

    attention = block.attention
    stacked = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        part.view(2, length, heads, -1).transpose(1, 2) for part in stacked.chunk(3, -1)
    )
    weights = (query @ key.transpose(-2, -1) / (width / heads) ** 0.5).softmax(-1)
    attended = (weights @ value).transpose(1, 2).reshape(2, length, width)
    attended = F.linear(attended, attention.out_proj.weight, attention.out_proj.bias)

    def added_and_normalised(a, b, norm):
        total = a + b
        centred = total - total.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * norm.weight + norm.bias

    first = added_and_normalised(x, attended, block.norm1)
    wide, _, narrow = block.feed_forward
    assert wide.out_features == 4 * width
    hidden = F.linear(first, wide.weight, wide.bias)
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    expected = added_and_normalised(
        first, F.linear(hidden, narrow.weight, narrow.bias), block.norm2
    )
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_a_transformer_reads_rows_in_their_order():
    network = made(transformer.PROGRAM, shape=(3, 6, 4)).eval()
    pictures = torch.rand(2, 3, 6, 4)
    with torch.inference_mode():
        assert network(pictures).shape == (2, 10)
        assert network.embed.in_features == 3 * 4
        # Rows are told apart by their place, and pictures do not see each other
        assert not torch.allclose(network(pictures), network(pictures.flip(2)))
        torch.testing.assert_close(network(pictures)[:1], network(pictures[:1]))


# --- whose layers --------------------------------------------------------------------------------

NETWORKS = [
    (digits.PROGRAM, ("--form", "conv-norm"), (1, 28, 28)),
    (digits.PROGRAM, ("--form", "module"), (1, 28, 28)),
    (digits.PROGRAM, ("--form", "functional"), (1, 28, 28)),
    (digits.PROGRAM, ("--form", "blocks"), (1, 28, 28)),
    (unet.PROGRAM, ("--width", "2"), (1, 188, 204)),
    (any_size.PROGRAM, ("--form", "any"), (3, 24, 20)),
    (any_size.PROGRAM, ("--form", "fixed"), (3, 24, 20)),
    (regularised.PROGRAM, ("--variant", "none"), (1, 28, 28)),
    (regularised.PROGRAM, ("--variant", "dropout"), (1, 28, 28)),
    (regularised.PROGRAM, ("--variant", "channel-dropout"), (1, 28, 28)),
    (regularised.PROGRAM, ("--variant", "batch-norm"), (1, 28, 28)),
    (regularised.PROGRAM, ("--variant", "group-norm"), (1, 28, 28)),
    (transformer.PROGRAM, (), (1, 28, 28)),
]


@pytest.mark.parametrize(
    ("program", "options", "shape"), NETWORKS, ids=lambda value: getattr(value, "name", None)
)
def test_our_layers_and_those_of_torch_are_one_network(program, options, shape):
    results = []
    for layers in ("infinitypool", "torch"):
        network = made(program, "--layers", layers, *options, shape=shape).eval()
        for module in leaves(network):
            name, source = type(module).__name__, type(module).__module__
            if re.search("Pool|Norm|Dropout", name):
                assert source.split(".")[0] == layers, name
        if "functional" in options:
            assert digits.F is (F if layers == "torch" else infinitypool.nn.functional)
        pictures = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            results.append((network.state_dict(), network(pictures)))
    (ours, result), (theirs, expected) = results
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_both_kinds_of_layers_learn_alike(run, no_figures, rows, tmp_path):
    learnt = []
    for layers in ("infinitypool", "torch"):
        options = ("--data", rows, "--batch-size", 10, "--epochs", 1, "--layers", layers)
        run(digits.PROGRAM, "train", *options, "--out", tmp_path / layers)
        (row,) = torch.load(tmp_path / layers / "last.pt", weights_only=True)["history"]
        learnt.append([row[f"{part}_loss"] for part in ("train", "test")])
    assert learnt[0] == pytest.approx(learnt[1], rel=1e-3)


# --- U-Net and pictures of any size --------------------------------------------------------------

SIZES = [(1, 1), (1, 7), (5, 300), (132, 132), (200, 2), (388, 389), (772, 3)]


@pytest.mark.parametrize("length", [*range(1, 40), 132, 300])
def test_padding_fits_the_network(length):
    before, after = unet.padding(length)
    given = before + length + after
    assert given >= 188 and given % 16 == 12
    assert min(before, after) >= unet.BORDER and given - 184 - length < 16


@pytest.mark.parametrize("length", [1, 2, 3, 5, 92, 132])
def test_mirrored_is_numpys_reflection(length):
    before, after = unet.padding(length)
    expected = np.pad(np.arange(length), (before, after), mode="reflect")
    assert np.array_equal(unet.mirrored(length, before, after).numpy(), expected)


@pytest.mark.parametrize("size", SIZES)
def test_whole_gives_every_pixel_its_place(size):
    def middle(pictures):
        assert all(n >= 188 and n % 16 == 12 for n in pictures.shape[2:])
        return pictures[..., 92:-92, 92:-92]

    pictures = torch.rand(2, 3, *size)
    assert torch.equal(unet.whole(middle, pictures), pictures)
    with torch.inference_mode():  # tile by tile
        assert torch.equal(unet.whole(middle, pictures), pictures)


def test_whole_is_the_network_itself_away_from_the_edges():
    network = made(unet.PROGRAM, "--width", "2", shape=(1, 300, 300), classes=3).eval()
    picture = torch.rand(1, 1, 300, 268)
    with torch.inference_mode():
        everywhere, inside = unet.whole(network, picture), network(picture)
    assert everywhere.shape == (1, 3, 300, 268) and inside.shape == (1, 3, 116, 84)
    # 96 and not 92 pixels are put before, a multiple of 16: poolings meet the same pixels
    assert unet.padding(300)[0] == unet.padding(268)[0] == 96
    torch.testing.assert_close(everywhere[..., 92:-92, 92:-92], inside, rtol=1e-4, atol=1e-5)
    assert everywhere.std() > 1e-3


def test_tiles_are_parts_of_the_whole():
    network = made(unet.PROGRAM, "--width", "2", shape=(1, 300, 300), classes=3).eval()
    picture = torch.rand(1, 1, 801, 389)
    expected = unet.whole(network, picture).detach()  # with a gradient, in one piece
    with torch.inference_mode():
        found = unet.whole(network, picture)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# --- every program, from training to a picture of one's own --------------------------------------

PROGRAMS = [
    (digits.PROGRAM, ("--form", "blocks")),
    (unet.PROGRAM, ("--width", "2")),
    (any_size.PROGRAM, ("--scales", "0.5", "1")),
    (regularised.PROGRAM, ("--variant", "group-norm")),
    (transformer.PROGRAM, ("--width", "16", "--depth", "1")),
]


def check_picture(path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) >= 100
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize(("program", "options"), PROGRAMS, ids=lambda v: getattr(v, "name", ""))
def test_a_program_trains_evaluates_predicts(program, options, run, rows, squares, tmp_path):
    segments = program is unet.PROGRAM
    data = squares if segments else rows
    batch = 2 if segments else 32  # three batches of 5 or 70 pictures, the last of them smaller
    out = tmp_path / "out"
    given = ("--data", data, "--batch-size", batch, "--epochs", 2, *options)
    printed = run(program, "train", *given, "--out", out)
    assert "epoch 1" in printed and "epoch 2" in printed

    last, best = (checkpoints.load(out / f"{name}.pt", program.name) for name in ("last", "best"))
    assert (last["epoch"], last["step"], len(last["history"])) == (2, 0, 2)
    steps = {state["step"].item() for state in last["optimiser"]["state"].values()}
    assert steps == {2 * 3}
    scores = [row["test_score"] for row in last["history"]]
    assert best["epoch"] == 1 + scores.index(max(scores))
    with open(out / "history.csv", newline="") as file:
        table = list(csv.DictReader(file))
    read_back = [{name: float(value) for name, value in row.items()} for row in table]
    assert read_back == last["history"]
    assert [row["epoch"] for row in read_back] == [1, 2]
    assert all(row["train_loss"] > 0 and 0 <= row["test_score"] <= 1 for row in read_back)
    for name in ("curves", "predictions"):
        check_picture(out / f"{name}.png")
    with open(out / "options.json") as file:
        assert json.load(file) == last["recipe"]
    names = {"last.pt", "best.pt", "history.csv", "options.json", "curves.png", "predictions.png"}
    assert {path.name for path in out.iterdir()} == names

    printed = run(program, "evaluate", "--out", out)
    assert f"{program.task.score} {max(scores):.4f}" in printed

    picture = np.random.default_rng(0).integers(0, 256, (19, 23), np.uint8)
    Image.fromarray(picture).save(tmp_path / "own.png")
    printed = run(program, "predict", tmp_path / "own.png", "--out", out)
    if segments:
        with Image.open(out / "own-mask.png") as mask:
            assert mask.size == (23, 19) and set(np.unique(mask)) <= {0, 1}
        check_picture(out / "own-prediction.png")
    else:
        assert re.search(r"own.png: \d \(\d+\.\d%\)", printed.replace("\n", " "))
        check_picture(out / "predicted.png")


@pytest.mark.parametrize(
    ("program", "options", "result"),
    [
        (digits.PROGRAM, (), "1×1×28×28 → 1×10"),
        (unet.PROGRAM, ("--width", "2", "--input", "1", "188", "204"), "1×1×188×204 → 1×2×4×20"),
        (any_size.PROGRAM, (), "1×3×96×96 → 1×10"),
        (regularised.PROGRAM, ("--variant", "group-norm"), "1×1×28×28 → 1×10"),
        (transformer.PROGRAM, (), "1×1×28×28 → 1×10"),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_a_program_describes_its_network(program, options, result, run):
    printed = run(program, "describe", *options)
    assert result in printed
    shape = tuple(map(int, result.split(" ")[0].split("×")[1:]))
    classes = 2 if program is unet.PROGRAM else 10
    network = made(program, *options, shape=shape, classes=classes)
    assert f"{parameters(network):,} parameters" in printed
    for kind in {"Conv2d", "Linear", "GroupNorm", "MaxPool2d"} & set(kinds(network)):
        assert kind in printed


def test_describe_lists_all_convolutions(run):
    printed = run(digits.PROGRAM, "describe", "--form", "blocks", "--kind", "Conv2d")
    lines = [re.split(r"\s*│\s*", line)[1:5] for line in printed.splitlines() if "│" in line]
    assert lines == [
        ["conv1", "Conv2d", "320", "1×32×28×28"],
        ["conv2", "Conv2d", "18,496", "1×64×14×14"],
        ["conv3", "Conv2d", "73,856", "1×128×7×7"],
    ]


def test_compare_trains_every_variant_alike(run, no_figures, rows, tmp_path):
    options = ("--data", rows, "--few", 20, "--batch-size", 10, "--epochs", 1)
    printed = run(regularised.PROGRAM, "compare", *options, "--out", tmp_path)
    assert "20 pictures of" in printed
    check_picture(tmp_path / "comparison.png")
    for variant in regularised.VARIANTS:
        state = checkpoints.load(tmp_path / variant / "last.pt", "regularised")
        assert state["recipe"]["variant"] == variant and state["epoch"] == 1
