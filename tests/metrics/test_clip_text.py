"""CLIP's text encoder and the CLIP score, on files of the form of OpenAI's, against transformers and torchmetrics."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from gsd_cli.base.console import Console
from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.commands import bench
from gsd_cli.commands.sample import make_images
from gsd_cli.compute.random import seed_numbers
from gsd_cli.core.models.prompts import load_prompts, save_prompts
from gsd_cli.metrics import clip, clip_text
from gsd_cli.metrics.clip import clip_features
from gsd_cli.metrics.clip_score import clip_score
from gsd_cli.metrics.clip_text import build_tokenizer, clip_texts, read_vocabulary
from gsd_cli.options import BenchOptions, SampleOptions
from tests.support import clip_files, text_models

pytest.importorskip("transformers")
CPU = torch.device("cpu")
TEXTS = ["a cat", "Two  DOGS, and a cat!", "", "caf\u00e9 \u732b", "dogs " * 40]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with OpenAI's two files, and transformers' model of the same weights."""
    folder, net = tmp_path_factory.mktemp("clip"), clip_files.random_clip()
    clip_files.save_archive(folder / clip.FILE, net)
    clip_files.save_vocabulary(folder / clip_text.VOCABULARY_FILE)
    return folder, net


@pytest.fixture
def theirs(written: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """transformers' model, whose weights are in the cache `tmp_path` in OpenAI's form."""
    folder, net = written
    shutil.copytree(folder, tmp_path / "clip")
    for module, name, file in (
        (clip, "SHA256", clip.FILE),
        (clip_text, "VOCABULARY_SHA256", clip_text.VOCABULARY_FILE),
    ):
        monkeypatch.setattr(module, name, hashlib.sha256((folder / file).read_bytes()).hexdigest())
    return net


def tokens(texts: list[str], folder: Path) -> Any:
    vocabulary = read_vocabulary(folder / "clip" / clip_text.VOCABULARY_FILE, clip_files.TOKENS)
    tokenizer = build_tokenizer(*vocabulary, 20)
    return tokenizer(texts, padding="max_length", truncation=True, max_length=20, return_tensors="pt")


def pooled(output: Any) -> torch.Tensor:
    """The projected features, which transformers 5 wraps."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


@torch.no_grad()
def test_texts_have_the_vectors_of_transformers(theirs: Any, tmp_path: Path) -> None:
    found = clip_texts(tmp_path, CPU, offline=True).embed(TEXTS)
    expected = normalize(pooled(theirs.get_text_features(**tokens(TEXTS, tmp_path))), dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert torch.pdist(found).min() > 0.01  # all texts differ


@torch.no_grad()
def test_images_have_the_vectors_of_transformers(theirs: Any, tmp_path: Path) -> None:
    images = torch.rand(2, 3, 224, 224) * 2 - 1
    found = clip_features(tmp_path, CPU, offline=True).features(images)
    pixels = (images * 127.5 + 127.5).round() / 255
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (clip.MEAN, clip.STD))
    expected = pooled(theirs.get_image_features(pixel_values=(pixels - mean) / std))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_tokens_are_bytes_merged_in_the_order_of_the_list(tmp_path: Path) -> None:
    path = clip_files.save_vocabulary(tmp_path / "clip" / clip_text.VOCABULARY_FILE)
    vocabulary, merges = read_vocabulary(path, clip_files.TOKENS)
    assert merges == list(clip_files.MERGES) and len(vocabulary) == clip_files.TOKENS
    assert vocabulary["!"] == 0 and vocabulary["!</w>"] == 256 and vocabulary["ca"] == 512
    ids = tokens(["Cat  dogs do"], tmp_path).input_ids[0].tolist()
    names = {number: word for word, number in vocabulary.items()}
    words = [names[number] for number in ids]
    assert words[: words.index(clip_text.END) + 1] == [
        clip_text.START, "cat</w>", "dogs</w>", "d", "o</w>", clip_text.END
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", [b"plain text", b"\x1f\x8b\x08", gzip.compress(b"\xff\xfe")], ids=["text", "cut short", "not utf-8"]
)  # fmt: skip
def test_a_vocabulary_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "v.gz").write_bytes(content)
    with pytest.raises(GsdError, match="damaged") as caught:
        read_vocabulary(tmp_path / "v.gz", clip_files.TOKENS)
    assert caught.value.code == ExitCode.INPUT
    short = clip_files.save_vocabulary(tmp_path / "short.gz")
    with pytest.raises(GsdError, match="too few"):
        read_vocabulary(short, 49408)


@pytest.mark.parametrize("missing", [clip.FILE, clip_text.VOCABULARY_FILE])
def test_without_a_file_the_place_is_named(missing: str, theirs: Any, tmp_path: Path) -> None:
    (tmp_path / "clip" / missing).unlink()
    with pytest.raises(GsdError, match="not in the cache") as caught:
        clip_texts(tmp_path, CPU, offline=True)
    assert caught.value.code == ExitCode.NETWORK and missing in str(caught.value.hint)


def test_the_score_is_a_hundred_times_the_cosine_and_never_below_0() -> None:
    images = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = clip_score(images, texts, torch.tensor([0, 0, 0, 1]))
    expected = torch.tensor([100.0, 0.0, 0.0, 100 / 2**0.5])
    assert found["clip_score"] == pytest.approx(expected.mean().item())
    assert found["clip_score_error"] == pytest.approx((expected.std() / 2).item())
    assert "clip_score_error" not in clip_score(images[:1], texts, torch.tensor([0]))


def test_the_score_is_that_of_torchmetrics(theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_module = pytest.importorskip("torchmetrics.functional.multimodal.clip_score")
    images, texts = torch.randint(0, 256, (3, 3, 224, 224)), TEXTS[:3]
    shown = images / 127.5 - 1
    own, vectors = clip_features(tmp_path, CPU, offline=True), clip_texts(tmp_path, CPU, offline=True).embed(texts)
    each = [clip_score(own.features(shown[k : k + 1]), vectors, torch.tensor([k]))["clip_score"] for k in range(3)]

    def processor(text: Any = None, images: Any = None, **_: Any) -> dict[str, torch.Tensor]:
        if text is not None:
            return dict(tokens(text, tmp_path))
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (clip.MEAN, clip.STD))
        return {"pixel_values": torch.stack([(torch.as_tensor(i) / 255 - mean) / std for i in images])}

    # torchmetrics does not know that transformers 5 wraps features
    model = SimpleNamespace(
        config=theirs.config, to=lambda device: model,
        get_image_features=lambda *a: pooled(theirs.get_image_features(*a)),
        get_text_features=lambda *a: pooled(theirs.get_text_features(*a)),
    )  # fmt: skip
    score, count = clip_module._clip_score_update(list(images), texts, model, processor)
    assert count == 3
    torch.testing.assert_close(torch.tensor(each), score.float().clamp(min=0), atol=1e-3, rtol=1e-4)


# -- gsd bench ----------------------------------------------------------------------------------


@pytest.fixture
def model(theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text-conditional generator in the current folder; `tmp_path` is the cache."""
    folder = text_models.build(tmp_path / "work", "SD")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GSD_CACHE_DIR", str(tmp_path))
    return folder


def measure(**given: Any) -> dict[str, Any]:
    options = BenchOptions.model_validate({"model": "run", "metrics": "clip-score", "num_samples": 6, **given})
    return bench.run(options, Session.start(options, Console())).metrics


@torch.no_grad()
def test_bench_scores_each_image_with_the_prompt_of_its_seed(model: Path, theirs: Any, tmp_path: Path) -> None:
    found = measure(compare="heun-2")
    options = SampleOptions.model_validate({"model": "run", "num_samples": 6})
    images = make_images(options, Session.start(options, Console())).float() / 127.5 - 1
    rows = seed_numbers(range(6), 3).tolist()
    texts = clip_texts(tmp_path, CPU, offline=True).embed([text_models.TEXTS[row] for row in rows])
    own = normalize(clip_features(tmp_path, CPU, offline=True).features(images), dim=1)
    expected = 100 * (own * texts).sum(1).clamp(min=0).mean().item()
    assert found["rows"]["run"]["clip_score"] == pytest.approx(expected, abs=0.05)
    assert found["rows"]["heun-2"]["clip_score"] > 0 and found["rows"]["run"]["clip_score_error"] > 0
    assert "3 prompts" in found["protocol"]["CLIP score"] and "2.5" in found["protocol"]["CLIP score"]


def test_other_prompts_give_other_figures_of_generator_and_baseline(model: Path) -> None:
    one = load_prompts(Path("prompts.safetensors")).spread(1)
    save_prompts(Path("one.safetensors"), one, half=False)
    own = measure(compare="heun-2")
    other = measure(compare="heun-2", prompts=Path("one.safetensors"))
    for name in ("run", "heun-2"):  # the cache of baselines knows that these are images of other texts
        assert own["rows"][name]["clip_score"] != other["rows"][name]["clip_score"]
    assert "1 prompts" in other["protocol"]["CLIP score"]
    again = measure(compare="heun-2")
    assert again["rows"]["heun-2"]["clip_score"] == own["rows"]["heun-2"]["clip_score"]


def test_prompts_that_may_be_few_of_many_are_remarked_on(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for kept, remarked in ((64, False), (3, True)):
        monkeypatch.setattr("gsd_cli.comparison.context.PROMPTS_KEPT", kept)
        measure(compare="")
        assert ("made from the 3 prompts that run keeps" in " ".join(capsys.readouterr().err.split())) == remarked
    measure(compare="", prompts=Path("prompts.safetensors"))
    assert "that run keeps" not in capsys.readouterr().err


def test_a_model_without_texts_has_no_score(model: Path) -> None:
    with pytest.raises(UsageError, match="not text-conditional"):
        measure(model="fashion", compare="")


def test_without_clip_nothing_is_measured(model: Path, tmp_path: Path) -> None:
    (tmp_path / "clip" / clip.FILE).unlink()
    with pytest.raises(GsdError, match="CLIP") as caught:
        measure(compare="", offline=True)
    assert caught.value.code == ExitCode.NETWORK
