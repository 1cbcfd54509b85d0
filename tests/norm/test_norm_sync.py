"""Batch normalisation over processes: what several find together is what one finds in all of it.

Run as a script, this file is one of the processes. Starting them takes seconds, so all cases are
computed in one go, and the tests look at what was written down.
"""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import socket
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from infinitypool import nn

pytestmark = pytest.mark.once

RANKS = 4
UNEVEN, EVEN = (5, 1, 3, 0), (2, 2, 2, 2)
HALVES = (torch.float16, torch.bfloat16)


@dataclass
class Case:
    """A module, and its input cut along the batch: one piece for each process."""

    name: str
    shape: tuple[int, ...] = (5, 4, 3)  # without the batch
    cut: tuple[int, ...] = UNEVEN
    dtype: torch.dtype = torch.float32
    parameters: torch.dtype | None = None  # None: as the input
    layout: str = "contiguous"
    gradient: str = "contiguous"
    mean: float = 0.5
    steps: int = 2
    frozen: tuple[str, ...] = ()  # of "input", "weight", "bias"
    module: dict = field(default_factory=dict)

    @property
    def parameter_dtype(self):
        return self.parameters or self.dtype

    def build(self, cls, dtype):
        result = cls(self.shape[0], dtype=dtype, **self.module)
        generator = torch.Generator().manual_seed(1)
        for name, tensor in result.named_parameters():
            values = 0.5 + torch.rand(tensor.shape, generator=generator)
            # Rounded to the case's dtype, so that the oracle has the same numbers.
            tensor.data.copy_(values.to(self.parameter_dtype))
            tensor.requires_grad_(name not in self.frozen)
        return result

    def batches(self):
        """The whole batch and its gradient, for every step. Samples differ in their means."""
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        size = (sum(self.cut), *self.shape)
        for _ in range(self.steps):
            x, g = torch.randn((2, *size), generator=generator, dtype=torch.float64)
            apart = torch.arange(size[0]).view(-1, *(1 for _ in self.shape)) / 2
            if self.gradient == "expanded":
                g = g[..., :1].expand(size)
            yield (x + apart + self.mean).to(self.dtype), g.to(self.dtype)


def arranged(x, layout):
    if layout == "channels last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "reversed":
        order = list(range(x.ndim))[::-1]
        return x.permute(order).contiguous().permute(order)
    if layout == "gaps":
        around = torch.full([2 * n + 1 for n in x.shape], torch.nan, dtype=x.dtype)
        return around[tuple(slice(1, 2 * n + 1, 2) for n in x.shape)].copy_(x)
    if layout == "expanded":
        return x if not x.numel() else x[..., :1].clone().expand(x.shape)
    return x.clone()


CASES = [
    *(Case(f"{n} axes, {layout}", (5, 4, 3, 2)[: n - 1], layout=layout)
      for n in (2, 3, 4, 5) for layout in ("contiguous", "channels last")),
    *(Case(f"{dtype}, {layout}, {parameters}", (6, 5, 4), dtype=dtype, layout=layout,
           parameters=parameters)
      for layout in ("contiguous", "channels last")
      for dtype, parameters in ((torch.float64, None), (torch.float16, None),
                                (torch.bfloat16, None), (torch.float16, torch.float32),
                                (torch.bfloat16, torch.float32))),
    *(Case(f"layout {layout}", layout=layout) for layout in ("reversed", "gaps")),
    *(Case(f"gradient {layout}", gradient=layout)
      for layout in ("channels last", "gaps", "expanded")),
    *(Case(f"cut {cut}", cut=cut)
      for cut in (EVEN, (0, 0, 4, 0), (0, 2, 0, 3), (1, 0, 0, 0), (7, 1, 1, 1))),
    Case("one value in each", (5,), cut=(1, 1, 1, 1)),
    Case("two values", (5,), cut=(0, 1, 0, 1)),
    Case("nothing at all", cut=(0, 0, 0, 0)),
    Case("empty planes", (5, 0, 3)),
    Case("one channel", (1, 3)),
    Case("far from zero", dtype=torch.float64, mean=1e7),
    Case("far from zero, channels last", dtype=torch.float64, mean=-1e7, layout="channels last"),
    Case("large", (67, 48, 48), cut=(2, 1, 1, 0), steps=1),
    Case("large, channels last", (67, 48, 48), cut=(2, 1, 1, 0), steps=1, layout="channels last"),
    Case("no affine", module={"affine": False}),
    Case("no running statistics", module={"track_running_stats": False}),
    Case("cumulative", module={"momentum": None}, steps=3),
    Case("momentum and eps", module={"momentum": 0.7, "eps": 0.3}),
    Case("no affine, no running statistics",
         module={"affine": False, "track_running_stats": False}),
    Case("input without gradient", frozen=("input",)),
    Case("weight without gradient", frozen=("weight",)),
    Case("parameters without gradient", frozen=("weight", "bias")),
]  # fmt: skip
if "bias" in inspect.signature(torch.nn.SyncBatchNorm).parameters:
    CASES.append(Case("no bias", module={"bias": False}))

