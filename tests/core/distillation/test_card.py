"""The model card says how the generator was made."""

from __future__ import annotations

from typing import Any

import pytest

from gsd_cli.core.distillation.card import generator_card
from gsd_cli.options import DistillSettings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "Adam 0.0001, isometric form `stress` (manifold), gradient ratio 0.1"),
        ({"irl": "speed", "irl_gradient": "free", "irl_weight": 0.5}, "isometric form `speed` (free), weight 0.5"),
        ({"sidl_weight": 0.0}, "isometric form `stress` (manifold), alone"),
        ({"irl": "off"}, "Adam 0.0001, no isometric term"),
    ],
)
def test_the_isometric_term_is_told_as_it_was(settings: dict[str, Any], said: str) -> None:
    made = {"teacher": "t", "teacher_source": "t", "teacher_revision": None, "preset": None, "steps": 3, "images": 24}
    seen = {"figures": {}, "figure_name": "FD", "eval_samples": 0}
    card = {**made, **seen, "settings": {**DistillSettings(**settings).model_dump(), "total_steps": 3}}
    assert f"{said}\n" in generator_card(card)


def test_the_card_names_a_larger_student() -> None:
    made = {"teacher": "t", "teacher_source": "t", "teacher_revision": None, "preset": None, "steps": 3, "images": 24}
    seen = {
        "figures": {},
        "figure_name": "FD",
        "eval_samples": 0,
        "parameters": 5_100_000,
        "teacher_parameters": 1_730_000,
    }
    settings = {**DistillSettings(student_width=2, student_depth=3).model_dump(), "total_steps": 3}
    said = generator_card({**made, **seen, "settings": settings})
    assert "- student: 5.10 M parameters, grown from the teacher's 1.73 M parameters: " in said
    assert "2 times the channels and 3 times the layers per block" in said
    same_size = {**settings, "student_width": 1, "student_depth": 1}
    assert "student" not in generator_card({**made, **seen, "settings": same_size})


@pytest.mark.parametrize(("batch", "said"), [(32, "--steps 3 --seed 0"), (16, "--steps 3 --batch-size 16 --seed 0")])
def test_the_command_names_a_batch_that_is_not_the_presets(batch: int, said: str) -> None:
    made = {
        "teacher": "t",
        "teacher_source": "t",
        "teacher_revision": None,
        "preset": "quick",
        "steps": 3,
        "images": 24,
    }
    seen = {"figures": {}, "figure_name": "FD", "eval_samples": 0}
    settings = {**DistillSettings(batch_size=batch).model_dump(), "total_steps": 3}
    command = f"Made by `gsd distill --teacher t --preset quick {said}`"
    assert command in generator_card({**made, **seen, "settings": settings})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adversarial": 2.0, "feature_matching": 1.5}, "a discriminator (ratio 2) and feature matching (ratio 1.5)"),
        ({"adversarial": 2.0, "feature_matching": 0.0}, "a discriminator (ratio 2)"),
        ({"adversarial": 0.0, "feature_matching": 0.0}, "none were used"),
    ],
)
def test_the_card_says_what_real_images_were_for(settings: dict[str, Any], said: str) -> None:
    made = {"teacher": "t", "teacher_source": "t", "teacher_revision": None, "preset": None, "steps": 3, "images": 24}
    seen = {"figures": {}, "figure_name": "FD", "eval_samples": 0}
    card = {**made, **seen, "settings": {**DistillSettings(**settings).model_dump(), "total_steps": 3}}
    assert f"- real images: {said}\n" in generator_card(card)
    # a card from before the options
    del card["settings"]["adversarial"], card["settings"]["feature_matching"]
    assert "- real images: none were used\n" in generator_card(card)


def test_the_card_says_what_was_guided() -> None:
    made = {"teacher": "t", "teacher_source": "t", "teacher_revision": None, "preset": None, "steps": 3, "images": 24}
    seen = {"figures": {}, "figure_name": "FD", "eval_samples": 0}

    def card(guidance: str) -> str:
        settings = {**DistillSettings(guidance=guidance).model_dump(), "total_steps": 3}
        return generator_card({**made, **seen, "settings": settings})

    assert "guidance" not in card("off")
    assert "- classifier-free guidance: the teacher and the fake score by 1.5, which costs variety\n" in card("1.5")
    assert "- classifier-free guidance: the teacher by 4, which costs variety\n" in card("teacher:4")
