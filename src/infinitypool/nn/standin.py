"""How our namespaces stand in for PyTorch's: what ours lack is PyTorch's own object."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_OURS, _THEIRS = "infinitypool.nn.", "torch.nn."


def lookups(name: str, theirs: ModuleType) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of the module ``name``, which stands in for ``theirs``."""

    def __getattr__(attribute: str) -> Any:
        # What a module says of itself, such as __path__, is not another's.
        if not attribute.startswith("__"):
            try:
                return getattr(theirs, attribute)
            except AttributeError:
                pass
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}")

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[name]), *dir(theirs)})

    return __getattr__, __dir__


def starred(theirs: ModuleType) -> list[str]:
    """What ``from theirs import *`` brings; neither ``torch.nn`` nor its functions say it."""
    return [name for name in dir(theirs) if not name.startswith("_")]


class _Imports(MetaPathFinder, Loader):
    """``import infinitypool.nn.init`` and its like: PyTorch's own module, not a second one."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(_OURS) or name in sys.modules:
            return None
        try:
            found = find_spec(_THEIRS + name.removeprefix(_OURS))
        except ModuleNotFoundError:
            return None
        return found and ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_THEIRS + spec.name.removeprefix(_OURS))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It was run under its own name, and goes on to say that of itself.
        module.__spec__ = module.__spec__.loader_state  # type: ignore[union-attr]


def serve_imports() -> None:
    """Ahead of the finder of files, which would load PyTorch's a second time."""
    sys.meta_path.insert(0, _Imports())
