"""The model card for the hub: its front matter, its figures, and what it says where facts are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCardData, metadata_load

from gsd_cli.core.distillation.hub_card import Publication, hub_card
from gsd_cli.core.distillation.hub_images import CardImage
from gsd_cli.core.models.licence import hub_identifier, read_licence, teacher_licence
from gsd_cli.options import DistillSettings

IMAGES = [CardImage("images/samples.png", "16 images, seeds 0 to 15"), CardImage("images/walk.png", "3 walks")]
FIGURES = {"fd": 1.56789, "fd_error": 0.13, "precision": 0.878, "recall": 0.831, "spearman": 0.7}


def card(**changes: Any) -> dict[str, Any]:
    """The content of a generator's gsd.json."""
    settings = {**DistillSettings(batch_size=32).model_dump(), "total_steps": 3}
    return {
        "teacher": "toy", "teacher_source": "someone/toy", "teacher_revision": "abc", "preset": "quick", "steps": 3,
        "images": 24, "figures": FIGURES, "figure_name": "FD-toy", "eval_samples": 2000, "settings": settings,
        "network": "UNet2DModel", "classes": [],
    } | changes  # fmt: skip


def about(**changes: Any) -> Publication:
    given = {"repo": "me/toy-one-step", "licence": {"license": "mit"}, "images": IMAGES, "base": "someone/toy"}
    return Publication(**given | changes)


def front(text: str) -> dict[str, Any]:
    start, matter, _ = text.split("---\n", 2)
    assert start == ""
    found: dict[str, Any] = yaml.safe_load(matter)
    return found


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    text = hub_card(card(), about(data_set="someone/images"))
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    found = front(text)
    assert metadata_load(tmp_path / "README.md") == found
    assert found["license"] == "mit"
    assert (found["library_name"], found["pipeline_tag"]) == ("diffusers", "unconditional-image-generation")
    assert (found["base_model"], found["datasets"]) == ("someone/toy", ["someone/images"])
    assert "gsd" in found["tags"]
    assert [w["output"]["url"] for w in found["widget"]] == ["images/samples.png", "images/walk.png"]
    for image in IMAGES:
        assert f"![{image.caption}]({image.name})" in text
    # the hub's own reader makes the same results of it
    results = ModelCardData(**found).eval_results
    assert results is not None
    distance, precision, recall = results
    assert (distance.metric_type, distance.metric_name, distance.metric_value) == ("frechet-distance", "FD-toy", 1.5679)
    assert distance.metric_args == {"samples": 2000, "seeds": "0-1999"}
    assert (distance.dataset_type, precision.metric_value, recall.metric_value) == ("someone/images", 0.878, 0.831)


def test_the_text_has_figures_with_their_number_training_limits_and_use() -> None:
    text = hub_card(card(), about())
    assert "| FD-toy | 1.568 | 1.31 to 1.82 | lower |" in text
    assert "N = 2,000 images, seeds 0-1999" in text
    assert "FD-toy is a Frechet distance in other features than FID's: it is not FID." in text
    assert "- spearman: the rank correlation" in text and "- coverage:" not in text
    assert "Made by `gsd distill --teacher toy --preset quick --steps 3 --seed 0`" in text
    assert "- teacher: someone/toy at abc" in text
    assert "gsd sample --model toy-one-step" in text
    assert "The generator imitates toy" in text
    assert "from diffusers" not in text
    assert 'UNet2DModel.from_pretrained("me/toy-one-step")' in hub_card(card(), about(by_diffusers=True))


def test_a_distance_is_called_fid_only_where_it_is() -> None:
    text = hub_card(card(figure_name="FID"), about())
    assert front(text)["metrics"] == ["fid", "precision", "recall"]
    assert "it is not FID" not in text


def test_what_is_missing_is_left_out_or_said() -> None:
    text = hub_card(card(figures={}), about(licence={}, base=None))
    found = front(text)
    assert not {"license", "base_model", "datasets", "metrics", "model-index"} & set(found)
    assert "The licence of toy is not known." in text
    assert "The run had no real images to measure against." in text
    assert "variety it covers was not measured" in text


def test_other_kinds_of_models() -> None:
    assert front(hub_card(card(network="SongUNet"), about()))["library_name"] == "gsd"
    assert "class-conditional" in front(hub_card(card(classes=["a", "b"]), about()))["tags"]
    assert front(hub_card(card(), about(prompts=True)))["pipeline_tag"] == "text-to-image"
    other = {"license": "other", "license_name": "own", "license_link": "https://example.org"}
    found = front(hub_card(card(), about(licence=other)))
    assert {key: found[key] for key in other} == other


def test_names_of_others_stay_text_in_the_front_matter() -> None:
    """A teacher's name may hold what YAML reads as more than text."""
    name = 'a: b\n---\n"c" # d'
    found = front(hub_card(card(figure_name=name), about(images=[CardImage("images/a.png", name)])))
    assert found["widget"][0]["text"] == 'a: b --- "c" # d'
    assert found["model-index"][0]["results"][0]["metrics"][0]["name"] == 'a: b --- "c" # d'


def test_the_licence_of_a_teacher(tmp_path: Path, toy_teacher_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert teacher_licence("ddpm-fashion", "UNet2DModel") == {"license": "mit"}
    assert teacher_licence("ddpm-cifar10", "UNet2DModel") == {"license": "apache-2.0"}
    assert teacher_licence("dit-imagenet-256", "DiTTransformer2DModel") == {"license": "cc-by-nc-4.0"}
    assert hub_identifier("CC BY-NC-SA 4.0") == "cc-by-nc-sa-4.0"
    assert teacher_licence(str(toy_teacher_folder), "UNet2DModel") == {}
    assert teacher_licence(str(toy_teacher_folder), "SongUNet") == {"license": "cc-by-nc-sa-4.0"}
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert teacher_licence("someone/never-fetched", "UNet2DModel", offline=True) == {}
    own = tmp_path / "own"
    own.mkdir()
    for path in toy_teacher_folder.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    (own / "README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n# Own\n")
    assert teacher_licence(str(own), "UNet2DModel") == {"license": "other", "license_name": "mine"}


@pytest.mark.parametrize(
    "text", ["", "# no front matter", "---\nlicense: [1\n---\n", "---\nlicense: 3\n---\n", "---\n- a\n---\n"]
)
def test_a_card_without_a_licence_or_with_a_damaged_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert read_licence(tmp_path / "README.md") == {}
