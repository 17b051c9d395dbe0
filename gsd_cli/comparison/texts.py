"""The metric of texts: the CLIP score of images that are made from prompts."""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller

from torch import Tensor

from gsd_cli.comparison.context import Context, Need
from gsd_cli.comparison.images import Look
from gsd_cli.comparison.metric import Column, Entry, Metric
from gsd_cli.compute.random import seed_numbers
from gsd_cli.metrics.clip_score import WEIGHT, clip_score
from gsd_cli.metrics.generated import Features


def _look(context: Context) -> Sequence[Look]:
    """CLIP's image features, which CLIP-FID may see as well."""
    assert context.captions is not None
    measure = context.captions.images
    decides = context.extractor is measure  # the first distance is measured whatever it costs
    return [Look(measure, "CLIP score", Features, methodcaller("found", measure.name), optional=not decides)]


def _measure(context: Context, entry: Entry) -> None:
    captions = context.captions
    assert captions is not None
    features = entry.seen.get(captions.images.name)
    if isinstance(features, Tensor):
        rows = seed_numbers(range(len(features)), len(captions.texts))
        entry.row.figures |= clip_score(features, captions.texts, rows)


def _protocol(context: Context) -> dict[str, str]:
    count = 0 if context.prompts is None else len(context.prompts.texts)
    scale = context.teacher.denoiser.guidance
    guided = "without guidance" if scale == 1 else f"with guidance {scale:g}"
    return {
        "CLIP score": f"mean of {WEIGHT:g} max(cos, 0) in CLIP's ViT-B/32, the text as it is (Hessel et al. 2021 have "
        f"2.5 in place of {WEIGHT:g}); {count} prompts, of which each of {context.samples} seeds draws one; ± is one "
        f"standard error; samplers of the teacher run {guided}"
    }


CLIP_SCORE = Metric(
    "clip-score",
    _measure,
    needs=frozenset({Need.CAPTIONS}),
    looks=_look,
    columns=[
        Column("clip_score", "CLIP score", ".2f", ("clip_score_error",), better="higher", features=lambda row: "clip")
    ],
    protocol=_protocol,
)
