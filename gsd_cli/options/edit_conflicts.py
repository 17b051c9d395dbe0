"""What contradicts --explore and --toward of gsd edit, which are other kinds of edits."""

from __future__ import annotations

from collections.abc import Collection, Iterator

NOT_WITH_EXPLORE = (
    "strength", "range", "method", "move", "truncation", "preserve", "list", "output", "format", "fps", "scale", "show",
    "backend", "tune", "keep_residual", "save_direction", "toward", "prompt", "prompts",
)  # fmt: skip
NOT_WITH_TOWARD = (
    "attribute", "direction", "fit", "data", "method", "move", "preserve", "list", "space", "save_direction"
)  # fmt: skip


def explorer_problems(given: Collection[str]) -> Iterator[str]:
    """What contradicts --explore, which writes a page and no images. given: the names of the options that are set."""
    if "explore" not in given:
        if "open" in given:
            yield "--open needs --explore DIR"
    elif named := _flags(NOT_WITH_EXPLORE, given):
        yield f"--explore writes a page: leave out {named}"


def text_problems(given: Collection[str]) -> Iterator[str]:
    """What contradicts --toward, which names a text and no direction, and --prompts."""
    if "toward" in given and (named := _flags(NOT_WITH_TOWARD, given)):
        yield f"--toward names what the image moves to: leave out {named}"
    if "prompts" in given and not {"prompt", "toward"} & set(given):
        yield "--prompts needs --prompt or --toward, which name one of its prompts"
    if "class_" in given and {"prompt", "toward"} & set(given):
        yield "give --class or a text, not both"


def _flags(names: Collection[str], given: Collection[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if name in given)
