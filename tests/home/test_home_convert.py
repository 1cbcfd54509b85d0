"""``convert`` and ``revert``: what of a model changes, what does not, and what they say of it."""

from __future__ import annotations

import copy
import doctest
import itertools
import pickle
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.testing._internal.common_modules import module_db

import infinitypool as ip
from infinitypool.nn import conversion

pytestmark = pytest.mark.once

OURS = {
    getattr(nn, name): getattr(ip.nn, name)
    for part in (ip.nn.modules, ip.nn.norm_modules, ip.nn.sync, ip.nn.dropouts)
    for name in part.__all__
    if hasattr(nn, name)
}


def is_ours(module):
    return type(module).__module__.startswith("infinitypool.")


def classes(model):
    return [type(module) for module in model.modules()]


def same(a, b, **tolerance):
    torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


# --- every layer ---------------------------------------------------------------------------


def test_the_table_has_every_layer_of_a_shared_name():
    assert {pair.theirs: pair.ours for pair in conversion._PAIRS} == OURS
    assert len(OURS) >= 37


INFOS = {info.module_cls: info for info in module_db if info.module_cls in OURS}
CASES = [
    (cls, dtype, training)
    for cls in INFOS
    for dtype in (torch.float32, torch.float64)
    for training in (False, True)
]
# What PyTorch ships no inputs for. Dropout draws its own numbers, so it drops all or nothing here.
BY_HAND = {
    **{cls: ((1.0,), {}) for cls in OURS if "Dropout" in cls.__name__ and cls is not nn.Dropout},
    nn.Dropout: ((0.0,), {}),
    **{getattr(nn, f"MaxUnpool{n}d"): ((2,), {}) for n in (1, 2, 3)},
    nn.SyncBatchNorm: ((4,), {}),
}


def test_pytorch_ships_inputs_for_most_layers():
    lazy = {cls for cls in OURS if cls.__name__.startswith("Lazy")}
    assert set(INFOS) | set(BY_HAND) | lazy == set(OURS) and not set(INFOS) & set(BY_HAND)
    assert len(INFOS) >= 27 and len(lazy) == 6


def run(module, args, kwargs):
    """Results, gradients of everything, and the state afterwards."""
    args = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
    floats = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
    for one in floats:
        one.requires_grad_()
    torch.manual_seed(3)
    result = module(*args, **kwargs)
    first = result[0] if isinstance(result, tuple) else result
    wanted = [*floats, *module.parameters()]
    if first.requires_grad:
        (
            first * torch.linspace(-1, 1, first.numel(), dtype=first.dtype).view_as(first)
        ).sum().backward()
    return result, [p.grad for p in wanted], dict(module.state_dict())


def check_layer(original, args, kwargs):
    cls = type(original)
    wanted = run(copy.deepcopy(original), args, kwargs)
    reference = copy.deepcopy(original)
    attributes = {**vars(original)}
    layer = copy.deepcopy(original)
    converted = ip.convert(layer)
    assert converted is layer and type(layer) is OURS[cls] and layer.training is original.training
    assert repr(layer) == repr(original) and layer._get_name() == original._get_name()
    assert list(vars(layer)) == list(attributes)
    same(layer.state_dict(), original.state_dict())
    assert layer.state_dict()._metadata == original.state_dict()._metadata
    got = run(layer, args, kwargs)
    same((got[0], got[2]), (wanted[0], wanted[2]))
    single = args[0].dtype is torch.float32
    for a, b in zip(got[1], wanted[1], strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            # PyTorch's power means have NaN for the gradient of a window whose sum is zero.
            known = b.isnan().logical_not() if "LPPool" in cls.__name__ else ...
            same(a[known], b[known], **({"rtol": 1e-3, "atol": 1e-4} if single else {}))
    layer.zero_grad()
    assert ip.revert(layer) is layer and type(layer) is cls
    assert list(vars(layer)) == list(attributes) and repr(layer) == repr(original)
    reference.load_state_dict(layer.state_dict())
    again = run(layer, args, kwargs)
    expected = run(reference, args, kwargs)
    for a, b in zip(again[1], expected[1], strict=True):
        same(a, b, rtol=0, atol=0)
    assert list(again[2]) == list(expected[2])


@pytest.mark.parametrize("cls, dtype, training", CASES)
def test_pytorchs_module_inputs(cls, dtype, training):
    info, seen = INFOS[cls], 0
    torch.manual_seed(0)
    for case in info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=False, training=training
    ):
        made, given = case.constructor_input, case.forward_input
        original = cls(*made.args, **made.kwargs).to(dtype).train(training)
        for index, parameter in enumerate(original.parameters()):
            parameter.data.copy_(torch.rand_like(parameter) + index)
        check_layer(original, given.args, given.kwargs)
        seen += 1
    assert seen


