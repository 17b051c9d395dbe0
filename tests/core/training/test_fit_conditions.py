from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.prompts import Prompts
from gsd_cli.core.training.fit_conditions import (
    DROPPED,
    FitConditions,
    caption_conditions,
    class_conditions,
    distinct_captions,
)
from gsd_cli.data.dataset import ImageArchive
from tests.data.test_dataset import random_images, write

TEXTS = ["a cat", "a dog", "a cat", "a bird"]
EMPTY = -torch.ones(1, 2, 3)


@pytest.fixture
def data(tmp_path: Path) -> ImageArchive:
    return ImageArchive(write(tmp_path / "a.zip", random_images(4), [2, 0, 1, 0], captions=TEXTS))


@pytest.fixture
def prompts(data: ImageArchive) -> Prompts:
    texts = distinct_captions(data)
    vectors = torch.arange(len(texts)).float().reshape(-1, 1, 1).expand(-1, 2, 3)
    return Prompts(tuple(texts), Condition(embeddings=vectors), "t", Condition(embeddings=EMPTY))


def test_without_conditions_nothing_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert FitConditions().draw(torch.arange(3), generator).none
    assert torch.equal(generator.get_state(), before)


def test_classes_are_those_of_the_images(data: ImageArchive) -> None:
    found = class_conditions(data)
    drawn = found.draw(torch.tensor([3, 0]), torch.Generator())
    assert found.classes == 3 and found.text_sizes is None
    assert drawn.classes is not None and drawn.classes.tolist() == [0, 2]


def test_captions_are_those_of_the_images_but_for_the_dropped_share(data: ImageArchive, prompts: Prompts) -> None:
    assert prompts.texts == ("a cat", "a dog", "a bird")
    found = caption_conditions(data, prompts)
    assert found.classes is None and found.text_sizes == (2, 3)
    indices = torch.arange(4).repeat(5000)
    drawn = found.draw(indices, torch.Generator().manual_seed(0)).embeddings
    assert drawn is not None and drawn.shape == (20_000, 2, 3)
    values, dropped = drawn[:, 0, 0], drawn[:, 0, 0] == -1
    assert torch.equal(values[~dropped], torch.tensor([0.0, 1.0, 0.0, 2.0]).repeat(5000)[~dropped])
    assert dropped.float().mean().item() == pytest.approx(DROPPED, abs=5 * (DROPPED / 20_000) ** 0.5)
    again = found.draw(indices, torch.Generator().manual_seed(0)).embeddings
    assert again is not None and torch.equal(again, drawn)


def test_a_data_set_without_them_is_refused_with_a_way_out(tmp_path: Path) -> None:
    data = ImageArchive(write(tmp_path / "a.zip", random_images(2)))
    with pytest.raises(GsdError, match="no class labels"):
        class_conditions(data)
    with pytest.raises(GsdError, match="no captions") as raised:
        distinct_captions(data)
    assert "--captions" in (raised.value.hint or "")
