"""How every figure of a bench was taken, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gsd_cli.base.versions import versions
from gsd_cli.comparison import edits
from gsd_cli.metrics import geometry, grain
from gsd_cli.metrics import image_quality as quality
from gsd_cli.metrics.baselines import AGAIN

if TYPE_CHECKING:
    from gsd_cli.comparison.runner import Bench


def protocol(bench: Bench) -> dict[str, str]:
    """A sentence for each figure that was asked for, and what they have in common."""
    wanted, options = bench.wanted, bench.options
    facts = {"model": bench.model.name, "teacher": bench.teacher.name, "device": str(bench.device)}
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions().items())
    facts["precision"] = (
        f"the model's samples, times and memory: {bench.precision}; everything else: float32 without TF32"
    )
    facts |= _fidelity(bench)
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


def _fidelity(bench: Bench) -> dict[str, str]:
    """How images were compared with real ones."""
    wanted, n, facts = bench.wanted, bench.samples, {}
    seeds = f"seeds 0-{n - 1}, 8-bit"
    if "fd" in wanted:
        facts = {judge.extractor.figure: _distance(judge.real, n, seeds) for judge in bench.judges}
        if len(facts) > 1:
            facts["distances"] = f"{' and '.join(facts)}: independent networks, the same images, each its own scale"
    for judge in bench.judges[:1]:
        real = judge.real
        if real.features is None:
            continue
        against = f"{n} samples ({seeds}) against {len(real.features)} real images of {real.features_name}"
        if "kid" in wanted:
            facts["KID"] = f"{against}, {judge.extractor.name} features, cubic kernel; +- is the spread over subsets"
        if "pr" in wanted:
            facts["precision, recall"] = f"{against}, at equal numbers, k = 3; density, coverage: k = 5"
    if "grain" in wanted:
        spread = "; +- is one standard error, from ten blocks" if n >= quality.FOR_A_SPREAD else ""
        whose = f"; real images: {bench.real_name}" if bench.real_figures else ""
        facts["grain"] = (
            f"median of |4 x - up - down - left - right|, in grey values, over pixels x of {grain.LEVEL} or more "
            f"(bright) or less (dark); the goal is the value of real images; {n} samples ({seeds}){spread}{whose}"
        )
    for name, figures in bench.fidelity.missing.items():
        facts[name] = (
            f"{' and '.join(figures)}: not stored with its samples; gsd does not sample again at over {AGAIN} calls "
            "per image"
        )
    return facts


def _distance(real: quality.Real, n: int, seeds: str) -> str:
    few = "" if n >= quality.FEW else "; biased upwards at this N, compare at equal N only"
    spread = ""
    if quality.spread_possible(n, len(real.statistics.mu)):
        spread = "; +- is one standard error, by a jackknife over ten blocks; N = inf: after Chong and Forsyth"
    return f"{n} samples ({seeds}) against {real.name} ({real.statistics.n or 'unknown'} images){few}{spread}"
