"""``ip.optimize``: equal results on any size, and a report that says what was done."""

from __future__ import annotations

import copy
import io
import operator
from collections import deque

import pytest
import torch
import torch.nn.functional as theirs
from torch import nn

import infinitypool as ip
import infinitypool.nn.functional as F
from infinitypool.nn.regions import Optimized, Specialised, expect_batch, expect_length

TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 6e-2}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def evaluated(model):
    """In evaluation, with running statistics that a mistake would not leave unnoticed."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


def assert_close(got, wanted):
    share = TOLERANCES[wanted.dtype]
    assert got.dtype == wanted.dtype
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(got, wanted, rtol=share, atol=share * largest)


def optimized(model, *inputs):
    """The optimised model, after a look at all inputs; it was made from the first."""
    result = ip.optimize(model, inputs[0])
    with torch.no_grad():
        for x in inputs:
            assert_close(result(x.clone()), model(x.clone()))
    return result


def actions(model):
    return {(row.path, row.action) for row in model.report}


def graph_kinds(model):
    """The layers that a graph calls, by their class's name."""
    return [
        type(model.get_submodule(node.target)).__name__
        for node in model.graph.nodes
        if node.op == "call_module"
    ]


# --- networks ------------------------------------------------------------------------------


def vgg(pool=nn.MaxPool2d, norm=nn.BatchNorm2d):
    def block(a, b):
        return [nn.Conv2d(a, b, 3, padding=1), norm(b), nn.ReLU(inplace=True), pool(2)]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(12, 5)]
    return nn.Sequential(*block(3, 8), *block(8, 12), *head)


