"""The output of gsd interpolate and gsd edit: frames as one image, an animation, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from gsd_cli.base.errors import UsageError
from gsd_cli.catalogue.file_formats import ANIMATION_SUFFIXES, IMAGE_FORMATS
from gsd_cli.options.common import JSON_ON_STDOUT


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
        if format_ != "folder":
            problems.append(f"--format {options.format} contradicts -o {options.output}")
            hints.append(f"leave out --format, or give -o {Path(options.output).with_suffix('.' + options.format)}")
        elif options.format not in IMAGE_FORMATS:
            problems.append(f"--format {options.format} writes one file, and -o {options.output} is a folder")
            hints.append(f"give -o {options.output.rstrip('/')}.{options.format}")
    if options.json_ and options.output == "-":
        problems.append(JSON_ON_STDOUT)
        hints.append("write to a file with -o")
    if problems:
        raise UsageError(problems, hint="\n".join(hints))
    return format_
