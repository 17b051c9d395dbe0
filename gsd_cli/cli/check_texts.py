"""Mistakes in the texts that interpolate, edit and bench are given, found without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gsd_cli.base.errors import UsageError
from gsd_cli.catalogue.model_facts import ModelFacts
from gsd_cli.catalogue.prompt_files import find_rows, texts_in_file
from gsd_cli.cli.check_inputs import Check


def text_checks(option: str, texts: Sequence[str], file: Path | None) -> list[Check]:
    """The checks of texts without the model: none is empty, and the file of --prompts holds them."""

    def not_empty() -> None:
        if not all(text.strip() for text in texts):
            raise UsageError([f"{option} is empty"], hint="give a text, as in 'a red house'")

    checks: list[Check] = [not_empty]
    if file is not None:
        checks.append(lambda: find_rows(file, texts_in_file(file), texts))
    return checks


def require_text_model(option: str, given: object, model: ModelFacts) -> None:
    """Raise UsageError for texts that are given to a model that takes none."""
    from gsd_cli.core.models.teacher_config import TEXT_SIZES

    name = model.config.get("_class_name")
    if given and name is not None and name not in TEXT_SIZES:
        raise UsageError(
            [f"{option}: the model {model.folder.name} is not text-conditional"],
            hint=f"leave out {option}; docs/teachers.md says which models take texts",
        )


def count_texts(texts: Sequence[str], file: Path | None) -> int:
    """How many texts are given: all of --prompts where nothing names some of them. Raises as `texts_in_file`."""
    return len(texts) if texts or file is None else len(texts_in_file(file))
