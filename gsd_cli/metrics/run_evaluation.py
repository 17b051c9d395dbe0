"""How a distillation is measured while it runs: in which features, and against which images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gsd_cli.catalogue.run_layout import FEATURES_SUFFIXES, GRIDS, next_to_teacher, statistics_of_features
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.open_data import OpenData
from gsd_cli.core.distillation.real_images import require_same_shape
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.metrics.evaluation import Evaluation
from gsd_cli.metrics.features import Extractor, TeacherFeatures, classifier_features, features_folder
from gsd_cli.metrics.reference import data_statistics, reference_of_features
from gsd_cli.metrics.statistics import Statistics
from gsd_cli.options import DistillOptions

Against = Literal["data", "features", "samples", "nothing"]


@dataclass(frozen=True)
class RunDistance:
    """The Frechet distance of a run: in which features, and against which images.

    features: the name or the folder of a feature set; None for the teacher's own features. against: the real data;
    the real images whose statistics come with the features; the teacher's samples; or nothing.
    """

    features: str | None
    extractor: Extractor
    against: Against

    @property
    def figure(self) -> str:
        """What the distance is called: one to the teacher's samples says so."""
        name = self.extractor.figure
        return f"{name} to the teacher's samples" if self.against == "samples" else name


def choose_distance(options: DistillOptions, data: OpenData, teacher: Teacher, device: Any) -> RunDistance:
    """The features asked for, else those that `gsd prepare` fitted or that come with the teacher, else its own.

    Raises GsdError (exit 3) where they were fitted on images of another size, or the data holds such images.
    """
    fitted = next_to_teacher(options.teacher, FEATURES_SUFFIXES["residual"])
    features = options.features or (str(fitted) if fitted else None) or teacher.features
    if features is None:
        extractor: Extractor = TeacherFeatures(teacher.denoiser.to(device), teacher.autoencoder.to(device))
    else:
        extractor = classifier_features(features, device, teacher.image_shape)
    if data.measured is not None:
        require_same_shape(data.measured, teacher.image_shape)
        return RunDistance(features, extractor, "data")
    stand_in = data.choice.origin == "teacher"
    # without samples that may stand in, statistics that are missing are an error
    if features is not None and not (
        stand_in and statistics_of_features(features_folder(features), extractor.name) is None
    ):
        return RunDistance(features, extractor, "features")
    return RunDistance(features, extractor, "samples" if stand_in else "nothing")


def describe_distance(distance: RunDistance, data: OpenData) -> str:
    """One line: what the Frechet distance is measured against."""
    if distance.against == "nothing":
        return "no real images to measure against: the Frechet distance is not measured (--data DATA.zip)"
    against = {
        "data": str(data.choice.measured),
        "features": f"the real images whose statistics come with the features {distance.features}",
        "samples": "the teacher's own samples, not against real images",
    }[distance.against]
    return f"{distance.extractor.figure} is measured against {against}"


def build_evaluation(
    options: DistillOptions, teacher: Teacher, data: OpenData, distance: RunDistance, folder: Path, device: Any,
    world: World | None = None, doing: Callable[[str], None] = lambda activity: None,
) -> Evaluation:  # fmt: skip
    """The evaluation of a run in `folder`, its reference statistics read or made now."""
    if not options.shard:
        teacher.denoiser.to(device)
    reference = _statistics(options, data, distance, device)
    return Evaluation(
        folder / GRIDS, distance.extractor, reference, options.eval_samples, options.batch_size,
        teacher.autoencoder.to(device), world or World(), doing,
    )  # fmt: skip


def _statistics(options: DistillOptions, data: OpenData, distance: RunDistance, device: Any) -> Statistics | None:

    if distance.against == "features" and distance.features is not None:
        return reference_of_features(features_folder(distance.features), distance.extractor).statistics
    images = {"data": data.measured, "samples": data.shown}.get(distance.against)
    if images is None:
        return None
    return data_statistics(images.path, distance.extractor, device, options.batch_size)
