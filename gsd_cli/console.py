"""The only module that prints: progress and messages on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.table import Table

SCHEMA = "gsd/1"
PLAIN_INTERVAL = 10.0
"""Seconds between progress lines when stderr is not a terminal."""


@dataclass(frozen=True)
class Result:
    """What a command produced: paths (one a line on stdout) and figures (in --json)."""

    outputs: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    table: Table | None = None


class Console:
    """Messages, progress and results of one command."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, as_json: bool = False):
        from rich.console import Console as RichConsole

        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._out: IO[bytes] | None = None

    def claim_stdout(self) -> None:
        """Keep stdout for results: whatever a library prints from here on goes to stderr."""
        sys.stdout.flush()
        try:
            self._out = os.fdopen(os.dup(1), "wb")
            os.dup2(2, 1)
        except OSError:  # stdout was closed by the caller
            self._out = None

    # -- messages ---------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A line for the user."""
        if not self.quiet:
            self._print(text)

    def detail(self, text: str) -> None:
        """A line for -v."""
        if self.verbose:
            self._print(text, style="dim")

    def warn(self, text: str) -> None:
        """Something the user should know before trusting the result."""
        if not self.quiet:
            self._print(f"warning: {text}", style="yellow")

    def fail(self, error: GsdError) -> None:
        """One line of cause and one of advice."""
        if error.code >= ExitCode.INTERRUPTED:
            self._print(error.message, style="yellow")
        else:
            for problem in getattr(error, "problems", [error.message]):
                self._print(f"error: {problem}", style="bold red")
        if error.hint:
            self._print(f"hint: {error.hint}")

    def _print(self, text: str, style: str | None = None) -> None:
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        safe = text.encode(encoding, "replace").decode(encoding)
        # a closed stderr must not turn a result into a failure
        try:
            self._err.print(safe, style=style, markup=False)
        except (BrokenPipeError, ValueError):
            return

    def show(self, table: Table) -> None:
        """A table on stderr, for the eyes."""
        if self.quiet:
            return
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable

        drawn = RichTable(title=table.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, column in enumerate(table.columns):
            numbers = i > 0 and all(row[i][:1] in "0123456789-+." for row in table.rows)
            drawn.add_column(column, justify="right" if numbers else "left")
        for row in table.rows:
            drawn.add_row(*row)
        self._err.print(drawn)
        for note in table.notes:
            self._print(note, style="dim")

    # -- progress ---------------------------------------------------------------------------

    @contextmanager
    def progress(self, what: str, total: int | None = None) -> Iterator[Progress]:
        """Something that takes longer than a second; yields a Progress."""
        bar: Progress
        if self.quiet:
            bar = Progress(what, total)
        elif self._err.is_terminal and not self._err.is_dumb_terminal:
            bar = _RichProgress(what, total, self._err)
        else:
            bar = _PlainProgress(what, total, self)
        with bar:
            yield bar

    # -- results ----------------------------------------------------------------------------

    def finish(self, command: str, result: Result, config: dict[str, Any]) -> None:
        """Print a command's result on stdout: paths, or one JSON object."""
        if result.table is not None:
            self.show(result.table)
        if self.as_json:
            from gsd_cli.versions import versions

            report = {
                "schema": SCHEMA,
                "command": command,
                "outputs": result.outputs,
                "metrics": result.metrics,
                "config": config,
                "versions": versions(),
            }
            self.write_lines([json.dumps(report, default=str)])
        else:
            self.write_lines(result.outputs)

    def write_lines(self, lines: Iterable[str]) -> None:
        """Lines of text on stdout."""
        text = "".join(line + "\n" for line in lines)
        self.write_bytes(text.encode("utf-8", "surrogateescape"))

    def write_bytes(self, payload: bytes) -> None:
        """Bytes on stdout; a full device is exit 8, a reader that went away a BrokenPipeError."""
        if payload:
            with self.stream() as out:
                out.write(payload)

    @contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """stdout as a stream of bytes, flushed at the end."""
        from gsd_cli.paths import storage_errors

        if self._out is None:
            raise GsdError("stdout is closed", hint="give a file with -o", code=ExitCode.STORAGE)
        with storage_errors(Path("stdout")):
            try:
                yield self._out
                self._out.flush()
            except OSError:
                self.abandon_stdout()
                raise

    def abandon_stdout(self) -> None:
        """The reader went away or the device is full: what is still buffered goes nowhere, quietly."""
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (self._out, sys.stdout):
            if stream is not None:
                os.dup2(null, stream.fileno())


class Progress:
    """Silent progress; the base of the two that show."""

    def __init__(self, what: str, total: int | None):
        self.what, self.total, self.done, self.note = what, total, 0, ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """`done` of `total`, and a short note shown beside it."""
        self.done = done
        self.total = total if total is not None else self.total
        self.note = note if note is not None else self.note

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        self.update(self.done + count)


class _RichProgress(Progress):
    def __init__(self, what: str, total: int | None, console: Any):
        super().__init__(what, total)
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            transient=True,
        )
        self._task = self._bars.add_task(what, total=total, note="")

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._bars.stop()

    def update(self, done: int, total: int | None = None, note: str | None = None) -> None:
        super().update(done, total, note)
        self._bars.update(self._task, completed=self.done, total=self.total, note=self.note)


class _PlainProgress(Progress):
    def __init__(self, what: str, total: int | None, console: Console):
        super().__init__(what, total)
        self._console = console
        self._last = time.monotonic()
        self._first: tuple[float, int] | None = None

    def update(self, done: int, total: int | None = None, note: str | None = None) -> None:
        super().update(done, total, note)
        now = time.monotonic()
        self._first = self._first or (now, done)
        if now - self._last >= PLAIN_INTERVAL:
            self._last = now
            of = f"/{self.total}" if self.total else ""
            facts = [f"{self.done}{of}", self.note, self._left(now)]
            self._console.say(f"{self.what}: {', '.join(fact for fact in facts if fact)}")

    def _left(self, now: float) -> str:
        """The time left at the pace since the first update."""
        seconds, done = (now - self._first[0], self.done - self._first[1]) if self._first else (0.0, 0)
        if not self.total or done <= 0:
            return ""
        return f"{timedelta(seconds=round(seconds * (self.total - self.done) / done))} left"
