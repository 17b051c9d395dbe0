"""gsd bench --ablate: distil the three variants of the paper's Table 2 on the same number of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.storage import RUNS
from gsd_cli.commands import distill
from gsd_cli.core.models.generator import Model, load_model
from gsd_cli.options import PRESETS, BenchOptions, DistillOptions

FULL = "full loss"
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "without isometry loss": {"irl": "off"},
    "without distillation loss": {"sidl_weight": 0.0},
}


def resolve_runs_folder(options: BenchOptions, teacher: str) -> Path:
    """The folder of the variants' runs. A later call finds them there."""
    return options.ablate_runs or RUNS / f"ablate-{Path(teacher).name}-{options.ablate_preset}"


def distil_variants(options: BenchOptions, model: Model, session: Session) -> dict[str, Model]:
    """Distil the variants of a model that are not finished, all from the same start and seed; returns generators by
    variant.

    The same command resumes an interrupted run.
    """
    teacher = str(model.teacher)
    folder, resume = resolve_runs_folder(options, teacher), session.stop.resume
    models = {}
    for name, changes in VARIANTS.items():
        run = folder / name.replace(" ", "-")
        reading = {"assume": model.teacher_reading} if model.teacher_reading else {}
        distill.run(_build_options(options, teacher, run, changes | reading), session)
        session.stop.resume = resume
        models[name] = load_model(str(run))
    return models


def _build_options(options: BenchOptions, teacher: str, run: Path, changes: dict[str, Any]) -> DistillOptions:
    if options.precision == "fp16":
        raise UsageError(["--ablate trains generators, and fp16 cannot train"], hint="use --precision bf16 or fp32")
    shared = {
        name: getattr(options, name)
        for name in ("device", "precision", "seed", "offline", "cache_dir", "features")
        if name in options.model_fields_set
    }
    length = dict(PRESETS[options.ablate_preset])
    if options.ablate_kimg is not None:
        length = {key: value for key, value in length.items() if key not in ("kimg", "epochs")}
        length["kimg"] = options.ablate_kimg
    preset = {"preset": options.ablate_preset, **length}
    return DistillOptions(teacher=teacher, output=run, **shared, **preset, **changes)