@pytest.mark.parametrize("cls", BY_HAND)
@pytest.mark.parametrize("training", [False, True])
def test_layers_by_hand(cls, training):
    args, kwargs = BY_HAND[cls]
    n = int(cls.__name__[-2]) if cls.__name__.endswith("d") else 2
    x = torch.rand(3, 4, *(4, 6, 2)[:n])
    given = (x,)
    if "Unpool" in cls.__name__:
        pool = getattr(nn.functional, f"max_pool{n}d")
        given = pool(x, 2, return_indices=True)
    check_layer(cls(*args, **kwargs).train(training), given, {})


# --- a model -------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.nothing = None
        self.register_module("absent", None)

    def forward(self, x):
        return self.pool(torch.relu(self.norm(self.conv(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norms = nn.ModuleDict({"group": nn.GroupNorm(2, 4), "layer": nn.LayerNorm(3)})
        self.drop = nn.Dropout(0.0)
        self.blocks[1].pool = self.blocks[0].pool
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(self.norms["layer"](self.norms["group"](x))))


# In double precision, so that several steps stay comparable.
INPUT = torch.linspace(-2, 2, 2 * 4 * 12 * 12, dtype=torch.float64).mul(50).sin().view(2, 4, 12, 12)


@pytest.fixture
def net():
    torch.manual_seed(1)
    return Net().double()


def step(model, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    loss = (model(INPUT) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), [p.detach().clone() for p in model.parameters()]


def test_a_model(net):
    reference, before = copy.deepcopy(net), classes(net)
    modules, state = list(net.named_modules()), {**net.state_dict(keep_vars=True)}
    net.blocks[0].norm.eval()
    net.drop.remark = "kept"
    flags = [module.training for module in net.modules()]
    assert ip.convert(net) is net
    assert [m for _, m in modules] == list(net.modules())
    assert [n for n, _ in modules] == [n for n, _ in net.named_modules()]
    assert [module.training for module in net.modules()] == flags
    assert net.drop.remark == "kept" and net.blocks[0].pool is net.blocks[1].pool
    assert all(v is state[k] for k, v in net.state_dict(keep_vars=True).items())
    assert classes(net) == [OURS.get(cls, cls) for cls in before] != before
    net.train()
    same(step(net), step(reference))
    same(net.state_dict(), reference.state_dict())
    assert ip.revert(net) is net and classes(net) == before
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(net(INPUT), copy.deepcopy(net)(INPUT))


def test_an_optimizer_goes_on(net):
    reference = copy.deepcopy(net)
    mine, theirs = (
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (net, reference)
    )
    for change in (lambda m: m, ip.convert, ip.revert, ip.convert):
        same(step(change(net), mine), step(reference, theirs))


def test_hooks_stay(net):
    said = []

    def note(name):
        return lambda *args: said.append(name) or None

    layer = net.blocks[0].norm
    handles = [
        layer.register_forward_hook(note("forward")),
        layer.register_forward_pre_hook(note("before")),
        layer.register_full_backward_hook(note("backward")),
        layer.register_full_backward_pre_hook(note("before backward")),
        layer.register_state_dict_post_hook(note("state")),
        layer.register_state_dict_pre_hook(note("before state")),
        layer.register_load_state_dict_pre_hook(note("before load")),
        layer.register_load_state_dict_post_hook(note("load")),
        layer.weight.register_hook(note("weight")),
    ]
    spoken = []
    for change in (lambda m: m, ip.convert, ip.revert):
        change(net)
        said.clear()
        net(INPUT).sum().backward()
        net.load_state_dict(net.state_dict())
        spoken.append(list(said))
    assert sorted(set(spoken[0])) == sorted({
        "forward", "before", "backward", "before backward", "state", "before state",
        "before load", "load", "weight",
    })  # fmt: skip
    assert spoken[0] == spoken[1] == spoken[2]
    ip.convert(net)
    for handle in handles:
        handle.remove()
    said.clear()
    net(INPUT).sum().backward()
    assert said == []


def test_twice_is_once(net):
    first = ip.convert(net, report=True)
    converted = classes(net)
    second = ip.convert(net, report=True)
    assert classes(net) == converted and not second.done
    left = [row.path for row in second.left if row.note == "ours already"]
    assert left == [row.path for row in first.done]
    ip.revert(net)
    third = ip.revert(net, report=True)
    assert not third.done
    assert left == [row.path for row in third.left if row.note == "PyTorch's already"]


def test_the_report(net):
    class MyPool(nn.MaxPool2d):
        def forward(self, x):
            return x

    net.mine = MyPool(2)
    report = ip.convert(net, report=True)
    assert [tuple(row) for row in report.done] == [
        (path, f"torch.nn.{name}", "replaced", f"infinitypool.nn.{name}")
        for path, name in [
            ("blocks.0.norm", "BatchNorm2d"),
            ("blocks.0.pool, blocks.1.pool", "MaxPool2d"),
            ("blocks.1.norm", "BatchNorm2d"),
            ("norms.group", "GroupNorm"),
            ("norms.layer", "LayerNorm"),
            ("drop", "Dropout"),
            ("head.0", "AdaptiveAvgPool2d"),
        ]
    ]
    mine, *others = report.left
    assert mine.path == "mine" and mine.kind.endswith("MyPool")
    assert mine.note.startswith("a subclass of torch.nn.MaxPool2d")
    assert [row[:2] for row in others] == [
        ("blocks.0.conv and 1 more", "torch.nn.Conv2d"),
        ("head.1", "torch.nn.Flatten"),
        ("head.2", "torch.nn.Linear"),
    ]
    assert {row.note for row in others} == {"this library has no such layer"}
    assert len(str(report).splitlines()) == 2 + 7 + 1 + 3
    (row,) = (line for line in str(report).splitlines() if line.startswith("drop"))
    assert row.split() == ["drop", "torch.nn.Dropout", "replaced", "infinitypool.nn.Dropout"]


def test_reports_of_little():
    empty = ip.convert(nn.Sequential(), report=True)
    assert [row[:3] for row in empty] == [("", "torch.nn.Sequential", "left")]
    root = nn.MaxPool2d(2)
    report = ip.convert(root, report=True)
    assert type(root) is ip.nn.MaxPool2d and report.done[0].path == ""
    assert "(model)" in str(report)


def test_examples():
    done = doctest.testmod(conversion, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted >= 6 and not done.failed


# --- what surrounds a model ----------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda m: m, ip.convert, lambda m: ip.revert(ip.convert(m))])
def test_copies_and_files(net, change, tmp_path):
    expected = copy.deepcopy(net).eval()(INPUT)
    change(net.eval())
    torch.save(net, tmp_path / "model.pt")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for again in (
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ):
        assert classes(again) == classes(net)
        same(again(INPUT), expected)
        assert again.load_state_dict(state, strict=True)
        assert again.blocks[0].pool is again.blocks[1].pool
    other = Net().double().eval()
    other.load_state_dict(state)
    same(other(INPUT), expected)
    net.load_state_dict(other.state_dict())
    same(net(INPUT), expected)


def test_another_process_loads_it(tmp_path):
    model = ip.convert(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)))
    model.double().eval()
    torch.save((model, INPUT, model(INPUT)), tmp_path / "all.pt")
    program = (
        "import sys, torch\n"
        "model, x, y = torch.load(sys.argv[1], weights_only=False)\n"
        "assert torch.equal(model(x), y)\n"
        "import infinitypool as ip\n"
        "assert type(model[2]) is ip.nn.MaxPool2d\n"
        "torch.testing.assert_close(ip.revert(model)(x), y)\n"
        "print(type(model[2]).__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "all.pt")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "torch.nn.modules.pooling\n", done.stderr


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _wrap_ddp(model):
    return nn.parallel.DistributedDataParallel(model)


@pytest.mark.parametrize("wrap", [nn.DataParallel, _wrap_ddp])
@pytest.mark.parametrize("change", [ip.convert, lambda m: ip.revert(ip.convert(m))])
@pytest.mark.parametrize("first", ["change", "wrap"])
def test_data_parallel(net, group, wrap, change, first):
    reference = copy.deepcopy(net)
    for _ in range(2):
        wanted = step(reference)
    model = wrap(change(net)) if first == "change" else change(wrap(net))
    step(model)
    same(step(model), wanted)
    assert is_ours(model.module.drop) is (change is ip.convert)
    model = ip.revert(model)
    assert not any(map(is_ours, model.modules()))
    same(step(model), step(reference))


def test_synchronised_batch_norm(group):
    layer = nn.SyncBatchNorm(4).double()
    with pytest.raises(ValueError, match="GPU"):
        _wrap_ddp(layer)
    ip.convert(layer)
    assert type(layer) is ip.nn.SyncBatchNorm
    model = _wrap_ddp(layer)
    same(model(INPUT), nn.BatchNorm2d(4).double()(INPUT))
    assert type(ip.revert(model).module) is nn.SyncBatchNorm


def test_meta_and_moves():
    model = ip.convert(Net().to("meta", torch.float64))
    assert model(INPUT.to("meta")).shape == (2, 3)
    there = model.to_empty(device="cpu")
    assert is_ours(there.drop) and there(INPUT).shape == (2, 3)
    assert ip.revert(there.float()).blocks[0].norm.weight.dtype == torch.float32


def test_graph_modules(net):
    graph = torch.fx.symbolic_trace(net.eval())
    expected = graph(INPUT)
    ip.convert(graph)
    assert is_ours(graph.drop) and is_ours(graph.get_submodule("blocks.0.pool"))
    same(graph(INPUT), expected)
    assert not any(map(is_ours, ip.revert(graph).modules()))


# --- layers with something about them ------------------------------------------------------


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


def _doubled(layer):
    parametrize.register_parametrization(layer, "weight", Doubled())


def _normed(layer):
    parametrizations.weight_norm(layer, dim=None)


PARAMETRISED = [_doubled, _normed]


@pytest.mark.parametrize("register", PARAMETRISED)
def test_parametrised_layers(register):
    layer = nn.BatchNorm2d(4).double()
    nn.init.uniform_(layer.weight)
    register(layer)
    model = nn.Sequential(layer)
    cls, reference = type(layer), copy.deepcopy(model)
    report = ip.convert(model, report=True)
    assert report.done[0] == (
        "0", "torch.nn.BatchNorm2d", "replaced", "infinitypool.nn.BatchNorm2d"
    )  # fmt: skip
    assert isinstance(layer, ip.nn.BatchNorm2d) and type(layer).__name__ == cls.__name__
    assert parametrize.is_parametrized(layer, "weight") and repr(model) == repr(reference)
    same(step(model), step(reference))
    same(copy.deepcopy(model)(INPUT), copy.deepcopy(reference)(INPUT))
    assert type(reference[0]) is cls and not is_ours(reference[0])
    same(model.state_dict(), reference.state_dict())
    with pytest.raises(RuntimeError, match="parametrized"):
        pickle.dumps(model)
    # One more of them, then back: the class has both.
    for one in (model, reference):
        parametrize.register_parametrization(one[0], "bias", Doubled())
    assert type(ip.revert(model)[0]).__bases__ == (nn.BatchNorm2d,)
    same(step(model), step(reference))
    ip.convert(model)
    for one in (model, reference):
        parametrize.remove_parametrizations(one[0], "weight")
        parametrize.remove_parametrizations(one[0], "bias")
    assert type(layer) is ip.nn.BatchNorm2d
    same(step(model), step(reference))
    assert type(ip.revert(model)[0]) is nn.BatchNorm2d


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "make, rework",
    [
        (lambda: nn.BatchNorm2d(4), lambda m: prune.l1_unstructured(m, "weight", 2)),
        (lambda: nn.LayerNorm(12), lambda m: prune.random_unstructured(m, "bias", 3)),
        (lambda: nn.LayerNorm((4, 12, 12)), lambda m: nn.utils.weight_norm(m)),
        (lambda: nn.LayerNorm((12, 12)), lambda m: nn.utils.spectral_norm(m)),
        (lambda: nn.GroupNorm(2, 4), lambda m: prune.l1_unstructured(m, "weight", 1)),
    ],
)
def test_weights_that_hooks_compute(make, rework):
    layers = []
    for _ in range(2):
        torch.manual_seed(0)
        layer = make().double()
        nn.init.uniform_(layer.weight)
        rework(layer)
        layers.append(layer)
    layer, reference = layers
    ip.convert(layer)
    assert is_ours(layer)
    for _ in range(2):
        same(step(layer), step(reference))
    assert type(ip.revert(layer)) is type(reference)
    same(step(layer), step(reference))


SINGLE = INPUT.float()  # a pickled lazy layer forgets its dtype
LAZY = [nn.LazyBatchNorm2d, nn.LazyInstanceNorm2d]


@pytest.mark.parametrize("cls", LAZY)
def test_lazy_layers(cls):
    becomes, options = cls.cls_to_become, {"affine": True}
    model, reference = (nn.Sequential(cls(**options), nn.LazyConv2d(3, 1)) for _ in range(2))
    for _ in range(2):
        report = ip.convert(model, report=True)
        assert type(model[0]) is OURS[cls] and repr(model) == repr(reference)
    assert report.left[0].note == "ours already" and report.left[1].kind == "torch.nn.LazyConv2d"
    assert type(ip.revert(model)[0]) is cls
    ip.convert(model)
    copied = pickle.loads(pickle.dumps(model))
    for one in (model, copied):
        one.eval()(SINGLE)
        assert type(one[0]) is OURS[becomes] and type(one[1]) is nn.Conv2d
    reference.eval()(SINGLE)
    model.load_state_dict(reference.state_dict())
    same(model.train()(SINGLE), reference.train()(SINGLE))
    assert (
        type(ip.revert(model)[0]) is becomes and vars(model[0]).keys() == vars(reference[0]).keys()
    )


class Silent(nn.MaxPool2d):
    pass


class OnOurs(ip.nn.MaxPool2d):
    pass


def test_subclasses_are_left_alone():
    model = nn.Sequential(Silent(2), OnOurs(2), nn.MaxPool2d(1))
    for function, base in ((ip.convert, "torch.nn"), (ip.revert, "torch.nn")):
        report = function(model, report=True)
        assert classes(model)[1:3] == [Silent, OnOurs]
        notes = [row.note for row in report.left]
        assert f"a subclass of {base}.MaxPool2d" in notes[0]
        assert "a subclass of infinitypool.nn.MaxPool2d" in notes[1]
        assert [row.path for row in report.done] == ["2"]


def test_quantised_modules_are_left_alone():
    model = nn.Sequential(
        torch.ao.nn.quantized.LayerNorm(4, *nn.LayerNorm(4).parameters(), 1.0, 0),
        torch.ao.nn.quantized.BatchNorm2d(4),
        torch.ao.nn.quantized.Dropout(0.5),
        torch.ao.nn.qat.Linear(3, 3, qconfig=torch.ao.quantization.default_qat_qconfig),
    )
    before = classes(model)
    report = ip.convert(model, report=True)
    assert classes(model) == before and not report.done
    assert [row.path for row in report.left][:3] == ["0", "2", "1"]
    assert report.left[2].kind == "torch.ao.nn.quantized.modules.batchnorm.BatchNorm2d"


def test_a_forward_of_its_own_is_left_alone():
    model = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2))
    original = model[0].forward
    model[0].forward = lambda x: original(x) + 1
    (row,) = ip.convert(model, report=True).left
    assert row.path == "0" and "forward" in row.note and type(model[0]) is nn.MaxPool2d
    assert type(model[1]) is ip.nn.MaxPool2d


BEYOND = [
    (ip.nn.BatchNorm2d(4, activation="relu"), "activation='relu'"),
    (ip.nn.SyncBatchNorm(4, activation="silu"), "activation='silu'"),
    (ip.nn.LayerNorm(12, negative_slope=0.5), "negative_slope=0.5"),
    (ip.nn.AvgPool2d(2, dilation=(1, 2)), "dilation=(1, 2)"),
    (ip.nn.AvgPool1d(2, padding="same"), "padding='same'"),
    (ip.nn.MaxPool2d(2, padding=((0, 1), (2, 0))), "padding=((0, 1), (2, 0))"),
]


@pytest.mark.parametrize("layer, what", BEYOND)
def test_what_pytorch_cannot_say_stays_ours(layer, what):
    layer = copy.deepcopy(layer)
    before, cls = dict(vars(layer)), type(layer)
    (row,) = ip.revert(layer, report=True).left
    assert row.note == f"PyTorch's has no {what}" and type(layer) is cls and vars(layer) == before


@pytest.mark.parametrize("layer", [ip.nn.GeM(), ip.nn.MinPool2d(2), ip.nn.AddLayerNorm(4)])
def test_what_pytorch_does_not_have_stays_ours(layer):
    cls = type(layer)
    (row,) = ip.revert(layer, report=True).left
    assert row.note == "PyTorch has no such layer" and type(layer) is cls
    assert ip.convert(layer, report=True).left[0].note == "ours already"


@pytest.mark.parametrize(
    "layer",
    [
        ip.nn.BatchNorm2d(4),
        ip.nn.AvgPool2d((2, 3), dilation=(1, 1)),
        ip.nn.AvgPool1d(2, padding=1),
        ip.nn.MaxPool2d(2, padding=(1, 0)),
        ip.nn.SyncBatchNorm(4),
        ip.nn.Dropout(0.3),
    ],
)
def test_layers_written_as_ours_become_pytorchs(layer):
    theirs = getattr(nn, type(layer).__name__)
    arguments = (layer.kernel_size,) if hasattr(layer, "kernel_size") else (4,)
    arguments = (layer.p,) if hasattr(layer, "p") else arguments
    assert type(ip.revert(layer)) is theirs
    assert vars(layer).keys() == vars(theirs(*arguments)).keys()
    assert type(ip.convert(layer)) is OURS[theirs]


def test_equal_modules_are_different_modules():
    class Same(nn.Module):
        def __init__(self, child):
            super().__init__()
            self.child = child

        def __eq__(self, other):
            return isinstance(other, Same)

        def __hash__(self):
            return 1

    model = nn.Sequential(Same(nn.MaxPool2d(2)), Same(nn.MaxPool2d(2)))
    assert len(ip.convert(model, report=True).done) == 2


# --- what cannot be converted --------------------------------------------------------------


@pytest.mark.parametrize("function", [ip.convert, ip.revert])
@pytest.mark.parametrize(
    "wrong, said",
    [
        (nn.MaxPool2d, "not the class MaxPool2d"),
        (None, "not None"),
        ([nn.MaxPool2d(2)], r"not \[MaxPool2d"),
        (torch.relu, "not <built-in"),
    ],
)
def test_what_is_no_module(function, wrong, said):
    name = function.__name__
    with pytest.raises(TypeError, match=rf"^{name}: model must be a torch.nn.Module, {said}"):
        function(wrong)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("function", [ip.convert, ip.revert])
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, INPUT)])
def test_scripted_models(function, make):
    scripted = make(nn.Sequential(nn.Sequential(nn.MaxPool2d(2))))
    with pytest.raises(RuntimeError, match=rf"^{function.__name__}: model is .*torch\.jit"):
        function(scripted)
    pool = nn.MaxPool2d(2) if function is ip.convert else ip.nn.MaxPool2d(2)
    model = nn.Sequential(pool, nn.Sequential(scripted))
    report = function(model, report=True)
    assert [row.path for row in report.done] == ["0"]
    (row,) = report.left
    assert row.path == "1.0" and "torch.jit" in row.note
    same(model(torch.ones(1, 4, 9, 9)), torch.ones(1, 4, 2, 2))


