"""Prompts become what diffusers' own pipelines make of them. Encoders with random weights, saved by transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from gsd_cli.base.atomic import write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.diffusers_folder import build_denoiser
from gsd_cli.core.models.prompts import Prompts, load_prompts, read_texts, save_prompts
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.models.teacher_config import read_teacher_config
from gsd_cli.core.models.text_encoder import TextEncoder, load_text_encoder
from gsd_cli.core.sampling.images import sample_teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers

transformers = pytest.importorskip("transformers")
TEXTS = ["a cat", "Two dogs, on a very long sofa", "x"]
PIPELINES = {"SD": StableDiffusionPipeline, "SDXL": StableDiffusionXLPipeline, "SD3": StableDiffusion3Pipeline}
each_kind = pytest.mark.parametrize("kind", PIPELINES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("text")
    return {kind: teachers.with_text_encoders(place / kind, kind) for kind in PIPELINES}


def encoder(folder: Path) -> TextEncoder:
    return load_text_encoder(read_teacher_config(folder))


def theirs(folder: Path, kind: str) -> Any:
    """diffusers' own pipeline over the same files."""
    made: Any = PIPELINES[kind].from_pretrained(_with_index(folder, kind), local_files_only=True)
    made.set_progress_bar_config(disable=True)
    return made


def _with_index(folder: Path, kind: str) -> Path:
    """The folder with the index that diffusers asks for."""
    network = "transformer" if kind == "SD3" else "unet"
    parts: dict[str, Any] = {
        "vae": ["diffusers", "AutoencoderKL"],
        network: ["diffusers", read_json(folder / network / "config.json")["_class_name"]],
        "scheduler": ["diffusers", read_json(folder / "scheduler" / "scheduler_config.json")["_class_name"]],
    }
    for place in folder.glob("text_encoder*"):
        parts[place.name] = ["transformers", read_json(place / "config.json")["architectures"][0]]
    for place in folder.glob("tokenizer*"):
        parts[place.name] = ["transformers", "T5TokenizerFast" if place.name.endswith("3") else "CLIPTokenizer"]
    if kind == "SD":
        parts |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    write_json(folder / "model_index.json", {"_class_name": PIPELINES[kind].__name__, **parts})
    return folder


def their_prompt(folder: Path, kind: str, texts: list[str], *, guided: bool) -> tuple[Any, ...]:
    """encode_prompt of diffusers' pipeline: embeddings, those of the empty prompt, and of SDXL and SD3 pooled ones."""
    words = [texts] * (3 if kind == "SD3" else 1)
    found: tuple[Any, ...] = theirs(folder, kind).encode_prompt(
        *words, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=guided
    )
    return found


@each_kind
@torch.no_grad()
def test_a_prompt_is_the_pipeline_s(kind: str, folders: dict[str, Path]) -> None:
    found = encoder(folders[kind]).encode(TEXTS, batch_size=2)
    wanted = their_prompt(folders[kind], kind, TEXTS, guided=False)
    torch.testing.assert_close(found.embeddings, wanted[0], rtol=0, atol=1e-6)
    assert (found.pooled is None) == (kind == "SD") and (found.time_ids is None) == (kind != "SDXL")
    if kind != "SD":
        torch.testing.assert_close(found.pooled, wanted[2], rtol=0, atol=1e-6)
    if found.time_ids is not None:
        assert found.time_ids.tolist() == [[64, 64, 0, 0, 64, 64]] * 3


@torch.no_grad()
def test_without_t5_its_tokens_are_zeros(folders: dict[str, Path], tmp_path: Path) -> None:
    """Stable Diffusion 3 is often kept without the largest of its encoders."""
    folder = shutil.copytree(folders["SD3"], tmp_path / "sd3")
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / name)
    found, whole = encoder(folder).encode(TEXTS), encoder(folders["SD3"]).encode(TEXTS)
    assert found.embeddings is not None and whole.embeddings is not None
    assert torch.equal(found.embeddings[:, : teachers.TOKENS], whole.embeddings[:, : teachers.TOKENS])
    assert found.embeddings.shape == whole.embeddings.shape and not found.embeddings[:, teachers.TOKENS :].any()


