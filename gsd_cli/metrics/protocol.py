"""How every figure of a bench was taken, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gsd_cli.metrics import edits, geometry, quality
from gsd_cli.versions import versions

if TYPE_CHECKING:
    from gsd_cli.metrics.bench import Bench


def protocol(bench: Bench) -> dict[str, str]:
    """A sentence for each figure that was asked for, and what they have in common."""
    wanted, real, options, figure = bench.wanted, bench.real, bench.options, bench.figure
    facts = {"model": bench.model.name, "teacher": bench.teacher.name, "device": str(bench.device)}
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions().items())
    seeds = f"seeds 0-{bench.samples - 1}, 8-bit"
    if real is not None and "fd" in wanted:
        few = "" if bench.samples >= quality.FEW else "; biased upwards at this N, compare at equal N only"
        spread = ""
        if quality.spread_possible(bench.samples, len(real.statistics.mu)):
            spread = "; +- is one standard error, by a jackknife over ten blocks; at N = inf: after Chong and Forsyth"
        against = f"{real.name} ({real.statistics.n or 'unknown'} images)"
        facts[figure] = f"{bench.samples} samples ({seeds}) against {against}{few}{spread}"
    if real is not None and real.features is not None:
        against = f"{bench.samples} samples ({seeds}) against {len(real.features)} real images of {real.features_name}"
        if "kid" in wanted:
            facts["KID"] = f"{against}, {bench.extractor.name} features, cubic kernel; +- is the spread over subsets"
        if "pr" in wanted:
            facts["precision, recall"] = f"{against}, at equal numbers, k = 3; density, coverage: k = 5"
    maps = f"distance: channel-normalised {bench.perceptual.name} maps"
    if "ppl" in wanted:
        facts["PPL"] = (
            f"{bench.latent_space.ppl_protocol}; {maps}; multi-step models through their deterministic sampler (eta 0)"
        )
    if "isometry" in wanted:
        facts["isometry"] = (
            f"{geometry.PATHS} random great circles to angles in [0.02, pi/2], {geometry.SEGMENTS} segments; speed "
            f"over {geometry.STEP} rad; Jacobian in {geometry.DIRECTIONS} tangents at {geometry.PROBES} latents; {maps}"
        )
    if "diversity" in wanted:
        facts["diversity"] = f"mean distance of random pairs of images; {maps}"
    if "time" in wanted:
        facts["time"] = (
            f"seconds an image at batch {options.time_batch}, median of 5, after a warm-up where an image takes "
            "up to 100 calls, models interleaved in one process, loading excluded"
        )
    if "memory" in wanted:
        facts["memory"] = f"one network call at batch {options.batch_size}, above what was in use before it"
    if "edit" in wanted:
        facts["edits"] = (
            f"{options.edit_samples} own samples, directions found on {edits.FIT_SAMPLES}, the better of latent and "
            "bottleneck"
        )
    if options.compile:
        facts["compiled"] = "networks were compiled with torch.compile"
    return facts