class Bottleneck(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, channels, 1), nn.BatchNorm2d(channels, affine=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x
        return self.relu(y)


class Dense(nn.Module):
    """Pre-activation: norms see sums of channels that nobody else may change."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(2))
        self.norm, self.conv = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(theirs.relu(norm(x)))], 1)
        return theirs.avg_pool2d(self.conv(theirs.relu(self.norm(x))), 2)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.mid = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.PReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 4, 2, 2, groups=2), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        skip = self.down(x)
        y = self.up(self.mid(theirs.max_pool2d(skip, 2)))
        return self.head(torch.cat([skip, y], 1))


class Transformer(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, width)
        )

    def forward(self, x, mask=None):
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, length, 3, 2, width // 2).permute(2, 3, 0, 1, 4)
        found = theirs.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(found.permute(1, 2, 0, 3).reshape(*x.shape[:-1], width))
        return x + self.mlp(self.norm2(x))


class Branching(nn.Module):
    """What is done depends on an element, and what lies around it can be traced."""

    def __init__(self):
        super().__init__()
        self.before, self.after = vgg()[:4], nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        x = self.before(x)
        if x.sum() > 0:
            x = x * 2
        return self.after(x)


PICTURES = [torch.rand(2, 3, 32, 32), torch.rand(3, 3, 40, 48), torch.rand(1, 3, 64, 32)]
NETWORKS = {
    "vgg": (vgg, PICTURES, {"folded": 2, "moved": 2, "dropped": 1}),
    "vgg, averages": (lambda: vgg(nn.AvgPool2d), PICTURES, {"folded": 2, "dropped": 1}),
    "vgg, groups": (
        lambda: vgg(norm=lambda n: nn.GroupNorm(2, n)),
        PICTURES,
        {"moved": 2, "dropped": 1},
    ),
    "bottleneck": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), Bottleneck(8), Bottleneck(8)),
        PICTURES,
        {"folded": 6},
    ),
    "dense": (Dense, PICTURES, {"fused": 4, "moved": 1}),
    "unet": (UNet, PICTURES, {"folded": 2, "fused": 1}),
    "transformer": (
        Transformer,
        [torch.rand(2, 5, 16), torch.rand(3, 9, 16)],
        {"fused": 2, "dropped": 1},
    ),
    "branching": (
        Branching,
        [torch.rand(2, 3, 32, 32) - 0.5, torch.rand(1, 3, 16, 24), -torch.rand(1, 3, 16, 24)],
        {"folded": 2, "moved": 1, "left": 1},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_same_on_every_size(name):
    make, inputs, wanted = NETWORKS[name]
    model = evaluated(make())
    result = optimized(model, *inputs)
    counts = {a: n for a, n in result.report.counts.items() if a != "replaced"}
    assert counts == wanted


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(name, dtype):
    make, inputs, wanted = NETWORKS[name]
    model = evaluated(make()).to(dtype)
    result = optimized(model, *(x.to(dtype) for x in inputs))
    counts = {a: n for a, n in result.report.counts.items() if a != "replaced"}
    assert counts == wanted


@pytest.mark.parametrize("name", ["vgg", "bottleneck", "dense", "unet"])
def test_channels_last_stays(name):
    make, inputs, _ = NETWORKS[name]
    model = evaluated(make()).to(memory_format=torch.channels_last)
    last = [x.to(memory_format=torch.channels_last) for x in inputs]
    result = optimized(model, *last)
    with torch.no_grad():
        assert result(last[0]).stride() == model(last[0]).stride()


def test_the_report_says_what_the_graph_shows():
    model = evaluated(vgg())
    result = optimized(model, *PICTURES)
    assert isinstance(result, Optimized)
    assert graph_kinds(result) == [
        *("Conv2d", "MaxPool2d", "ReLU") * 2, "AdaptiveAvgPool2d", "Flatten", "Linear",
    ]  # fmt: skip
    rows = {(row.path, row.kind, row.action, row.note) for row in result.report}
    assert rows == {
        ("1", "BatchNorm2d", "folded", "into 0"),
        ("5", "BatchNorm2d", "folded", "into 4"),
        ("2", "ReLU", "moved", "behind 3"),
        ("6", "ReLU", "moved", "behind 7"),
        ("10", "Dropout", "dropped", ""),
        ("3", "MaxPool2d", "replaced", "by ours"),
        ("7", "MaxPool2d", "replaced", "by ours"),
        ("8", "AdaptiveAvgPool2d", "replaced", "by ours"),
    }
    assert "behind 3" in str(result.report)


def test_a_sum_and_its_norm_are_one():
    class Post(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(x + self.linear(x))

    result = optimized(Post().eval(), torch.rand(2, 5, 8), torch.rand(3, 8), torch.rand(0, 8))
    assert graph_kinds(result) == ["Linear", "AddLayerNorm"]
    assert actions(result) == {("norm", "fused")}


def test_a_sum_with_something_smaller_stays():
    class Position(nn.Module):
        def __init__(self):
            super().__init__()
            self.place, self.norm = nn.Parameter(torch.rand(1, 8)), nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(x + self.place)

    result = optimized(Position().eval(), torch.rand(5, 8), torch.rand(3, 8))
    assert result.report.counts == {"replaced": 1}


def test_averages_come_before_pointwise_convolutions():
    model = nn.Sequential(nn.Conv2d(6, 4, 1, groups=2), nn.AvgPool2d(2)).eval()
    result = optimized(model, torch.rand(2, 6, 8, 8), torch.rand(1, 6, 9, 11))
    assert graph_kinds(result) == ["AvgPool2d", "Conv2d"]
    for other in (nn.AvgPool2d(2, padding=1), nn.AvgPool2d(3, ceil_mode=True)):
        kept = optimized(nn.Sequential(model[0], other).eval(), torch.rand(2, 6, 8, 8))
        assert actions(kept) == {("1", "replaced")}


def test_a_norm_goes_behind_a_maximum_only_if_it_rises():
    rising = evaluated(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)))
    result = optimized(rising, *PICTURES)
    assert graph_kinds(result) == ["MaxPool2d", "BatchNorm2d"]
    falling = copy.deepcopy(rising)
    nn.init.constant_(falling[0].weight, -1.0)
    result = optimized(falling, *PICTURES)
    assert graph_kinds(result) == ["BatchNormPool2d", "ReLU"]


def test_a_norm_goes_behind_a_mean():
    model = evaluated(nn.Sequential(nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3)))
    nn.init.constant_(model[0].weight, -1.0)
    assert graph_kinds(optimized(model, *PICTURES)) == ["AvgPool2d", "BatchNorm2d", "Conv2d"]
    padded = nn.Sequential(model[0], nn.AvgPool2d(2, padding=1)).eval()
    assert "moved" not in optimized(padded, *PICTURES).report.counts


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, return_indices=True),  # zeros would tie elsewhere
        nn.MaxPool2d(3, stride=1),  # nothing to gain
        nn.MaxPool2d(2, dilation=3, padding=1),  # a window may lie in the padding alone
    ],
)
def test_pools_that_an_activation_must_not_pass(pool):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), pool).eval()
    result = ip.optimize(model, PICTURES[0])
    assert "moved" not in result.report.counts and not result.report.left
    got, wanted = result(PICTURES[1]), model(PICTURES[1])
    for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, wanted)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.Sigmoid()])
def test_whatever_rises_passes_a_maximum(activation):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.MaxPool2d(2)).eval()
    result = optimized(model, *PICTURES)
    assert ("1", "moved") in actions(result)
    bad = torch.full((1, 3, 8, 8), float("nan"))
    assert result(bad).isnan().all()


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.LeakyReLU(-0.5), nn.Mish()])
def test_what_falls_somewhere_stays_before_a_maximum(activation):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.MaxPool2d(2)).eval()
    assert "moved" not in optimized(model, *PICTURES).report.counts


@pytest.mark.parametrize(
    "flatten",
    [
        nn.Flatten(),
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: x.view(x.size(0), -1),
    ],
)
def test_no_look_at_axes_that_are_certain(flatten):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), flatten
            self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(self.linear(self.flatten(self.pool(x))))

    result = optimized(evaluated(Head()), *PICTURES)
    assert isinstance(result, Optimized) and graph_kinds(result)[-1] == "Linear"


def test_one_look_is_enough_for_a_residual():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.last, self.last_norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.last_norm(self.last(x + theirs.relu(self.norm(self.linear(x)))))

    result = optimized(evaluated(Residual()), torch.rand(3, 4), torch.rand(2, 4, 4))
    assert result.report.counts["folded"] == 2
    assert [n.target for n in result.traced.graph.nodes].count(expect_length) == 1


def test_softplus_falls_at_its_threshold():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(threshold=0), nn.MaxPool2d(2)).eval()
    nn.init.constant_(model[0].bias, 5.0)  # the example does not show it
    x = torch.rand(2, 3, 16, 16)
    assert actions(optimized(model, x, 10 * x - 10)) == {("2", "replaced")}


@pytest.mark.parametrize("activation", [nn.Softsign(), nn.LeakyReLU(0.0), nn.PReLU(init=0.0)])
def test_what_makes_nan_of_infinity_stays_before_a_maximum(activation):
    model = nn.Sequential(activation, nn.MaxPool2d(2)).eval()
    result = ip.optimize(model, PICTURES[0])
    assert actions(result) == {("1", "replaced")}
    x = torch.tensor([[[[-float("inf"), 1.0], [2.0, 3.0]]]])
    assert model(x).isnan().all() and result(x).isnan().all()


def test_parameters_that_others_read_stay():
    class Decoding(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.norm = nn.Linear(8, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return theirs.linear(
                theirs.dropout(self.norm(self.encode(x)), 0.5, False), self.encode.weight.t()
            )

    result = optimized(evaluated(Decoding()), torch.rand(3, 8), torch.rand(2, 8))
    (left,) = result.report.left
    assert left.note == "not folded: parameters of encode are used elsewhere too"
    assert result.report.counts["dropped"] == 1


class InPlace(nn.Module):
    """Somebody sees what an in-place function changes, though not for every input."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 3, 3), nn.LayerNorm(6), how
        nn.init.constant_(self.conv.bias, 3.0)  # nothing to change for small inputs

    def forward(self, x):
        x = self.conv(x)
        if self.how == "later":
            y = theirs.max_pool2d(torch.relu_(x), 2)
            return y.sum() + x.sum()
        if self.how == "view":
            rows = x.flatten(1)
            y = theirs.max_pool2d(torch.relu_(x), 2)
            return y.sum() + rows.sum()
        if self.how == "between":
            y = torch.tanh(x)
            torch.relu_(x)
            return theirs.max_pool2d(y, 2)
        y = x + torch.tanh(x)
        torch.relu_(x)
        return self.norm(y)


@pytest.mark.parametrize("how", ["later", "view", "between", "sum"])
def test_nothing_moves_past_a_change_in_place(how):
    model = InPlace(how).eval()
    x = torch.rand(2, 3, 8, 8)
    result = optimized(model, x, x - 10)
    assert {action for _, action in actions(result)} <= {"replaced"}


def test_a_change_in_place_that_nobody_sees():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear, self.norm = nn.Conv2d(3, 3, 3), nn.Linear(6, 8), nn.LayerNorm(8)

        def forward(self, x):
            x = theirs.max_pool2d(torch.relu_(self.conv(x)), 2)
            y = self.linear(x)
            y += self.linear(x)
            return self.norm(y)

    result = optimized(Alone().eval(), torch.rand(2, 3, 14, 14), torch.rand(1, 3, 17, 14))
    counts = {a: n for a, n in result.report.counts.items() if a != "replaced"}
    assert counts == {"moved": 1, "fused": 1}


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.pool, self.drop, self.point = nn.MaxPool2d(2), nn.Dropout(), nn.Conv2d(4, 4, 1)
        self.mean, self.group = nn.AvgPool2d(2), nn.GroupNorm(2, 4)

    def forward(self, x):
        x = self.norm(input=self.conv(input=x))
        x = self.drop(input=self.pool(input=self.relu(input=x)))
        x = self.mean(input=self.point(input=x))
        x = theirs.relu(input=self.group(input=x))
        x = theirs.dropout(input=x, p=0.5, training=self.training)
        return theirs.max_pool2d(input=theirs.silu(input=x), kernel_size=2)


def test_layers_called_by_name():
    result = optimized(evaluated(ByName()), *PICTURES)
    counts = {a: n for a, n in result.report.counts.items() if a != "replaced"}
    assert counts == {"dropped": 2, "folded": 1, "moved": 2, "fused": 1}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("stem", ["Conv", "ConvTranspose"])
def test_a_folded_norm_still_asks_for_a_batch(n, stem):
    conv, norm = getattr(nn, f"{stem}{n}d"), getattr(nn, f"BatchNorm{n}d")
    model = nn.Sequential(conv(3, 8, 1), norm(8), nn.ReLU(), conv(8, 8, 1), norm(8))
    model = evaluated(model)
    x = torch.rand(2, 3, *[8] * n)
    result = optimized(model, x)
    assert result.report.counts["folded"] == 2
    with pytest.raises(ValueError, match=f"expected an input with {2 + n} axes.*got {1 + n}"):
        result(x[0])
    checks = [node for node in result.graph.nodes if node.target is expect_batch]
    assert len(checks) == 1  # the second is certain
    stored = copy.deepcopy(result)
    with pytest.raises(ValueError, match="expected an input"):
        stored(x[0])


def test_a_norm_over_a_single_line_is_not_folded():
    model = evaluated(nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8)))
    nn.init.constant_(model[1].running_mean, 0.0)  # every feature the same
    for name in ("running_var", "weight"):
        nn.init.constant_(getattr(model[1], name), 1.0)
    nn.init.constant_(model[1].bias, 0.0)
    result = optimized(model, torch.rand(3, 8))
    (left,) = result.report.left
    assert "not given a batch" in left.note


