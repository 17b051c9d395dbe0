"""The table of docs/reliability.md, written by the tests: `pytest -m fault --reliability=docs/reliability.md`.

A test marked `fault(row, how)` injects the fault of a row. Each item counts as one injection; a test that injects
many in a loop says how many with `record_property("injections", n)`. A test's last result is kept in
build/reliability.json, so that a run of some tests brings the page up to date; remove it to start again.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

ROWS = {
    1: ("SIGKILL during the write of a checkpoint", "the previous checkpoint verifies, the run resumes, "
        "leftovers are removed"),
    2: ("SIGINT, SIGTERM or SIGHUP", "the step ends, the state is saved, the command to resume is printed, "
        "exit 130, 143 or 129"),
    3: ("SIGINT twice", "gsd exits at once, nothing half-written has a final name"),
    4: ("full disk, quota, read-only folder, a file in the way", "exit 8 with the free space; old files are intact"),
    5: ("weights or manifests cut, emptied, altered", "the newest checkpoint that verifies is used, the bad one is "
        "named; exit 3 if there is none"),
    6: ("a pickle with a payload, under every extension", "the file is refused, the payload does not run"),
    7: ("a resumed run", "weights, average, optimizer and metrics are bit-identical to those of an uninterrupted run "
        "on a CPU"),
    8: ("resumed with other options", "exit 2 that names the keys"),
    9: ("two runs in one folder", "the second run says so and stops"),
    10: ("a teacher that is unknown, gated, offline, of another kind", "exit 3 or 4 with cause and hint"),
    11: ("bad, odd and hostile images", "each bad image is named, exit 3 unless --skip-bad; good images are right"),
    12: ("archives with paths outside, links, duplicates, bombs", "the archive is refused, nothing is written outside"),
    13: ("a loss that is not finite, once or for good", "the step is skipped and counted; exit 6, the last good "
         "state is kept"),
    14: ("no such device, no memory", "exit 5 with the option that helps; sampling halves the batch and continues"),
    15: ("wrong seeds and numbers", "exit 2 that names all of them at once"),
    16: ("readers that go away, closed stdout, a terminal for a pipe", "quiet, no traceback"),
    17: ("no terminal, NO_COLOR, TERM=dumb, 20 columns, latin-1", "no escape codes, no crash"),
    18: ("Frechet distances of few, foreign, singular statistics", "an exact result, a warning, or exit 3"),
    19: ("one seed under other batch sizes and processes", "identical images on a CPU"),
    20: ("downloads cut, altered, refused, hanging", "nothing is half-written, exit 4, the next try works"),
    21: ("config files with wrong keys, types, syntax", "exit 2 that names the file and the key"),
    22: ("images to interpolate or edit: same, other size or mode, none", "the image is converted and gsd says "
         "so, or exit 3"),
    23: ("random argument lists", "an exit code of the table, never a traceback"),
}  # fmt: skip
"""The fault and what must happen, by row."""


@dataclass
class Tally:
    """The results of the injections of one row."""

    ways: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)

    @property
    def result(self) -> str:
        if self.failed:
            return f"{len(self.failed)} FAILED"
        return "passed" if self.ways else "not run"


class Table:
    """Counts injections and outcomes per row. `store` keeps each test's last result, so that runs add up."""

    def __init__(self, store: Path | None = None) -> None:
        self.store = store
        self.results: dict[str, dict[str, Any]] = {}
        if store is not None and store.exists():
            self.results = json.loads(store.read_text(encoding="utf-8"))
        self.seen: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = dict(report.user_properties)
        if "faults" not in known:
            return
        if report.nodeid not in self.seen:
            self.seen.add(report.nodeid)
            self.results.pop(report.nodeid, None)
        if report.when == "call" or not report.passed:
            times = int(known.get("injections", 1))
            self.results[report.nodeid] = {"faults": known["faults"], "times": times, "outcome": report.outcome}

    def rows(self) -> dict[int, Tally]:
        rows = {row: Tally() for row in ROWS}
        for test, result in self.results.items():
            for row, how in result["faults"]:
                if result["outcome"] == "passed":
                    rows[row].ways[how] = rows[row].ways.get(how, 0) + result["times"]
                else:
                    getattr(rows[row], result["outcome"]).add(test)
        return rows

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.store is not None:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            self.store.write_text(json.dumps(self.results, indent=0), encoding="utf-8")
        Path(session.config.getoption("--reliability")).write_text(page(self.rows()), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reliability", metavar="PATH", help=f"write the table of docs/reliability.md there, with what {STORE} knows"
    )


def pytest_configure(config: pytest.Config) -> None:
    # of xdist's processes the first counts, from the others' reports
    if config.getoption("--reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(config.rootpath / STORE))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if faults := [mark.args for mark in item.iter_markers("fault")]:
            item.user_properties.append(("faults", faults))


def page(rows: dict[int, Tally]) -> str:
    """docs/reliability.md."""
    return HEAD.format(
        date=date.today(), python=platform.python_version(), cores=os.cpu_count(), machine=platform.machine()
    ) + "".join(_lines(rows)) + FOOT  # fmt: skip


def _lines(rows: dict[int, Tally]) -> Iterable[str]:
    yield "| row | fault | what must happen | how it is injected (times) | injected | result |\n"
    yield "| ---: | --- | --- | --- | ---: | --- |\n"
    for row, (fault, outcome) in ROWS.items():
        tally = rows[row]
        ways = "; ".join(f"{how} ({times:,})" for how, times in sorted(tally.ways.items()))
        skipped = f", {len(tally.skipped)} skipped" if tally.skipped else ""
        yield f"| {row} | {fault} | {outcome} | {ways} | {sum(tally.ways.values()):,} | {tally.result}{skipped} |\n"


STORE = Path("build", "reliability.json")

HEAD = """# Reliability

This page lists faults that happen on real machines, and what gsd does then. Tests inject each fault. If the fault
concerns a process, they inject it into real processes: real signals, full and read-only file systems, damaged files, a
server on loopback.

The tests also write the table: `pytest -m fault --reliability=docs/reliability.md`. This table is of {date},
Python {python}, {cores} {machine} cores, with a toy model. "injected" counts faults, not assertions. Each test counts
with its last result. The moments of kills have fixed seeds; fuzzed examples differ from run to run. A test that needs a
mount is skipped where mounts are not permitted. Tests with a file-size limit need no mount.

"""

FOOT = """
Longer runs of the same code are benchmarks: 200 SIGKILLs at random moments of four commands, coverage-guided fuzzing
of the readers, and memory, files and rate over 20,000 steps. See their [results](results/endurance.md). `SECURITY.md`,
next to the README, says what gsd promises about hostile files.
"""
