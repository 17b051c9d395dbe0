"""Opens the generator of --model and the teacher of --teacher, and prints on stderr what the user should know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.class_names import describe_classes, find_class
from gsd_cli.catalogue.registry import BUNDLED_MODELS
from gsd_cli.catalogue.run_layout import GENERATOR
from gsd_cli.core.models.generator import Model, load_model
from gsd_cli.core.models.teacher import Teacher, load_teacher


def open_model(spec: str | None, device: Any, session: Session) -> Model:
    """Load a generator onto `device`, ready to sample; without --model, print which one it is."""
    model = load_model(spec)
    if spec is None:
        session.say(f"model: {model.name}")
    elif model.folder not in (Path(spec), Path(spec) / GENERATOR) and spec not in BUNDLED_MODELS:
        session.say(f"model: {model.folder}")
    model.generator.to(device).eval().requires_grad_(False)
    return model


def resolve_class(model: Model, given: str | None) -> int | None:
    """The number of the class that --class names; None without --class.

    given: a name or a number. Raises UsageError for a class that the model does not have.
    """
    count, names = model.generator.denoiser.classes, model.class_names
    if given is None:
        return None
    if count is None:
        raise UsageError([f"--class: {model.name} is not class-conditional"])
    label = find_class(given, names, count)
    if label is None:
        raise UsageError([f"--class: {model.name} has no class {given!r}"], hint=describe_classes(names, count))
    return label


def fix_class(model: Model, given: str | None, session: Session) -> None:
    """Set the class of a class-conditional model: the one of --class, else the first."""
    label = resolve_class(model, given)
    if label is None and model.generator.denoiser.classes:
        session.say(f"class {model.class_names[0] if model.class_names else 0}; --class chooses another")
    model.generator.label = label or 0


def open_teacher(
    spec: str, session: Session, revision: str | None = None, assume: str | None = None, *, undecided: bool = False
) -> Teacher:
    """Load a teacher; show the progress of a download, and print notes and warnings about the teacher.

    assume, undecided: see `load_teacher`.
    """
    with session.progress(f"opening {spec}") as bar:

        def on_bytes(done: int, total: int) -> None:
            bar.update(done // 1_000_000, total // 1_000_000, note="MB")

        teacher = load_teacher(
            spec, offline=session.offline, revision=revision, on_bytes=on_bytes, assume=assume, undecided=undecided
        )
    if teacher.revision is not None:
        session.say(f"{spec} is {teacher.source} at {teacher.revision[:12]}")
    for remark in teacher.remarks:
        session.say(remark)
    for note in teacher.notes:
        session.warn(note)
    return teacher
