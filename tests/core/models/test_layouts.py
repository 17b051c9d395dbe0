"""The folders that people have: one folder around a model, parts of a model given as a path, other names of weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.find import find_model
from gsd_cli.core.models.diffusers_folder import load_autoencoder, load_denoiser
from gsd_cli.core.models.fingerprint import folder_fingerprint
from gsd_cli.core.models.teacher import load_teacher
from tests.support import teachers

SAFE, BIN = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return teachers.pipeline(tmp_path / "ddpm", teachers.unet(teachers.TINY))


def weights(folder: Path) -> list[torch.Tensor]:
    return list(load_denoiser(folder).parameters())


def same(one: Path, other: Path) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize("given", ["unet", f"unet/{SAFE}", "unet/config.json", "model_index.json", "."])
def test_a_part_stands_for_its_model(pipeline: Path, given: str) -> None:
    assert same(pipeline / given, pipeline)
    teacher = load_teacher(str(pipeline / given))
    assert teacher.name == "ddpm"
    assert folder_fingerprint(pipeline / given) == folder_fingerprint(pipeline)


def test_a_network_that_is_named_is_taken(pipeline: Path) -> None:
    other = teachers.unet(teachers.TINY, seed=1)
    other.save_pretrained(pipeline / "unet_ema")
    assert not same(pipeline / "unet", pipeline)
    assert same(pipeline / "unet_ema", pipeline)
    marks = {folder_fingerprint(pipeline / given) for given in ("", "unet", "unet_ema")}
    assert len(marks) == 2


def test_a_variant_that_is_named_is_taken(pipeline: Path) -> None:
    teachers.unet(teachers.TINY, seed=1).save_pretrained(pipeline / "unet", variant="fp16")
    assert not same(pipeline / "unet" / "diffusion_pytorch_model.fp16.safetensors", pipeline)


@pytest.mark.parametrize("around", ["download", "download/inner", "models--me--ddpm/snapshots"])
def test_a_folder_around_a_model_stands_for_it(pipeline: Path, tmp_path: Path, around: str) -> None:
    shutil.copytree(pipeline, tmp_path / around / "my-ddpm")
    (tmp_path / around / "__MACOSX" / "unet").mkdir(parents=True)
    outer = tmp_path / Path(around).parts[0]
    assert same(outer, pipeline)
    assert any("my-ddpm" in line for line in load_teacher(str(outer)).remarks)


def test_several_models_are_named(pipeline: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-500", "checkpoint-1000"):
        shutil.copytree(pipeline, tmp_path / "out" / name)
    with pytest.raises(GsdError, match="holds 2 models: checkpoint-1000, checkpoint-500"):
        load_denoiser(tmp_path / "out")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "ema_model."])
@pytest.mark.parametrize("safe", [True, False])
def test_prefixes_that_all_tensors_share_are_taken_off(pipeline: Path, tmp_path: Path, prefix: str, safe: bool) -> None:
    copy = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    state = {prefix + name: value for name, value in load_file(copy / "unet" / SAFE).items()}
    if safe:
        save_file(state, copy / "unet" / SAFE)
    else:
        (copy / "unet" / SAFE).unlink()
        torch.save(state, copy / "unet" / BIN)
    assert same(copy, pipeline)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"])
def test_weights_under_the_names_of_other_libraries(pipeline: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    state = load_file(copy / "unet" / SAFE)
    (copy / "unet" / SAFE).unlink()
    save_file(state, copy / "unet" / name) if name.endswith("safetensors") else torch.save(state, copy / "unet" / name)
    assert same(copy, pipeline)


def test_safetensors_are_read_next_to_a_pickle(pipeline: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    (copy / "unet" / BIN).write_bytes(b"a pickle nobody asked for")
    assert same(copy, pipeline)


def test_full_weights_come_before_variants(pipeline: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    for variant, shard in (("fp16", "10KB"), ("non_ema", "1GB")):
        teachers.unet(teachers.TINY, seed=2).save_pretrained(copy / "unet", variant=variant, max_shard_size=shard)
    assert same(copy, pipeline)


@pytest.mark.parametrize("channels", [1, 2, 4, 8, 16])
def test_pixel_teachers_may_have_any_number_of_channels(tmp_path: Path, channels: int) -> None:
    net = teachers.unet(teachers.TINY, in_channels=channels, out_channels=channels)
    teacher = load_teacher(str(teachers.pipeline(tmp_path / "t", net)))
    assert teacher.autoencoder.net is None
    assert teacher.image_shape == (channels, 8, 8)


def test_an_autoencoder_makes_a_latent_teacher_and_is_missed_where_the_index_names_it(tmp_path: Path) -> None:
    folder = teachers.latent_pipeline(tmp_path / "ldm", teachers.unet(teachers.LATENT))
    for given in (folder, folder / "unet", folder / "unet" / SAFE):
        assert load_autoencoder(given).net is not None
    shutil.rmtree(folder / "vqvae")
    with pytest.raises(GsdError, match="names an autoencoder, vqvae/") as caught:
        load_denoiser(folder)
    assert caught.value.code == 3


def test_networks_of_other_families_are_named(tmp_path: Path) -> None:
    place = tmp_path / "qwen" / "transformer"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"_class_name": "QwenImageTransformer2DModel"}))
    with pytest.raises(GsdError, match="QwenImageTransformer2DModel, a UNet2DModel"):
        load_denoiser(tmp_path / "qwen")


SDE = {"_class_name": "ScoreSdeVpScheduler", "beta_min": 0.1, "beta_max": 20, "sampling_eps": 1e-3,
       "num_train_timesteps": 2000}  # fmt: skip
UNNAMED = {key: value for key, value in SDE.items() if key != "_class_name"}


@pytest.mark.parametrize("schedule", [SDE, UNNAMED], ids=["sde", "unnamed"])
def test_schedules_of_other_families_are_refused_for_what_they_are(pipeline: Path, schedule: dict) -> None:
    (pipeline / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    with pytest.raises(GsdError, match="which gsd does not read") as caught:
        load_teacher(str(pipeline), assume="eps,linear")
    assert caught.value.code == 3 and "unconditional" not in str(caught.value.hint)


# -- --model --------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("generator", "best"):
        (tmp_path / "run" / name / "unet").mkdir(parents=True)
        (tmp_path / "run" / name / "gsd.json").write_text('{"sigma_init": 2.5}')
        (tmp_path / "run" / name / "unet" / SAFE).write_bytes(b"")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("given", "found"),
    [("", "generator"), ("generator", "generator"), ("best", "best"), ("best/unet", "best"),
     (f"best/unet/{SAFE}", "best"), ("generator/gsd.json", "generator"), ("..", "generator")],
)  # fmt: skip
def test_what_model_may_name(run: Path, given: str, found: str) -> None:
    assert find_model(str(run / given)).resolve() == run / found


def test_models_that_cannot_be_told_apart_are_named(run: Path) -> None:
    shutil.copytree(run, run.parent / "second")
    with pytest.raises(GsdError, match="holds 2 models"):
        find_model(str(run.parent))
    shutil.rmtree(run / "generator")
    with pytest.raises(GsdError, match="holds no generator") as caught:
        find_model(str(run))
    assert str(run / "best") in str(caught.value.hint)