@each_kind
@torch.no_grad()
def test_the_empty_prompt_is_the_pipeline_s(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """What the pipeline's guidance starts from; of SDXL it is zeros, unless the folder says otherwise."""
    found = encoder(folders[kind]).encode_empty()
    wanted = their_prompt(folders[kind], kind, TEXTS[:1], guided=True)
    torch.testing.assert_close(found.embeddings, wanted[1], rtol=0, atol=1e-6)
    if kind != "SD":
        torch.testing.assert_close(found.pooled, wanted[3], rtol=0, atol=1e-6)
    if kind == "SDXL":
        assert found.embeddings is not None and found.embeddings.abs().sum() == 0
        other = shutil.copytree(folders[kind], tmp_path / "other")
        write_json(other / "model_index.json", {"force_zeros_for_empty_prompt": False})
        shown = encoder(other).encode_empty().embeddings
        assert shown is not None and shown.abs().sum() > 0
    made = Prompts(tuple(TEXTS), encoder(folders[kind]).encode(TEXTS), "t", found)
    back = load_prompts(save_prompts(tmp_path / "p.safetensors", made, half=False)).head(1)
    for name in ("embeddings", "pooled", "time_ids"):
        assert str(getattr(back.empty, name)) == str(getattr(found, name))
    save_prompts(tmp_path / "p.safetensors", Prompts(made.texts, made.condition, "t"), half=False)
    assert load_prompts(tmp_path / "p.safetensors").empty.none  # a file from before it was kept


@each_kind
@torch.no_grad()
def test_a_sampled_image_is_the_pipeline_s(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The whole chain: prompts in a file, the teacher that is given them, its own schedule, its autoencoder."""
    save_prompts(
        tmp_path / "p.safetensors", Prompts((TEXTS[0],), encoder(folders[kind]).encode(TEXTS[:1]), "t"), half=False
    )
    teacher = load_teacher(str(folders[kind]), prompts=tmp_path / "p.safetensors")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    pipeline = theirs(folders[kind], kind)
    if kind != "SD3":
        pipeline.scheduler.register_to_config(set_alpha_to_one=True)
        pipeline.scheduler.final_alpha_cumprod = torch.tensor(1.0)
    sized = {"original_size": (64, 64), "target_size": (64, 64)} if kind == "SDXL" else {}
    wanted = pipeline(
        [TEXTS[0]] * 2, num_inference_steps=4, guidance_scale=1.0, latents=noise, output_type="np", height=16,
        width=16, **sized,
    ).images  # fmt: skip
    own = parse_sampler("msa-4" if kind == "SD3" else "ddim-4")
    made = sample_teacher(teacher, own, noise, range(2))
    shown = (made / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(shown, torch.from_numpy(wanted), rtol=0, atol=1e-4)


@each_kind
def test_a_file_of_prompts_gives_the_same_rows(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    made = Prompts(tuple(TEXTS), encoder(folders[kind]).encode(TEXTS), "sd")
    for half, tolerance in ((False, 0.0), (True, 2e-3)):
        back = load_prompts(save_prompts(tmp_path / "p.safetensors", made, half=half))
        assert (back.texts, back.teacher) == (made.texts, "sd")
        for name in ("embeddings", "pooled", "time_ids"):
            one, other = getattr(back.condition, name), getattr(made.condition, name)
            assert (one is None) == (other is None)
            if isinstance(one, Tensor):
                torch.testing.assert_close(one, other, rtol=0, atol=tolerance)
    assert back.head(2).texts == made.texts[:2] and len(back.head(2).condition) == 2


def test_prompts_of_another_teacher_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for kind, other in (("SD", "SDXL"), ("SDXL", "SD")):
        made = Prompts(tuple(TEXTS), encoder(folders[kind]).encode(TEXTS), kind)
        with pytest.raises(GsdError, match="the model takes") as caught:
            build_denoiser(read_teacher_config(folders[other])).give_prompts(made.condition)
        assert caught.value.code == 3 and "gsd prepare" in str(caught.value.hint)
    plain = teachers.flat(tmp_path / "plain", teachers.unet(teachers.TINY))
    with pytest.raises(GsdError, match="not text-conditional"):
        build_denoiser(read_teacher_config(plain)).give_prompts(made.condition)
    with pytest.raises(GsdError, match="not a text-conditional teacher"):
        load_teacher(str(plain), prompts=tmp_path / "p.safetensors")


def test_long_prompts_are_counted(folders: dict[str, Path]) -> None:
    found = encoder(folders["SD"])
    assert found.too_long(["abc", "a" * 30, "b" * teachers.TOKENS]) == 2
    cut = found.encode(["a " * (teachers.TOKENS - 2), "a " * 30])
    assert torch.equal(cut.embeddings[0], cut.embeddings[1])  # type: ignore[index]


def test_texts_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\n  two dogs \nzażółć\n".encode())
    assert read_texts(path) == ["a cat", "two dogs", "zażółć"]
    for content in (b"", b"\n \n", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(GsdError) as caught:
            read_texts(path)
        assert caught.value.code == 3
    with pytest.raises(GsdError, match="cannot read"):
        read_texts(tmp_path / "none.txt")


HEADER = {"format": "gsd-prompts-1", "teacher": "t", "prompts": '["a", "b"]'}


@pytest.mark.parametrize(
    ("header", "tensors"),
    [
        ({}, {"embeddings": torch.zeros(2, 3, 4)}),
        ({**HEADER, "format": "other"}, {"embeddings": torch.zeros(2, 3, 4)}),
        ({**HEADER, "prompts": "[1, 2]"}, {"embeddings": torch.zeros(2, 3, 4)}),
        ({**HEADER, "prompts": "{"}, {"embeddings": torch.zeros(2, 3, 4)}),
        ({**HEADER, "prompts": "[]"}, {"embeddings": torch.zeros(0, 3, 4)}),
        (HEADER, {"pooled": torch.zeros(2, 3)}),
        (HEADER, {"embeddings": torch.zeros(3, 3, 4)}),
        (HEADER, {"embeddings": torch.zeros(2, 4)}),
        (HEADER, {"embeddings": torch.full((2, 3, 4), float("nan"))}),
        (HEADER, {"embeddings": torch.zeros(2, 3, 4), "time_ids": torch.zeros(2)}),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(header: dict[str, str], tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "p.safetensors", metadata=header)
    with pytest.raises(GsdError, match="is not a file of prompts") as caught:
        load_prompts(tmp_path / "p.safetensors")
    assert caught.value.code == 3 and caught.value.hint


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.safetensors").write_bytes(b"a cat\n")
    with pytest.raises(GsdError, match="is not a file of prompts"):
        load_prompts(tmp_path / "p.safetensors")
    with pytest.raises(GsdError, match="no such file"):
        load_prompts(tmp_path / "none.safetensors")


@pytest.mark.parametrize("damage", ["gone", "tokenizer", "class", "pickle", "weights", "width"])
def test_damaged_encoders_are_refused(damage: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["SD"], tmp_path / "sd")
    part = folder / "text_encoder"
    if damage == "gone":
        shutil.rmtree(part)
    elif damage == "tokenizer":
        (folder / "tokenizer" / "tokenizer.json").write_text("{")
    elif damage == "class":
        config = json.loads((part / "config.json").read_text())
        (part / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    elif damage == "pickle":
        torch.save(load_file(part / "model.safetensors"), part / "pytorch_model.bin")
        (part / "model.safetensors").unlink()
    elif damage == "weights":
        (part / "model.safetensors").write_bytes(b"no weights")
    else:
        config = json.loads((folder / "unet" / "config.json").read_text())
        (folder / "unet" / "config.json").write_text(json.dumps({**config, "cross_attention_dim": 16}))
    with pytest.raises(GsdError) as caught:
        encoder(folder)
    assert caught.value.code == 3 and caught.value.hint


def test_seeds_draw_from_the_prompts(folders: dict[str, Path]) -> None:
    model = build_denoiser(read_teacher_config(folders["SD"]))
    assert model.conditions.none
    made: Condition = encoder(folders["SD"]).encode(TEXTS)
    model.give_prompts(made)
    assert model.conditions is made
