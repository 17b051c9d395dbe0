"""What makes the images that bench looks at, and in which precision."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from gsd_cli.comparison import images
from gsd_cli.comparison.contenders import Contender
from gsd_cli.comparison.context import Context
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.metrics.generated import generated_batches


@pytest.mark.parametrize("ours", [True, False])
def test_images_are_made_as_the_protocol_says(
    ours: bool, toy_teacher: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the settled precision, since `auto` means another one for other calls; the model's own by its renderer."""
    seen: list[Any] = []

    def batches(generator: object, _measures: object, _seeds: range, _size: int, *how: object) -> list[object]:
        seen.append((generator, *how))
        return []

    monkeypatch.setattr(images, "generated_batches", batches)
    model, exported = Generator(toy_teacher), Generator(toy_teacher)
    contender = Contender(cast("Any", SimpleNamespace(name="x")), model)
    context = SimpleNamespace(
        ours=contender if ours else None, renderer=exported, precision="fp32", device="cuda", samples=4,
        options=SimpleNamespace(batch_size=4, precision="auto"),
        session=SimpleNamespace(progress=lambda *_: nullcontext(SimpleNamespace(advance=None))),
    )  # fmt: skip
    images.look_at_images(cast("Context", context), contender, [])
    assert seen == [(exported if ours else model, "fp32", "cuda")]


def test_measures_get_the_images_on_their_device(toy_teacher: Denoiser) -> None:
    """onnxruntime makes images on the CPU while the features may be on a GPU."""

    class Where:
        """Records where it was given images."""

        name = "where"
        given: torch.device | None = None

        def features(self, images: torch.Tensor) -> torch.Tensor:
            self.given = images.device
            return torch.zeros(len(images), 1)

    measure, model = Where(), Generator(toy_teacher)
    list(generated_batches(model, [measure], range(2), 2, "fp32", torch.device("meta")))
    assert measure.given == torch.device("meta")
    list(generated_batches(model, [measure], range(2), 2))
    assert measure.given == torch.device("cpu")