STATE = ("running_mean", "running_var", "num_batches_tracked")


# --- one process ---------------------------------------------------------------------------


def part_of(whole, cut, rank):
    return whole.split(cut)[rank]


def computed(case, rank, group=None):
    module = case.build(nn.SyncBatchNorm, case.parameter_dtype)
    module.process_group = group
    results, same_layout = [], True
    for x, g in case.batches():
        part = arranged(part_of(x, case.cut, rank), case.layout)
        part.requires_grad_("input" not in case.frozen)
        module.zero_grad()
        y = module(part)
        if y.requires_grad:
            y.backward(arranged(part_of(g, case.cut, rank), case.gradient))
        if case.layout != "gaps" and part.numel():
            longer = [axis for axis, n in enumerate(part.shape) if n > 1]
            same_layout &= all(y.stride(axis) == part.stride(axis) for axis in longer)
        parameters = {name: p.grad for name, p in module.named_parameters()}
        results.append({"y": y.detach(), "x.grad": part.grad, **parameters})
    module.zero_grad()
    module.eval()
    with torch.no_grad():  # every process for itself, and only two of them
        inference = module(part) if rank % 2 and module.track_running_stats else None
    return {
        "steps": results,
        "same_layout": same_layout,
        "state": {name: getattr(module, name) for name in STATE},
        "inference": inference,
    }


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Sequential(torch.nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6, activation="silu")),
        torch.nn.Flatten(),
        torch.nn.Linear(96, 4),
        torch.nn.BatchNorm1d(4, momentum=None),
    )


def trained(rank=None):
    """Some steps of an optimiser, on a process's part of the batch or on the whole."""
    net = network()
    if rank is not None:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        net = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        x = torch.randn(sum(UNEVEN), 3, 6, 6, generator=generator)
        wanted = torch.randn(sum(UNEVEN), 4, generator=generator)
        share = 1.0
        if rank is not None:
            x, wanted = part_of(x, UNEVEN, rank), part_of(wanted, UNEVEN, rank)
            share = RANKS  # DistributedDataParallel takes the mean over processes
        optimizer.zero_grad()
        (share * (net(x) - wanted).square().sum() / sum(UNEVEN)).backward()
        optimizer.step()
    return (net if rank is None else net.module).state_dict()


