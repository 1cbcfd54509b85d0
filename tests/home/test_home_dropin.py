"""``infinitypool.nn`` where a program wants ``torch.nn``: names, imports, and a model's source."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn as theirs
import torch.nn.functional as their_functions

import infinitypool
import infinitypool.nn as ours
import infinitypool.nn.functional as our_functions

pytestmark = pytest.mark.once

SPACES = [(ours, theirs), (our_functions, their_functions)]


def _is_ours(value):
    return getattr(value, "__module__", getattr(value, "__name__", "")).startswith("infinitypool")


@pytest.mark.parametrize("mine, original", SPACES)
def test_every_name_is_pytorchs_object_or_ours(mine, original):
    names = [name for name in dir(original) if not name.startswith("_")]
    assert len(names) > 150
    replaced = []
    for name in names:
        value, theirs = getattr(mine, name), getattr(original, name)
        if value is not theirs:
            assert _is_ours(value), name
            assert type(value) is type(theirs) or callable(theirs), name
            replaced.append(name)
    own = [name for name in vars(mine) if name[0] != "_" and _is_ours(vars(mine)[name])]
    assert replaced == sorted(name for name in own if hasattr(original, name))
    assert len(replaced) >= {ours: 37 + 2, our_functions: 40}[mine]


def test_every_layer_of_pytorchs_name_is_ours():
    for part in (ours.modules, ours.norm_modules, ours.sync, ours.dropouts):
        for name in part.__all__:
            assert getattr(ours, name) is getattr(part, name) and _is_ours(getattr(ours, name))
    assert ours.functional is our_functions and ours.modules is not theirs.modules


@pytest.mark.parametrize("mine, original", [*SPACES, (ours.modules, theirs.modules)])
def test_other_names(mine, original):
    private = {name for name in dir(original) if name.startswith("_") and name[1] != "_"}
    assert private
    for name in private:
        assert hasattr(mine, name)
    assert set(dir(original)) <= set(dir(mine)) and dir(mine) == sorted(set(dir(mine)))
    for unknown in ("Conv7d", "__wrapped__"):
        message = f"module '{mine.__name__}' has no attribute '{unknown}'"
        with pytest.raises(AttributeError, match=message):
            getattr(mine, unknown)
        assert not hasattr(mine, unknown)
    if mine is not ours:
        assert mine.__name__.startswith("infinitypool.nn.") and mine.__spec__.name == mine.__name__


@pytest.mark.parametrize("mine, original", SPACES)
def test_a_star_brings_what_pytorchs_does(mine, original):
    got, wanted = {}, {}
    exec(f"from {mine.__name__} import *", got)
    exec(f"from {original.__name__} import *", wanted)
    assert set(wanted) <= set(got) and len(set(mine.__all__)) == len(mine.__all__)
    for name in wanted:
        assert name == "__builtins__" or got[name] is getattr(mine, name)


def test_what_is_looked_up_late_follows_pytorch(monkeypatch):
    monkeypatch.setattr(theirs, "Linear", "another")
    monkeypatch.setattr(their_functions, "added_later", "new", raising=False)
    assert ours.Linear == "another" and our_functions.added_later == "new"
    from infinitypool.nn import Linear

    assert Linear == "another"
    # But what PyTorch's module says of itself is not said of ours.
    monkeypatch.setattr(theirs, "__note__", "torch.nn's", raising=False)
    assert not hasattr(ours, "__note__")


def test_modules_below_modules():
    assert ours.modules.batchnorm is theirs.modules.batchnorm
    assert ours.modules.utils is theirs.modules.utils and ours.utils is theirs.utils
    assert ours.modules.dropout is theirs.modules.dropout
    for name in theirs.modules.__all__:
        assert getattr(ours.modules, name) is getattr(ours, name)
    from infinitypool.nn.modules.utils import _pair

    assert _pair is theirs.modules.utils._pair
    assert isinstance(ours.BatchNorm2d(3), ours.modules.batchnorm._BatchNorm)


IMPORTS = """
import sys
import torch
assert "torch.nn.utils.prune" not in sys.modules and "torch.nn.attention.bias" not in sys.modules
before = {n: m.__spec__ for n, m in sys.modules.items() if n.startswith("torch.nn.")}
import infinitypool.nn.utils.prune as first
import infinitypool.nn.init
import infinitypool.nn as nn
from infinitypool.nn.attention.bias import causal_lower_right
from infinitypool.nn.utils.rnn import pack_sequence
from infinitypool.nn.utils import clip_grad_norm_, parametrize
from infinitypool.nn.parameter import Parameter
import infinitypool.nn.modules.conv as conv
import torch.nn.utils.prune as second
import torch.nn.attention.bias
assert first is second is nn.utils.prune is torch.nn.utils.prune
assert infinitypool.nn.init is torch.nn.init and Parameter is torch.nn.Parameter
assert causal_lower_right is torch.nn.attention.bias.causal_lower_right
assert conv.Conv2d is torch.nn.Conv2d and pack_sequence is torch.nn.utils.rnn.pack_sequence
for name, module in list(sys.modules.items()):
    if name.startswith("torch.nn."):
        assert module.__spec__.name == module.__name__ == name, name
        assert before.get(name, module.__spec__) is module.__spec__
