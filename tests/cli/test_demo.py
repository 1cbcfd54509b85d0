"""The demonstration runs on any picture and says so where it cannot."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import infinitypool as ip

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "demo.py"


@pytest.fixture
def demo(monkeypatch):
    """The program's ``main`` in this process, which has loaded what it needs; one timing a call."""
    spec = importlib.util.spec_from_file_location("demo", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.RUNS = 1

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *arguments])
        return module.main()

    return run


def test_the_photograph(tmp_path):
    package = str(Path(ip.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["avg.png", "figure.png", "max.png"]
    for name in ("max.png", "avg.png"):
        with Image.open(tmp_path / name) as image:
            assert (image.mode, image.size) == ("RGB", (254, 298))
    lines = [line for line in done.stdout.splitlines() if "298×254" in line]
    assert [line.split()[1] for line in lines] == ["max", "average"]
    assert "yes" in lines[0]


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "1", "F"])
def test_any_picture(demo, tmp_path, mode):
    values = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30)
    if mode == "I;16":
        image = Image.fromarray(values * 50)
    else:
        image = Image.fromarray((values % 256).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "in.tiff")
    assert demo(str(tmp_path / "in.tiff"), "--out", str(tmp_path / "out")) == 0
    extension = "tiff" if mode == "F" else "png"
    with Image.open(tmp_path / "out" / f"max.{extension}") as result:
        assert (result.mode, result.size) == (mode, (13, 18))


@pytest.mark.parametrize("kind", ["missing", "text", "small"])
def test_a_picture_that_cannot_be_used(demo, tmp_path, capsys, kind):
    source = tmp_path / "in.png"
    if kind == "text":
        source.write_text("no picture")
    elif kind == "small":
        Image.new("L", (3, 3)).save(source)
    assert demo(str(source), "--out", str(tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert said.startswith("demo: ") and said.count("\n") == 1
