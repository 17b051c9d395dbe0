"""What follows a finished distillation: the file of --export, and the folder of --push-to-hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gsd_cli.base.console import Result
from gsd_cli.base.launcher import rank
from gsd_cli.base.session import Session
from gsd_cli.commands.publish import publish
from gsd_cli.core.export.write import write_export
from gsd_cli.core.models.generator import load_model
from gsd_cli.options import DistillOptions


def deliver(options: DistillOptions, run: Path, total: int | None, result: Result, session: Session) -> Result:
    """The result of a run with what --export and --push-to-hub made of it. Of several processes, the first one works.

    total: the length of the run in steps, None if it is whatever fits into --minutes.
    """
    if rank() != 0:
        return result
    return publish(options, run, total, _export(options, result, session), session)


def _export(options: DistillOptions, result: Result, session: Session) -> Result:
    if options.export is None:
        return result
    written = write_export(load_model(result.outputs[0]), options.export, options.export_precision, session)
    figures = {**result.metrics, "export": written.figures()}
    return replace(result, outputs=[*result.outputs, str(written.path)], metrics=figures)