def raised(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error
    return None


def refused(rank):
    module = nn.SyncBatchNorm(5)
    inputs = {
        "one axis": torch.rand(5),
        "no axis": torch.rand(()),
        "no channels": torch.rand(2, 0, 3),
        "other channels": torch.rand(2, 6, 3),
        "integers": torch.ones(2, 5, 3, dtype=torch.int64),
        "double": torch.rand(2, 5, 3, dtype=torch.float64),
        # Here the processes speak with one another.
        "one value": torch.rand(int(rank == 1), 5),
    }
    found = {name: raised(module, x) for name, x in inputs.items()}
    found["state"] = {name: getattr(module, name).clone() for name in STATE}
    return {name: e if isinstance(e, dict) else (type(e), str(e)) for name, e in found.items()}


class Written(torch.nn.BatchNorm1d):
    """As its formula says, because PyTorch's own is not right from the third derivative on."""

    def forward(self, x):
        var, mean = torch.var_mean(x, (0, 2), correction=0, keepdim=True)
        weight, bias = self.weight[:, None], self.bias[:, None]
        return (x - mean) / (var + self.eps).sqrt() * weight + bias


def higher(cls, rank=None):
    """Derivatives of derivatives, of a process's part or of the whole batch."""
    generator = torch.Generator().manual_seed(7)
    x, c = torch.randn(2, sum(UNEVEN), 4, 3, generator=generator, dtype=torch.float64)
    if rank is not None:
        x, c = (part_of(whole, UNEVEN, rank) for whole in (x, c))
    module = cls(4, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.arange(4) + 0.5)
    leaves = [x.clone().requires_grad_(), *module.parameters()]
    y = module(leaves[0])
    first = torch.autograd.grad((y**3 * c).sum(), leaves, create_graph=True)
    again = torch.autograd.grad((first[0] ** 2 * c).sum(), leaves, create_graph=True)
    third = torch.autograd.grad((again[0] * c).sum(), leaves)
    return [t.detach() for t in (*first, *again, *third)]


def activated(rank):
    torch.manual_seed(rank)
    x = torch.randn(3, 5, 2, requires_grad=True)
    result = {}
    for activation in ("relu", "leaky_relu", "silu", "gelu"):
        ours = nn.SyncBatchNorm(5, activation=activation, negative_slope=0.2)(x)
        plain = nn.SyncBatchNorm(5)(x)
        slope = (0.2,) if activation == "leaky_relu" else ()
        theirs = getattr(torch.nn.functional, activation)(plain, *slope)
        result[activation] = [
            (y.detach(), torch.autograd.grad(y.square().sum(), x)[0]) for y in (ours, theirs)
        ]
    return result


def special(rank):
    """Channels: always the same number, one with a NaN, one with an infinity, and two plain ones."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(RANKS, 3, 5, 2, generator=generator)[rank]
    x[:, 0] = 0.1
    x[1, 1, 0] = torch.nan if rank == 2 else 0.0
    x[2, 2, 1] = torch.inf if rank == 1 else 0.0
    module = nn.SyncBatchNorm(5, momentum=1.0)
    given = x.clone().requires_grad_()
    y = module(given)
    y.backward(x.flip(0))
    plain = torch.rand(3, 5, generator=generator)
    with torch.inference_mode():
        inferred = module(plain)
    with torch.device("meta"):  # where new tensors go is no business of the statistics
        elsewhere = module(plain)
    return y.detach(), given.grad, module.running_var.clone(), inferred, elsewhere.detach()


def lost(rank, folder, alone, pair, three):
    """Processes that do not take part: the others are told. The last ones do not come back."""
    found = {}
    x = torch.rand(2, 5, requires_grad=True)
    module = nn.SyncBatchNorm(5)

    module.process_group = alone
    if rank == 0:
        found["late"] = raised(module, x)
    dist.barrier()

    module.process_group = pair
    if rank == 3:
        os._exit(13)
    if rank == 1:
        found["gone before forward"] = raised(module, x)

    if rank < 3:
        module.process_group = three
        y = module(x)
        if rank == 2:
            os._exit(12)
        found["gone before backward"] = raised(y.sum().backward)
    torch.save(
        {name: (type(e).__mro__, str(e)) for name, e in found.items()}, folder / f"lost{rank}.pt"
    )


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "store").as_uri(),
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=120),
    )
    middle = dist.new_group([1, 3])
    short = timedelta(seconds=4)
    alone, pair, three = (
        dist.new_group(ranks, timeout=short) for ranks in ([0, 1], [1, 3], [0, 1, 2])
    )
    results = {case.name: computed(case, rank) for case in CASES}
    # Those outside of a group are on their own.
    results["group"] = computed(GROUPED if rank % 2 else OUTSIDE, rank, middle)
    results["refused"] = refused(rank)
    results["activated"] = activated(rank)
    results["higher"] = higher(nn.SyncBatchNorm, rank)
    results["special"] = special(rank)
    results["trained"] = trained(rank)
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    lost(rank, folder, alone, pair, three)
    os._exit(0)  # without farewells: some of the others are gone


GROUPED = Case("some of the processes", cut=(0, 4, 0, 3))
OUTSIDE = Case("beside a group", cut=(3, 0, 3, 0))


# --- all of them ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def battery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        **({"GLOO_SOCKET_IFNAME": loopback[0]} if loopback else {}),
    }
    processes, logs = [], [folder / f"{rank}.log" for rank in range(RANKS)]
    try:
        for rank, log in enumerate(logs):
            with log.open("wb") as stream:
                command = [sys.executable, __file__, str(rank), str(folder)]
                processes.append(
                    subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
                )
        end = time.monotonic() + 240
        codes = [p.wait(max(0.1, end - time.monotonic())) for p in processes]
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
                p.wait()
    said = "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)
    assert codes == [0, 0, 12, 13], said
    results = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]
    for rank in (0, 1):
        results[rank]["lost"] = torch.load(folder / f"lost{rank}.pt", weights_only=False)
    return results


def reference(case):
    """PyTorch's plain batch normalisation of the whole batch, in float64."""
    kind = {2: 1, 3: 1, 4: 2, 5: 3}[len(case.shape) + 1]
    module = case.build(getattr(torch.nn, f"BatchNorm{kind}d"), torch.float64)
    steps = []
    for x, g in case.batches():
        x = x.double().requires_grad_("input" not in case.frozen)
        module.zero_grad()
        y = module(x)
        if y.requires_grad:
            y.backward(g.double())
        parameters = {name: p.grad for name, p in module.named_parameters()}
        steps.append({"y": y.detach(), "x.grad": x.grad, **parameters})
    module.eval()
    state = {name: getattr(module, name) for name in STATE}
    with torch.no_grad():
        return steps, state, module(x)


def near(got, wanted, case, scale=1.0, rounded=0.0):
    """Up to rounding: of the result to its dtype, or of its parts, and of floats on the way."""
    tolerance = {
        torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3,
    }[got.dtype]  # fmt: skip
    if got.dtype == torch.float64 and abs(case.mean) > 1e3:
        tolerance = 1e-8  # where a mean of squares had 1e-2
    atol = tolerance * scale
    if got.dtype in HALVES:
        atol = 1e-4
    error = (got.double() - wanted.double()).abs()
    allowed = atol + tolerance * torch.maximum(wanted.double().abs(), torch.as_tensor(rounded))
    assert got.shape == wanted.shape and (error <= allowed).all(), (got, wanted, error / allowed)


def members(case):
    """The processes of a case, and what is theirs among all results."""
    if case is GROUPED:
        return (1, 3), "group"
    return range(RANKS), case.name


@pytest.mark.parametrize("case", [*CASES, GROUPED], ids=lambda case: case.name)
def test_as_one_batch(case, battery):
    ranks, name = members(case)
    results = [battery[rank][name] for rank in ranks]
    cut = [case.cut[rank] for rank in ranks]
    steps, state, inference = reference(case)
    for at, wanted in enumerate(steps):
        got = [result["steps"][at] for result in results]
        for key, whole in wanted.items():
            parts = [step[key] for step in got]
            if whole is None:
                assert all(part is None for part in parts), key
            elif key in ("y", "x.grad"):
                for part, theirs in zip(parts, whole.split(cut), strict=True):
                    assert part.dtype == case.dtype and part.shape == theirs.shape
                    near(part, theirs, case, 4.0)
            else:  # every process has its own, also where that is zeros
                assert all(part.dtype == case.parameter_dtype for part in parts)
                total = sum(part.double() for part in parts).to(case.parameter_dtype)
                near(total, whole, case, 30.0, sum(part.double().abs() for part in parts))
    for key in STATE:
        found = [result["state"][key] for result in results]
        if state[key] is None:
            assert found == [None] * len(found)
            continue
        for other in found:
            assert other.dtype == (torch.int64 if key == STATE[2] else case.parameter_dtype)
            assert torch.equal(other.view(-1), found[0].view(-1)), "the same bits everywhere"
        if found[0].dtype == torch.int64:
            assert torch.equal(found[0], state[key])
        else:
            near(found[0], state[key], case)
    assert all(result["same_layout"] for result in results)
    for rank, part in zip(ranks, inference.split(cut), strict=True):
        mine = battery[rank][name]["inference"]
        assert (mine is not None) == (rank % 2 == 1 and state["running_mean"] is not None)
        if mine is not None:
            near(mine, part, case, 4.0 if case.steps < 3 else 8.0)


def test_every_kind_of_cut_is_there():
    assert any(0 in case.cut for case in CASES) and any(0 not in case.cut for case in CASES)
    assert {len(case.shape) + 1 for case in CASES} == {2, 3, 4, 5}
    assert len({case.name for case in CASES}) == len(CASES)


def test_beside_a_group(battery):
    """A process that is not in the group is on its own, as with PyTorch's."""
    for rank in (0, 2):
        got, module = battery[rank]["group"], OUTSIDE.build(torch.nn.BatchNorm2d, torch.float32)
        for (x, _), step in zip(OUTSIDE.batches(), got["steps"], strict=True):
            near(step["y"], module(part_of(x, OUTSIDE.cut, rank)), OUTSIDE, 4.0)
        near(got["state"]["running_var"], module.running_var, OUTSIDE)


def test_distributed_data_parallel(battery):
    wanted = trained()
    for result in battery:
        got = result["trained"]
        assert list(got) == list(wanted)
        for name, tensor in got.items():
            torch.testing.assert_close(tensor, wanted[name], rtol=2e-4, atol=2e-5)
            assert torch.equal(tensor, battery[0]["trained"][name]), name


def test_activations(battery):
    for result in battery:
        for ours, theirs in result["activated"].values():
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b)


