"""How every figure of a bench was taken, in words."""

from __future__ import annotations

from collections.abc import Sequence

from gsd_cli.base.versions import versions
from gsd_cli.comparison.context import Context
from gsd_cli.comparison.metric import Metric
from gsd_cli.core.sampling.refined import refining_levels
from gsd_cli.metrics.baselines import MOST_CALLS


def protocol(context: Context, metrics: Sequence[Metric]) -> dict[str, str]:
    """What all figures have in common, and each metric's own sentences, by title."""
    facts = {"model": context.model.name, "teacher": context.teacher.name, "device": str(context.device)}
    if context.options.refine is not None:
        levels = refining_levels(context.model.generator.sigmas[-1], context.options.refine)
        facts["refined"] = (
            f"the model's images: one pass of the generator, then {len(levels)} calls of the teacher, DPM-Solver++ "
            f"from sigma {levels[0]:.3g}"
        )
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions().items())
    facts["precision"] = (
        f"the model's samples, times and memory: {context.precision}; everything else: float32 without TF32"
    )
    of_images = [metric for metric in metrics if metric.looks]
    for metric in of_images:
        facts |= metric.protocol(context)
    for name, figures in context.missing.items():
        facts[name] = (
            f"{' and '.join(figures)}: not stored with its samples; gsd does not sample again at over "
            f"{MOST_CALLS} calls per image"
        )
    for metric in metrics:
        if metric not in of_images:
            facts |= metric.protocol(context)
    if context.options.compile:
        facts["compiled"] = "networks were compiled with torch.compile"
    return facts
