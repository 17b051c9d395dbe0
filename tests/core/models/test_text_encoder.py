"""Prompts become what diffusers' own pipelines make of them. Encoders with random weights, saved by transformers."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FluxPipeline,
    SanaPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from gsd_cli.base.atomic import write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.core.models.condition import NAMES, Condition
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
PIPELINES: dict[str, Any] = {
    "SD": StableDiffusionPipeline, "SDXL": StableDiffusionXLPipeline, "SD3": StableDiffusion3Pipeline,
    "FLUX": FluxPipeline, "FLUX-dev": FluxPipeline, "SANA": SanaPipeline,
}  # fmt: skip
TOKENIZERS = {"T5EncoderModel": "T5TokenizerFast", "Gemma2Model": "GemmaTokenizerFast"}
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
    network = "unet" if kind in ("SD", "SDXL") else "transformer"
    parts: dict[str, Any] = {
        "vae": ["diffusers", read_json(folder / "vae" / "config.json")["_class_name"]],
        network: ["diffusers", read_json(folder / network / "config.json")["_class_name"]],
        "scheduler": ["diffusers", read_json(folder / "scheduler" / "scheduler_config.json")["_class_name"]],
    }
    for place in folder.glob("text_encoder*"):
        name = read_json(place / "config.json")["architectures"][0]
        parts[place.name] = ["transformers", name]
        parts[place.name.replace("text_encoder", "tokenizer")] = ["transformers", TOKENIZERS.get(name, "CLIPTokenizer")]
    if kind == "SD":
        parts |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    write_json(folder / "model_index.json", {"_class_name": PIPELINES[kind].__name__, **parts})
    return folder


def their_prompt(folder: Path, kind: str, texts: list[str]) -> Condition:
    """What encode_prompt of diffusers' pipeline makes of texts; of SDXL without its time_ids."""
    pipeline: Any = theirs(folder, kind)
    if kind in teachers.FLUX_KINDS:
        tokens, pooled, _ = pipeline.encode_prompt(texts, None, max_sequence_length=256 if kind == "FLUX" else 512)
        return Condition(embeddings=tokens, pooled=pooled)
    if kind == "SANA":
        tokens, mask, *_ = pipeline.encode_prompt(texts, False, complex_human_instruction=instruction())
        return Condition(embeddings=tokens, mask=mask.float())
    words = [texts] * (3 if kind == "SD3" else 1)
    found = pipeline.encode_prompt(
        *words, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return Condition(embeddings=found[0], pooled=None if kind == "SD" else found[2])


def their_empty_prompt(folder: Path, kind: str) -> Condition:
    """What the guidance of diffusers' pipeline starts from; FluxPipeline encodes an empty text if it is given one."""
    if kind in teachers.FLUX_KINDS:
        return their_prompt(folder, kind, [""])
    pipeline: Any = theirs(folder, kind)
    if kind == "SANA":
        *_, tokens, mask = pipeline.encode_prompt(TEXTS[:1], True, complex_human_instruction=instruction())
        return Condition(embeddings=tokens, mask=mask.float())
    words = [TEXTS[:1]] * (3 if kind == "SD3" else 1)
    found = pipeline.encode_prompt(
        *words, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    return Condition(embeddings=found[1], pooled=None if kind == "SD" else found[3])


def instruction() -> list[str]:
    """The lines that SanaPipeline puts before a text."""
    lines: list[str] = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return lines


def assert_same(found: Condition, wanted: Condition) -> None:
    """Of everything but SDXL's time_ids."""
    for name in ("embeddings", "mask", "pooled"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@each_kind
@torch.no_grad()
def test_a_prompt_is_the_pipeline_s(kind: str, folders: dict[str, Path]) -> None:
    found = encoder(folders[kind]).encode(TEXTS, batch_size=2)
    assert_same(found, their_prompt(folders[kind], kind, TEXTS))
    assert (found.pooled is None) == (kind in ("SD", "SANA")) and (found.time_ids is None) == (kind != "SDXL")
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
    assert_same(found, their_empty_prompt(folders[kind], kind))
    if kind == "SDXL":
        assert found.embeddings is not None and found.embeddings.abs().sum() == 0
        other = shutil.copytree(folders[kind], tmp_path / "other")
        write_json(other / "model_index.json", {"force_zeros_for_empty_prompt": False})
        shown = encoder(other).encode_empty().embeddings
        assert shown is not None and shown.abs().sum() > 0
    made = Prompts(tuple(TEXTS), encoder(folders[kind]).encode(TEXTS), "t", found)
    back = load_prompts(save_prompts(tmp_path / "p.safetensors", made, half=False)).spread(1)
    for name in NAMES:
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
    pipeline, discrete = theirs(folders[kind], kind), kind in ("SD", "SDXL")
    if discrete:
        pipeline.scheduler.register_to_config(set_alpha_to_one=True)
        pipeline.scheduler.final_alpha_cumprod = torch.tensor(1.0)
    wanted = pipeline(
        [TEXTS[0]] * 2, num_inference_steps=4, output_type="np", **_settings(kind, noise)
    ).images  # fmt: skip
    own = parse_sampler("ddim-4" if discrete else "msa-4")
    made = sample_teacher(teacher, own, noise, range(2))
    shown = (made / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(shown, torch.from_numpy(wanted), rtol=0, atol=1e-4)


def _settings(kind: str, noise: Tensor) -> dict[str, Any]:
    """The arguments with which a pipeline begins at this noise, without classifier-free guidance."""
    if kind in teachers.FLUX_KINDS:
        packed = FluxPipeline._pack_latents(noise, 2, 4, 8, 8)
        length = 256 if kind == "FLUX" else 512
        return {"guidance_scale": 3.5, "latents": packed, "height": 16, "width": 16, "max_sequence_length": length}
    settings: dict[str, Any] = {"guidance_scale": 1.0, "latents": noise, "height": 16, "width": 16}
    if kind == "SANA":  # its pipeline wants sides of 32, and makes images of the latents' size
        settings |= {"height": 32, "width": 32, "use_resolution_binning": False}
    return settings | ({"original_size": (64, 64), "target_size": (64, 64)} if kind == "SDXL" else {})


@each_kind
def test_a_file_of_prompts_gives_the_same_rows(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    made = Prompts(tuple(TEXTS), encoder(folders[kind]).encode(TEXTS), "sd")
    for half, tolerance in ((False, 0.0), (True, 2e-3)):
        back = load_prompts(save_prompts(tmp_path / "p.safetensors", made, half=half))
        assert (back.texts, back.teacher) == (made.texts, "sd")
        for name in NAMES:
            one, other = getattr(back.condition, name), getattr(made.condition, name)
            assert (one is None) == (other is None)
            if isinstance(one, Tensor):
                torch.testing.assert_close(one, other, rtol=0, atol=tolerance)
    assert back.spread(2).texts == (made.texts[0], made.texts[len(made.texts) // 2])
    assert len(back.spread(2).condition) == 2
    assert back.spread(99).texts == made.texts


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


def test_the_encoder_that_gives_the_tokens_counts_them(folders: dict[str, Path]) -> None:
    """FLUX takes more tokens of a text than its CLIP does, and dev more than schnell."""
    long = ["a" * 40, "b" * 300, "c" * 600]
    assert [encoder(folders[kind]).too_long(long) for kind in (*teachers.FLUX_KINDS, "SANA")] == [2, 1, 1]


@torch.no_grad()
def test_sana_s_language_model_reads_an_instruction_and_no_capitals(folders: dict[str, Path]) -> None:
    one = encoder(folders["SANA"])
    found, same = one.encode(["A Cat ", "a dog"]), one.encode(["a cat"])
    assert found.embeddings is not None and found.mask is not None and same.embeddings is not None
    assert found.embeddings.shape == (2, 300, 8) and found.mask.shape == (2, 300)
    torch.testing.assert_close(found.embeddings[:1], same.embeddings, rtol=0, atol=1e-6)
    counted = found.mask[:, :, None].bool()
    assert not torch.allclose(found.embeddings[0] * counted[0], found.embeddings[1] * counted[1], atol=1e-3)
    empty = one.encode_empty()
    assert empty.mask is not None and empty.mask.sum() <= 1  # nothing but the token that begins a text


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
        (HEADER, {"embeddings": torch.zeros(2, 3, 4), "mask": torch.ones(2, 4)}),
        (HEADER, {"embeddings": torch.zeros(2, 3, 4), "mask": torch.ones(2, 3, 1)}),
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
