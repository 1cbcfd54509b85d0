"""The demonstration runs on any picture and says so where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import infinitypool as ip

ROOT = Path(__file__).resolve().parents[2]


def demo(*arguments: str) -> subprocess.CompletedProcess:
    package = str(Path(ip.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py"), *arguments],
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def test_the_photograph(tmp_path):
    done = demo("--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["avg.png", "figure.png", "max.png"]
    for name in ("max.png", "avg.png"):
        with Image.open(tmp_path / name) as image:
            assert (image.mode, image.size) == ("RGB", (254, 298))
    lines = [line for line in done.stdout.splitlines() if "298×254" in line]
    assert [line.split()[1] for line in lines] == ["max", "average"]
    assert "yes" in lines[0]


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "1", "F"])
def test_any_picture(tmp_path, mode):
    values = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30)
    if mode == "I;16":
        image = Image.fromarray(values * 50)
    else:
        image = Image.fromarray((values % 256).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "in.tiff")
    done = demo(str(tmp_path / "in.tiff"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    extension = "tiff" if mode == "F" else "png"
    with Image.open(tmp_path / "out" / f"max.{extension}") as result:
        assert (result.mode, result.size) == (mode, (13, 18))


@pytest.mark.parametrize("kind", ["missing", "text", "small"])
def test_a_picture_that_cannot_be_used(tmp_path, kind):
    source = tmp_path / "in.png"
    if kind == "text":
        source.write_text("no picture")
    elif kind == "small":
        Image.new("L", (3, 3)).save(source)
    done = demo(str(source), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith("demo: ") and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
