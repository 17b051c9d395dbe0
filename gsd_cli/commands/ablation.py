"""gsd bench --ablate: the paper's Table 2. Three distillations at equal images, then one bench over them."""

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


def runs_folder(options: BenchOptions, teacher: str) -> Path:
    """Where the variants' runs live, and are found again."""
    return options.ablate_runs or RUNS / f"ablate-{Path(teacher).name}-{options.ablate_preset}"


def distil_variants(options: BenchOptions, teacher: str, session: Session) -> dict[str, Model]:
    """Distil what is not there yet, from one start and one seed; the generators by the variant's name.

    An interrupted run goes on where it stopped when the command is given again.
    """
    folder, resume = runs_folder(options, teacher), session.stop.resume
    models = {}
    for name, changes in VARIANTS.items():
        run = folder / name.replace(" ", "-")
        distill.run(_options(options, teacher, run, changes), session)
        session.stop.resume = resume
        models[name] = load_model(str(run))
    return models


def _options(options: BenchOptions, teacher: str, run: Path, changes: dict[str, Any]) -> DistillOptions:
    if options.precision == "fp16":
        raise UsageError(["--ablate trains, and fp16 is not for training"], hint="give --precision bf16 or fp32")
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
