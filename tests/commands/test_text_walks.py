"""Walks between texts and edits toward a text, on a tiny text-conditional generator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import gsd_cli
from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.commands import edit, interpolate
from gsd_cli.commands.sample import make_images
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.generator import Generator, load_model
from gsd_cli.options import EditOptions, InterpolateOptions, InvertOptions, SampleOptions
from tests.support import text_models
from tests.support.shell import Shell

pytest.importorskip("transformers")
FAST: dict[str, Any] = {"model": "run", "invert_steps": 2, "invert_starts": 1}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_models.build(tmp_path_factory.mktemp("SD"), "SD")


@pytest.fixture
def here(built: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place for outputs; the folder of the generator is the current one."""
    monkeypatch.chdir(built)
    monkeypatch.setenv("GSD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def walk(*images: str, **given: Any) -> Result:
    options = InterpolateOptions.model_validate({"images": images, "frames": 4, **FAST, **given})
    return interpolate.run(options, Session.start(options, Console()))


def change(image: str, **given: Any) -> Result:
    options = EditOptions.model_validate({"image": image, **FAST, **given})
    return edit.run(options, Session.start(options, Console()))


def frames(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]).astype(int)


def sampled(seed: int, text: str) -> np.ndarray:
    options = SampleOptions.model_validate({"model": "run", "seeds": (seed,), "prompt": text})
    (image,) = make_images(options, Session.start(options, Console()))
    return image.permute(1, 2, 0).numpy().astype(int)


def test_the_text_walks_and_the_latent_stays(here: Path) -> None:
    found = walk("seed:3", prompt=("a cat", "two dogs"), output=str(here / "walk"), frames=7)
    z = np.load(here / "walk" / "latents.npz")["z"]
    assert np.allclose(z, z[0], atol=1e-6)
    made = frames(here / "walk")
    for end, text in ((0, "a cat"), (-1, "two dogs")):
        assert abs(made[end] - sampled(3, text)).max() <= 1
    assert abs(made[0] - made[-1]).mean() > 1
    (leg,) = found.metrics["legs"]
    assert leg["length"] > 0 and leg["largest_over_mean_step"] < 1.1  # equal perceptual steps
    assert found.metrics["prompts"] == ["a cat", "two dogs"]


def test_texts_and_latents_walk_together(here: Path) -> None:
    walk("seed:3", "seed:4", prompt=("a cat", "two dogs"), output=str(here / "walk"))
    made = frames(here / "walk")
    assert abs(made[0] - sampled(3, "a cat")).max() <= 1
    assert abs(made[-1] - sampled(4, "two dogs")).max() <= 1


def test_prompts_of_a_file_need_no_text_encoder(here: Path) -> None:
    Path("teacher").rename("gone")
    try:
        walk("seed:3", prompts=Path("prompts.safetensors"), output=str(here / "all"), loop=True)
        named = {"prompts": Path("prompts.safetensors"), "prompt": ("two dogs", "a cat")}
        walk("seed:3", **named, output=str(here / "two"))
        with pytest.raises(GsdError):
            walk("seed:3", prompt=("a cat", "two dogs"), output=str(here / "none"))
    finally:
        Path("gone").rename("teacher")
    every, two = frames(here / "all"), frames(here / "two")
    assert len(every) == 9 and np.array_equal(every[3], two[0]) and np.array_equal(every[0], two[-1])


def test_an_image_is_inverted_under_its_own_text(here: Path) -> None:
    image = str(here / "cat.png")
    Image.fromarray(sampled(3, "a cat").astype(np.uint8)).save(image)
    two = {"frames": 2, "output": str(here / "w.png")}
    walk(image, image, prompt=("a cat", "two dogs"), save_latent=here / "z.safetensors", **two)
    z = load_file(here / "z.safetensors")
    assert not torch.allclose(z["0.z"], z["1.z"], atol=1e-3)  # one image, two texts: two latents
    walk(image, "seed:1", prompt=("two dogs",), save_latent=here / "y.safetensors", **two)
    assert torch.equal(load_file(here / "y.safetensors")["0.z"], z["1.z"])  # from the cache, by its text
    found = walk(str(here / "z.safetensors"), prompt=("a cat", "a cat"), **two)
    assert len(found.metrics["images"]) == 2


def test_an_edit_goes_toward_a_text(here: Path) -> None:
    found = change("seed:3", prompt="a cat", toward="two dogs", range="0:1:3", output=str(here / "strip"))
    made = frames(here / "strip")
    assert abs(made[0] - sampled(3, "a cat")).max() <= 1
    assert abs(made[-1] - sampled(3, "two dogs")).max() <= 1
    distances = found.metrics["measured"]["feature_distance"]
    assert distances[0] < 1e-6 < distances[1] < distances[2]
    assert found.metrics["usual_distance"] > 0 and found.metrics["direction"] == "two dogs"
    whole = change("seed:3", prompt="a cat", toward="two dogs", output=str(here / "whole"))
    assert whole.metrics["strengths"] == [1.0]
    assert np.array_equal(frames(here / "whole")[0], made[-1])


def test_the_text_of_an_image_also_holds_for_other_edits(here: Path) -> None:
    same = [
        change("seed:3", prompts=Path("prompts.safetensors"), prompt=text, direction="pc0", fit_samples=32, strength=0)
        for text in ("a cat", "two dogs")
    ]
    one, other = (found.metrics["before"]["brightness"] for found in same)
    assert one != other


