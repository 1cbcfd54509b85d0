"""The forms that docs/tensorflow.md gives to TensorFlow's users run, on the array it begins with."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import infinitypool as ip
from infinitypool import nn

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "tensorflow.md").read_text(encoding="utf-8")
FORMS = [
    form
    for line in TEXT.splitlines()
    if line.startswith("| `t")
    for form in re.findall(r"`((?:ip|nn)\.[^`]+)`", line.split("|")[2])
]
X = np.arange(2 * 6 * 6 * 3, dtype=np.float32).reshape(2, 6, 6, 3)


def test_the_table_is_read():
    assert len(FORMS) >= 15


@pytest.mark.parametrize("form", FORMS)
def test_it_runs(form):
    value = eval(form, {"ip": ip, "nn": nn, "x": X})
    if form.startswith("nn."):
        value = value(torch.from_numpy(X).permute(0, 3, 1, 2))
    values = value[0] if isinstance(value, tuple) else value
    assert values.shape[0] == 2 and 3 in values.shape


def test_batch_indices_take_from_the_whole_array():
    values, indices = ip.max_pool(X, 2, axes=(1, 2), return_indices=True, indices="batch")
    assert np.array_equal(np.take(X, indices), values)
    within = indices % X[0].size  # TensorFlow without include_batch_in_index
    assert all(np.array_equal(np.take(a, i), v) for a, i, v in zip(X, within, values, strict=True))
