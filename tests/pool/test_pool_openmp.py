"""One OpenMP runtime, whichever library comes first."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

import infinitypool as ip

pytestmark = pytest.mark.once

PROGRAM = """
    import re
    {first}
    {second}
    import numpy as np
    import torch.nn.functional as F
    import infinitypool.nn.functional as IF
    t = torch.rand(2, 8, 256, 256)
    for _ in range(3):
        assert torch.equal(F.max_pool2d(t, 3), IF.max_pool2d(t, 3))
        assert np.array_equal(ip.max_pool(t.numpy(), 3), F.max_pool2d(t, 3).numpy())
    libraries = set()
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split(maxsplit=5)[-1].strip()
            if re.search(r"/lib(gomp|omp|iomp5)[^/]*\\.so", path):
                libraries.add(path)
    print("\\n".join(sorted(libraries)))
"""
IMPORTS = ("import torch", "import infinitypool as ip")


def _libraries(first, second):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM).format(first=first, second=second)],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize(
    "first, second", [IMPORTS, IMPORTS[::-1]], ids=["torch first", "torch second"]
)
def test_one_runtime(first, second):
    libraries = _libraries(first, second)
    assert len(libraries) == 1, libraries


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_the_runtime_named_is_the_one_loaded():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
            import infinitypool as ip
            name = ip._core.openmp()
            maps = open("/proc/self/maps").read()
            print(name, name.rsplit("/", 1)[-1] in maps)
        """),
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    name, loaded = done.stdout.split()
    assert "omp" in name and loaded == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/task")
def test_a_small_call_starts_no_threads():
    """Waking threads costs more than a small pooling: 10 microseconds would be out of reach."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
            import os
            import numpy as np, infinitypool as ip
            ip.set_num_threads(4)
            before = len(os.listdir("/proc/self/task"))
            for reducer in (ip.max_pool, ip.avg_pool):
                reducer(np.ones((1, 8, 8, 8), np.float32), 2)
            small = len(os.listdir("/proc/self/task"))
            ip.max_pool(np.ones((8, 1024, 1024), np.float32), 2)
            print(small - before, len(os.listdir("/proc/self/task")) - before)
        """),
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    assert small == 0 and large > 0


def test_torch_governs_the_threads_too():
    """One pool of threads, so PyTorch's own setting holds for both."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
            import torch, infinitypool as ip
            torch.set_num_threads(3)
            print(ip.get_num_threads())
            ip.set_num_threads(2)
            print(ip.get_num_threads())
        """),
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "2"]


def test_configuration_report(capsys):
    assert ip.show_config() is None
    said = capsys.readouterr().out
    facts = ip.config()
    assert ip.__version__ in said and ip._core.isa() in said
    assert str(facts).count(ip.__version__) and str(facts).count(ip._core.isa())
    for word in ("thread", "openmp", "instruction", "limit"):
        assert word in said.lower(), said
