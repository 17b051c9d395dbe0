"""gsd prepare PROMPTS.txt --teacher T: turn prompts into what a text-conditional teacher is conditioned on."""

from __future__ import annotations

from pathlib import Path

from gsd_cli.base.console import Result
from gsd_cli.base.session import Session
from gsd_cli.base.text import plural
from gsd_cli.compute.device import resolve_device
from gsd_cli.core.models.open import open_text_encoder
from gsd_cli.core.models.prompts import Prompts, load_prompts, read_texts, save_prompts
from gsd_cli.options import PrepareOptions


def prepare_prompts(options: PrepareOptions, target: Path, session: Session) -> Result:
    """Encode the lines of a text file with the teacher's own text encoders, unless the target exists."""
    assert options.teacher is not None
    texts = read_texts(Path(options.source))
    if target.exists() and not options.force:
        there = load_prompts(target)
        same = list(there.texts) == texts and there.teacher == options.teacher
        session.say(f"{target} already exists; --force overwrites it")
        if not same:
            session.warn(f"{target} holds other prompts, or those of another teacher: {there.teacher}")
        return Result([str(target)], {"prompts": len(there.texts)})
    encoder = open_text_encoder(options.teacher, session, resolve_device(options.device))
    if cut := encoder.too_long(texts):
        session.warn(f"{plural(cut, 'prompt')} longer than the text encoder takes; the rest of each is cut off")
    with session.progress(f"encoding {plural(len(texts), 'prompt')}", len(texts)) as bar:
        condition = encoder.encode(texts, options.batch_size, bar.update)
    prompts = Prompts(tuple(texts), condition, options.teacher, encoder.encode_empty())
    save_prompts(target, prompts, half=options.weights == "fp16")
    return Result([str(target)], {"prompts": len(texts)})
