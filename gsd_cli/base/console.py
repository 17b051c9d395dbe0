"""The only module that prints: progress and messages on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.progress import PlainProgress, Progress, RichProgress
from gsd_cli.base.storage import storage_errors
from gsd_cli.base.table import Table, fit_to_width
from gsd_cli.base.terminal_image import draw_image
from gsd_cli.base.versions import versions

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

SCHEMA = "gsd/1"


@dataclass(frozen=True)
class Result:
    """The result of a command. outputs: paths, one per line on stdout. metrics: figures, for --json."""

    outputs: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    table: Table | None = None


class Console:
    """Messages, progress and results of one command."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, as_json: bool = False):
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        self.warnings: list[str] = []
        self._out: IO[bytes] | None = None
        self._bar: Progress | None = None

    @cached_property
    def _err(self) -> RichConsole:
        from rich.console import Console as RichConsole

        return RichConsole(stderr=True, highlight=False, soft_wrap=True)

    @property
    def _is_plain(self) -> bool:
        """Whether stderr cannot show colours and moving bars."""
        return sys.stderr is None or not sys.stderr.isatty() or self._err.is_dumb_terminal

    def claim_stdout(self) -> None:
        """Keep stdout for results: from now on, everything that a library prints goes to stderr."""
        if sys.stdout is not None:
            sys.stdout.flush()
        try:
            self._out = os.fdopen(os.dup(1), "wb")
        except OSError:  # stdout is closed
            self._out = None
        with suppress(OSError):  # or stderr is closed
            os.dup2(2, 1)

    # -- messages ---------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Print a line for the user."""
        if not self.quiet:
            self._print(text, wrap=True)

    def announce(self, text: str) -> None:
        """Print a line even with --quiet and in silent processes, to explain a long wait."""
        self._print(text, wrap=True)

    def detail(self, text: str) -> None:
        """Print a line with --verbose."""
        if self.verbose:
            self._print(text, style="dim", wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning: a fact that the user should know before trusting the result. --json lists them too."""
        self.warnings.append(text)
        if not self.quiet:
            self._print(f"warning: {text}", style="yellow", wrap=True)

    def fail(self, error: GsdError) -> None:
        """Print an error: a line per cause, and a line per hint."""
        if error.code >= ExitCode.HANGUP:
            self._print(error.message, style="yellow")
        else:
            for problem in getattr(error, "problems", [error.message]):
                self._print(f"error: {problem}", style="bold red", wrap=True)
        for line in (error.hint or "").splitlines():
            self._print(f"hint: {line}")

    def _print(self, text: str, style: str | None = None, *, wrap: bool = False) -> None:
        """wrap: break long lines between words. Lines with a path or command to copy are not wrapped."""
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        safe = text.encode(encoding, "replace").decode(encoding)
        # a closed stderr must not turn a result into a failure
        with suppress(OSError, ValueError, AttributeError):
            if self._is_plain:  # rich would take a tenth of a second to load
                sys.stderr.write(safe + "\n")
                sys.stderr.flush()
            else:
                self._err.print(safe, style=style, markup=False, soft_wrap=not wrap)

    def show_table(self, table: Table) -> None:
        """Print a table on stderr."""
        if self.quiet:
            return
        for part in fit_to_width(table, self._err):
            self._err.print(part)
        for note in table.notes:
            self._print(note, style="dim", wrap=True)

    # -- progress ---------------------------------------------------------------------------

    @contextmanager
    def progress(self, what: str, total: int | None = None) -> Iterator[Progress]:
        """Show the progress of work that takes longer than a second; yields a Progress."""
        bar: Progress
        if self.quiet:
            bar = Progress(what, total)
        elif self._is_plain:
            bar = PlainProgress(what, total, self.say)
        else:
            bar = RichProgress(what, total, self._err)
        outer, self._bar = self._bar, bar
        try:
            with bar:
                yield bar
        finally:
            self._bar = outer

    def doing(self, activity: str) -> None:
        """Show next to the running progress what is done at the moment; an empty text ends it."""
        if self._bar is not None:
            self._bar.doing(activity)

    # -- images -----------------------------------------------------------------------------

    def show_image(self, path: Path) -> None:
        """Draw an image on the terminal: in pixels if it can (kitty, sixel, iTerm2), else in half blocks."""
        if self.quiet:
            return
        if self._is_plain:
            self.warn("--show needs a terminal")
            return
        self._err.print(draw_image(path, self._err.size))

    # -- results ----------------------------------------------------------------------------

    def finish(self, command: str, result: Result, config: dict[str, Any]) -> None:
        """Print a command's result on stdout: paths, or one JSON object."""
        if result.table is not None:
            self.show_table(result.table)
        if self.as_json:
            report = {
                "schema": SCHEMA,
                "command": command,
                "outputs": result.outputs,
                "metrics": result.metrics,
                "warnings": self.warnings,
                "config": config,
                "versions": versions(),
            }
            self.write_lines([json.dumps(report, default=str)])
        elif not self._repeats_table(result):
            self.write_lines(result.outputs)

    def _repeats_table(self, result: Result) -> bool:
        """Whether the output lines would only repeat the names in a table on the same terminal."""
        names = [row[0] for row in result.table.rows] if result.table else None
        return names == result.outputs and not self.quiet and self.shows_stdout

    @property
    def shows_stdout(self) -> bool:
        """Whether results go to a terminal, where the user sees them next to the tables."""
        return self._out is not None and self._out.isatty()

    def write_lines(self, lines: Iterable[str]) -> None:
        """Write lines of text to stdout."""
        text = "".join(line + "\n" for line in lines)
        self.write_bytes(text.encode("utf-8", "surrogateescape"))

    def write_bytes(self, payload: bytes) -> None:
        """Write bytes to stdout. Raises GsdError (exit 8) for a full device, BrokenPipeError if the reader is gone."""
        if payload:
            with self.stream() as out:
                out.write(payload)

    @contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """stdout as a stream of bytes, flushed at the end. Raises the same errors as `write_bytes`."""
        if self._out is None:
            raise GsdError("stdout is closed", hint="write to a file with -o", code=ExitCode.STORAGE)
        with storage_errors(None):
            try:
                yield self._out
                self._out.flush()
            except OSError:
                self.abandon_stdout()
                raise

    def abandon_stdout(self) -> None:
        """Discard everything that is still buffered, because the reader is gone or the device is full."""
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (self._out, sys.stdout):
            if stream is not None:
                os.dup2(null, stream.fileno())