class Twice(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norm, self.how = nn.BatchNorm2d(3), how

    def forward(self, x):
        x = self.conv(x)
        if self.how == "shared":
            return self.norm(self.conv(x))
        return self.norm(x) + x


@pytest.mark.parametrize("how, why", [("shared", "called 2 times"), ("output", "used elsewhere")])
def test_a_convolution_that_others_need_stays(how, why):
    result = optimized(evaluated(Twice(how)), *PICTURES)
    (left,) = result.report.left
    assert left.path == "norm" and why in left.note
    assert isinstance(result, Twice)  # no graph takes the place of what it would not better


def test_why_a_norm_was_not_folded():
    def model(conv, norm):
        return evaluated(nn.Sequential(conv, norm, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))

    plain = nn.Conv2d(3, 4, 3)
    scaled = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    hooked = nn.Conv2d(3, 4, 3)
    hooked.register_forward_hook(lambda module, args, output: 2 * output)
    none = nn.BatchNorm2d(4, track_running_stats=False)
    for conv, norm, why in (
        (plain, none, "the input's own statistics"),
        (scaled, nn.BatchNorm2d(4), "is parametrised"),
        (hooked, nn.BatchNorm2d(4), "has a hook"),
    ):
        result = optimized(model(conv, norm), *PICTURES)
        (left,) = result.report.left
        assert left.path == "1" and why in left.note
        assert ("3", "folded") in actions(result)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_all_convolutions_fold(n, transposed):
    name = f"Conv{'Transpose' if transposed else ''}{n}d"
    conv = getattr(nn, name)(4, 6, 3, stride=2, groups=2, bias=n == 2)
    model = evaluated(nn.Sequential(conv, getattr(nn, f"BatchNorm{n}d")(6))).double()
    result = optimized(model, torch.rand(2, 4, *[9] * n, dtype=torch.float64))
    assert graph_kinds(result) == [name]


def test_a_linear_layer_folds_where_it_gives_rows_of_features():
    rows = evaluated(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    result = optimized(rows, torch.rand(3, 5), torch.rand(7, 5), torch.rand(2, 4, 5))
    assert graph_kinds(result.traced) == ["Linear"]
    lines = evaluated(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    assert "folded" not in optimized(lines, torch.rand(3, 4, 5)).report.counts


# --- arguments, sizes, side effects ----------------------------------------------------------


def test_other_arguments_than_the_example_s():
    model = evaluated(nn.ModuleDict({"block": Transformer()}))["block"]
    x, mask = torch.rand(2, 5, 16), torch.rand(5, 5) > 0.3
    result = ip.optimize(model, {"x": x})
    assert isinstance(result, Specialised)
    for arguments in ((x,), (x, None), (x, mask)):
        assert_close(result(*arguments), model(*arguments))
    assert_close(result(x, mask=mask), model(x, mask=mask))
    with pytest.raises(TypeError, match="colour"):
        result(x, colour=1)


def test_a_branch_on_a_size_is_taken_anew():
    class Halving(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = vgg()[:4]

        def forward(self, x):
            if x.shape[-1] > 100:
                x = x[..., ::2]
            return self.block(x)

    model = evaluated(Halving())
    result = optimized(model, torch.rand(1, 3, 16, 16), torch.rand(2, 3, 16, 120))
    assert result.report.counts["folded"] == 1


def test_what_was_found_for_the_example_alone_is_not_kept():
    class Baked(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.seen = vgg()[:4], []

        def forward(self, x):
            self.seen.append(self.block(x))
            return self.seen.pop() + 1

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = vgg()[:4]

        def forward(self, x):
            return self.block(x + torch.rand(()))

    model = evaluated(Noisy())
    result = ip.optimize(model, PICTURES[0])
    (left,) = result.report.left
    assert left.kind == "Noisy" and "other results" in left.note
    assert ("block.1", "folded") in actions(result)
    optimized(evaluated(Baked()), *PICTURES)


def test_a_module_that_stores_what_it_sees_is_left():
    class Storing(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.last = vgg()[:4], None

        def forward(self, x):
            self.last = self.block(x)
            return self.last

    model = evaluated(Storing())
    result = optimized(model, *PICTURES)
    assert [row.note for row in result.report.left] == ["stores an attribute while it runs: last"]
    assert result.last.shape == (1, 8, 32, 16)
    assert ("block.1", "folded") in actions(result)


@pytest.mark.parametrize("kind", [list, dict, set, deque])
@pytest.mark.parametrize("nested", [False, True])
def test_a_module_that_fills_a_container_is_left(kind, nested):
    class Filling(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.kept = vgg()[:4], (kind(), {"inner": kind()})

        def forward(self, x):
            kept = self.kept[1]["inner"] if nested else self.kept[0]
            y = self.block(x)
            if kind is dict:
                kept[x.shape[-1]] = y
            elif kind is set:
                kept.add(x.shape[-1])
            else:
                kept.append(y)
            return y

    result = ip.optimize(evaluated(Filling()), PICTURES[0])
    assert [row.note for row in result.report.left] == ["stores an attribute while it runs: kept"]
    assert ("block.1", "folded") in actions(result)
    for container in (result.kept[0], result.kept[1]["inner"]):
        found = [*container.values()] if kind is dict else [*container]
        assert all(type(value) in (torch.Tensor, int) for value in found)
        container.clear()
    result(PICTURES[1])
    assert len(result.kept[1]["inner"] if nested else result.kept[0]) == 1


@pytest.mark.parametrize(
    "name", ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"]
)
def test_an_argument_is_changed_as_the_model_does(name):
    class Changing(nn.Module):
        def forward(self, x):
            n = size = x.shape[0]
            n += 1  # makes another number
            y = getattr(operator, name)(x, 2)
            return theirs.relu(theirs.dropout(y, 0.5, False)) + (n - size)

    whole = name in ("iand", "ior", "ixor")
    x = torch.randint(-9, 9, (4, 5)) if whole else torch.randn(4, 5)
    mine, wanted = x.clone(), x.clone()
    result = ip.optimize(Changing().eval(), x.clone())
    assert result.report.counts["dropped"] == 1
    assert torch.equal(result(mine), Changing()(wanted))
    assert torch.equal(mine, wanted) and not torch.equal(mine, x)


def test_it_works_in_inference_mode():
    model = evaluated(vgg())
    with torch.inference_mode():
        result = ip.optimize(model, torch.rand(1, 3, 32, 32))
    assert not any(t.is_inference() for t in result.state_dict().values())
    assert_close(result(PICTURES[1]), model(PICTURES[1]))


@pytest.mark.parametrize("in_place", [False, True])
def test_a_module_that_counts_in_a_buffer_is_left(in_place):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = vgg()[:4]
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            if in_place:
                self.count += 1
            else:
                self.count = self.count + 1
            return self.block(x)

    result = optimized(evaluated(Counting()), *PICTURES)
    assert [row.note for row in result.report.left] == ["stores an attribute while it runs: count"]
    before = int(result.count)
    result(PICTURES[0])
    assert int(result.count) == before + 1


@pytest.mark.parametrize("name", ["code", "graph", "recompile"])
def test_a_part_named_as_graphs_name_theirs(name):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, name, vgg()[:4])

        def forward(self, x):
            return theirs.relu(getattr(self, name)(x))

    result = optimized(evaluated(Named()), *PICTURES)
    assert [row.note for row in result.report.left] == [
        f"has a part with a name that graphs need: {name}"
    ]
    assert (f"{name}.1", "folded") in actions(result)


def test_hooks_run_as_before():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = vgg()[:4]

        def forward(self, x):
            return theirs.relu(self.block(x))

    model = evaluated(Parent())
    model.block.register_forward_hook(lambda module, args, output: output - 0.5)
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    result = optimized(model, *PICTURES)
    assert ("block.1", "folded") in actions(result)


# --- the result is a module ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg", "branching", "transformer"])
def test_copies_and_storage(name):
    make, inputs, _ = NETWORKS[name]
    x = inputs[0]
    result = ip.optimize(evaluated(make()), x)
    duplicate = copy.deepcopy(result)
    assert torch.equal(duplicate(x), result(x))
    assert str(duplicate.report) == str(result.report)
    assert not any(module.training for module in duplicate.modules())
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.zero_()
    assert not torch.equal(duplicate(x), result(x))
    duplicate.load_state_dict(result.state_dict())
    assert torch.equal(duplicate(x), result(x))


def test_it_can_be_stored_and_loaded():
    model = evaluated(vgg())
    result = ip.optimize(model, PICTURES[0])
    stored = io.BytesIO()
    torch.save(result, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    assert torch.equal(loaded(PICTURES[1]), result(PICTURES[1]))
    assert str(loaded.report) == str(result.report)
    with pytest.raises(RuntimeError, match="no training mode"):
        loaded.train()


def test_there_is_no_training_mode():
    result = ip.optimize(evaluated(vgg()), PICTURES[0])
    assert result.eval() is result
    with pytest.raises(RuntimeError, match="no training mode"):
        result.train()
    assert not any(module.training for module in result.modules())


def test_the_original_stays_as_it_was():
    model = evaluated(vgg())
    before = {name: (t.data_ptr(), t.clone()) for name, t in model.state_dict().items()}
    kinds, hooks = [type(m) for m in model.modules()], len(model._forward_pre_hooks)
    result = ip.optimize(model, PICTURES[0])
    assert [type(m) for m in model.modules()] == kinds
    assert len(model._forward_pre_hooks) == hooks
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == before[name][0] and torch.equal(tensor, before[name][1])
    mine = {t.data_ptr() for t in model.state_dict().values()}
    assert not mine & {t.data_ptr() for t in result.state_dict().values() if t.numel()}


def test_functions_become_ours():
    class Functions(nn.Module):
        def forward(self, x):
            x = theirs.dropout(theirs.max_pool2d(x, 2), 0.5, self.training)
            return theirs.adaptive_avg_pool2d(theirs.avg_pool2d(x, 2), 1)

    result = optimized(Functions().eval(), *PICTURES)
    called = [n.target for n in result.graph.nodes if n.op == "call_function"]
    assert called == [F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d]
    assert result.report.counts == {"dropped": 1, "replaced": 3}


def test_an_optimised_model_can_be_optimised():
    once = ip.optimize(evaluated(vgg()), PICTURES[0])
    twice = ip.optimize(once, PICTURES[0])
    assert torch.equal(twice(PICTURES[1]), once(PICTURES[1]))


@pytest.mark.parametrize("name", ["vgg", "transformer", "unet"])
def test_it_compiles_and_exports(name):
    make, inputs, _ = NETWORKS[name]
    result = ip.optimize(evaluated(make()), inputs[0])
    compiled = torch.compile(result, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for x in inputs:
            assert_close(compiled(x), result(x))
        sizes = {0: torch.export.Dim.DYNAMIC}
        # With several arguments the signature is (*args, **kwargs), so sizes stand one level deeper.
        shapes = ((sizes,),) if isinstance(result, Specialised) else (sizes,)
        program = torch.export.export(result, (inputs[0],), dynamic_shapes=shapes, strict=False)
        one_more = torch.cat([inputs[0], inputs[0][:1]])
        assert_close(program.module()(one_more), result(one_more))


# --- bad input -------------------------------------------------------------------------------


def test_what_cannot_be_optimised():
    x, model = PICTURES[0], vgg().eval()
    with pytest.raises(TypeError, match="must be a torch.nn.Module, not function"):
        ip.optimize(lambda y: y, x)
    with pytest.raises(ValueError, match=r"training mode; call model.eval\(\)"):
        ip.optimize(vgg(), x)
    with pytest.raises(TypeError, match=r"1 \(RecursiveScriptModule\).*torch.jit"):
        ip.optimize(nn.Sequential(nn.ReLU(), torch.jit.script(nn.Sequential(nn.ReLU()))).eval(), x)
    with pytest.raises(TypeError, match="is compiled"):
        ip.optimize(torch.compile(model), x)
    with pytest.raises(ValueError, match=r"0 \(LazyConv2d\)"):
        ip.optimize(nn.Sequential(nn.LazyConv2d(4, 3)).eval(), x)
    with pytest.raises(RuntimeError, match="channels"):
        ip.optimize(model, torch.rand(1, 5, 32, 32))


def test_a_model_that_draws_without_a_seed_is_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    with pytest.raises(RuntimeError, match="do not agree"):
        ip.optimize(Counting().eval(), torch.ones(2))


def test_a_part_in_training_mode_stays_in_it():
    model = evaluated(vgg())
    model[10].train()
    result = ip.optimize(model, PICTURES[0])
    assert ("10", "dropped") not in actions(result)
    assert [m for m in result.modules() if m.training and isinstance(m, nn.Dropout)]
    assert result.report.counts["folded"] == 2
