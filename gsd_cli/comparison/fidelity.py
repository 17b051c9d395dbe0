"""Metrics of images: Frechet distances, KID, precision and recall, grain, all of the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller

from torch import Tensor

from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.context import Context, Need
from gsd_cli.comparison.images import Look
from gsd_cli.comparison.metric import Column, Entry, Metric, distance_figures
from gsd_cli.metrics import grain
from gsd_cli.metrics.features import features_folder
from gsd_cli.metrics.frechet_error import FOR_A_SPREAD, count_blocks, reason_for_no_infinity, reason_for_no_spread
from gsd_cli.metrics.generated import Features
from gsd_cli.metrics.image_quality import (
    FEW,
    Real,
    frechet_figures,
    kernel_figures,
    precision_recall_figures,
)
from gsd_cli.metrics.reference import real_grain


def _seeds(context: Context) -> str:
    return f"{context.samples} samples (seeds 0-{context.samples - 1}, 8-bit)"


def _look_with_judges(context: Context) -> list[Look]:
    """The judges' features. Those of the first are needed whatever they cost; the others give further opinions."""
    extractors = [judge.extractor for judge in context.judges]
    return [
        Look(one, one.figure, Features, methodcaller("found", one.name), optional=one is not extractors[0])
        for one in extractors
    ]


# -- Frechet distances ----------------------------------------------------------------------------


def _measure_distances(context: Context, entry: Entry) -> None:
    row = entry.row
    for judge in context.judges:
        features = entry.seen.get(judge.extractor.name)
        if features is not None:
            row.distances[judge.extractor.figure] = frechet_figures(features, judge.real, context.options.seed)
    row.figures |= row.distances.get(context.figure, {})


def _distance_columns(rows: Sequence[Row], figure: str) -> list[Column]:
    """The first distance, its value at infinite N, the other distances."""
    others = dict.fromkeys(name for row in rows for name in row.distances if name != figure)
    return [
        _distance_column(figure),
        Column(
            "fd_infinity", "at N = inf", spread=("fd_infinity_error",), place=-2, better="lower",
            name=f"{figure} at N = inf", features=_judge_of,
        ),
        *(_distance_column(name, distance_figures(name)) for name in others),
    ]  # fmt: skip


def _distance_column(figure: str, figures: Callable[[Row], Mapping[str, float]] = lambda row: row.figures) -> Column:
    features = {"FID": "inception", "CLIP-FID": "clip"}.get(figure, figure.removeprefix("FD-"))
    return Column(
        "fd", figure, spread=("fd_error",), figures=figures, place=-2, better="lower", features=lambda row: features,
        count=lambda row: figures(row).get("n", row.samples),
    )  # fmt: skip


def _judge_of(row: Row) -> str:
    return row.judge


def _distance_protocols(context: Context) -> dict[str, str]:
    facts = {judge.extractor.figure: _distance_protocol(context, judge.real) for judge in context.judges}
    if len(facts) > 1:
        facts["distances"] = f"{' and '.join(facts)}: independent networks, the same images, each its own scale"
    return facts


def _distance_protocol(context: Context, real: Real) -> str:
    n = context.samples
    few = "" if n >= FEW else "; biased upwards at this N, compare at equal N only"
    size, spread = len(real.statistics.mu), ""
    if reason_for_no_spread(n) is None:
        spread = f"; ± is one standard error, by a jackknife over {count_blocks(size)} blocks"
    why_not = reason_for_no_infinity(n, size)
    infinity = f"not available, {why_not}" if why_not else "after Chong and Forsyth, the real images taken as exact"
    if not why_not and n < 8 * size:
        infinity += f"; N is below eight times the {size} features, so a tenth of the bias may remain"
    # the column is that of the first distance; the others' values are in --json
    shown = f"; at N = inf: {infinity}" if real is context.judges[0].real else ""
    return f"{_seeds(context)} against {real.name} ({real.statistics.n or 'unknown'} images){few}{spread}{shown}"


def _caution_of_few(context: Context) -> str | None:
    """What to say of a Frechet distance of fewer images than there are features; None where there are enough."""
    sizes = {judge.extractor.figure: len(judge.real.statistics.mu) for judge in context.judges}
    short = {figure: size for figure, size in sizes.items() if context.samples <= size}
    if not short:
        return None
    names, counts = " and ".join(short), " and ".join(map(str, short.values()))
    return f"{context.samples} images are too few for the {counts} features of {names}: it is mostly bias"