def test_special_values_stay_in_their_channel(battery):
    for result in battery:
        y, gradient, variance, inferred, elsewhere = result["special"]
        assert torch.equal(y[:, 0], torch.zeros(3, 2)), "no deviation, no difference"
        assert y[:, 1:3].isnan().all() and gradient[:, 1:3].isnan().all()
        assert y[:, 3:].isfinite().all() and gradient[:, 3:].isfinite().all()
        assert variance[[0, 3, 4]].isfinite().all()
        assert inferred.isfinite().all() and torch.equal(inferred, elsewhere)


def test_derivatives_of_derivatives(battery):
    """As often as one likes: those of the input in parts, those of the parameters as sums."""
    whole = higher(Written)
    for at, wanted in enumerate(whole):
        parts = [result["higher"][at] for result in battery]
        got = torch.cat(parts) if at % 3 == 0 else sum(parts)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))
        assert wanted.any()


def test_what_is_refused(battery):
    wanted = {
        "one axis": ValueError,
        "no axis": ValueError,
        "no channels": ValueError,
        "other channels": RuntimeError,
        "integers": NotImplementedError,
        "double": RuntimeError,
        "one value": ValueError,
    }
    for result in battery:
        got = result["refused"]
        assert {name: got[name][0] for name in wanted} == wanted
        assert "expected at least 2D input (got 1D input)" in got["one axis"][1]
        assert "one value per channel" in got["one value"][1]
        assert torch.equal(got["state"]["running_mean"], torch.zeros(5))
        assert torch.equal(got["state"]["running_var"], torch.ones(5))


