"""The bundled models and data: their sizes and formats, and the figures in their cards."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.registry import BUNDLED_MODELS, TEACHERS
from gsd_cli.compute.random import latents
from gsd_cli.core.distillation.real_images import require_fit
from gsd_cli.core.models.classifier import load_features
from gsd_cli.core.models.generator import Generator, generate, load_model
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.decode import crop_and_resize
from gsd_cli.data.pixels import from_uint8
from gsd_cli.metrics.baselines import fingerprint
from gsd_cli.metrics.evaluation import generator_features
from gsd_cli.metrics.features import classifier_features
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics
from scripts.bundled_images import subset
from tests.support.shell import IMAGES, Shell

MB = 1_000_000


def test_sizes_are_small_enough_for_a_package() -> None:
    sizes = {p: p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()}
    assert sum(sizes.values()) <= 20 * MB
    for name in ("ddpm-fashion", *BUNDLED_MODELS):
        assert sum(size for path, size in sizes.items() if ASSETS / name in path.parents) <= 6 * MB


def test_the_real_images_are_a_balanced_part_of_the_training_images() -> None:
    path = ASSETS / str(TEACHERS["ddpm-fashion"].data)
    assert path.stat().st_size <= 5 * MB
    archive = ImageArchive(path)
    teacher = load_teacher("ddpm-fashion")
    require_fit(archive, teacher)
    assert archive.labels is not None
    assert torch.bincount(archive.labels).tolist() == [670] * 10
    facts = archive.record
    assert (facts["source"], facts["licence"], facts["images"]) == ("fashion-mnist (train)", "MIT", 6700)
    images = archive.uint8(torch.arange(6700))
    assert from_uint8(images).mean().item() == pytest.approx(facts["mean"][0], abs=1e-5)
    assert from_uint8(images).var(correction=0).item() == pytest.approx(facts["variance"][0], abs=1e-5)
    assert len(images.flatten(1).unique(dim=0)) > 6600  # hardly an image twice
    extractor = classifier_features("fashion", torch.device("cpu"))
    some = torch.arange(0, 6700, 7)
    names = torch.cat([extractor.net(archive.batch(part)).argmax(1) for part in some.split(100)])
    assert (names == archive.labels[some]).double().mean() > 0.9  # the labels are the images'


def test_the_real_images_are_chosen_by_a_hash() -> None:
    labels = torch.arange(200) % 4
    chosen = subset(labels, 5, 0)
    assert torch.bincount(labels[chosen]).tolist() == [5] * 4
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    best = min(range(0, 200, 4), key=lambda k: hashlib.sha256(f"0/{k}".encode()).hexdigest())
    assert best in chosen
    assert chosen.tolist() != subset(labels, 5, 1).tolist()
    with pytest.raises(SystemExit):
        subset(labels, 51, 0)


@pytest.mark.parametrize(
    ("name", "network", "version"),
    [("ddpm-fashion", "", 1), ("fashion", "", 1), ("fashion-refined", "later", 3)],
)
def test_networks_are_half_precision_and_have_a_card(name: str, network: str, version: int) -> None:
    with safe_open(ASSETS / name / network / "diffusion_pytorch_model.safetensors", "pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118 - not a dict
    assert kinds == {torch.float16}
    assert json.loads((ASSETS / name / "gsd.json").read_text())["format"] == version
    assert (ASSETS / name / "README.md").read_text().startswith("# ")


def test_the_first_call_of_the_refined_generator_is_the_one_call_generator(tmp_path: Path) -> None:
    one, two = load_model("fashion").generator, load_model("fashion-refined").generator
    z = latents(range(8), (1, 32, 32))
    first, second = two.trace(z, two.condition)
    assert torch.equal(first.clean, one(z))
    assert torch.equal(second.clean, two(z))
    assert 0.01 < (first.clean - second.clean).square().mean().sqrt() < 0.3  # another image of the same garment
    files = [path.relative_to(ASSETS) for path in (ASSETS / "fashion-refined").rglob("*.safetensors")]
    assert [str(path.parent) for path in files] == ["fashion-refined/later"]  # the first network is stored once


def test_a_copy_of_the_refined_generator_says_what_it_lacks(tmp_path: Path) -> None:
    copy = shutil.copytree(ASSETS / "fashion-refined", tmp_path / "copy")
    with pytest.raises(GsdError, match="holds the network of the second call only") as refused:
        load_model(str(copy))
    assert "the first call's from fashion: copy its weights" in str(refused.value.hint)
    shutil.copy(ASSETS / "fashion" / "diffusion_pytorch_model.safetensors", copy)
    assert load_model(str(copy)).generator.calls == 2


def test_the_teacher_is_what_the_registry_says() -> None:
    teacher = load_teacher("ddpm-fashion")
    parameters = sum(p.numel() for p in teacher.denoiser.parameters())
    assert parameters == TEACHERS["ddpm-fashion"].parameters
    assert teacher.denoiser.shape == (1, 32, 32)
    assert teacher.denoiser.prediction == "epsilon"
    assert teacher.denoiser.schedule.sigmas[440].item() == pytest.approx(2.502, abs=1e-3)
    assert teacher.features == "fashion"


def test_shipped_baselines_belong_to_the_shipped_teacher() -> None:
    teacher = load_teacher("ddpm-fashion")
    for path in (ASSETS / "ddpm-fashion").glob("*.npz"):
        statistics = Statistics.load(path)
        assert statistics.about["teacher"] == fingerprint(teacher)
        assert statistics.about["sampler"] == path.stem
        assert statistics.extractor == "fashion"
    msa = Statistics.load(ASSETS / "ddpm-fashion" / "msa.npz")
    assert msa.n == len(msa.features) >= 2000
    train = Statistics.load(ASSETS / "features-fashion" / "train.npz")
    assert 0.5 < frechet_distance(msa, train) < 3  # a sampler that was wrong would be far off


def test_the_features_name_the_classes_of_real_images() -> None:
    net = load_features(ASSETS / "features-fashion")
    card = json.loads((ASSETS / "features-fashion" / "gsd.json").read_text())
    images, labels = real_images(tuple(card["data"]["classes"]))
    accuracy = (net(images).argmax(1) == labels).double().mean().item()
    assert card["accuracy"] >= 0.91
    assert accuracy >= 0.85  # 100 images: three standard errors below 0.92


def test_reference_statistics_of_both_splits_are_close() -> None:
    train = Statistics.load(ASSETS / "features-fashion" / "train.npz")
    test = Statistics.load(ASSETS / "features-fashion" / "test.npz")
    assert (train.n, test.n) == (60_000, 10_000)
    assert 0 < frechet_distance(train, test) < 0.1


def test_the_second_features_are_small_independent_and_know_real_images_too() -> None:
    folder = ASSETS / "features-fashion-2"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 300_000
    first, second = load_features(ASSETS / "features-fashion"), load_features(folder)
    assert first.architecture != second.architecture
    card = json.loads((folder / "gsd.json").read_text())
    assert card["seed"] != json.loads((ASSETS / "features-fashion" / "gsd.json").read_text())["seed"]
    assert card["accuracy"] >= 0.90
    images, labels = real_images(tuple(card["data"]["classes"]))
    assert (second(images).argmax(1) == labels).double().mean().item() >= 0.82  # 100 images: three standard errors
    train, test = (Statistics.load(folder / f"{split}.npz") for split in ("train", "test"))
    assert (train.n, test.n, train.extractor, train.features) == (60_000, 10_000, "fashion-2", None)
    assert len(train.mu) == second.dim == 64
    assert 0 < frechet_distance(train, test) < 0.05


def test_the_generator_is_far_better_than_the_teacher_called_once() -> None:
    extractor = classifier_features("fashion", torch.device("cpu"))
    reference = Statistics.load(ASSETS / "features-fashion" / "train.npz")

    def distance(generator: Generator) -> float:
        features = generator_features(generator, extractor, range(512), 64)
        return frechet_distance(gaussian_statistics(features, "fashion"), reference)

    start = distance(Generator(load_teacher("ddpm-fashion").denoiser))
    one_call = distance(load_model("fashion").generator)
    assert distance(load_model("fashion-refined").generator) < one_call < start / 4


def test_the_generator_makes_garments_of_many_classes() -> None:
    net = load_features(ASSETS / "features-fashion")
    images = generate(load_model("fashion").generator, latents(range(256), (1, 32, 32)), 64)
    counts = torch.bincount(net(images).argmax(1), minlength=10)
    assert (counts >= 5).sum() >= 9


def test_sample_works_the_moment_gsd_is_installed(shell: Shell) -> None:
    done = shell.gsd("sample", "-N", "16", "-o", "grid.png")
    assert done.returncode == 0, done.stderr.decode()
    assert "model: fashion" in done.stderr.decode()
    image = Image.open(shell.folder / "grid.png")
    assert image.size == (128, 128)
    assert image.getextrema()[1] > 200


def real_images(classes: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The 100 real test images of the suite [100, 1, 32, 32] in [-1, 1], and their labels."""
    images, labels = [], []
    with zipfile.ZipFile(IMAGES) as archive:
        for name in archive.namelist():
            image = Image.open(io.BytesIO(archive.read(name)))
            images.append(torch.from_numpy(crop_and_resize(image, 32, 1).copy()).permute(2, 0, 1))
            labels.append(classes.index(Path(name).parent.name))
    return from_uint8(torch.stack(images)), torch.tensor(labels)
