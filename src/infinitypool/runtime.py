"""What the process shares: threads, the recycling allocator, and a report on both."""

from __future__ import annotations

import operator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import _core

try:
    __version__ = version("infinitypool")
except PackageNotFoundError:  # a source tree on the path that was never installed
    __version__ = "0.0+unknown"


def _count(function: str, name: str, value: object, least: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{function}: {name}={value!r} must be an int, not {type(value).__name__}"
        ) from None
    if not least <= number < 2**63:
        raise ValueError(f"{function}: {name}={number} must be {least} or more, below 2**63")
    return number


def set_num_threads(n: int) -> None:
    """Let pooling use ``n`` threads, as ``torch.set_num_threads`` does for PyTorch.

    Results are the same bits for every number of threads. Raises ``ValueError`` for n below 1
    and ``TypeError`` for what is no int.

    >>> import infinitypool as ip
    >>> before = ip.get_num_threads()
    >>> ip.set_num_threads(1)
    >>> ip.get_num_threads()
    1
    >>> ip.set_num_threads(before)
    """
    _core.set_num_threads(_count("set_num_threads", "n", n, 1))


def get_num_threads() -> int:
    """How many threads a call would use now.

    >>> import infinitypool as ip
    >>> ip.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def empty_cache() -> None:
    """Give the memory that the allocator keeps for further results back to the system.

    Results that are still in use keep theirs.

    >>> import infinitypool as ip
    >>> ip.empty_cache()
    >>> ip.config()["cache"]["cached"]
    0
    """
    _core.empty_cache()


def set_cache_limit(nbytes: int) -> None:
    """Let the allocator keep at most ``nbytes`` of freed results for further ones; 0 for none.

    Raises ``ValueError`` for a negative number and ``TypeError`` for what is no int.

    >>> import infinitypool as ip
    >>> before = ip.config()["cache"]["limit"]
    >>> ip.set_cache_limit(2**20)
    >>> ip.config()["cache"]["limit"]
    1048576
    >>> ip.set_cache_limit(before)
    """
    _core.set_cache_limit(_count("set_cache_limit", "nbytes", nbytes, 0))


def config() -> dict[str, Any]:
    """What this installation runs on.

    Returns a dictionary with ``version``, ``isa`` (the instruction set in use), ``isas`` (all
    that this machine has), ``threads``, ``openmp`` (the runtime's file) and ``cache`` (the
    recycling allocator's limit and its bytes cached and in use).

    >>> import infinitypool as ip
    >>> ip.config()["isa"] in ip.config()["isas"]
    True
    """
    return {
        "version": __version__,
        "isa": _core.isa(),
        "isas": _core.isas(),
        "threads": get_num_threads(),
        "openmp": _core.openmp(),
        "cache": _core.cache_info(),
    }


def show_config() -> None:
    """Print :func:`config` as a short report.

    >>> import infinitypool as ip
    >>> ip.show_config()  # doctest: +ELLIPSIS
    infinitypool     ...
    instruction set  ... (available: ...)
    threads          ...
    OpenMP runtime   ...
    allocator        ... MiB cached, ... MiB in use, limit ... MiB
    """
    found = config()
    cache = found["cache"]
    mib = {name: f"{cache[name] / 2**20:.1f} MiB" for name in ("limit", "cached", "in_use")}
    print(f"infinitypool     {found['version']}")
    print(f"instruction set  {found['isa']} (available: {', '.join(found['isas'])})")
    print(f"threads          {found['threads']}")
    print(f"OpenMP runtime   {found['openmp']}")
    print(f"allocator        {mib['cached']} cached, {mib['in_use']} in use, limit {mib['limit']}")
