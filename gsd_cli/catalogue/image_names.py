"""What an IMAGE argument names: a file, stdin, a seed, saved latents or a bundled example. Checked without torch."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.safetensors_header import read_header
from gsd_cli.base.storage import ASSETS
from gsd_cli.base.text import did_you_mean
from gsd_cli.catalogue.file_formats import looks_like_image

STDIN, SEED, EXAMPLE, LATENTS_SUFFIX = "-", "seed:", "example:", ".safetensors"
LATENTS_FORMAT = "gsd-latents/1"
IMAGE_HINT = "an image, - for stdin, seed:42, example:bag, or latents from --save-latent"
STDIN_EMPTY = "- is not an image: stdin is empty"


def parse_seed(name: str) -> int:
    """The number in `seed:42`. Raises UsageError for anything else."""
    text = name.removeprefix(SEED)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError([f"{name!r}: write seed:42, a whole number"], hint="seeds are 0, 1, 2, ...")
    return int(text)


def example_file(name: str) -> Path:
    """The bundled image that `example:NAME` names. Raises UsageError for an unknown one."""
    bundled = {path.stem: path for path in sorted((ASSETS / "examples").glob("*.png"))}
    wanted = name.removeprefix(EXAMPLE)
    if wanted not in bundled:
        near = did_you_mean(wanted, bundled)
        raise UsageError([f"no example {wanted!r}{near}"], hint=f"available: {', '.join(bundled)}")
    return bundled[wanted]


def require_image(name: str) -> None:
    """Raise UsageError or GsdError (exit 3) where a name cannot be that of an image or of saved latents.

    Only the first bytes of a file are read: a damaged image is found when it is decoded.
    """
    if name.startswith(SEED):
        parse_seed(name)
    elif name.startswith(EXAMPLE):
        example_file(name)
    elif name == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(["- reads an image from a pipe, but stdin is a terminal"], hint="cat a.png | gsd ...")
        if _is_empty_file(sys.stdin):
            raise GsdError(STDIN_EMPTY, hint="cat a.png | gsd ...")
    elif name.endswith(LATENTS_SUFFIX):
        latents_in_file(Path(name))
    else:
        _require_image_file(name)


def _is_empty_file(stream: IO[str]) -> bool:
    """Whether a stream is a file without a byte; a pipe may still get some."""
    try:
        facts = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or in memory
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size == 0


def require_one_stdin(names: Sequence[str]) -> None:
    """Raise UsageError where stdin is named more than once."""
    if names.count(STDIN) > 1:
        raise UsageError(["- can be given once: there is one stdin"], hint="give files for the other images")


def _require_image_file(name: str) -> None:
    path = Path(name)
    try:
        if not path.is_file() and not path.is_dir() and path.exists():
            return  # a pipe, as of <(command) in a shell, can be read only once
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError as error:
        raise GsdError(f"no such file: {name}", hint=IMAGE_HINT) from error
    except IsADirectoryError as error:
        raise GsdError(f"{name} is a folder, an image is needed", hint=IMAGE_HINT) from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        cause = getattr(error, "strerror", None) or error
        raise GsdError(f"cannot read {name}: {cause}", hint=IMAGE_HINT) from error
    if not _may_be_image(head):
        what = "the file is empty" if not head else "not one of the image formats"
        raise GsdError(f"{name} is not an image: {what}", hint="use PNG, JPEG, WebP or a similar format")


def _may_be_image(head: bytes) -> bool:
    """Whether a file that begins with `head` may be an image or an array; BMP and Netpbm begin like many a text."""
    netpbm = head[:1] == b"P" and head[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"F", b"f", b"y")
    return looks_like_image(head) or netpbm or head.startswith((b"BM", b"\x93NUMPY"))


def latents_in_file(path: Path) -> list[tuple[int, ...]]:
    """The shapes of the latents that `--save-latent` wrote, from the file's header. Raises GsdError (exit 3)."""
    header = _read_header(path)
    about = header.get("__metadata__")
    try:
        if not isinstance(about, dict) or about.get("format") != LATENTS_FORMAT:
            raise ValueError("it holds no latents of gsd")
        count = len(json.loads(about["figures"]))
        return [tuple(header[f"{i}.z"]["shape"]) for i in range(count)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def count_latents(names: Sequence[str]) -> int:
    """How many latents these IMAGE arguments give: a file of latents may hold several."""
    return sum(len(latents_in_file(Path(name))) if name.endswith(LATENTS_SUFFIX) else 1 for name in names)


def _read_header(path: Path) -> dict[str, Any]:
    try:
        return read_header(path)
    except FileNotFoundError as error:
        raise GsdError(f"no such file: {path}", hint=IMAGE_HINT) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, cause: object) -> GsdError:
    return GsdError(f"cannot read latents from {path}: {cause}", hint="write them with --save-latent")
