"""Measure: ``python -m benchmarks.run [--quick] [--only PATTERN] [--peers NAMES] [--out FOLDER]``.

Writes ``report.md``, ``report.json``, ``chart.png``, ``family.png`` and ``norms.png``. The whole run
takes a quarter of an hour with all peers, ``--quick`` a third of that without the slow ones;
``--family`` and ``--norms`` choose parts.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import peers as libraries
from benchmarks import report, timing
from benchmarks.cases import CASES, FAMILY, NORMS, Case
from benchmarks.peers import OURS, PEERS, NotApplicable

COPY_BYTES = 8 * 64 * 224 * 224 * 4


@dataclass
class Session:
    """What the cases of one run share."""

    quick: bool
    threads: int
    peers: list[str]
    named: bool  # by --peers, so that the user wants them, slow or not
    floor: timing.Floor
    inputs: dict[Any, timing.Data]

    def data(self, case: Case) -> timing.Data:
        """Inputs of a case; the last few sets are kept, since neighbours share them."""
        key = (case.shape, case.dtype, case.layout, case.nans)
        if key not in self.inputs:
            while len(self.inputs) >= 6:
                self.inputs.pop(next(iter(self.inputs)))
            self.inputs[key] = timing.Data(case)
        self.inputs[key] = self.inputs.pop(key)  # the youngest
        return self.inputs[key]

    def invited(self, case: Case) -> dict[str, str]:
        """Peer -> why it is not asked; empty where it is."""
        reasons = {}
        for name in PEERS:
            asked = case.against is None or name in case.against
            reason = "" if name in self.peers else "left out by --peers"
            if self.quick and not self.named and name in libraries.SLOW:
                reason = reason or "left out by --quick"
            bar = case.bar
            asks = bar.peers or bar.pytorch or bar.versus or bar.latency or bar.overhead
            if self.quick and not asks:
                reason = reason or "left out by --quick"
            if asked:
                reasons[name] = reason
        return reasons


def _contenders(
    case: Case, data: timing.Data, session: Session, row: report.Row
) -> list[timing.Contender]:
    """Ours, and the peers that compute the same."""
    mine = libraries.ours(case, data)
    contenders = [mine]
    expected = mine.to_numpy(mine.call(0))
    for name, reason in session.invited(case).items():
        if reason:
            row.skipped[name] = reason
            continue
        try:
            contender = PEERS[name](case, data)
            found = contender.to_numpy(contender.call(0))
        except NotApplicable as error:
            row.skipped[name] = str(error)
        except ImportError as error:
            row.skipped[name] = f"not installed ({error.name or error})"
        except Exception as error:  # noqa: BLE001 - a peer that fails must not end the run
            row.skipped[name] = (
                f"failed: {type(error).__name__}: {' '.join(str(error).split())[:150]}"
            )
        else:
            if problem := libraries.disagreement(case, expected, found):
                row.wrong[name] = problem
            else:
                contenders.append(contender)
            del found
    return contenders


def _timed(case: Case, session: Session) -> report.Row:
    """Forward, indices, backward: ours, the peers, the reference and the floor, in turns."""
    row, data = report.Row(case), session.data(case)
    contenders = _contenders(case, data, session, row)
    reference = None
    if case.reference:
        others = session.data(case.reference)
        reference = libraries.ours(case.reference, others)
        reference.call = _wrapped(reference.call, len(others))
    ways = session.floor.contenders(case.floor_kind)
    extra = [reference] if reference else []
    timing.measure([*contenders, *extra, *ways], len(data), session.quick)
    row.floor_speed = session.floor.speed(ways)
    row.reference = reference.median if reference else None
    for contender in contenders:
        row.seconds[contender.name] = contender.median
        row.samples[contender.name] = contender.samples
    return row


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"


def _wrapped(call: Any, count: int) -> Any:
    return lambda index: call(index % count)


def _threads(case: Case, session: Session) -> report.Row:
    """One thread and all of them, and the same of a copy."""
    row, data = report.Row(case), session.data(case)
    many = session.threads
    mine = [libraries.threads_of_ours(case, data, n) for n in (1, many)]
    copies = [
        timing.Contender("copy, halves in turn", lambda i: session.floor.halves(i, False)),
        timing.Contender("copy, halves at once", session.floor.halves),
    ]
    ways = session.floor.contenders()
    timing.measure([*mine, *copies, *ways], len(data), session.quick)
    mine[1].before()  # the run's own number again
    row.floor_speed = session.floor.speed(ways)
    for contender in (*mine, *copies):
        row.seconds[contender.name] = contender.median
        row.samples[contender.name] = contender.samples
    row.seconds[OURS] = mine[1].median
    row.values["gain"] = mine[0].median / mine[1].median
    row.values["copy gain"] = copies[0].median / copies[1].median
    return row


def _saved(case: Case, session: Session) -> report.Row:
    """Bytes kept for backward, seen through PyTorch's own hooks."""
    row, data = report.Row(case), timing.Data(case, 1)
    row.values["saved"] = libraries.saved_bytes(OURS, case, data)
    if "PyTorch" in session.peers:
        row.values["PyTorch"] = libraries.saved_bytes("PyTorch", case, data)
    return row


