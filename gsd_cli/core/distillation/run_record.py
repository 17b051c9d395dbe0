"""A distillation by the clock (`--minutes`), and the record of how long it was to be.

`--minutes M` ends this session after M minutes of wall time, counted from the start of the process: evaluated, saved
and exported. What that costs is measured: the first evaluation, and a checkpoint and an export made once, early.

- Without another length the run is as long as fits. Its length is settled when the steps' rate is known, and the
  learning rate falls towards it (core/pace.py has the rule). options.json has it as `total_steps`, and every
  [step, length] at which one was settled as `lengths`. `--steps TOTAL_STEPS` makes the run again, bit for bit on a CPU,
  where it was settled once.
- With `--kimg`, `--steps` or `--epochs` the length is theirs, and the run stops where its time is up; the same command
  goes on.
- Resumed with `--minutes M`, the session has M minutes more, and the run gets another length. Ctrl-C prints the
  command that goes on to the length that was settled: `--steps` instead of `--minutes`, so that the resumed run is the
  one that was interrupted. Before a length is settled there is none to keep.
- Several processes: the main one's clock decides for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import write_json
from gsd_cli.catalogue.run_layout import OPTIONS
from gsd_cli.core.training.pace import Pace


class Record:
    """options.json: the run's identity, which `total_steps` is a part of, and what else is noted of it."""

    def __init__(self, folder: Path, identity: dict[str, Any], notes: dict[str, Any], lengths: list[list[int]]):
        self.folder, self.identity, self.notes, self.lengths = folder, identity, notes, lengths

    def write(self) -> None:
        """Write the file."""
        lengths = {"lengths": self.lengths} if self.lengths else {}
        write_json(self.folder / OPTIONS, {**self.identity, **self.notes, **lengths})

    def settle(self, step: int, length: int, *, write: bool) -> None:
        """Record the length that was settled after `step` steps."""
        self.identity["total_steps"] = length
        self.lengths.append([step, length])
        if write:
            self.write()


def shorter_than_asked(last: Any, pace: Pace | None) -> str | None:
    """The message about a session that ended before the run's given length; None where it did not."""
    if last is None or pace is None or not last.over or pace.settles:
        return None
    return f"the time is up after {last.step:,} of {last.total:,} steps; the same command goes on"
