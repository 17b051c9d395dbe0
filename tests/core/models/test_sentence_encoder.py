"""Sentence encoders as sentence-transformers store them, as the text encoders of teachers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.models.sentence_encoder import fit_length, load_sentence_encoder, save_sentence_encoder
from gsd_cli.core.models.teacher_config import read_text_teacher
from gsd_cli.core.models.text_encoder import load_text_encoder
from gsd_cli.core.models.unet2d_condition import UNET2D_CONDITION
from gsd_cli.core.training.unets import build_unet
from tests.support.teachers import sentence_encoder

transformers = pytest.importorskip("transformers")
TEXTS = ["a cat", "a dog runs to a cat", ""]


def test_its_vectors_are_the_mean_and_the_tokens_without_padding(tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path)
    encoder = load_sentence_encoder(folder)
    found = encoder.encode(TEXTS).embeddings
    assert found is not None and found.shape == (3, 16, encoder.sizes.token)
    net = transformers.BertModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    for text, vectors in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            alone = net(**words(text, return_tensors="pt")).last_hidden_state[0]  # without padding
        torch.testing.assert_close(vectors[0], alone.mean(0), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(vectors[1 : len(alone)], alone[1:], atol=1e-6, rtol=1e-5)
        assert not vectors[len(alone) :].any()


def test_it_pads_to_the_longest_text(tmp_path: Path) -> None:
    encoder = load_sentence_encoder(sentence_encoder(tmp_path))
    short = fit_length(encoder, TEXTS)
    a, b = encoder.encode(TEXTS).embeddings, short.encode(TEXTS).embeddings
    assert a is not None and b is not None and b.shape[1] == 8  # 6 words and 2 marks
    torch.testing.assert_close(a[:, :8], b, atol=1e-6, rtol=1e-5)
    assert fit_length(encoder, ["cat " * 50]).parts[0].length == 16  # the encoder takes no more
    assert short.too_long(["cat " * 50, "a cat"]) == 1


def test_a_teacher_keeps_it(tmp_path: Path) -> None:
    encoder = fit_length(load_sentence_encoder(sentence_encoder(tmp_path / "encoder")), TEXTS)
    net = build_unet("tiny", 16, 3, text=encoder.sizes.token)
    teacher = tmp_path / "teacher"
    save_denoiser(Denoiser(net, BetaSchedule.linear(), kind=UNET2D_CONDITION), teacher, half=False)
    save_sentence_encoder(encoder, teacher)
    again = load_text_encoder(read_text_teacher(teacher))
    a, b = encoder.encode(TEXTS).embeddings, again.encode(TEXTS).embeddings
    assert a is not None and b is not None and torch.equal(a, b)
    for path in teacher.rglob("*.json"):
        assert str(tmp_path) not in path.read_text()
    assert "_name_or_path" not in read_json(teacher / "text_encoder" / "config.json")


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path / "a")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("BertModel", "GPT2Model"))
    with pytest.raises(GsdError, match="holds a GPT2Model"):
        load_sentence_encoder(folder)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(GsdError, match="cannot load the text encoder"):
        load_sentence_encoder(folder)
    net = build_unet("tiny", 16, 3, text=20)
    teacher = tmp_path / "teacher"
    save_denoiser(Denoiser(net, BetaSchedule.linear(), kind=UNET2D_CONDITION), teacher, half=False)
    save_sentence_encoder(load_sentence_encoder(sentence_encoder(tmp_path / "b")), teacher)
    with pytest.raises(GsdError, match="vectors of 8, its network takes 20"):
        load_text_encoder(read_text_teacher(teacher))
