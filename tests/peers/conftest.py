"""Keras takes its backend, and the folder that it writes its settings into, from here on import."""

from __future__ import annotations

import os
import tempfile

_home = tempfile.TemporaryDirectory(prefix="keras")
os.environ["KERAS_BACKEND"] = "numpy"
os.environ["KERAS_HOME"] = _home.name
