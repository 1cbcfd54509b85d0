"""Public functions explain themselves, their examples run, and the text is clean."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import infinitypool
import infinitypool.nn
import infinitypool.nn.functional

ROOT = Path(__file__).resolve().parents[2]
MODULES = (infinitypool, infinitypool.nn, infinitypool.nn.functional)


def _public():
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and (value.__module__ or "").startswith("infinitypool"):
                yield f"{module.__name__}.{name}", value


PUBLIC = dict(_public())
NAMED_BY_THE_TASK = (
    *(f"infinitypool.{n}" for n in (
        "max_pool", "min_pool", "avg_pool", "sum_pool", "output_shape", "set_num_threads",
        "get_num_threads", "empty_cache", "set_cache_limit", "show_config")),
    *(f"infinitypool.nn.{k}Pool{d}d" for k in ("Max", "Avg") for d in (1, 2, 3)),
    *(f"infinitypool.nn.functional.{k}" for d in (1, 2, 3)
      for k in (f"max_pool{d}d", f"max_pool{d}d_with_indices", f"avg_pool{d}d")),
)  # fmt: skip


@pytest.mark.parametrize("name", NAMED_BY_THE_TASK)
def test_it_is_public(name):
    module, _, attribute = name.rpartition(".")
    module = importlib.import_module(module)
    assert attribute in module.__all__ and callable(getattr(module, attribute))


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_with_an_example_that_runs(name):
    value = PUBLIC[name]
    text = inspect.getdoc(value) or ""
    assert len(text) > 60, f"{name} has no docstring worth the name"
    assert ">>>" in text, f"{name} has no example"
    finder = doctest.DocTestFinder(recurse=False)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    examples = 0
    for test in finder.find(value, name, globs={}):
        examples += len(test.examples)
        said = []
        runner.run(test, out=said.append)
        assert not runner.failures, "".join(said)
    assert examples >= 2  # an import and a call


@pytest.mark.parametrize("name", PUBLIC)
def test_type_hints(name):
    value = PUBLIC[name]
    function = value.__init__ if inspect.isclass(value) else value
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.name not in ("self", "args", "kwargs"):
            assert parameter.annotation is not inspect.Parameter.empty, f"{name}: {parameter.name}"
    assert signature.return_annotation is not inspect.Signature.empty, name


def test_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+.*", infinitypool.__version__)


# Paths of somebody's machine and notes to oneself have no place in a published source.
FORBIDDEN = re.compile(r"/(work|root|home)/|\b(TODO|FIXME|XXX)\b")
SOURCES = ("src", "csrc", "tests", "benchmarks", "examples", "docs")
SUFFIXES = {".py", ".cpp", ".hpp", ".h", ".md", ".toml", ".txt", ".cmake"}


def _sources():
    for folder in SOURCES:
        yield from (p for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES)
    yield from (p for p in ROOT.glob("*") if p.suffix in SUFFIXES or p.name == "Makefile")


def test_no_forbidden_words():
    seen = 0
    for path in _sources():
        if path == Path(__file__).resolve():
            continue
        seen += 1
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found = FORBIDDEN.search(line)
            assert not found, f"{path.relative_to(ROOT)}:{number}: {found.group()}"
    assert seen > 30
