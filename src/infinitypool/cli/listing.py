"""The list of kinds in words: a table of all, a page for one, and rows for machines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infinitypool.cli.kinds import GRADIENTS, Entry, option
from infinitypool.plan import ITEMSIZE, is_floating
from infinitypool.spec import REQUIRED

__all__ = ["page", "row", "table"]

_UNKNOWN = "not in this build"
_GROUPS = {
    "floats": [name for name in ITEMSIZE if is_floating(name)],
    "integers": [name for name in ITEMSIZE if "int" in name],
    "bool": ["bool"],
}
_CAPTION = (
    "w: the elements of a window. floats: float64, float32, float16, bfloat16. integers: int8 to "
    "int64, uint8 to uint64. empty: what a window without an element gives. One kind at length: "
    "infinitypool list NAME"
)


def dtypes(entry: Entry) -> str:
    """The dtypes in few words; a group that is not whole is spelled out."""
    parts, left = [], set(entry.dtypes)
    for name, group in _GROUPS.items():
        if left.issuperset(group):
            parts.append(name)
            left -= set(group)
    return ", ".join([*parts, *sorted(left)]) or _UNKNOWN


def arguments(entry: Entry) -> list[str]:
    """Its own arguments as in a call: ``p=3.0``, or the name alone where there is no default."""
    return [
        name if default is REQUIRED else f"{name}={default!r}"
        for name, default in entry.arguments.items()
    ]


def gradient(entry: Entry) -> str:
    """The gradient rule's name; two for a mixture."""
    return " and ".join(entry.gradients) or _UNKNOWN


def table(found: Iterable[Entry], console: Console) -> Table:
    """All kinds: a line for each where the console is wide enough, otherwise a block for each."""
    found = list(found)
    wide = Table(caption=_CAPTION, caption_justify="left")
    for name in ("kind", "formula", "own arguments", "dtypes", "empty", "gradient", "indices"):
        wide.add_column(name, style="bold" if name == "kind" else "")
    for entry in found:
        cells = [entry.name, entry.formula, ", ".join(arguments(entry)), dtypes(entry)]
        cells += [entry.empty, gradient(entry), _yes(entry.indices)]
        wide.add_row(*map(Text, cells))
    if console.measure(wide, options=console.options.update(max_width=10_000)).maximum <= (
        console.width
    ):
        return wide
    narrow = Table(box=box.ROUNDED, show_lines=True, caption=_CAPTION, caption_justify="left")
    narrow.add_column("kind", style="bold", no_wrap=True)
    narrow.add_column("formula, own arguments, and the rest", ratio=1)
    for entry in found:
        lines = [Text(entry.formula, "cyan")]
        lines += [Text(f"arguments: {', '.join(arguments(entry))}")] * bool(entry.arguments)
        rest = f"gradient: {gradient(entry)}; indices: {_yes(entry.indices)}"
        lines += [Text(f"{dtypes(entry)}; {rest}")]
        lines += [Text(f"empty: {entry.empty}")]
        narrow.add_row(Text(entry.name), Text("\n").join(lines))
    return narrow


def page(entry: Entry) -> Table:
    """One kind at length."""
    grid = Table(show_header=False, box=None, pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()

    def add(name: str, *lines: str) -> None:
        if any(lines):
            grid.add_row(Text(name), Text("\n".join(lines)))

    add(entry.name, entry.summary)
    add("formula", entry.formula, "over w, the elements of a window")
    add("source", entry.source)
    add("notes", entry.notes)
    for shown, name in zip(arguments(entry), entry.arguments, strict=True):
        add(f"  {shown}", entry.explanation(name) or "-")
    add("dtypes", ", ".join(entry.dtypes) or _UNKNOWN)
    add("empty", entry.empty)
    add("gradient", *(f"{g}: {GRADIENTS[g]}" if g in GRADIENTS else g for g in entry.gradients))
    add("indices", _yes(entry.indices))
    add("functions", ", ".join(f"ip.{name}" for name in entry.functions))
    modules: dict[str, list[str]] = {}
    for path in entry.torch_names() or ():
        module, _, name = path.rpartition(".")
        modules.setdefault(module, []).append(name)
    known = [f"{module}: {', '.join(names)}" for module, names in modules.items()]
    add("PyTorch", *(["install PyTorch for its front"] if entry.torch_names() is None else known))
    add("command", command(entry))
    add("example", entry.example())
    return grid


def command(entry: Entry) -> str:
    """How the command pools a picture by this kind; capitals stand for what has no default."""
    words = ["infinitypool image in.png -o out.png --op", entry.name]
    words += ["--kernel 2"] * ("kernel_size" not in entry.arguments)
    words += ["--size ROWS,COLUMNS"] * ("output_size" in entry.arguments)
    for name, default in entry.arguments.items():
        words += [f"{option(name)} {name.upper()}"] * (default is REQUIRED)
    return " ".join(words)


def row(entry: Entry) -> dict[str, Any]:
    """One kind for machines: plain values that JSON knows."""
    return {
        "name": entry.name,
        "summary": entry.summary,
        "formula": entry.formula,
        "source": entry.source,
        "notes": entry.notes,
        "arguments": [
            {"name": name, "required": default is REQUIRED, "text": entry.explanation(name)}
            | ({} if default is REQUIRED else {"default": default})
            for name, default in entry.arguments.items()
        ],
        "dtypes": list(entry.dtypes),
        "empty": entry.empty,
        "gradient": list(entry.gradients),
        "indices": entry.indices,
        "functions": list(entry.functions),
        "torch": entry.torch_names(),
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"
