"""The output of gsd interpolate and gsd edit: frames as one image, an animation, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from gsd_cli.base.errors import UsageError
from gsd_cli.catalogue.file_formats import ANIMATION_SUFFIXES, IMAGE_FORMATS
from gsd_cli.options.output_format import JSON_ON_STDOUT, contradicting_formats


class FrameOptions(Protocol):
    """The options that decide how frames are written."""

    @property
    def output(self) -> str: ...  # noqa: D102
    @property
    def format(self) -> str: ...  # noqa: D102
    @property
    def json_(self) -> bool: ...  # noqa: D102
    @property
    def model_fields_set(self) -> set[str]: ...  # noqa: D102


def resolve_frames_format(options: FrameOptions) -> str:
    """The format of the frames: one of ANIMATION_SUFFIXES' values, or `folder`.

    Raises UsageError, which names all contradictions between -o, --format and --json.
    """
    format_, problems, hints = "folder", [], []
    suffix = "" if options.output.endswith("/") else Path(options.output).suffix.lower()
    if options.output == "-":
        format_ = options.format
    elif suffix and suffix not in ANIMATION_SUFFIXES:
        problems.append(f"-o {options.output}: {suffix} files are not written")
        hints.append(f"{', '.join(ANIMATION_SUFFIXES)}, or a folder")
    elif suffix:
        format_ = ANIMATION_SUFFIXES[suffix]
    given = options.model_fields_set
    if "format" in given and not problems and format_ != options.format:
        folder = format_ == "folder"
        if not folder or options.format not in IMAGE_FORMATS:
            problem, hint = contradicting_formats(options.format, options.output, folder=folder)
            problems.append(problem)
            hints.append(hint)
    if options.json_ and options.output == "-":
        problems.append(JSON_ON_STDOUT)
        hints.append("write to a file with -o")
    if problems:
        raise UsageError(problems, hint="\n".join(hints))
    return format_
