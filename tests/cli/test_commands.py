"""The commands without pictures, and the program as a process."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import infinitypool as ip
from infinitypool.cli import main, options, shapes


def evaluate(formula: str) -> int:
    """What the printed formula gives: the number after the last "=" is not looked at."""
    body, *rest = formula.split(" = ")
    body = body.replace("·", "*").replace("−", "-")
    value = eval(body, {"__builtins__": {}}, {"floor": math.floor, "ceil": math.ceil})
    if len(rest) == 2:  # "= 4, − 1 = 3"
        value -= 1
    return value


SHAPES = [
    # sizes, kernel, stride, padding, dilation, ceil, output
    ("572 572", "2", None, "0", "1", False, (286, 286)),
    ("224 224", "3", "2", "1", "1", False, (112, 112)),
    ("3 201 250", "6", "2", "0", "1", False, (3, 98, 123)),
    ("20 16 50 32", "3,2", "2,1", "0", "1", False, (20, 16, 24, 31)),
    ("6 6", "3", "2", "0", "1", False, (2, 2)),
    ("6 6", "3", "2", "0", "1", True, (3, 3)),
    ("5 5", "2", "3", "1", "1", True, (2, 2)),
    ("7", "3", "2", "0", "2", False, (2,)),
    ("10 11", "3", "2", "same", "1", False, (5, 6)),
    ("10 11", "3", "2", "valid", "1", True, (5, 5)),
    ("10 11", "3", "2", "1:2,0:1", "1", False, (6, 5)),
    ("10 11", "3", "2", "1:5,0", "1", True, (7, 5)),
    ("4 8 8 8", "2,2,2", None, "0", "1", False, (4, 4, 4, 4)),
]


@pytest.mark.parametrize(("sizes", "kernel", "stride", "pad", "dilation", "ceil", "out"), SHAPES)
def test_shape(capsys, sizes, kernel, stride, pad, dilation, ceil, out):
    arguments = [*sizes.split(), "--kernel", kernel, "--padding", pad, "--dilation", dilation]
    arguments += ["--stride", stride] if stride else []
    arguments += ["--ceil"] if ceil else []
    assert main(["shape", *arguments]) == 0
    said = capsys.readouterr().out
    assert f"{sizes.replace(' ', '×')} → {'×'.join(map(str, out))}" in said
    cells = [[c.strip() for c in re.split("[│|]", line)] for line in said.splitlines()]
    rows = [line for line in cells if len(line) > 4 and line[1].isdigit()]
    assert [int(row[4]) for row in rows] == list(out)
    for row in rows:
        if row[3] != "not pooled":
            assert evaluate(row[3]) == int(row[4])
            assert row[3].endswith(f" = {row[4]}")


def test_shape_explains_the_dropped_window(capsys):
    assert main(["shape", "5", "--kernel", "2", "--stride", "3", "--padding", "1", "--ceil"]) == 0
    said = capsys.readouterr().out
    assert "+ 1 = 3, − 1 = 2" in said
    assert "the last of 3 windows is dropped: it would start at 2·3 = 6" in said


def test_shape_fills_in_the_formula(capsys):
    assert main(["shape", "572", "572", "--kernel", "2"]) == 0
    said = capsys.readouterr().out
    assert said.count("floor((572 + 2·0 − 1·(2−1) − 1)/2) + 1 = 286") == 2


def test_shape_says_what_same_adds(capsys):
    assert main(["shape", "10", "--kernel", "3", "--stride", "2", "--padding", "same"]) == 0
    said = capsys.readouterr().out
    assert "ceil(10/2) = 5" in said and "= 1: 0 before, 1 after" in said


def test_formulas_agree_with_the_library_everywhere():
    """Every small combination: the words are only worth something if they are always right."""
    checked = 0
    for n in range(1, 9):
        for k in range(1, 4):
            for s in range(1, 5):
                for d in (1, 2):
                    for pad in (0, 1, "same", "valid", ((0, 1),), ((2, 0),)):
                        for ceil in (False, True):
                            try:
                                (row,) = shapes.rows((n,), (k,), (s,), pad, (d,), ceil, (0,))
                            except ValueError:
                                continue
                            assert evaluate(row.formula) == row.output
                            checked += 1
    assert checked > 500


def test_axes(capsys):
    assert main(["shape", "8", "9", "3", "--kernel", "2", "--axes", "0,1"]) == 0
    assert "8×9×3 → 4×4×3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1,2", (1, 2)),
        ("0:1", ((0, 1),)),
        ("0:1,2:3", ((0, 1), (2, 3))),
        ("0:1,2", ((0, 1), (2, 2))),
        ("same", "same"),
        ("valid", "valid"),
    ],
)
def test_padding_syntax(text, value):
    assert options.padding(text) == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command"),
        (["pool"], "No such command 'pool'"),
        (["shape"], "Missing"),
        (["shape", "5", "5"], "Missing option '--kernel'"),
        (["shape", "5", "x", "--kernel", "2"], "'x' is not a whole number"),
        (["shape", "5,5", "--kernel", "2"], "separate the sizes by spaces"),
        (["shape", "5", "--kernel", "2,2"], "2 numbers for 1 sizes"),
        (["shape", "5", "5", "--kernel", "6"], "output_shape"),
        (["shape", "5", "5", "--kernel", "0"], "kernel_size"),
        (["shape", "5", "5", "--kernel", "2", "--stride", "0"], "stride"),
        (["shape", "5", "5", "--kernel", "2", "--axes", "7"], "axes"),
        (["shape", "5", "5", "--kernel", "2,2", "--axes", "1,1"], "axes"),
        (["shape", "5", "5", "--kernel", "2", "--padding", "SAME"], "--padding 'SAME'"),
        (["info", "more"], "unexpected extra argument"),
    ],
)
def test_refusals(capsys, arguments, words):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("infinitypool: ") and said.err.count("\n") == 1
    assert words in said.err


def test_info(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert ip.__version__ in said
    for key in ip.config():
        assert str(key) in said


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"infinitypool {ip.__version__}\n"


@pytest.mark.parametrize("command", [[], ["image"], ["list"], ["shape"], ["info"]])
def test_help(capsys, command):
    assert main([*command, "--help"]) == 0
    assert "Usage: infinitypool" in capsys.readouterr().out


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out.partition("Commands:")[2]
    assert re.findall(r"^  (\w+)", said, re.MULTILINE) == [
        "image",
        "list",
        "shape",
        "bench",
        "info",
    ]
    assert "..." not in said


def test_help_says_that_sums_saturate(capsys):
    assert main(["image", "--help"]) == 0
    assert "saturates" in capsys.readouterr().out


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess:
    package = Path(ip.__file__).resolve().parents[1]
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", "infinitypool", *arguments],
        env={**os.environ, "PYTHONPATH": path, **more},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        check=False,
    )


def test_as_a_process():
    done = run("shape", "4", "4", "--kernel", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "4×4 → 2×2" in done.stdout
    done = run("shape", "4", "4", "--kernel", "9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("infinitypool: ") and done.stderr.count("\n") == 1


def test_a_terminal_that_knows_only_ascii():
    done = run("shape", "4", "4", "--kernel", "2", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


def test_bench_outside_a_checkout_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ip, "__file__", str(tmp_path / "site-packages/infinitypool/__init__.py"))
    assert main(["bench", "--quick"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("infinitypool: bench: ") and said.count("\n") == 1
