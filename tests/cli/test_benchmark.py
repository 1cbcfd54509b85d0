"""The benchmark's list covers what is promised, and its machinery runs on toy sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import infinitypool as ip
from benchmarks import peers as libraries
from benchmarks import timing
from benchmarks.cases import CASES, FAMILY, LAYOUTS, NORMS, WINDOWS, Bar, Case
from benchmarks.peers import PEERS, disagreement
from benchmarks.report import Row, judge

ROOT = Path(__file__).resolve().parents[2]
BATCH = (8, 64, 224, 224)
MODULES = {"SciPy": "scipy", "OpenCV": "cv2"}


def chosen(**wanted) -> list[Case]:
    return [c for c in CASES if all(getattr(c, key) == value for key, value in wanted.items())]


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("op", ["max", "avg"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_promised_row_is_there(op, layout):
    both = {"op": op, "layout": layout, "shape": BATCH, "dtype": "float32"}
    asked = {
        ("max", "planes"): 15, ("max", "channels_last"): 5, ("avg", "planes"): 5,
    }.get((op, layout))  # fmt: skip
    for kernel, stride, padding in WINDOWS:
        window = {"kernel": kernel, "stride": stride, "padding": padding}
        (fresh,) = chosen(**both, **window, measure="forward", result="allocated", options=())
        assert fresh.bar.peers and (asked is None or fresh.bar.pytorch == asked)
        (out,) = chosen(**both, **window, measure="forward", result="out")
        assert out.bar.floor == {2: 1.5, 3: 1.5, 5: None, 13: 3.0}[kernel]
        (backward,) = chosen(**both, **window, measure="backward")
        assert backward.bar.pytorch == 4
        if op == "max":
            (indices,) = chosen(**both, **window, measure="indices")
            assert indices.bar.reference == 2 and indices.reference.measure == "forward"
    (large,) = chosen(**both, kernel=51, stride=1)
    assert large.bar.reference == 2 and large.reference.kernel == 3
    for dtype, compared in (("float16", "float32"), ("bfloat16", "float32"), ("uint8", "float16")):
        rows = chosen(op=op, layout=layout, dtype=dtype)
        assert rows
        for row in rows:
            assert row.bar.reference == 1 and row.reference.dtype == compared


def test_the_other_promised_rows_are_there():
    for op in ("max", "avg"):
        for shape, kernel in (
            ((8, 14336, 224), 2), ((2, 16, 64, 128, 128), 2), ((2, 16, 64, 128, 128), 3),
        ):  # fmt: skip
            assert any(c.bar.pytorch == 5 for c in chosen(op=op, shape=shape, kernel=kernel))
    assert any(c.bar.threads == 1.6 for c in chosen(shape=(1, 1, 4096, 4096)))
    assert {c.bar.saved for c in chosen(measure="saved", op="max")} == {1}
    assert {c.bar.saved for c in chosen(measure="saved", op="adaptive_max")} == {2}
    assert {c.bar.saved for c in chosen(measure="saved", op="adaptive_avg")} == {0}
    assert {c.bar.saved for c in chosen(measure="saved", op="avg")} == {0}
    for op in ("max", "avg"):
        calls = chosen(shape=(1, 8, 8, 8), measure="latency", op=op)
        assert {(c.front, c.bar.latency) for c in calls if c.bar.overhead is None} == {
            ("array", 10)
        }
        assert {(c.front, c.bar.overhead, c.graph) for c in calls if c.bar.overhead} == {
            ("torch", 1.5, False), ("torch", 1.5, True),
        }  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_promised_row_of_the_family_is_there(layout):
    both = {"layout": layout, "dtype": "float32"}
    for op in ("adaptive_max", "adaptive_avg"):
        for size in (7, 1):
            adaptive = {**both, "op": op, "shape": BATCH, "size": size}
            (forward,) = chosen(**adaptive, measure="forward")
            assert forward.bar.read == 1.5
            assert forward.bar.pytorch == (8 if (op, layout) == ("adaptive_max", "planes") else 1)
            (backward,) = chosen(**adaptive, measure="backward")
            assert backward.bar.pytorch == 5
    for op, shape, times in (("max_unpool", (8, 64, 112, 112), 4), ("lp", BATCH, 10)):
        window = {"op": op, "shape": shape, "kernel": 2, "stride": 2}
        (forward,) = chosen(**both, **window, measure="forward")
        assert forward.bar.pytorch == times
        assert chosen(**both, **window, measure="backward")


def test_the_other_promised_rows_of_the_family_are_there():
    for shape in ((8, 256, 40, 40), (1, 512, 20, 20)):
        (block,) = chosen(op="spp", shape=shape, layout="planes")
        assert block.bar.pytorch == 15
    for dtype in ("uint8", "float32"):
        (median,) = chosen(op="median", shape=(1, 1, 4096, 4096), dtype=dtype, kernel=3, stride=1)
        asked = dict(median.bar.versus)
        assert asked["SciPy"] == 10 and (dtype == "float32" or asked["OpenCV"] == 1)
    omitted = [c for c in CASES if ("nan_policy", "omit") in c.options]
    assert {(c.op, c.kernel, c.nans > 0) for c in omitted} == {
        (op, kernel, some) for op in ("max", "avg") for kernel in (2, 3) for some in (False, True)
    }
    for row in omitted:
        assert row.bar.reference == 2
        assert row.reference.options == () and row.reference.nans == row.nans


TRAINING, EVALUATION = (("training", True),), (("training", False),)
GROUPS = (("num_groups", 8),)
WHOLE, LAST = (("axes", 3),), (("axes", 1),)
HALF = (("p", 0.5),)
OF_PLANES = [("layer_norm", WHOLE), ("layer_norm", LAST)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_promised_row_of_the_norms_is_there(layout):
    both = {"layout": layout, "shape": BATCH, "dtype": "float32"}
    norms = [("batch_norm", EVALUATION), ("group_norm", GROUPS), ("instance_norm", ())]
    norms += OF_PLANES if layout == "planes" else []
    for op, options in norms:
        norm = {**both, "op": op, "options": options}
        (fresh,) = chosen(**norm, measure="forward", result="allocated")
        assert fresh.bar.pytorch == 3 and fresh.bar.peers
        assert {"PyTorch", "torch.compile", "ONNX Runtime"} <= set(fresh.against)
        (out,) = chosen(**norm, measure="forward", result="out")
        assert out.bar.floor == 2 and out.floor_kind == "copy" and out.front == "array"
        (backward,) = chosen(**norm, measure="backward")
        assert backward.bar.pytorch == 2.5
    training = {**both, "op": "batch_norm", "options": TRAINING}
    (forward,) = chosen(**training, measure="forward")
    assert (forward.bar.pytorch, forward.bar.passes) == (3, 1.5)
    assert forward.floor_kind == "passes"
    assert forward.moved_bytes // (4 * forward.outputs) == 3
    (backward,) = chosen(**training, measure="backward")
    assert backward.bar.pytorch == 2.5
    (channels,) = chosen(**both, op="dropout2d", measure="forward")
    assert channels.bar.pytorch == 3
    for shape in ((32, 256, 14, 14), (32, 512, 7, 7)):
        assert chosen(op="batch_norm", layout=layout, shape=shape, measure="step", options=TRAINING)


def test_the_other_promised_rows_of_the_norms_are_there():
    for op in ("layer_norm", "rms_norm"):
        for shape in ((4096, 768), (4096, 4096)):
            rows = chosen(op=op, shape=shape, options=LAST, dtype="float32")
            assert {c.measure for c in rows} == {"forward", "backward"}
            assert all(c.bar.pytorch == 1 for c in rows)
    for p in (0.5, 0.1):
        dropout = {"op": "dropout", "shape": BATCH, "options": (("p", p),)}
        (forward,) = chosen(**dropout, measure="forward")
        assert (forward.bar.pytorch, forward.bar.floor) == (20, 1.5)
        assert chosen(**dropout, measure="backward")
    (dropout,) = chosen(op="dropout", measure="saved")
    assert dropout.bar.saved == 0
    kept = {(c.op, c.options): c.bar.saved for c in NORMS if c.measure == "saved"}
    elements = 8 * 16 * 64 * 64  # and two float64 for each of 8 * 16 planes, two float32 a channel
    assert kept["instance_norm", ()] == 4 + (2 * 8 * 8 * 16 + 2 * 4 * 16) / elements
    assert kept["layer_norm", LAST] == 4 + 2 * 8 / 64 + 2 * 4 * 64 / elements
    calls = [c for c in NORMS if c.measure == "latency"]
    assert {(c.bar.latency, c.bar.overhead, c.shape) for c in calls} == {
        (15, None, (1, 8, 8, 8)), (None, 1.5, (1, 8, 8, 8)),
    }  # fmt: skip
    for op in ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"):
        assert "array" in {c.front for c in calls if c.op == op}
    for op in ("batch_norm", "instance_norm", "layer_norm", "dropout", "dropout2d"):
        found = {(c.front, c.graph) for c in calls if c.op == op and c.front != "array"}
        assert found == {(front, graph) for front in ("torch", "module") for graph in (False, True)}
    assert {c.options for c in calls if c.op == "batch_norm"} == {TRAINING, EVALUATION}
    fused = {(c.op, dict(c.options).get("activation")) for c in NORMS if c.group == "fused"}
    assert fused == {
        ("batch_norm", "relu"), ("layer_norm", "gelu"), ("group_norm", "silu"),
        ("add_layer_norm", None), ("dropout_add", None),
    }  # fmt: skip
    for op in ("batch_norm", "layer_norm"):
        assert {"bfloat16", "float16"} < {c.dtype for c in NORMS if c.op == op}


CASE = Case("g", "max", (1, 1, 8, 8), 2, 2, 0, Bar())


@pytest.mark.parametrize(
    ("bar", "measured", "passed"),
    [
        (Bar(), {}, None),
        (Bar(pytorch=5), {"seconds": {"infinitypool": 1, "PyTorch": 5}}, True),
        (Bar(pytorch=5), {"seconds": {"infinitypool": 1, "PyTorch": 4.9}}, False),
        (Bar(pytorch=5), {"seconds": {"infinitypool": 1}}, None),
        (Bar(peers=True), {"seconds": {"infinitypool": 1, "SciPy": 9, "OpenCV": 0.9}}, False),
        (Bar(peers=True), {"seconds": {"infinitypool": 1, "SciPy": 9, "OpenCV": 1.1}}, True),
        (Bar(reference=2), {"seconds": {"infinitypool": 2.1}, "reference": 1.0}, False),
        (Bar(reference=2), {"seconds": {"infinitypool": 1.9}, "reference": 1.0}, True),
        # 4 * (64 + 16) bytes move; at 320 bytes a second the floor is one second
        (Bar(floor=1.5), {"seconds": {"infinitypool": 1.4}, "floor_speed": 320}, True),
        (Bar(floor=1.5), {"seconds": {"infinitypool": 1.6}, "floor_speed": 320}, False),
        (Bar(read=1.5), {"seconds": {"infinitypool": 1.4}, "floor_speed": 320}, True),
        (Bar(read=1.5), {"seconds": {"infinitypool": 1.6}, "floor_speed": 320}, False),
        (Bar(read=1.5), {"seconds": {"infinitypool": 1.4}}, None),
        (Bar(passes=1.5), {"seconds": {"infinitypool": 1.4}, "floor_speed": 320}, True),
        (Bar(passes=1.5), {"seconds": {"infinitypool": 1.6}, "floor_speed": 320}, False),
        (Bar(versus=(("SciPy", 10),)), {"seconds": {"infinitypool": 1, "SciPy": 10}}, True),
        (Bar(versus=(("SciPy", 10),)), {"seconds": {"infinitypool": 1, "SciPy": 9.9}}, False),
        (Bar(versus=(("SciPy", 10),)), {"seconds": {"infinitypool": 1, "OpenCV": 99}}, None),
        (Bar(latency=10), {"seconds": {"infinitypool": 9e-6}}, True),
        (Bar(latency=10), {"seconds": {"infinitypool": 11e-6}}, False),
        (Bar(saved=0), {"values": {"saved": 0.0}}, True),
        (Bar(saved=1), {"values": {"saved": 1.5}}, False),
        (Bar(threads=1.6), {"values": {"gain": 1.7, "copy gain": 1.8}}, True),
        (Bar(threads=1.6), {"values": {"gain": 1.3, "copy gain": 1.8}}, False),
        (Bar(threads=1.6), {"values": {"gain": 1.3, "copy gain": 1.2}}, None),
        (Bar(), {"wrong": {"infinitypool": "ValueError"}}, False),
    ],
)
def test_verdicts(bar, measured, passed):
    assert judge(Row(replace(CASE, bar=bar), **measured)).passed is passed


def test_the_floor_of_three_passes_is_a_read_and_a_copy():
    floor = timing.Floor(4096, 1)
    ways = floor.contenders("passes")
    assert {way.name.partition(":")[0] for way in ways} == {"copy", "read"}
    for way in ways:  # a copy of the whole takes five seconds, a read of it two
        way.samples = [5.0 if way.name.startswith("copy") else 2.0]
    assert floor.speed(ways) == pytest.approx(3 * 4096 / 7)
    copies = [way for way in ways if way.name.startswith("copy")]
    assert floor.speed(copies) == pytest.approx(2 * 4096 / 5)


def test_other_draws_agree_and_another_probability_does_not():
    random = np.random.default_rng(2)
    x = random.standard_normal((2, 8, 64, 64), dtype=np.float32)

    def dropped(p: float, scale: float) -> np.ndarray:
        return np.where(random.random(x.shape) < p, 0, x * np.float32(scale))

    case = Case("g", "dropout", x.shape, options=HALF)
    assert not disagreement(case, dropped(0.5, 2), dropped(0.5, 2))
    assert "share" in disagreement(case, dropped(0.5, 2), dropped(0.45, 2))
    assert "kept" in disagreement(case, dropped(0.5, 2), dropped(0.5, 1.99))
    added = Case("g", "dropout_add", x.shape, options=HALF)
    ground = libraries.residual(added)
    assert not disagreement(added, dropped(0.5, 2) + ground, dropped(0.5, 2) + ground)
    assert disagreement(added, dropped(0.5, 2) + ground, dropped(0.5, 2))


def test_a_result_of_another_value_is_noticed():

    x = np.linspace(-3, 3, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    assert not disagreement(CASE, x, x.copy())
    wrong = x.copy()
    wrong[0, 0, 3, 3] = np.nextafter(wrong[0, 0, 3, 3], np.float32(9))
    assert disagreement(CASE, x, wrong)
    assert disagreement(CASE, x, x[..., 1:])
    average = Case("g", "avg", (1, 1, 8, 8), 2, 2, 0, Bar())
    assert not disagreement(average, x, wrong)
    assert disagreement(average, x, x + 1e-4)


def test_differences_in_small_results_and_at_borders():
    whole = Case("g", "adaptive_avg", (1, 1, 224, 224), size=1, measure="backward")
    gradient = np.full((1, 1, 224, 224), 1 / 224**2, np.float32)
    assert not disagreement(whole, gradient, gradient * np.float32(1 + 1e-6))
    assert disagreement(whole, gradient, gradient * np.float32(1.001))
    median = Case("g", "median", (1, 1, 8, 8), 3, 1, 1, Bar(), "uint8")
    x = np.zeros((1, 1, 8, 8), np.uint8)
    edge, inside = x.copy(), x.copy()
    edge[..., 0, :] = 1
    inside[..., 1, 1] = 1
    assert not disagreement(median, x, edge)
    assert disagreement(median, x, inside)


def test_places_for_unpooling_lie_in_their_windows():
    for layout in LAYOUTS:
        case = Case("g", "max_unpool", (2, 3, 4, 5), 2, 2, 0, layout=layout)
        places = libraries.places(case)
        rows, columns = np.divmod(places, 10)
        assert places.shape == case.shape
        assert (rows // 2 == np.arange(4)[:, None]).all()
        assert (columns // 2 == np.arange(5)).all()
        assert len(np.unique(rows % 2)) == len(np.unique(columns % 2)) == 2


@pytest.mark.parametrize(
    "case",
    [c.tiny() for c in (*FAMILY, *NORMS) if c.measure != "saved"],
    ids=lambda case: case.name,
)
def test_everyone_computes_the_same(case):
    """A compiled graph is PyTorch's eager call again and takes seconds to build."""
    with libraries.recording(case):
        compare(case, timing.Data(case, 2))


