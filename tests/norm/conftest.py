"""PyTorch opens a parallel region for every small call; on a busy machine each one waits for a core.
Threads have tests of their own, so comparisons with it run on one."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