@pytest.mark.parametrize(
    ("what", "ranks"),
    [("late", [0]), ("gone before forward", [1]), ("gone before backward", [0, 1])],
)
def test_processes_that_do_not_take_part(what, ranks, battery):
    """The battery has ended, so nobody waits for them forever."""
    for rank in ranks:
        types, text = battery[rank]["lost"][what]
        assert RuntimeError in types, text


# --- without processes ---------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tail", [(), (4,), (4, 3), (4, 3, 2)], ids=len)
def test_alone_it_is_plain(training, tail):
    torch.manual_seed(0)
    x = torch.randn(6, 5, *tail)
    results = []
    for cls in (nn.SyncBatchNorm, torch.nn.SyncBatchNorm):
        module, given = cls(5, momentum=None).train(training), x.clone().requires_grad_()
        y = module(given)
        y.square().sum().backward()
        gradients = given.grad, module.weight.grad, module.bias.grad
        results.append((y.detach(), *gradients, *module.state_dict().values()))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    with pytest.raises(ValueError):
        nn.SyncBatchNorm(5)(torch.rand(1, 5))
    assert nn.SyncBatchNorm(5).eval()(torch.rand(1, 5)).shape == (1, 5)


def test_other_devices_are_pytorchs():
    module = nn.SyncBatchNorm(5, device="meta", activation="relu")
    y = module(torch.empty(2, 5, 3, device="meta"))
    assert y.device.type == "meta" and y.shape == (2, 5, 3)


MODULES = [
    {}, {"affine": False}, {"track_running_stats": False}, {"momentum": None, "eps": 0.25},
    {"dtype": torch.float64}, {"process_group": "some"},
]  # fmt: skip


