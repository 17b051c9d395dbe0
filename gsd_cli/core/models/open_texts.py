"""The texts that interpolate and edit name: encoded by the teacher's text encoders, or found in a file of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.prompt_files import texts_in_file
from gsd_cli.core.models.generator import Model
from gsd_cli.core.models.open import fix_class, open_text_encoder
from gsd_cli.core.models.prompts import Prompts, pick_prompts

NO_TEXTS = "this works with text-conditional models alone"


def find_texts(model: Model, texts: Sequence[str], file: Path | None, session: Session) -> Prompts | None:
    """The texts of --prompt or --toward, a row each, in their order; without them all of --prompts; None without both.

    With --prompts they are those of the file, else the text encoders of the model's teacher are opened. Raises
    UsageError for a model that takes no text, or that names no teacher; GsdError (exit 3) for a file of another one.
    """
    if not texts and file is None:
        return None
    denoiser = model.generator.denoiser
    if denoiser.kind.text_sizes(denoiser.net) is None:
        raise UsageError([f"{model.name} is not text-conditional, and takes no prompt"], hint=NO_TEXTS)
    if file is not None:
        found = pick_prompts(file, texts)
    elif model.teacher is None:
        raise UsageError([f"{model.name} does not name its teacher"], hint="give --prompts FILE")
    else:
        encoder = open_text_encoder(model.teacher, session, model.generator.device)
        if cut := encoder.too_long(texts):
            session.warn(f"{cut} of the texts are longer than the teacher's encoder takes: their ends are cut")
        found = Prompts(tuple(texts), encoder.encode(texts), model.teacher)
    denoiser.require_prompts(found.condition)
    if denoiser.prompts.none:  # a folder that keeps none
        denoiser.give_prompts(found.condition)
    return found


def fix_text(model: Model, found: Prompts | None, class_: str | None, session: Session) -> None:
    """Set the generator's condition: the first of the texts, else the class of --class, else the model's first."""
    if found is not None:
        model.generator.condition = found.condition.rows(slice(1))
        return
    fix_class(model, class_, session)
    if model.prompts is not None:
        session.say(
            f"prompt {texts_in_file(model.prompts)[0]!r}, the first that the model keeps; --prompt gives another"
        )
