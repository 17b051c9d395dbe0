"""What makes the images that bench looks at, and in which precision."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gsd_cli.comparison import images
from gsd_cli.comparison.contenders import Contender
from gsd_cli.comparison.context import Context
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator


@pytest.mark.parametrize("ours", [True, False])
def test_images_are_made_as_the_protocol_says(
    ours: bool, toy_teacher: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the settled precision, since `auto` means another one for other calls; the model's own by its renderer."""
    seen: list[Any] = []

    def batches(generator: object, _measures: object, _seeds: range, _size: int, precision: str) -> list[object]:
        seen.append((generator, precision))
        return []

    monkeypatch.setattr(images, "generated_batches", batches)
    model, exported = Generator(toy_teacher), Generator(toy_teacher)
    contender = Contender(cast("Any", SimpleNamespace(name="x")), model)
    context = SimpleNamespace(
        ours=contender if ours else None, renderer=exported, precision="fp32", samples=4,
        options=SimpleNamespace(batch_size=4, precision="auto"),
        session=SimpleNamespace(progress=lambda *_: nullcontext(SimpleNamespace(advance=None))),
    )  # fmt: skip
    images.look_at_images(cast("Context", context), contender, [])
    assert seen == [(exported if ours else model, "fp32")]
