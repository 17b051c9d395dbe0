"""Metrics of a latent space: path length, isometry, diversity, all in one perceptual distance."""

from __future__ import annotations

import math
from dataclasses import asdict

from gsd_cli.comparison.contenders import Contender, Row
from gsd_cli.comparison.context import Context
from gsd_cli.comparison.metric import Better, Column, Entry, Metric
from gsd_cli.metrics import isometry
from gsd_cli.metrics.baselines import MOST_CALLS
from gsd_cli.metrics.diversity import PAIRS, diversity
from gsd_cli.metrics.path_length import NOISY, PathLength, noise_floor, path_length, path_length_protocol

EPSILON = 1e-4
COARSE_EPSILON = 1e-3
FEW_CALLS = 8
"""The most calls of a model whose images are cheap: a generator's."""
NOISE_PAIRS, FEW_NOISE_PAIRS = 64, 16
"""Pairs for the noise floor of a model of few calls and of one of many."""


def _perceptual_of(row: Row) -> str:
    return row.perceptual


# -- path length ----------------------------------------------------------------------------------


def _measure_path_lengths(context: Context, entry: Entry) -> None:
    row, subject = entry.row, entry.contender.subject
    found = _path_length(context, entry.contender, EPSILON)
    row.figures |= {"ppl": found.mean, "ppl_low": found.low, "ppl_high": found.high, "ppl_pairs": found.pairs}
    row.figures |= {
        "ppl_untrimmed": found.untrimmed,
        "ppl_untrimmed_low": found.untrimmed_low,
        "ppl_untrimmed_high": found.untrimmed_high,
    }
    row.protocol["ppl"] = f"{path_length_protocol(found.pairs, EPSILON)}, {subject.images_protocol}"
    if subject.calls <= FEW_CALLS:
        row.figures["ppl_1e-3"] = _path_length(context, entry.contender, COARSE_EPSILON).mean
    if subject.images_calls <= MOST_CALLS:
        _measure_noise(context, entry, found.mean)


def _measure_noise(context: Context, entry: Entry, ppl: float) -> None:
    """The share of a PPL that arithmetic alone makes; a note where it matters."""
    row, subject = entry.row, entry.contender.subject
    pairs = NOISE_PAIRS if subject.calls <= FEW_CALLS else FEW_NOISE_PAIRS
    with context.session.progress(f"PPL of {row.name}: noise floor"):
        floor = noise_floor(subject.images, context.perceptual.squared_distance, context.latent_shape, pairs)
    noise = row.figures["ppl_noise_floor"] = floor / EPSILON**2
    if noise > NOISY * ppl:
        better = "; compare ppl_1e-3, where it is a hundredth of that" if "ppl_1e-3" in row.figures else ""
        context.notes.append(f"PPL of {row.name}: arithmetic alone makes {noise:.3g} of its {ppl:.3g}{better}")


def _path_length(context: Context, contender: Contender, epsilon: float) -> PathLength:
    options, pairs = context.options, context.options.ppl_samples
    with context.session.progress(f"PPL of {contender.name}", pairs) as bar:
        return path_length(
            contender.subject.images, context.perceptual.squared_distance, context.latent_shape, pairs, epsilon,
            options.seed, options.batch_size, bar.update,
        )  # fmt: skip


def _path_length_protocol(context: Context) -> dict[str, str]:
    paths = path_length_protocol(context.options.ppl_samples, EPSILON)
    models = "multi-step models through a deterministic sampler"
    return {"PPL": f"{paths}; {context.distance_protocol}; {models}"}


PPL = Metric(
    "ppl",
    _measure_path_lengths,
    columns=[
        Column(
            "ppl",
            "PPL",
            ".4g",
            ("ppl_low", "ppl_high"),
            better="lower",
            features=_perceptual_of,
            count=lambda row: row.figures.get("ppl_pairs"),
        )
    ],
    protocol=_path_length_protocol,
)


# -- isometry -------------------------------------------------------------------------------------


def _measure_isometry(context: Context, entry: Entry) -> None:
    """The isometry report; a figure that is no number, of a collapsed generator, is absent."""
    options, subject = context.options, entry.contender.subject
    with context.session.progress(f"isometry of {subject.name}") as bar:
        found = isometry.isometry_report(
            subject.images, context.perceptual.embed, context.latent_shape, seed=options.seed,
            batch_size=options.batch_size, on_batch=bar.update,
        )  # fmt: skip
    entry.row.figures |= {name: value for name, value in asdict(found).items() if math.isfinite(value)}


def _isometry_protocol(context: Context) -> dict[str, str]:
    return {
        "isometry": f"{isometry.REPORT_PATHS} random great circles to angles in [0.02, pi/2], {isometry.SEGMENTS} "
        f"segments; speed over {isometry.STEP} rad; Jacobian in {isometry.DIRECTIONS} tangents at {isometry.PROBES} "
        f"latents; {context.distance_protocol}"
    }


def _isometry_column(key: str, title: str, better: Better) -> Column:
    return Column(key, title, better=better, features=_perceptual_of, count=lambda row: isometry.REPORT_PATHS)


ISOMETRY = Metric(
    "isometry",
    _measure_isometry,
    columns=[
        _isometry_column("speed_cv", "speed CV", "lower"),
        _isometry_column("spearman", "Spearman", "higher"),
        _isometry_column("effective_rank", "rank", "higher"),
        _isometry_column("pair_distance", "pair distance", ""),
    ],
    protocol=_isometry_protocol,
)


# -- diversity ------------------------------------------------------------------------------------


def _measure_diversity(context: Context, entry: Entry) -> None:
    subject = entry.contender.subject
    with context.session.progress(f"diversity of {subject.name}", 2 * PAIRS) as bar:
        entry.row.figures |= diversity(
            subject.images, context.perceptual.squared_distance, context.latent_shape, context.options.batch_size,
            bar.update,
        )  # fmt: skip


def _diversity_protocol(context: Context) -> dict[str, str]:
    return {"diversity": f"mean distance of random pairs of images; {context.distance_protocol}"}


DIVERSITY = Metric(
    "diversity",
    _measure_diversity,
    columns=[
        Column(
            "diversity",
            "diversity",
            spread=("diversity_error",),
            better="higher",
            features=_perceptual_of,
            count=lambda row: PAIRS,
        )
    ],
    protocol=_diversity_protocol,
)
