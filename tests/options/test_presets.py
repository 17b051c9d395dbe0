from __future__ import annotations

import pytest

from gsd_cli.options import DistillOptions
from gsd_cli.options.presets import with_preset


@pytest.mark.parametrize("preset", ["quick", "standard", "long"])
@pytest.mark.parametrize("adapters", ["16", "fake:16"])
def test_adapters_of_the_fake_score_learn_faster(preset: str, adapters: str) -> None:
    whole = with_preset(DistillOptions(preset=preset))
    adapted = with_preset(DistillOptions(preset=preset, adapters=adapters))
    assert (whole.fake_lr, adapted.fake_lr) == (2e-4, 1e-3)
    assert with_preset(DistillOptions(preset=preset, adapters="off")) == whole.model_copy(update={"adapters": "off"})


def test_a_rate_that_is_given_and_the_presets_of_papers_stay() -> None:
    assert with_preset(DistillOptions(adapters="16", fake_lr=3e-4)).fake_lr == 3e-4
    assert with_preset(DistillOptions(adapters="16", preset="sid")).fake_lr is None
