"""Opens the generator of --model and the teacher of --teacher, and prints on stderr what the user should know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.text import plural
from gsd_cli.catalogue.class_names import describe_classes, find_class
from gsd_cli.catalogue.diffusers_layout import CONFIGS
from gsd_cli.catalogue.find import local_teacher, require_teacher
from gsd_cli.catalogue.registry import BUNDLED_MODELS, TEACHERS
from gsd_cli.catalogue.run_layout import GENERATOR
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.generator import Model, load_model
from gsd_cli.core.models.hub import fetch
from gsd_cli.core.models.prompts import load_prompts
from gsd_cli.core.models.sentence_encoder import FILES as SENTENCE_FILES
from gsd_cli.core.models.sentence_encoder import load_sentence_encoder
from gsd_cli.core.models.teacher import Teacher, load_teacher
from gsd_cli.core.models.teacher_config import read_text_teacher
from gsd_cli.core.models.text_encoder import FILES, TextEncoder, load_text_encoder
from gsd_cli.options import SampleOptions

FEWEST_STEPS = 50
"""A generator of fewer steps of training is hardly trained: its images are those of its start, or nearly."""


def open_model(spec: str | None, device: Any, session: Session) -> Model:
    """Load a generator onto `device`, ready to sample; without --model, print which one it is.

    Warns of one that is hardly trained.
    """
    model = load_model(spec)
    if spec is None:
        session.say(f"model: {model.name}")
    elif model.folder not in (Path(spec), Path(spec) / GENERATOR) and spec not in BUNDLED_MODELS:
        session.say(f"model: {model.folder}")
    if (steps := model.card.get("steps", FEWEST_STEPS)) < FEWEST_STEPS:
        session.warn(
            f"{model.name} was trained for {plural(steps, 'step')} only: its images are nearly those it had before"
        )
    model.generator.to(device).eval().requires_grad_(False)
    return model


def resolve_class(model: Model, given: str | None) -> Condition | None:
    """The class that --class names, as a condition of one row; None without --class.

    given: a name or a number. Raises UsageError for a class that the model does not have.
    """
    return find_condition(model.name, model.generator.conditions, model.class_names, given)


def find_condition(model: str, every: Condition, names: Sequence[str], given: str | None) -> Condition | None:
    """The row of `every` that --class names, of a model with these classes. Raises as `resolve_class`."""
    if given is None:
        return None
    if every.classes is None:
        raise UsageError([f"--class: {model} is not class-conditional"], hint="leave out --class")
    label = find_class(given, names, len(every))
    if label is None:
        raise UsageError([f"--class: {model} has no class {given!r}"], hint=describe_classes(names, len(every)))
    return every.rows(slice(label, label + 1))


def resolve_prompt(model: Model, options: SampleOptions, session: Session) -> Condition | None:
    """What --class or --prompt asks for, as a condition of one row; None without them. --prompts replaces the prompts
    that the model keeps.

    Raises UsageError for a model that takes no text.
    """
    denoiser = model.generator.denoiser
    given = "--prompts" if options.prompts is not None else "--prompt" if options.prompt is not None else None
    if given is None:
        return resolve_class(model, options.class_)
    if denoiser.kind.text_sizes(denoiser.net) is None:
        raise UsageError([f"{given}: {model.name} is not text-conditional"])
    if options.prompts is not None:
        denoiser.give_prompts(load_prompts(options.prompts).condition)
        return None
    if model.teacher is None:
        raise UsageError([f"--prompt: {model.name} does not name its teacher"], hint="give --prompts FILE")
    found = open_text_encoder(model.teacher, session, model.generator.device).encode([str(options.prompt)])
    denoiser.give_prompts(found)
    return found


def open_text_encoder(spec: str, session: Session, device: Any) -> TextEncoder:
    """Load the text encoders of a text-conditional teacher, a folder or a hub id."""
    require_teacher(spec)
    place = local_teacher(spec)
    if place is None:
        with session.progress(f"opening the text encoders of {spec}"):
            entry = TEACHERS.get(spec)
            hub_id = entry.hub if entry is not None and entry.hub else spec
            place, _ = fetch(hub_id, offline=session.offline, only=(*CONFIGS, *FILES))
    return load_text_encoder(read_text_teacher(place), device)


def open_sentence_encoder(spec: str, session: Session, device: Any) -> TextEncoder:
    """Load a sentence encoder, a folder or a hub id."""
    place = Path(spec)
    if not place.is_dir():
        with session.progress(f"opening {spec}"):
            place, _ = fetch(spec, offline=session.offline, only=SENTENCE_FILES)
    return load_sentence_encoder(place, device)


def fix_class(model: Model, given: str | None, session: Session) -> None:
    """Set the class of a class-conditional model: the one of --class, else the first."""
    chosen = resolve_class(model, given)
    if chosen is None and model.generator.denoiser.classes:
        session.say(f"class {model.class_names[0] if model.class_names else 0}; --class chooses another")
    every = model.generator.conditions
    model.generator.condition = every.first(1) if chosen is None else chosen


def open_teacher(
    spec: str,
    session: Session,
    revision: str | None = None,
    assume: str | None = None,
    *,
    undecided: bool = False,
    prompts: Path | None = None,
) -> Teacher:
    """Load a teacher; show the progress of a download, and print notes and warnings about the teacher.

    assume, undecided, prompts: see `load_teacher`.
    """
    with session.progress(f"opening {spec}") as bar:

        def on_bytes(done: int, total: int) -> None:
            bar.update(done // 1_000_000, total // 1_000_000, note="MB")

        teacher = load_teacher(
            spec,
            offline=session.offline,
            revision=revision,
            on_bytes=on_bytes,
            assume=assume,
            undecided=undecided,
            prompts=prompts,
        )
    if teacher.revision is not None:
        session.say(f"{spec} is {teacher.source} at {teacher.revision[:12]}")
    for remark in teacher.remarks:
        session.say(remark)
    for note in teacher.notes:
        session.warn(note)
    return teacher
