"""The benchmark's list covers what is promised, and its machinery runs on toy sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import infinitypool as ip
from benchmarks.cases import CASES, LAYOUTS, WINDOWS, Bar, Case
from benchmarks.peers import disagreement
from benchmarks.report import Row, judge

ROOT = Path(__file__).resolve().parents[2]
BATCH = (8, 64, 224, 224)


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
        (fresh,) = chosen(**both, **window, measure="forward", result="allocated")
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
    assert {c.bar.saved for c in chosen(measure="saved", op="avg")} == {0}
    assert all(c.bar.latency == 10 for c in chosen(shape=(1, 8, 8, 8), measure="latency"))


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
        (Bar(floor=1.5), {"seconds": {"infinitypool": 1.4}, "copy_speed": 320}, True),
        (Bar(floor=1.5), {"seconds": {"infinitypool": 1.6}, "copy_speed": 320}, False),
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


def test_the_machinery_on_toy_sizes(tmp_path):
    package = str(Path(ip.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "--tiny", "--peers", "pytorch", "--out",
         str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(report["rows"]) == len(CASES)
    assert [row["name"] for row in report["rows"] if row["wrong"]] == []
    table = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all(case.tiny().name in table for case in CASES)
    assert (tmp_path / "chart.png").stat().st_size > 10_000
