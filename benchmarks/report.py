"""Rows -> verdicts, a Markdown table, JSON and bar charts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import BATCH, FAMILY, NORMS, POINTWISE, Bar, Case
from benchmarks.peers import OURS

__all__ = ["Row", "Verdict", "judge", "write"]


@dataclass
class Row:
    """What was measured of one case; times in seconds a call."""

    case: Case
    seconds: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # peer -> reason
    wrong: dict[str, str] = field(default_factory=dict)  # peer -> how its result differs
    reference: float | None = None
    floor_speed: float | None = None  # bytes a second copied (or read), in these rounds
    values: dict[str, float] = field(default_factory=dict)  # what is not a time: bytes, speed-ups

    @property
    def ours(self) -> float | None:
        return self.seconds.get(OURS)

    @property
    def floor(self) -> float | None:
        """Seconds that moving the same bytes takes: a copy of them, a read, or a read and a copy."""
        return self.case.moved_bytes / self.floor_speed if self.floor_speed else None

    @property
    def best_other(self) -> tuple[str, float] | None:
        """The fastest peer beside PyTorch eager."""
        others = [(s, n) for n, s in self.seconds.items() if n not in {OURS, "PyTorch"}]
        return (min(others)[1], min(others)[0]) if others else None


@dataclass(frozen=True)
class Verdict:
    """``passed`` is None where there is no bar or nothing to judge it by."""

    passed: bool | None
    text: str


def judge(row: Row) -> Verdict:
    """Hold a row against its bar."""
    if OURS in row.wrong:
        return Verdict(False, row.wrong[OURS])
    bar: Bar = row.case.bar
    parts: list[tuple[bool | None, str]] = []

    def ratio(limit: float | None, value: float | None, words: str, at_least: bool) -> None:
        if limit is None:
            return
        if value is None:
            parts.append((None, f"{words} not measured"))
            return
        passed = value >= limit if at_least else value <= limit
        parts.append((passed, f"{words} {value:.3g}"))

    def of(numerator: float | None, denominator: float | None) -> float | None:
        return numerator / denominator if numerator and denominator else None

    ours = row.ours
    ratio(bar.pytorch, of(row.seconds.get("PyTorch"), ours), "× PyTorch:", True)
    if bar.peers and row.best_other:
        ratio(1.0, of(row.best_other[1], ours), f"× {row.best_other[0]}:", True)
    for peer, times in bar.versus:
        ratio(times, of(row.seconds.get(peer), ours), f"× {peer}:", True)
    ratio(bar.floor, of(ours, row.floor), "× floor:", False)
    ratio(bar.read, of(ours, row.floor), "× read floor:", False)
    ratio(bar.passes, of(ours, row.floor), "× three-pass floor:", False)
    ratio(bar.reference, of(ours, row.reference), "× reference:", False)
    ratio(bar.saved, row.values.get("saved"), "bytes per output:", False)
    ratio(bar.latency, ours * 1e6 if ours else None, "µs:", False)
    ratio(bar.overhead, of(ours, row.seconds.get("PyTorch")), "× PyTorch's time:", False)
    if bar.threads is not None:
        gain, copies = row.values.get("gain"), row.values.get("copy gain")
        if gain is None or copies is None:
            parts.append((None, "second thread: not measured"))
        elif gain < bar.threads and copies < bar.threads:
            parts.append((None, f"second thread: {gain:.2f}×, but two copies only {copies:.2f}×"))
        else:
            parts.append(
                (gain >= bar.threads, f"second thread: {gain:.2f}× (copies {copies:.2f}×)")
            )
    if not parts:
        return Verdict(None, "")
    missed = [words for passed, words in parts if passed is False]
    if missed:
        return Verdict(False, "; ".join(missed))
    unknown = [words for passed, words in parts if passed is None]
    if unknown:
        return Verdict(None, "; ".join(unknown))
    return Verdict(True, "")


def mark(verdict: Verdict) -> str:
    """One word, and what was missed."""
    word = {True: "pass", False: "MISS", None: "–"}[verdict.passed]
    return f"{word} ({verdict.text})" if verdict.text else word


def milliseconds(seconds: float | None) -> str:
    if not seconds:
        return "–"
    milliseconds = seconds * 1e3
    return f"{milliseconds:.4f}" if milliseconds < 0.1 else f"{milliseconds:.3g}" if (
        milliseconds < 100
    ) else f"{milliseconds:.0f}"  # fmt: skip


def fold(numerator: float | None, denominator: float | None) -> str:
    return f"{numerator / denominator:.2f}×" if numerator and denominator else "–"


COLUMNS = (
    "case", "ours ms", "GB/s", "× floor", "PyTorch ms", "ratio", "best other peer", "ratio",
    "reference ms", "bar", "verdict",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """A row of the table, as text."""
    case, ours, other = row.case, row.ours, row.best_other
    if case.measure == "saved":
        kept = {n: f"{v:.3g} B/output" for n, v in row.values.items()}
        times = [kept.get("saved", "–"), "", "", kept.get("PyTorch", "–"), "", "", "", ""]
    elif case.measure == "threads":
        one = row.seconds.get(f"{OURS}, 1 thread")
        gain = f"{row.values['gain']:.2f}× by threads" if "gain" in row.values else "–"
        times = [
            milliseconds(ours),
            _speed(row),
            fold(ours, row.floor),
            "",
            "",
            "",
            gain,
            milliseconds(one),
        ]
    else:
        times = [
            milliseconds(ours),
            _speed(row) if case.measure != "latency" else "",
            fold(ours, row.floor),
            milliseconds(row.seconds.get("PyTorch")),
            fold(row.seconds.get("PyTorch"), ours),
            f"{other[0]} {milliseconds(other[1])}" if other else "–",
            fold(other[1], ours) if other else "–",
            milliseconds(row.reference) if row.reference else "",
        ]
    return [case.name, *times, case.bar.text() or "–", mark(judge(row))]


def _speed(row: Row) -> str:
    return f"{row.case.moved_bytes / row.ours / 1e9:.1f}" if row.ours else "–"


def table(header: Iterable[str], body: Iterable[Iterable[str]]) -> list[str]:
    header = list(header)
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(cell or " " for cell in line) + " |" for line in body]


def markdown(rows: list[Row], about: dict[str, Any]) -> str:
    """The whole report."""
    verdicts = [judge(row).passed for row in rows]
    copy, read = (
        ", ".join(
            f"{name.removeprefix(f'{kind}: ')} {speed / 1e9:.1f} GB/s"
            for name, speed in about["memory"].items()
            if name.startswith(kind)
        )
        for kind in ("copy", "read")
    )
    machine = (
        f"{about['date']}, {about['processor']}, Python {about['python']}, "
        f"{about['threads']} threads, {about['infinitypool']}"
    )
    method = (
        f"Copy, read and written bytes counted: {copy or 'not measured'}. Read:"
        f" {read or 'not measured'}. The floor of a row is a copy of as many bytes as the row has"
        " to read and write, by the best of these ways, measured in the row's own rounds; where an"
        " adaptive or a whole pooling writes next to nothing, it is a read, and where a batch norm in"
        " training has to see its whole input first, it is a read and then a copy (three passes)."
        " GB/s counts the same bytes. Inputs are cold; times are medians in milliseconds and contain"
        " the allocation and release of the result unless the row says out. OpenVINO reuses its result's memory, ONNX Runtime its arena, in all rows."
    )
    outcome = (
        f"**{verdicts.count(True)} rows pass, {verdicts.count(False)} miss,"
        f" {verdicts.count(None)} have no bar or could not be judged.**"
        f" The run took {about['minutes']:.1f} minutes."
    )
    versions = "Versions: " + ", ".join(f"{n} {v}" for n, v in about["versions"].items()) + "."
    text = ["# Benchmark", "", machine, "", versions, "", method, "", outcome]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.case.group, []).append(row)
    for group, members in groups.items():
        text += ["", f"## {group}", "", *table(COLUMNS, (cells(row) for row in members))]
    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    shown = [row for row in rows if row.best_other and row.case.measure == "forward"]
    if shown:
        body = (
            [row.case.name, *(milliseconds(row.seconds.get(n)) for n in names)] for row in shown
        )
        text += ["", "## Everyone, milliseconds", "", *table(["case", *names], body)]
    reasons: dict[tuple[str, str], int] = {}
    for row in rows:
        for peer, reason in row.skipped.items():
            reasons[peer, reason] = reasons.get((peer, reason), 0) + 1
    if reasons:
        body = ([peer, reason, str(n)] for (peer, reason), n in reasons.items())
        text += ["", "## Not taking part", "", *table(["peer", "reason", "rows"], body)]
    wrong = [(row, peer, how) for row in rows for peer, how in row.wrong.items()]
    if wrong:
        body = ([row.case.name, peer, how] for row, peer, how in wrong)
        text += ["", "## Other results than ours", "", *table(["case", "peer", "how"], body)]
    return "\n".join(text) + "\n"


def as_json(rows: list[Row], about: dict[str, Any]) -> str:
    """Everything that was measured."""
    listed = []
    for row in rows:
        verdict = judge(row)
        listed.append(
            {
                "name": row.case.name,
                "case": asdict(row.case),
                "seconds": row.seconds,
                "samples": row.samples,
                "reference_seconds": row.reference,
                "moved_bytes": row.case.moved_bytes,
                "floor_bytes_per_second": row.floor_speed,
                "floor_seconds": row.floor,
                "values": row.values,
                "skipped": row.skipped,
                "wrong": row.wrong,
                "bar": row.case.bar.text(),
                "passed": verdict.passed,
                "verdict": verdict.text,
            }
        )
    return json.dumps({"about": about, "rows": listed}, indent=1, default=str) + "\n"


COLOURS = {
    OURS: "#c1272d",
    "PyTorch": "#1f4e79",
    "torch.compile": "#5b8db8",
    "ONNX Runtime": "#2e7d4f",
    "OpenVINO": "#7fb685",
    "OpenCV": "#e0a030",
    "scikit-image": "#8d6cab",
    "SciPy": "#9a9a9a",
}


# file -> (title, whether a row belongs into it); one panel a group
FIGURES: dict[str, tuple[str, Callable[[Case], bool]]] = {
    "chart.png": (
        "float32 {shape}",
        lambda case: case.measure == "forward" and "forward, " in case.group,
    ),
    "family.png": (
        "the rest of the family, float32 8×64×224×224 unless said",
        lambda case: case.measure == "forward" and case.against != () and _in(FAMILY, case),
    ),
    "norms.png": (
        "normalisation and dropout, float32 8×64×224×224 unless said",
        lambda case: (
            case.measure in ("forward", "backward", "step")
            and case.against != ()
            and _in(NORMS, case)
        ),
    ),
}


def _in(part: tuple[Case, ...], case: Case) -> bool:
    return case.group in {other.group for other in part}


# option of a case -> how it is said beside a bar
SAID: dict[str, Callable[[Any], str]] = {
    "training": lambda value: "training" if value else "evaluation",
    "num_groups": lambda value: f"{value} groups",
    "axes": lambda value: f"over {value} axes" if value > 1 else "over the last axis",
    "p": lambda value: f"p = {value:g}",
    "activation": str,
}


def _label(case: Case) -> str:
    """What tells a row from its neighbours in a panel."""
    if "forward, " in case.group:
        return f"kernel {case.kernel}\nstride {case.stride}\npadding {case.padding}"
    what = case.op.replace("_", " ") + (f" to {case.size}" if case.size else "")
    if case.op in POINTWISE:
        what = ", ".join([what, *(SAID[option](value) for option, value in case.options)])
    words = ["×".join(map(str, case.shape))] if case.shape != BATCH else []
    words += [case.dtype] if case.dtype != "float32" else []
    if case.layout == "channels_last" and "channels_last" not in case.group:
        words += ["channels last"]
    if case.measure == "backward" and "backward" not in case.group:
        words += ["gradient"]
    if case.op in POINTWISE:  # as high as two bars
        words = [", ".join(words)] if words else []
    return "\n".join([what, *words])


def chart(path: Path, rows: list[Row], about: dict[str, Any]) -> bool:
    """Calls with a fresh result; False where none of the figure's was measured."""
    title, belongs = FIGURES[path.name]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.ours and belongs(row.case):
            groups.setdefault(row.case.group, []).append(row)
    if not groups:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    across = 2 if len(groups) > 1 else 1
    shown = [row for group in groups.values() for row in group]
    taking_part = [n for n in COLOURS if any(n in row.seconds for row in shown)]
    bars = [sum(1 + sum(n in r.seconds for n in taking_part) for r in g) for g in groups.values()]
    heights = [max(bars[i : i + across]) for i in range(0, len(bars), across)]
    figure, axes = plt.subplots(
        len(heights), across, figsize=(7.2 * across, 0.13 * sum(heights) + 0.9 * len(heights) + 0.9),
        layout="constrained", squeeze=False, sharex=True, height_ratios=[h + 4 for h in heights],
    )  # fmt: skip
    for number, (group, members) in enumerate(groups.items()):
        axis = axes.flat[number]
        top, labels = 0.0, []
        for row in members:
            present = [n for n in taking_part if n in row.seconds]
            places = [top + i for i in range(len(present))]
            widths = [row.seconds[n] * 1e3 for n in present]
            axis.barh(places, widths, 0.86, color=[COLOURS[n] for n in present])
            for place, width in zip(places, widths, strict=True):
                axis.text(width * 1.06, place, milliseconds(width / 1e3), va="center", fontsize=7)
            if row.floor:
                ends = [top - 0.5, places[-1] + 0.5]
                axis.plot([row.floor * 1e3] * 2, ends, color="black", lw=1.2, ls="--")
            labels.append(((places[0] + places[-1]) / 2, _label(row.case)))
            top = places[-1] + 2
        axis.set_yticks([place for place, _ in labels], [text for _, text in labels], fontsize=8)
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(heights[number // across], -1.5)  # bars of one width in a row of panels
        axis.set_xscale("log")
        axis.set_title(group, fontsize=11)
        axis.grid(axis="x", which="major", color="#dddddd")
        axis.set_axisbelow(True)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.tick_params(axis="x", labelbottom=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("milliseconds a call (logarithmic)")
    marks = [Patch(color=COLOURS[n], label=n) for n in taking_part]
    marks.append(Line2D([], [], color="black", lw=1.2, ls="--", label="moving the same bytes"))
    figure.legend(handles=marks, loc="outside lower center", ncols=9, frameon=False, fontsize=9)
    title = title.format(shape="×".join(map(str, shown[0].case.shape)))
    figure.suptitle(f"{title}, result allocated, {about['threads']} threads", fontsize=12)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def write(folder: Path, rows: list[Row], about: dict[str, Any]) -> list[Path]:
    """Write ``report.md``, ``report.json`` and the figures; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "report.md", folder / "report.json"]
    paths[0].write_text(markdown(rows, about), encoding="utf-8")
    paths[1].write_text(as_json(rows, about), encoding="utf-8")
    return paths + [folder / name for name in FIGURES if chart(folder / name, rows, about)]