class StandIn:
    """What `open_onnx` returns, without the minute that an export takes: the same generator, which keeps no prompts."""

    def __init__(self, generator: Generator):
        self.generator, self.device = generator.eval(), torch.device("cpu")
        self.latent_shape, self.image_shape = generator.latent_shape, generator.image_shape
        self.conditions = self.condition = UNCONDITIONAL
        self.name, self.class_names, self.fingerprint, self.metadata = "g.onnx", (), "", {}

    def give_prompts(self, prompts: Condition) -> None:
        self.conditions, self.condition = prompts, prompts.first(1)

    @torch.no_grad()
    def __call__(self, z: torch.Tensor, condition: Condition) -> torch.Tensor:
        assert len(condition) == len(z)
        return self.generator(z, condition)


@pytest.mark.parametrize("images", [("seed:3",), ("seed:1", "seed:2", "seed:3")])
def test_an_exported_file_walks_between_encoded_prompts(
    here: Path, monkeypatch: pytest.MonkeyPatch, images: tuple[str, ...]
) -> None:
    monkeypatch.setattr(interpolate, "open_onnx", lambda *_: StandIn(load_model("run").generator))
    given = {"prompts": Path("prompts.safetensors"), "path": "slerp"}
    walk(*images, **given, output=str(here / "torch"))
    walk(*images, **given, output=str(here / "onnx"), model="g.onnx")
    assert abs(frames(here / "torch") - frames(here / "onnx")).max() <= 1
    with pytest.raises(ValueError, match="add --prompts FILE"):
        InterpolateOptions.model_validate({"images": images, "prompt": ("a", "b"), "model": "g.onnx"})


@pytest.mark.parametrize(
    ("images", "given", "said"),
    [
        (("seed:1", "seed:2"), {"prompts": Path("prompts.safetensors")}, "3 prompts for 2 images"),
        (("seed:1",), {"prompt": ("a",)}, "give two or more of IMAGE, or of --prompt"),
        (("seed:1",), {"prompt": ("a", "b"), "path": "geodesic"}, "geodesic moves latents"),
        (("seed:1", "seed:2"), {"prompt": ("a",), "class": "1"}, "not both"),
    ],
)  # fmt: skip
def test_texts_that_do_not_fit_the_images_are_refused(
    here: Path, images: tuple[str, ...], given: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, UsageError), match=said):
        walk(*images, **given)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("interpolate", "seed:1", "--prompt", "a", "--prompt", "b"), 2, "not text-conditional"),
        (("interpolate", "seed:1", "seed:2", "--prompts", "none.safetensors"), 2, "no such file"),
        (("interpolate", "seed:1", "seed:2", "--prompt", " "), 2, "--prompt is empty"),
        (("edit", "seed:1", "--toward", "a dog"), 2, "not text-conditional"),
        (("edit", "seed:1", "--toward", "a dog", "--attribute", "width"), 2, "leave out --attribute"),
        (("edit", "seed:1", "--prompts", "a.safetensors", "--direction", "pc0"), 2, "--prompts needs"),
    ],
)  # fmt: skip
def test_mistakes_have_a_way_out(shell: Shell, words: tuple[str, ...], code: int, said: str) -> None:
    done = shell.gsd(*words, "--model", "fashion", "-o", "out.png")
    assert done.returncode == code and said in done.stderr.decode(), done.stderr.decode()
    assert b"hint" in done.stderr and not Path(shell.folder, "out.png").exists()


def test_a_text_that_a_file_does_not_hold_is_named(here: Path) -> None:
    with pytest.raises(UsageError, match=re.escape("(did you mean two dogs?)")) as caught:
        change("seed:1", prompts=Path("prompts.safetensors"), toward="two dog", output=str(here / "out.png"))
    assert "a red house" in str(caught.value.hint) and not (here / "out.png").exists()


@pytest.mark.parametrize("kind", ["SDXL", "SD3"])
def test_every_kind_of_network_walks_and_is_edited(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(text_models.build(tmp_path, kind))
    monkeypatch.setenv("GSD_CACHE_DIR", str(tmp_path / "cache"))
    walk("seed:3", prompt=("a cat", "two dogs"), output="walk")
    change("seed:3", prompt="a cat", toward="two dogs", range="0:1:2", output="strip")
    walked, edited = frames(Path("walk")), frames(Path("strip"))
    for end, text in ((0, "a cat"), (-1, "two dogs")):
        assert abs(walked[end] - sampled(3, text)).max() <= 1
        assert abs(edited[end] - walked[end]).max() <= 1
    assert abs(walked[0] - walked[-1]).mean() > 0.5


def test_python_inverts_under_the_text_that_is_given(here: Path) -> None:
    walk("seed:3", prompt=("a cat", "two dogs"), output=str(here / "walk"), frames=7)
    image = str(sorted((here / "walk").glob("*.png"))[-1])  # made with "two dogs"
    given = {"images": (image,), "model": "run", "invert_steps": 20, "invert_starts": 1}
    errors = [
        gsd_cli.invert(InvertOptions.model_validate({**given, **text})).figures[0]["psnr"]
        for text in ({"prompt": "two dogs"}, {"prompt": "a cat"})
    ]
    assert errors[0] > errors[1]