def _in_place(module):
    module.compile(backend="eager")
    return module


@pytest.mark.parametrize("function", [ip.convert, ip.revert])
@pytest.mark.parametrize("make", [lambda m: torch.compile(m, backend="eager"), _in_place])
def test_compiled_models(function, make):
    compiled = make(nn.Sequential(nn.MaxPool2d(2)))
    with pytest.raises(RuntimeError, match=rf"^{function.__name__}: model was compiled"):
        function(compiled)
    pool = nn.MaxPool2d(2) if function is ip.convert else ip.nn.MaxPool2d(2)
    model = nn.Sequential(pool, nn.ModuleDict({"body": compiled}))
    before = classes(model)
    with pytest.raises(RuntimeError, match=rf"^{function.__name__}: model\.1\.body was compiled"):
        function(model)
    assert classes(model) == before
    if make is not _in_place:
        function(compiled._orig_mod)
        same(compiled(INPUT), nn.functional.max_pool2d(INPUT, 2))


def test_a_failure_leaves_the_model_as_it_was(net, monkeypatch):
    """Whatever goes wrong, at whichever layer."""
    net.norms["lazy"] = nn.LazyBatchNorm2d()
    parametrize.register_parametrization(net.blocks[1].norm, "weight", Doubled())
    before, attributes = classes(net), [dict(vars(m)) for m in net.modules()]
    real = conversion._converted
    fell = set()
    for when, layout in itertools.product(range(8), ("plan", "apply")):
        count = itertools.count()

        def decide(module, when=when, layout=layout, count=count):
            decision = real(module)
            if isinstance(decision, conversion._Change) and next(count) == when:
                if layout == "plan":
                    raise KeyboardInterrupt
                # A class that no module can take on.
                return decision._replace(now=int)
            return decision

        monkeypatch.setattr(conversion, "_converted", decide)
        with pytest.raises((KeyboardInterrupt, TypeError)) as error:
            ip.convert(net)
        fell.add((when, error.type))
        assert classes(net) == before
        assert [dict(vars(m)) for m in net.modules()] == attributes
        assert [list(vars(m)) for m in net.modules()] == [list(a) for a in attributes]
    assert len(fell) == 16
    monkeypatch.undo()
    assert len(ip.convert(net, report=True).done) == 8
