"""The command ``list``: complete, true, readable, and filled from the tables."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import infinitypool as ip
from infinitypool.cli import kinds, listing, main
from infinitypool.plan import ITEMSIZE, REDUCERS

ENTRIES = kinds.entries()


def listed(capsys, *arguments: str) -> str:
    assert main(["list", *arguments]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return {row[0]: row for row in cells if row}


def test_one_line_for_each_kind_in_a_pipe(capsys):
    table = rows(listed(capsys))
    assert list(table) == list(ENTRIES)
    for name, kind in kinds.KINDS.items():
        _, formula, arguments, dtypes, empty, gradient, indices = table[name]
        assert formula == kind.formula
        assert empty == kind.empty.replace("``", "")
        assert indices == ("yes" if kind.indices else "no")
        assert REDUCERS[kind.reducer]["gradient"] in gradient
        assert "floats" in dtypes
        for argument, default, *_ in kind.arguments:
            assert (argument if default is kinds.REQUIRED else f"{argument}={default!r}") in (
                arguments.split(", ")
            )
    assert table["max"][3:] == [
        "floats, integers, bool", kinds.KINDS["max"].empty, "winner", "yes"
    ]  # fmt: skip
    assert table["gem"][2:4] == ["p=3.0, eps=1e-06", "floats"]
    assert table["quantile"][2] == "q, method='linear'"
    assert table["mixed"][5] == "winner and even"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_readable_in_a_terminal(width):
    """Nothing is cut: the words are all there, on lines that fit."""
    console = Console(width=width, file=io.StringIO())
    console.print(listing.table(ENTRIES.values(), console), highlight=False, markup=False)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in console.file.getvalue()
    left = "".join("".join(line.split("│")[1:2]).strip() for line in lines)
    right = "".join("".join(line.split("│")[2:3]).replace(" ", "") for line in lines)
    for name, entry in ENTRIES.items():
        assert name in left
        for text in (entry.formula, entry.empty, *listing.arguments(entry), *entry.gradients):
            assert text.replace(" ", "") in right


def test_a_wide_terminal_gets_the_table():
    console = Console(width=400, file=io.StringIO())
    assert len(listing.table(ENTRIES.values(), console).columns) == 7


def test_dtypes_are_true():
    """Every array function takes just what the list says."""
    for entry in ENTRIES.values():
        given = {"q": 0.5} if "q" in entry.arguments else {}
        given |= {"output_size": 2} if "output_size" in entry.arguments else {}
        for dtype in set(ITEMSIZE) - {"bfloat16"}:
            x = np.ones((5, 5), dtype)
            if dtype in entry.dtypes:
                getattr(ip, entry.functions[0])(x, 2, **given)
            else:
                with pytest.raises(TypeError, match=entry.functions[0]):
                    getattr(ip, entry.functions[0])(x, 2, **given)


@pytest.mark.parametrize("name", ENTRIES)
def test_one_kind_at_length(capsys, name):
    entry = ENTRIES[name]
    said = listed(capsys, name)
    for text in (entry.summary, entry.formula, entry.empty, entry.source, *entry.dtypes):
        assert text and text in said
    for rule in entry.gradients:
        assert f"{rule}: {kinds.GRADIENTS[rule]}" in said
    for function in entry.functions:
        assert callable(getattr(ip, function)) and f"ip.{function}" in said
    assert f">>> ip.{entry.functions[0]}(" in said
    for argument, shown in zip(entry.arguments, listing.arguments(entry), strict=True):
        assert shown in said and entry.explanation(argument) in said
        assert entry.explanation(argument)
    assert "``" not in said


def test_names_of_the_pytorch_front():
    for name, entry in ENTRIES.items():
        found = entry.torch_names()
        functions = [path for path in found if path.startswith("infinitypool.nn.functional.")]
        assert bool(functions) == (name != "sum")  # PyTorch's front has no sums
        for path in found:
            module, _, attribute = path.rpartition(".")
            assert callable(getattr(sys.modules[module], attribute))


def test_which_names_belong_to_a_kind():
    names = [path.rpartition(".")[2] for path in ENTRIES["max"].torch_names()]
    assert {"MaxPool2d", "AdaptiveMaxPool1d", "max_pool2d_with_indices"} <= set(names)
    assert not [name for name in names if "actional" in name or "Blur" in name or "Un" in name]


def test_without_pytorch(capsys, monkeypatch):
    monkeypatch.delattr(ip, "nn", raising=False)
    monkeypatch.setitem(sys.modules, "infinitypool.nn", None)
    assert "install PyTorch" in listed(capsys, "max")
    assert json.loads(listed(capsys, "max", "--json"))["torch"] is None


@pytest.mark.parametrize("name", ENTRIES)
def test_the_commands_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(80, dtype=np.uint8).reshape(8, 10)).save("in.png")
    line = listing.command(ENTRIES[name]).replace("ROWS,COLUMNS", "3,4").replace(" Q", " 0.5")
    program, *arguments = shlex.split(line)
    assert program == "infinitypool"
    assert main(arguments) == 0
    assert (tmp_path / "out.png").exists()


def test_for_machines(capsys):
    found = json.loads(listed(capsys, "--json"))
    assert [row["name"] for row in found] == list(ENTRIES)
    for row in found:
        entry = ENTRIES[row["name"]]
        assert json.loads(json.dumps(listing.row(entry))) == row
        assert row["formula"] == entry.formula and row["dtypes"] == list(entry.dtypes)
        assert [a["name"] for a in row["arguments"]] == list(entry.arguments)
        assert all(("default" in a) != a["required"] for a in row["arguments"])
    alone = json.loads(listed(capsys, "quantile", "--json"))
    assert alone == next(row for row in found if row["name"] == "quantile")
    assert alone["arguments"][0]["required"]


def test_a_new_kind_appears(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(REDUCERS, "deepest", {**REDUCERS["min"], "gradient": "downwards"})
    kind = dataclasses.replace(
        kinds.KINDS["min"], name="deep", reducer="deepest", formula="np.deep(w)", empty="nothing"
    )
    monkeypatch.setitem(kinds.KINDS, "deep", kind)
    row = rows(listed(capsys))["deep"]
    assert (row[1], *row[4:]) == ("np.deep(w)", "nothing", "downwards", "yes")
    assert "downwards" in listed(capsys, "deep")
    assert "np.deep(w)" in listed(capsys, "deep", "--json")
    # Its function makes it a kind for pictures.
    function = dataclasses.replace(kind).function
    monkeypatch.setattr(ip, function, ip.min_pool, raising=False)
    monkeypatch.setattr(ip, "__all__", [*ip.__all__, function])
    Image.new("L", (8, 8), 7).save(tmp_path / "in.png")
    command = ["image", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png")]
    assert main([*command, "--op", "deep", "--kernel", "2"]) == 0
    with Image.open(tmp_path / "out.png") as result:
        assert result.size == (4, 4) and result.getpixel((0, 0)) == 7


def test_a_reducer_that_the_core_lacks(capsys, monkeypatch):
    monkeypatch.delitem(REDUCERS, "lp")
    assert rows(listed(capsys))["lp"][3] == "not in this build"
    assert "not in this build" in listed(capsys, "lp")
    assert main(["image", "in.png", "-o", "out.png", "--op", "lp", "--kernel", "2"]) == 2
    assert "--op lp: the native core" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["midian"], "NAME 'midian' is not one of max, min, "),
        (["midian"], "did you mean median?"),
        (["midian", "--json"], "is not one of"),
        (["max", "min"], "unexpected extra argument"),
        (["--yaml"], "No such option"),
        ([""], "NAME '' is not one of"),
    ],
)
def test_refusals(capsys, arguments, words):
    assert main(["list", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("infinitypool: ") and said.err.count("\n") == 1
    assert words in said.err
