"""What the command offers: an entry for each kind of pooling by windows, read from the package.

The kinds come from :data:`infinitypool.spec.KINDS`, their dtypes and gradient rules from the core's
reducers, and their arguments from the signatures of the array functions. Array functions with
windows of their own sort, which have no row in the table, follow behind it.
"""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import infinitypool as ip
from infinitypool.cli.options import Refused
from infinitypool.plan import REDUCERS, is_floating
from infinitypool.spec import KINDS, REQUIRED, Kind

__all__ = ["GRADIENTS", "Entry", "entries", "find", "option", "own_options"]

# Arguments that are called otherwise on a command line.
_OPTIONS = {
    "kernel_size": "--kernel",
    "output_size": "--size",
    "output_ratio": "--ratio",
    "ceil_mode": "--ceil",
    "rng": "--seed",
}

GRADIENTS = {
    "winner": "to the winner of each window, the first of equal elements",
    "even": "to every element of a window by its weight in the formula, whatever the values",
    "weighted": "to every element of a window, by the formula's derivative at the values",
}


@dataclass(frozen=True)
class Entry:
    """One kind: its row of the table, and what the rest of the package says about it."""

    name: str
    summary: str
    formula: str
    empty: str
    notes: str
    source: str
    arguments: dict[str, Any]  # its own: name to default, or REQUIRED
    dtypes: tuple[str, ...]
    gradients: tuple[str, ...]
    indices: bool
    functions: tuple[str, ...]  # of the array front

    @property
    def adaptive(self) -> str | None:
        """The name of the adaptive function, if there is one."""
        return next((name for name in self.functions if name.startswith("adaptive_")), None)

    def options(self) -> list[str]:
        """Its own arguments that the command takes, as the command calls them."""
        known = {"kernel_size", "stride", "padding", "output_size", *own_options()}
        return [option(name) for name in self.arguments if name in known]

    def torch_names(self) -> list[str] | None:
        """Names of the PyTorch front that offer this kind; None where PyTorch is not installed."""
        try:
            from infinitypool import nn
        except ImportError:
            return None
        name = self.name.replace("_", "")
        form = re.compile(rf"(adaptive|global)?{name}(pool([123]d)?(withindices)?)?")
        return [
            f"{module.__name__}.{found}"
            for module in (nn, nn.functional)
            for found in module.__all__
            if form.fullmatch(found.lower().replace("_", ""))
        ]

    def explanation(self, argument: str) -> str:
        """What the array function's docstring says of an argument."""
        form = re.compile(rf"^(?:\w+, )*{argument}(?:, \w+)* : .*\n((?:    .*\n)+)", re.MULTILINE)
        found = form.search(_text(self.functions[0]))
        return _plain(found[1]) if found else ""

    def example(self) -> str:
        """The first call in the array function's docstring, with what comes before and out."""
        lines: list[str] = []
        for part in doctest.DocTestParser().get_examples(_text(self.functions[0])):
            first, *more = part.source.rstrip().splitlines()
            lines += [f">>> {first}", *(f"... {line}" for line in more)]
            if f"ip.{self.functions[0]}(" in part.source:
                return "\n".join([*lines, part.want.rstrip()])
        return ""


def option(argument: str) -> str:
    """The option of the command that stands for an argument of a function."""
    return _OPTIONS.get(argument, f"--{argument.replace('_', '-')}")


def own_options() -> dict[str, tuple[type, str]]:
    """The arguments of single kinds that a picture may be pooled with: their type and help."""
    types: dict[str, type] = {}
    texts: dict[str, dict[str, list[str]]] = {}  # by argument: what kinds say of it

    def add(name: str, annotation: type, text: str, kind: str) -> None:
        types[name] = annotation
        texts.setdefault(name, {}).setdefault(text, []).append(kind)

    for kind in KINDS.values():
        for name, default, _, annotation, text in kind.arguments:
            usual = "" if default is REQUIRED or default is False else f" [default: {default}]"
            add(name, annotation, _plain(text) + usual, kind.name)
    for entry in entries().values():
        for name, text in _BESIDE.items():
            if name in entry.arguments:
                add(name, str, text, entry.name)
    return {
        name: (types[name], " ".join(f"{', '.join(k)}: {text}" for text, k in found.items()))
        for name, found in texts.items()
    }