@pytest.mark.parametrize("arguments", MODULES, ids=str)
def test_the_module_is_pytorchs(arguments):
    ours, theirs = nn.SyncBatchNorm(5, **arguments), torch.nn.SyncBatchNorm(5, **arguments)
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, torch.nn.modules.batchnorm._BatchNorm)
    for a, b in ((ours, theirs), (theirs, ours)):
        assert list(a.state_dict()) == list(b.state_dict())
        assert str(a.load_state_dict(b.state_dict())) == "<All keys matched successfully>"
        for name, tensor in a.state_dict().items():
            assert torch.equal(tensor, b.state_dict()[name]), name
    public = {k: v for k, v in theirs.__dict__.items() if not k.startswith("_")}
    assert {k: ours.__dict__[k] for k in public} == public
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(again) is nn.SyncBatchNorm and repr(again) == repr(ours)


def test_signature():
    ours, theirs = (
        inspect.signature(cls).parameters for cls in (nn.SyncBatchNorm, torch.nn.SyncBatchNorm)
    )
    assert list(ours) == [*theirs, "activation", "negative_slope"]
    assert all(ours[k].default == p.default and ours[k].kind == p.kind for k, p in theirs.items())
    for wrong in ((), (5, 1e-5, 0.1, True, True, None, None, None, None)):
        with pytest.raises(TypeError):
            nn.SyncBatchNorm(*wrong)
    with pytest.raises(TypeError):
        nn.SyncBatchNorm(5, no_such_argument=1)


def test_repr_with_an_activation():
    text = repr(nn.SyncBatchNorm(5, activation="leaky_relu", negative_slope=0.2))
    assert text.endswith("activation='leaky_relu', negative_slope=0.2)")


class Nested(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.BatchNorm2d(3)
        self.inner = torch.nn.ModuleDict(
            {
                "ours": nn.BatchNorm1d(4, activation="gelu", momentum=None),
                "theirs": torch.nn.SyncBatchNorm(5, affine=False),
                "deep": torch.nn.Sequential(nn.SyncBatchNorm(6), torch.nn.BatchNorm3d(2, 0.5)),
            }
        )
        self.none = torch.nn.BatchNorm1d(7, track_running_stats=False)
        self.kept = torch.nn.ModuleList([torch.nn.InstanceNorm2d(3), nn.LayerNorm(3)])


def test_conversion():
    torch.manual_seed(0)
    net = Nested()
    net.first(torch.rand(4, 3, 2, 2))
    net.first.weight.requires_grad_(False)
    net.first.eval()
    net.inner["deep"][1].qconfig = "some"
    before = dict(net.named_modules())
    state = net.state_dict(keep_vars=True)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net, "group")
    assert converted is net
    after = dict(net.named_modules())
    assert list(after) == list(before)
    changed = [name for name in before if after[name] is not before[name]]
    assert changed == [
        "first",
        "inner.ours",
        "inner.theirs",
        "inner.deep.0",
        "inner.deep.1",
        "none",
    ]
    kept = ("num_features", "eps", "momentum", "affine", "track_running_stats", "training")
    for name in changed:
        now, then = after[name], before[name]
        assert type(now) is nn.SyncBatchNorm and now.process_group == "group"
        assert all(getattr(now, key) == getattr(then, key) for key in kept), name
        assert now.activation == getattr(then, "activation", None)
    assert after["inner.deep.1"].qconfig == "some" and not after["first"].training
    assert int(after["first"].num_batches_tracked) == 1
    again = net.state_dict(keep_vars=True)
    assert list(again) == list(state)
    for name, tensor in state.items():  # the optimiser's parameters are still those of the net
        assert again[name] is tensor, name
    assert not net.first.weight.requires_grad and net.first.bias.requires_grad
    single = nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.BatchNorm2d(3))
    assert type(single) is nn.SyncBatchNorm and single.process_group is None
    plain = torch.nn.Linear(2, 2)
    assert nn.SyncBatchNorm.convert_sync_batchnorm(plain) is plain


def test_conversion_keeps_results():
    net = network()
    theirs = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    ours = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    x = torch.rand(4, 3, 6, 6)
    torch.testing.assert_close(ours(x), net(x))
    assert str(theirs.load_state_dict(ours.state_dict())) == "<All keys matched successfully>"
    assert str(ours.load_state_dict(net.state_dict())) == "<All keys matched successfully>"
    torch.testing.assert_close(ours.eval()(x), net.eval()(x))


if __name__ == "__main__":
    process(int(sys.argv[1]), Path(sys.argv[2]))