FD = Metric(
    "fd",
    _measure_distances,
    needs=frozenset({Need.FEATURES, Need.EVERY_FEATURES}),
    looks=_look_with_judges,
    columns=_distance_columns,
    protocol=_distance_protocols,
    caution=_caution_of_few,
)


# -- KID, precision and recall: the first judge's features against those of single real images --------


def _features(context: Context, entry: Entry) -> tuple[Tensor, Tensor] | None:
    """Features of generated images [N, F] and of real ones [M, F]; None where either were not kept."""
    judge = context.judges[0]
    generated, real = entry.seen.get(judge.extractor.name), judge.real.features
    return (generated, real) if isinstance(generated, Tensor) and real is not None else None


def _measure_kid(context: Context, entry: Entry) -> None:
    if (features := _features(context, entry)) is not None:
        entry.row.figures |= kernel_figures(*features, context.options.seed)


def _measure_precision_recall(context: Context, entry: Entry) -> None:
    if (features := _features(context, entry)) is not None:
        entry.row.figures |= precision_recall_figures(*features)


def _against(context: Context) -> str:
    real = context.judges[0].real
    count = 0 if real.features is None else len(real.features)
    return f"{_seeds(context)} against {count} real images of {real.features_name}"


def _kid_protocol(context: Context) -> dict[str, str]:
    extractor = context.judges[0].extractor.name
    spread = "; ± is one standard error, by a jackknife over ten blocks of either side"
    return {
        "KID": f"{_against(context)}, {extractor} features, cubic kernel, mean over subsets of at most 1,000 images"
        f"{spread if context.samples >= FOR_A_SPREAD else ''}"
    }


def _precision_recall_protocol(context: Context) -> dict[str, str]:
    return {
        "precision, recall": f"{_against(context)}, at equal numbers, k = 3; density, coverage: k = 5; "
        "± is half the 95 % interval of a share (Wilson)"
    }


KID = Metric(
    "kid",
    _measure_kid,
    needs=frozenset({Need.FEATURES, Need.REAL_FEATURES}),
    looks=_look_with_judges,
    columns=[Column("kid", "KID", ".5f", ("kid_error",), better="lower", features=_judge_of)],
    protocol=_kid_protocol,
)
PRECISION_RECALL = Metric(
    "pr",
    _measure_precision_recall,
    needs=frozenset({Need.FEATURES, Need.REAL_FEATURES}),
    looks=_look_with_judges,
    columns=[
        Column(
            name,
            name,
            better="higher",
            share_of="" if name == "density" else "manifold_n",
            features=_judge_of,
            count=lambda row: row.figures.get("manifold_n"),
        )
        for name in ("precision", "recall", "density", "coverage")
    ],
    protocol=_precision_recall_protocol,
)


# -- grain ------------------------------------------------------------------------------------------


def _look_at_grain(context: Context) -> list[Look]:
    return [Look(grain.GrainCounts(), "grain", grain.Grain, methodcaller("figures"))]


def _measure_grain(context: Context, entry: Entry) -> None:
    entry.row.figures |= entry.seen.get(grain.GrainCounts.name, {})


def _real_grain(context: Context) -> tuple[dict[str, float], str]:
    """The grain of the real images, and whose it is."""
    options, spec = context.options, context.domain_features
    stats = context.own_reference(spec)
    with context.session.progress("grain of real images") as bar:
        return real_grain(stats, features_folder(spec) if spec else None, options.batch_size, bar.update)


def _grain_protocol(context: Context) -> dict[str, str]:
    spread = "; ± is one standard error, from ten blocks" if context.samples >= FOR_A_SPREAD else ""
    whose = f"; real images: {context.real_name}" if context.real_figures else ""
    return {
        "grain": f"median of |4 x - up - down - left - right|, in grey values, over pixels x of {grain.LEVEL} or more "
        f"(bright) or less (dark); the goal is the value of real images; {_seeds(context)}{spread}{whose}"
    }


GRAIN = Metric(
    "grain",
    _measure_grain,
    looks=_look_at_grain,
    columns=[
        Column(
            f"grain_{side}", f"grain, {side}", ".3g", (f"grain_{side}_error",), compared=False, place=-1, better="real"
        )
        for side in grain.SIDES
    ],
    protocol=_grain_protocol,
    real=_real_grain,
)
