"""What a report shows of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Gallery:
    """Models side by side. samples: each one's images of the same seeds, baselines first; walks: each
    generator's latent walks [frames, C, H, W] between the same latents."""

    samples: Mapping[str, Tensor]
    walks: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
