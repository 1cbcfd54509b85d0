"""Shared set-up: hypothesis profiles, and a clean engine before every test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

# INFINITYPOOL_TEST_EXAMPLES sets how many examples a property tries; the runs pinned to one
# instruction set use fewer than the main one.
settings.register_profile(
    "suite",
    max_examples=int(os.environ.get("INFINITYPOOL_TEST_EXAMPLES", "150")),
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("suite")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "once: no kernel changes the outcome, so one instruction set is enough"
    )


@pytest.fixture
def threads():
    """The thread count is process-wide: put it back."""
    import infinitypool as ip

    before = ip.get_num_threads()
    yield ip.set_num_threads
    ip.set_num_threads(before)


def pytest_terminal_summary(terminalreporter):
    """How many of PyTorch's own samples agreed, and how many tests of them did not."""
    agreed = sum(
        count
        for report in terminalreporter.getreports("passed")
        for name, count in report.user_properties
        if name == "samples"
    )
    failed = sum("opinfo" in report.nodeid for report in terminalreporter.getreports("failed"))
    if agreed or failed:
        terminalreporter.write_line(
            f"PyTorch's own samples: {agreed:,} compared and equal, {failed} tests of them failed"
        )
