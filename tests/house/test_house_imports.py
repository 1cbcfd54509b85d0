"""The import rule: fronts import the specs, the plans and the core, and never each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import infinitypool

PACKAGE = Path(infinitypool.__file__).parent
# Every module belongs to one part, by its first name inside the package.
FRONTS = {"arrays": {"arrays"}, "nn": {"nn", "_torch"}, "cli": {"cli", "__main__"}}
SHARED = {"spec", "plan", "_core"}


def _part(module):
    for front, names in FRONTS.items():
        if module in names:
            return front
    return None


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).with_suffix("")
        yield path, relative.parts


def _imported(path, parts):
    """(first name inside the package or "", line) for each import of the package by itself."""
    package = ["infinitypool", *parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package[: len(package) - node.level + 1], *base.split(".")]
                ).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "infinitypool":
                yield (pieces[1] if len(pieces) > 1 else ""), node.lineno


def test_fronts_never_import_each_other():
    checked = 0
    for path, parts in _modules():
        here = _part(parts[0])
        if here is None or here == "cli":  # the command is built on the fronts' public names
            continue
        for name, line in _imported(path, parts):
            there = _part(name)
            assert there in (None, here), f"{path.name}:{line} imports {name}"
            checked += 1
    assert checked >= 4


def test_spec_and_plan_import_no_front():
    for path, parts in _modules():
        if parts[0] not in SHARED:
            continue
        for name, line in _imported(path, parts):
            assert name in SHARED, f"{path.name}:{line} imports {name}"


def test_spec_needs_neither_numpy_nor_torch():
    for path, parts in _modules():
        if parts[0] == "spec":
            text = path.read_text()
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Import):
                    assert all(a.name.split(".")[0] not in ("numpy", "torch") for a in node.names)


HEAVY = ("torch", "matplotlib", "dask", "jax", "PIL", "rich", "typer", "click", "scipy")


@pytest.mark.parametrize(
    "program, allowed",
    [
        ("import infinitypool", ()),
        ("import infinitypool as ip, numpy as np; ip.max_pool(np.ones((4, 4)), 2)", ()),
        ("import infinitypool as ip; ip.show_config()", ()),
        ("import infinitypool.nn", ("torch",)),
    ],
)
def test_what_an_import_loads(program, allowed):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{program}\nimport sys\nprint('LOADED', *sorted(m for m in sys.modules if '.' not in m))",
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split("LOADED", 1)[1].split()
    assert "infinitypool" in loaded and "numpy" in loaded
    if allowed:
        # PyTorch may bring others along; infinitypool.nn itself must not need the command's.
        assert "torch" in loaded and not {"matplotlib", "dask", "typer"} & set(loaded)
    else:
        assert not set(HEAVY) & set(loaded)
