"""What the header of a file of prompts says, read without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.safetensors_header import read_header
from gsd_cli.base.text import did_you_mean

PROMPTS_FORMAT = "gsd-prompts-1"
PROMPTS_HINT = "make it with: gsd prepare PROMPTS.txt --teacher T"
SHOWN = 5
"""Prompts of a file that an error names."""


def texts_in_file(path: Path) -> list[str]:
    """The texts of a file that `gsd prepare PROMPTS.txt` wrote. Raises GsdError (exit 3) for any other."""
    try:
        about = read_header(path).get("__metadata__")
        if not isinstance(about, dict) or about.get("format") != PROMPTS_FORMAT:
            raise ValueError("it holds no prompts")
        found = json.loads(about["prompts"])
        if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
            raise ValueError("it names no prompts")
    except FileNotFoundError as error:
        raise GsdError(f"no such file: {path}", hint=PROMPTS_HINT) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GsdError(f"{path} is not a file of prompts: {error}", hint=PROMPTS_HINT) from error
    return found


def find_rows(path: Path, known: Sequence[str], texts: Sequence[str]) -> list[int]:
    """The row of each text among those of the file `path`. Raises UsageError for a text that it does not hold."""
    rows = {text: row for row, text in reversed(list(enumerate(known)))}
    missing = [f"{text!r}{did_you_mean(text, known)}" for text in texts if text.strip() not in rows]
    if missing:
        more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
        raise UsageError(
            [f"{path} does not hold {', '.join(missing)}"],
            hint=f"it holds {', '.join(map(repr, known[:SHOWN]))}{more}; gsd prepare PROMPTS.txt encodes others",
        )
    return [rows[text.strip()] for text in texts]
