"""gsd prepare --fit-teacher: train a teacher on a prepared data set, on its classes or its captions."""

from __future__ import annotations

from pathlib import Path

from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.text import plural
from gsd_cli.catalogue.prompt_files import texts_in_file
from gsd_cli.catalogue.registry import bundled_features
from gsd_cli.catalogue.run_layout import PROMPTS_SUFFIX, TEACHER_SUFFIX, next_to_data
from gsd_cli.commands.same_fit import require_same_fit
from gsd_cli.compute.device import exact_if_fp32, resolve_device
from gsd_cli.compute.distributed import World
from gsd_cli.core.models.open import open_sentence_encoder
from gsd_cli.core.models.prompts import Prompts, load_prompts, save_prompts
from gsd_cli.core.models.sentence_encoder import fit_length
from gsd_cli.core.models.text_encoder import TextEncoder
from gsd_cli.core.training.drive import run_training
from gsd_cli.core.training.fit_conditions import caption_conditions, distinct_captions
from gsd_cli.core.training.fit_estimate import describe_fit, seconds_per_step
from gsd_cli.core.training.fit_teacher import TeacherFit
from gsd_cli.core.training.report import Cadence
from gsd_cli.core.training.teacher_folder import save_teacher
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import PrepareOptions
from gsd_cli.options.prepare import resolve_fit_settings


def fit_teacher(options: PrepareOptions, target: Path, world: World, session: Session) -> list[Path]:
    """Train a teacher on a data set and save it; returns its folder, and before it the file of its captions, encoded,
    if it has some."""
    device = resolve_device(options.device)
    settings = resolve_fit_settings(options, on_cpu=device.type == "cpu")
    data, folder = ImageArchive(target), next_to_data(target, TEACHER_SUFFIX)
    work = folder.with_name(folder.name + ".fit")
    outputs, encoder, conditions = [folder], None, None
    if settings.text_encoder is not None:
        encoder, prompts = _encode_captions(options, settings.text_encoder, data, folder, world, session)
        conditions = caption_conditions(data, prompts)
        outputs = [_prompts_file(target), folder]
    asked = {"--" + _FLAGS[name]: getattr(settings, name) for name in _FLAGS}
    require_same_fit(work, folder, asked, data, session, force=options.force, world=world)
    task = TeacherFit(data, settings, work, device, world, options.precision, conditions)
    if not folder.exists():  # it is not trained yet
        seconds = seconds_per_step(
            settings, data.shape, device, options.precision, world.size, task.conditions.text_sizes
        )  # fmt: skip
        session.say(f"training {describe_fit(settings, seconds, device)}")
    cadence = Cadence(max(1, settings.steps // 20))
    with exact_if_fp32(task.device, options.precision):
        report = run_training(task, settings.steps, work, cadence, "teacher", session, world)
    if report is None:
        session.say(f"{folder} is already trained")
    if world.main:
        features = bundled_features(data.record)
        save_teacher(task, folder, half=options.weights == "fp16", features=features, encoder=encoder)
    world.wait()
    return outputs


_FLAGS = {
    "architecture": "fit-teacher", "objective": "fit-objective", "conditional": "conditional",
    "text_encoder": "text-encoder",
}  # fmt: skip
"""The settings that make another network of a teacher, by flag."""


def _prompts_file(target: Path) -> Path:
    return next_to_data(target, PROMPTS_SUFFIX)


def _encode_captions(
    options: PrepareOptions, spec: str, data: ImageArchive, teacher: Path, world: World, session: Session
) -> tuple[TextEncoder, Prompts]:
    """The encoder of the captions, and every caption once, encoded; the first process writes them next to the data."""
    texts, file = distinct_captions(data), _prompts_file(data.path)
    encoder = fit_length(open_sentence_encoder(spec, session, resolve_device(options.device)), texts)
    if world.main and not _holds(file, texts, options.force):
        if cut := encoder.too_long(texts):
            session.warn(f"{plural(cut, 'caption')} longer than {spec} takes; the rest of each is cut off")
        with session.progress(f"encoding {plural(len(texts), 'caption')}", len(texts)) as bar:
            condition = encoder.encode(texts, options.batch_size, bar.update)
        save_prompts(file, Prompts(tuple(texts), condition, str(teacher), encoder.encode_empty()), half=True)
    world.wait("the captions that the first process encodes")
    prompts = load_prompts(file)
    if prompts.condition.embeddings is not None and prompts.condition.embeddings.shape[2] != encoder.sizes.token:
        raise UsageError([f"{file} was written with another text encoder"], hint="remove it, or name that encoder")
    return encoder, prompts


def _holds(file: Path, texts: list[str], force: bool) -> bool:
    """Whether a file has these texts already."""
    return not force and file.exists() and texts_in_file(file) == texts