# Arguments that the table of kinds does not explain, in the command's form.
_BESIDE = {
    "rng": "The seed, a whole number; without it every run draws anew.",
    "output_ratio": "The output's size as a part of the input's, one number or R,R.",
}


def entries() -> dict[str, Entry]:
    """All kinds by name: those of the table in its order, then the functions beside it."""
    signatures = {name: _signature(name) for name in ip.__all__ if name.endswith("_pool")}
    known = [signatures[k.function] for k in KINDS.values() if k.function in signatures]
    shared = {name: known[0][name].default for name in set.intersection(*map(set, known))}
    found = {
        kind.name: _entry(kind, _without(signatures.get(kind.function), shared))
        for kind in KINDS.values()
    }
    for function, signature in signatures.items():
        name = function.removesuffix("_pool")
        if name in found or name.startswith("adaptive_") or "kernel_size" not in signature:
            continue
        found[name] = _beside(name, function, _without(signature, shared))
    return found


def find(name: str, what: str) -> Entry:
    """The entry of this name, or :class:`Refused`; ``what`` is what the command calls the name."""
    found = entries()
    if name in found:
        return found[name]
    near = get_close_matches(name, found, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise Refused(f"{what} {name[:60]!r} is not one of {', '.join(found)}{meant}")


def _entry(kind: Kind, arguments: dict[str, Any] | None) -> Entry:
    reducers = ["max", kind.reducer] if kind.composite else [kind.reducer]
    rows = [REDUCERS[name] for name in reducers if name in REDUCERS]
    if arguments is None:
        arguments = {argument.name: argument.default for argument in kind.arguments}
    notes, _, source = _plain(kind.notes).partition("Source: ")
    return Entry(
        name=kind.name,
        summary=kind.summary,
        formula=kind.formula,
        empty=_plain(kind.empty),
        notes=notes.strip(),
        source=source.rstrip(".") or "the formula, as NumPy computes it",
        arguments=arguments,
        # A mixture is made in floating point.
        dtypes=tuple(
            name for name in (rows[-1]["dtypes"] if rows else ())
            if is_floating(name) or not kind.composite
        ),
        gradients=tuple(dict.fromkeys(row["gradient"] for row in rows)),
        indices=kind.indices,
        functions=(kind.function, *[f"adaptive_{kind.function}"] * kind.adaptive),
    )  # fmt: skip


def _beside(name: str, function: str, arguments: dict[str, Any]) -> Entry:
    """A function without a row in the table, for floats: a reducer of its name or its last word.

    Its windows always have elements: they lie inside the array, or padding counts.
    """
    reducer = REDUCERS.get(name) or REDUCERS[name.rpartition("_")[2]]
    text = " ".join(_text(function).split())
    source = re.search(r"Source: (.*?https?://\S+|[^.]*)", text)
    return Entry(
        name=name,
        summary=text.partition(". ")[0].replace("``", "") + ".",
        formula=reducer["spec"],
        empty="does not occur",
        notes="",
        source=source[1].replace("``", "").rstrip(".;,") if source else "",
        arguments=arguments,
        dtypes=tuple(filter(is_floating, reducer["dtypes"])),
        gradients=(reducer["gradient"],),
        indices="return_indices" in _signature(function),
        functions=(function,),
    )


def _signature(function: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(getattr(ip, function)).parameters


def _without(signature: Mapping[str, inspect.Parameter] | None, shared: dict[str, Any]) -> Any:
    """A function's own arguments: not those that all kinds share, with the same default."""
    if signature is None:
        return None
    missing = inspect.Parameter.empty
    return {
        name: REQUIRED if parameter.default is missing else parameter.default
        for name, parameter in signature.items()
        if name not in {"return_indices", "indices"}  # told apart
        and (name not in shared or shared[name] != parameter.default)
    }


def _text(function: str) -> str:
    return inspect.getdoc(getattr(ip, function, None)) or ""


def _plain(text: str) -> str:
    """A docstring's words on one line, without its marks."""
    return " ".join(text.split()).replace("``", "")
