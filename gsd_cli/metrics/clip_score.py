"""The CLIP score: how well images show their texts (Hessel et al. 2021)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

WEIGHT = 100.0
"""Of the cosine, as torchmetrics and most tables of text-to-image models have it; Hessel et al. use 2.5."""


def clip_score(images: Tensor, texts: Tensor, rows: Tensor) -> dict[str, float]:
    """`clip_score`: the mean over images of 100 max(cos(image, its text), 0), from 0 to 100; `clip_score_error`: its
    standard error, from two images on.

    images: CLIP's image features [N, F]. texts: unit vectors [P, F]. rows: int64 [N], the text of each image. The bound
    at 0 is that of Hessel et al., per image; torchmetrics bounds the mean, which is the same unless an image has less
    than 0.
    """
    scores = WEIGHT * (normalize(images.double(), dim=1) * texts.double()[rows]).sum(1).clamp(min=0)
    found = {"clip_score": scores.mean().item()}
    if len(scores) > 1:
        found["clip_score_error"] = (scores.std() / len(scores) ** 0.5).item()
    return found
