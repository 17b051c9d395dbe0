"""Mistakes in what options name: images, classes, attributes, directions, data, statistics. Found without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.base.text import did_you_mean
from gsd_cli.catalogue.class_names import describe_classes, find_class
from gsd_cli.catalogue.exports import ONNX, require_export_format, require_onnx
from gsd_cli.catalogue.image_names import LATENTS_SUFFIX, latents_in_file, require_image, require_one_stdin
from gsd_cli.catalogue.model_facts import (
    UNCONDITIONAL,
    ModelFacts,
)
from gsd_cli.catalogue.registry import FEATURES, PUBLISHED_STATISTICS
from gsd_cli.catalogue.run_layout import CARD, bundled_features_folder

if TYPE_CHECKING:
    from gsd_cli.options import DistillOptions

LABELS_HINT = "a CSV of name,label, list_attr_celeba.txt or dataset.json; folder names need no --labels"
Check = Callable[[], object]


def check_all(*checks: Check) -> None:
    """Run every check, and raise one GsdError that names all mistakes; its hint has a line for each.

    Wrong options count as such (exit 2); else the first mistake gives the exit code.
    """
    errors: list[GsdError] = []
    for check in checks:
        try:
            check()
        except GsdError as error:
            errors.append(error)
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    problems = [text for error in errors for text in getattr(error, "problems", [error.message])]
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    together = UsageError(list(dict.fromkeys(problems)), hint="\n".join(hints))
    usage = any(error.code == ExitCode.USAGE for error in errors)
    together.code = ExitCode.USAGE if usage else errors[0].code
    raise together


# -- exported files -----------------------------------------------------------------------------


def export_checks(target: Path | None, precision: str) -> list[Check]:
    """The checks of --export: the kind of file, whether it can be written, and the packages that write it."""
    if target is None:
        return []
    checks: list[Check] = [
        lambda: require_export_format(target, precision),
        lambda: require_writable(target, folder=False),
    ]
    return [*checks, require_onnx] if target.suffix.lower() == ONNX else checks


def exported_model_checks(spec: str | None) -> list[Check]:
    """The checks of a --model that is an exported file: whether it exists, and onnxruntime reads its kind."""

    def check() -> None:
        path = Path(str(spec))
        if not path.is_file():
            raise GsdError(f"no such file: {path}", hint="write it with: gsd sample --model MODEL --export FILE.onnx")
        if path.suffix.lower() != ONNX:
            raise UsageError(
                [f"--model {path}: of exported files, gsd runs .onnx"], hint="torch.export.load opens a .pt2"
            )

    return [check, lambda: require_onnx("onnxruntime")]


# -- images -------------------------------------------------------------------------------------


def image_checks(names: Sequence[str], model: ModelFacts) -> list[Check]:
    """One check per IMAGE argument, and one for stdin."""

    def check_of(name: str) -> Check:
        return lambda: _require_image_of(name, model)

    return [*(check_of(name) for name in dict.fromkeys(names)), lambda: require_one_stdin(names)]


def _require_image_of(name: str, model: ModelFacts) -> None:
    require_image(name)
    if not name.endswith(LATENTS_SUFFIX):
        return
    for shape in latents_in_file(Path(name)):
        if model.latent_shape is not None and shape != model.latent_shape:
            raise GsdError(
                f"{name} holds latents of shape {shape}, the model takes {model.latent_shape}",
                hint="give their model with --model",
            )


# -- classes ------------------------------------------------------------------------------------


def require_class(given: str | None, model: ModelFacts) -> None:
    """Raise UsageError for a class that the model does not have."""
    count, names = model.class_count, model.class_names
    if given is None or count is None:
        return
    if count == UNCONDITIONAL:
        raise UsageError(
            [f"--class {given}: the model {model.folder.name} is not class-conditional"],
            hint="leave out --class; gsd prepare --fit-teacher SIZE --conditional trains a teacher with classes",
        )
    if find_class(given, names, count) is None:
        words = [word.strip() for name in names for word in name.split(",")]
        raise UsageError(
            [f"--class: the model has no class {given!r}{did_you_mean(given, words)}"],
            hint=describe_classes(names, count),
        )


# -- edits --------------------------------------------------------------------------------------


def require_example_folders(fit: str | None) -> None:
    """Raise GsdError (exit 3) for a folder of --fit that is missing."""
    positive, _, negative = (fit or "=:").partition("=")[2].partition(":")
    missing = [folder for folder in (positive, negative) if folder and not Path(folder).is_dir()]
    if missing:
        raise GsdError(
            f"--fit: no such folder: {', '.join(missing)}",
            hint="give a folder of images with the attribute, and one of images without it",
        )


# -- data and statistics ------------------------------------------------------------------------


def require_data_set(data: Path, option: str) -> None:
    """Raise GsdError (exit 3) for a prepared data set that does not exist."""
    if not _exists(data):
        near = did_you_mean(str(data), ["teacher"]) if option == "--data" else ""
        raise GsdError(f"{option}: no such data set: {data}{near}", hint="make it with: gsd prepare SOURCE -o DATA.zip")


def require_statistics(stats: str | None) -> None:
    """Raise GsdError (exit 3) where --stats is neither a published name nor a file or folder that exists."""
    if stats is None or stats in PUBLISHED_STATISTICS:
        return
    path = Path(stats)
    if not _exists(path):
        near = did_you_mean(stats, PUBLISHED_STATISTICS)
        known = ", ".join(PUBLISHED_STATISTICS)
        raise GsdError(f"--stats: no such file or name: {stats}{near}", hint=f"an .npz, a data set, or one of: {known}")
    if path.is_file() and path.suffix not in (".npz", ".zip", ".json"):
        raise GsdError(f"--stats: {stats} is no .npz and no data set", hint="an .npz, DATA.zip, or a folder of images")


def require_labels_file(labels: Path | None) -> None:
    """Raise GsdError (exit 3) for a file of --labels that does not exist."""
    if labels is not None and (not _exists(labels) or labels.is_dir()):
        wrong = f"{labels} is a folder" if _exists(labels) else f"no such file: {labels}"
        raise GsdError(f"--labels: {wrong}", hint=LABELS_HINT)


def require_captions(captions: Path | None) -> None:
    """Raise GsdError (exit 3) for a file or a folder of --captions that does not exist."""
    if captions is not None and not _exists(captions):
        hint = "a CSV of name,caption, a metadata.jsonl, COCO's annotations, or a folder of .txt files"
        raise GsdError(f"--captions: no such file: {captions}", hint=hint)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def require_features(spec: str | None, general: Sequence[str] = ()) -> None:
    """Raise GsdError (exit 3) where --features is neither a known name nor a folder of features."""
    if spec is None or spec in general or _exists(Path(spec) / CARD) or _exists(bundled_features_folder(spec) / CARD):
        return
    known = [*general, *(name for names in FEATURES.values() for name in names)]
    raise GsdError(
        f"--features: no such features: {spec}{did_you_mean(spec, known)}",
        hint=f"a folder made by gsd prepare --fit-features, or: {', '.join(known)}",
    )


# -- the network --------------------------------------------------------------------------------


def require_network(options: DistillOptions) -> None:
    """Raise GsdError (exit 4) where --publish cannot work without a network: before a run is trained, not after it."""
    variable = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    forbidden = "--offline" if options.offline else "HF_HUB_OFFLINE" if variable else None
    if options.publish and forbidden is not None:
        raise GsdError(
            f"--publish needs the network, and {forbidden} forbids it",
            hint="leave out --publish: --push-to-hub alone prepares everything",
            code=ExitCode.NETWORK,
        )
