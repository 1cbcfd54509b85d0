"""Every instruction set that the machine has: the same bits, and the whole suite under each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infinitypool import _core

TESTS = Path(__file__).resolve().parents[1]
BATTERY = TESTS / "battery.py"


def _environment(isa, **more):
    path = os.pathsep.join([str(TESTS), *(p for p in sys.path if p)])
    return dict(os.environ, INFINITYPOOL_ISA=isa, PYTHONPATH=path, **more)


def test_the_list():
    names = _core.isas()
    assert names[0] == "baseline" or "baseline" in names
    assert len(set(names)) == len(names)
    assert set(names) <= {"baseline", "avx2", "avx512", "neon"}
    assert _core.isa() in names


def _all_at_once(commands, timeout):
    """{isa: (exit status, output, errors)}, the pinned processes side by side."""
    running = {}
    for isa, (command, environment) in commands.items():
        running[isa] = subprocess.Popen(
            command,
            env=environment,
            cwd=TESTS.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    deadline, result = time.monotonic() + timeout, {}
    try:
        with ThreadPoolExecutor(len(running) or 1) as pool:
            waiting = {
                isa: pool.submit(process.communicate, timeout=deadline - time.monotonic())
                for isa, process in running.items()
            }
            for isa, future in waiting.items():
                try:
                    result[isa] = (*future.result(), running[isa].returncode)
                except subprocess.TimeoutExpired:
                    running[isa].kill()
                    result[isa] = ("", f"still running after {timeout} seconds", None)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return {isa: (status, out, err) for isa, (out, err, status) in result.items()}


@pytest.fixture(scope="module")
def digests():
    commands = {isa: ([sys.executable, str(BATTERY)], _environment(isa)) for isa in _core.isas()}
    result = {}
    for isa, (status, out, err) in _all_at_once(commands, 300).items():
        assert status == 0, f"{isa}: {err[-3000:]}"
        answer = json.loads(out)
        assert answer["isa"] == isa, "the environment variable did not pin the instruction set"
        result[isa] = answer["digests"]
    return result


@pytest.mark.parametrize("isa", _core.isas())
def test_exactly_the_same_bits(isa, digests):
    reference = digests["baseline"]
    assert len(reference) > 3000
    assert set(digests[isa]) == set(reference)
    different = [key for key in reference if digests[isa][key] != reference[key]]
    assert not different, f"{isa}: {len(different)} calls differ from baseline: {different[:5]}"


OTHERS = [name for name in _core.isas() if name != _core.isa()]


@pytest.fixture(scope="module")
def pinned_suites():
    """The tests of the engine and of the PyTorch front again, pinned; fewer random examples.

    The instruction set is chosen at import, so this takes a process each.  Left out is this file,
    and what is marked ``once``: tests of words and of processes, which no kernel can change."""
    arguments = [
        *("-m", "pytest", "-q", "--maxfail=5", "-p", "no:cacheprovider", "-m", "not once"),
        *(str(TESTS / folder) for folder in ("pool", "torch")),
        f"--ignore={__file__}",
    ]
    commands = {
        isa: (
            [sys.executable, *arguments],
            _environment(isa, INFINITYPOOL_TEST_EXAMPLES="25"),
        )
        for isa in OTHERS
    }
    return _all_at_once(commands, 400)


@pytest.mark.parametrize("isa", OTHERS)
def test_the_suite_under(isa, pinned_suites):
    status, out, err = pinned_suites[isa]
    assert status == 0, f"under {isa}: {out[-6000:]}\n{err[-2000:]}"
    passed = re.search(r"(\d+) passed", out)
    assert passed and int(passed.group(1)) > 800, out[-500:]
    assert "skipped" not in out


def test_the_pin_holds():
    """In a pinned run of the suite the core says so itself."""
    pinned = os.environ.get("INFINITYPOOL_ISA")
    best = next(name for name in ("avx512", "avx2", "neon", "baseline") if name in _core.isas())
    assert _core.isa() == (pinned or best)


@pytest.mark.parametrize("name", ["sse9", "AVX", "avx2 ", "fastest"])
def test_unknown_instruction_set(name):
    done = subprocess.run(
        [sys.executable, "-c", "import infinitypool"],
        env=_environment(name),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError"), done.stderr
    assert "INFINITYPOOL_ISA" in last and name.strip() in last
    for choice in _core.isas():
        assert choice in last