for name in ("infinitypool.nn.conv", "infinitypool.nn.utils.nothing", "infinitypool.nn.no.thing"):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        assert "infinitypool.nn." in str(error), error
    else:
        raise AssertionError(name)
print("fine")
"""

LAZY = """
import sys
import infinitypool as ip
assert {"nn", "convert", "revert", "optimize", "max_pool"} <= set(dir(ip))
assert not hasattr(ip, "no_such_name") and "torch" not in sys.modules
from infinitypool import convert, revert
assert "torch" in sys.modules and "torch._dynamo" not in sys.modules
assert convert is ip.convert is ip.nn.conversion.convert and revert is ip.revert
print("fine")
"""


@pytest.mark.parametrize("program", [IMPORTS, LAZY])
def test_imports_of_a_fresh_process(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stdout == "fine\n", done.stderr


def test_reloading_finds_our_own_files():
    for name in ("infinitypool.nn.functional", "infinitypool.nn.modules"):
        folder = Path(infinitypool.__file__).parent
        assert Path(importlib.util.find_spec(name).origin).is_relative_to(folder)
    before = ours.init.__spec__
    assert importlib.import_module("infinitypool.nn.init") is theirs.init
    assert theirs.init.__spec__ is before


@pytest.mark.parametrize("name", ["Conv2d", "Module", "MaxPool2d", "SyncBatchNorm", "Parameter"])
def test_classes_are_pickled_by_name(name):
    assert pickle.loads(pickle.dumps(getattr(ours, name))) is getattr(ours, name)


SOURCE = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import Conv2d, init
from torch.nn.modules.utils import _pair
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.parametrizations import weight_norm


class Block(nn.Module):
    def __init__(self, features: int, kernel=3) -> None:
        super().__init__()
        self.conv = weight_norm(Conv2d(features, features, _pair(kernel), padding=1))
        self.norms = nn.ModuleList([nn.BatchNorm2d(features), nn.GroupNorm(2, features)])
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout2d(0.0)

    def forward(self, x):
        for norm in self.norms:
            x = x + self.scale * F.relu(norm(self.conv(x)))
        return self.drop(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv2d(3, 8, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU())
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.block = Block(8)
        self.back = nn.MaxUnpool2d(2)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.LayerNorm(48), nn.Linear(48, 5)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight)
            elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
                if not isinstance(module, nn.modules.lazy.LazyModuleMixin):
                    nn.init.constant_(module.weight, 0.5)

    def forward(self, x):
        x, indices = self.pool(self.stem(x))
        x = self.back(self.block(x), indices)
        x = F.avg_pool2d(F.local_response_norm(x, 3), 3, 2, 1)
        return self.head(F.pad(x, (0, 1)))


def train(steps):
    torch.manual_seed(7)
    model, losses = Net(), []
    model(torch.rand(2, 3, 12, 14))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        x, wanted = torch.rand(4, 3, 12, 14), torch.randint(5, (4,))
        loss = nn.CrossEntropyLoss()(model(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return model, losses
"""


@pytest.fixture
def written(request):
    """The source as two modules, one of which differs in what it imports and nothing else."""
    made = []
    for package in ("torch.nn", "infinitypool.nn"):
        module = types.ModuleType(f"written_for_{package.replace('.', '_')}")
        sys.modules[module.__name__] = module
        request.addfinalizer(lambda name=module.__name__: sys.modules.pop(name))
        exec(SOURCE.replace("torch.nn", package), vars(module))
        made.append(module)
    return made


def test_a_models_source_runs_unchanged(written):
    (their_model, wanted), (our_model, got) = (module.train(4) for module in written)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert repr(our_model) == repr(their_model)
    a, b = our_model.state_dict(), their_model.state_dict()
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4, msg=name)
    our_model.load_state_dict(b)
    x = torch.rand(2, 3, 12, 14)
    torch.testing.assert_close(our_model.eval()(x), their_model.eval()(x))
    named = {type(m).__name__ for p, m in our_model.named_modules() if _is_ours(type(m))}
    assert named == {
        "AdaptiveAvgPool2d", "BatchNorm2d", "Dropout2d", "GroupNorm", "LayerNorm", "MaxPool2d",
        "MaxUnpool2d",
    }  # fmt: skip
    assert not any(_is_ours(type(m)) for m in their_model.modules())


def test_the_written_model_is_reverted_and_stored(written, tmp_path):
    (their_model, _), (our_model, _) = (module.train(1) for module in written)
    path = tmp_path / "state.pt"
    torch.save(our_model.state_dict(), path)
    their_model.load_state_dict(torch.load(path, weights_only=True))
    x = torch.rand(2, 3, 12, 14)
    wanted = their_model.eval()(x)
    reverted = infinitypool.revert(our_model).eval()
    assert not any(_is_ours(type(m)) for m in reverted.modules())
    torch.testing.assert_close(reverted(x), wanted)  # functions are still ours


def test_pytorchs_functions_compile_under_our_name():
    def function(x):
        size = our_functions._pair(1)  # looked up, not bound
        return our_functions.softmax(our_functions.relu(our_functions.pad(x, size)), -1)

    x = torch.randn(2, 3, 5)
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), function(x))