def compare(case: Case, data: timing.Data) -> None:
    mine = libraries.ours(case, data)
    expected = mine.to_numpy(mine.call(1))
    values = expected[0] if isinstance(expected, tuple) else expected
    of_input = case.measure in ("backward", "step")
    assert values.shape == (case.shape if of_input else case.output_shape)
    assert np.isfinite(values).all()
    assert np.isnan(data.arrays[1]).any() == (case.nans > 0)
    took_part = set()
    for name in set(case.against if case.against is not None else PEERS) - {"torch.compile"}:
        try:
            peer = PEERS[name](case, data)
        except (libraries.NotApplicable, ImportError):
            continue
        assert not disagreement(case, expected, peer.to_numpy(peer.call(1))), name
        took_part.add(name)
    needed = {"PyTorch"} & set(case.against)
    needed |= {name for name, _ in case.bar.versus if find_spec(MODULES[name])}
    assert needed <= took_part


def toy_run(folder: Path, *arguments: str) -> list[dict]:
    """The rows of a run on toy sizes beside PyTorch."""
    package = str(Path(ip.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--tiny", "--peers", "pytorch", "--out",
         str(folder), *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))["rows"]


def test_the_machinery_on_toy_sizes(tmp_path):
    """On one thread: PyTorch's second waits for a core in every call on a busy machine."""
    rows = toy_run(tmp_path, "--threads", "1")
    assert len(rows) == len(CASES)
    assert [row["name"] for row in rows if row["wrong"]] == []
    table = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all(case.tiny().name in table for case in CASES)
    for name in ("chart.png", "family.png", "norms.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_two_threads_on_toy_sizes(tmp_path):
    rows = toy_run(tmp_path, "--only", "a second thread")
    assert len(rows) == len(chosen(measure="threads"))
    for row in rows:
        assert not row["wrong"] and min(row["values"]["gain"], row["values"]["copy gain"]) > 0