def _latency(case: Case, session: Session) -> report.Row:
    """A call so small that only the way to the kernel counts."""
    row, data = report.Row(case), timing.Data(case, 2)
    with libraries.recording(case):
        contenders = _contenders(case, data, session, row)
        for contender in contenders:
            contender.calls = 100 if session.quick else 1000
        timing.measure(contenders, len(data), session.quick)
    for contender in contenders:
        row.seconds[contender.name] = contender.median
        row.samples[contender.name] = contender.samples
    return row


MEASURES = {
    "forward": _timed,
    "indices": _timed,
    "backward": _timed,
    "step": _timed,
    "threads": _threads,
    "saved": _saved,
    "latency": _latency,
}


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _chosen_peers(text: str | None) -> list[str]:
    if text is None:
        return list(PEERS)
    chosen = []
    for part in filter(None, (p.strip().lower() for p in text.split(","))):
        found = [name for name in PEERS if part in name.lower()]
        if not found and part != "none":
            raise SystemExit(f"benchmarks: no peer named {part!r}; known are {', '.join(PEERS)}")
        chosen += found
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen cases and write the report."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no slow peers")
    parser.add_argument("--only", metavar="PATTERN", help="cases whose group or name matches")
    parser.add_argument(
        "--family", action="store_true", help="only kinds other than a fixed window's max and mean"
    )
    parser.add_argument("--norms", action="store_true", help="only normalisation and dropout")
    parser.add_argument("--peers", metavar="NAMES", help="comma-separated; 'none' for ours alone")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--threads", type=int, default=2, help="for everyone (default 2)")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: tries the machinery only")
    parser.add_argument("--list", action="store_true", help="print the cases and their bars")
    parser.add_argument("--check", action="store_true", help="exit 1 if any row misses its bar")
    choice = parser.parse_args(argv)

    cases = [*(FAMILY if choice.family else ()), *(NORMS if choice.norms else ())] or list(CASES)
    if choice.tiny:
        cases = [case.tiny() for case in cases]
    if choice.only:
        try:
            pattern = re.compile(choice.only)
        except re.error as error:
            parser.error(f"--only: {error}")
        cases = [c for c in cases if pattern.search(c.name) or pattern.search(c.group)]
    if not cases:
        parser.error("no case matches --only")
    if choice.list:
        for case in cases:
            print(f"{case.name}: {case.bar.text() or 'no bar'}")
        return 0

    start = time.perf_counter()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    versions = libraries.limit_threads(choice.threads)
    for name, version in versions.items():
        console.print(f"{name}: {version}", markup=False)
    size = 1 << 16 if choice.tiny else COPY_BYTES
    session = Session(
        choice.quick or choice.tiny,
        choice.threads,
        _chosen_peers(choice.peers),
        choice.peers is not None,
        timing.Floor(size, choice.threads),
        {},
    )
    rows: list[report.Row] = []
    interrupted = False
    for number, case in enumerate(cases, 1):
        try:
            row = MEASURES[case.measure](case, session)
        except KeyboardInterrupt:  # what has been measured is worth a report
            interrupted = True
            break
        except Exception as error:  # noqa: BLE001 - our failure is a missed row, not the end
            row = report.Row(case, wrong={OURS: _words(error)})
        rows.append(row)
        said = "; ".join(f"{n} {s * 1e3:.4g}" for n, s in row.seconds.items())
        said = said or "; ".join(f"{n} {v:.3g}" for n, v in row.values.items())
        verdict = report.mark(report.judge(row))
        console.print(f"[{number}/{len(cases)}] {case.name}: {said}: {verdict}", markup=False)
        for peer, how in row.wrong.items():
            console.print(f"    {peer} computes something else: {how}", markup=False)

    import infinitypool as ip

    about = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": f"{processor()}, {platform.system()}",
        "python": platform.python_version(),
        "threads": choice.threads,
        "infinitypool": ", ".join(f"{k} {v}" for k, v in ip.config().items() if k in {"isa"}),
        "versions": versions,
        "memory": session.floor.overall(),
        "minutes": (time.perf_counter() - start) / 60,
        "arguments": list(sys.argv[1:] if argv is None else argv),
    }
    for path in report.write(choice.out, rows, about):
        console.print(f"wrote {path}", markup=False)
    if interrupted:
        return 130
    missed = sum(report.judge(row).passed is False for row in rows)
    return 1 if choice.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
