"""Real images for a discriminator: what fits, what is refused, and how a latent teacher sees them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.distillation.real_images import (
    CALL,
    FEW,
    EncodedImages,
    RealImages,
    cautions,
    in_teacher_space,
    require_fit,
    require_readable,
)
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.teacher import Teacher, load_teacher
from gsd_cli.data import dataset as archives
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.dataset_writers import ArchiveWriter
from gsd_cli.data.png import encode_png
from tests.support import teachers

CPU = torch.device("cpu")


def data_set(path: Path, labels: list[Any], side: int = 16, channels: int = 1, **record: Any) -> ImageArchive:
    """A prepared data set of random images, one per label; None: unlabelled."""
    random = np.random.default_rng(0)
    writer = ArchiveWriter(path)
    for label in labels:
        writer.add(encode_png(random.integers(0, 256, (side, side, channels), np.uint8)), label)
    writer.close(record)
    return ImageArchive(path)


@pytest.fixture
def pixel(toy_teacher: Denoiser) -> Teacher:
    return Teacher("toy", toy_teacher, "toy")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    net = teachers.unet(teachers.SMALL, num_class_embeds=3)
    return load_teacher(str(teachers.flat(tmp_path_factory.mktemp("conditional") / "model", net)))


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = tmp_path_factory.mktemp("latent") / "model"
    return load_teacher(str(teachers.latent_pipeline(folder, teachers.unet(teachers.LATENT))))


def refused(archive: ImageArchive, teacher: Teacher) -> str:
    with pytest.raises(GsdError) as caught:
        require_fit(archive, teacher)
    assert caught.value.code == ExitCode.INPUT
    assert caught.value.hint
    return caught.value.message


def test_images_of_the_teachers_size_and_mode_fit(pixel: Teacher, tmp_path: Path) -> None:
    require_fit(data_set(tmp_path / "fits.zip", [None] * 3), pixel)
    assert "(1, 24, 24)" in refused(data_set(tmp_path / "size.zip", [None] * 3, side=24), pixel)
    assert "(3, 16, 16)" in refused(data_set(tmp_path / "mode.zip", [None] * 3, channels=3), pixel)


def test_a_conditional_teacher_wants_a_class_of_each_image(conditional: Teacher, tmp_path: Path) -> None:
    require_fit(data_set(tmp_path / "fits.zip", [0, 2, 1]), conditional)
    # a class without images is no other number of classes, where the record names them all
    require_fit(data_set(tmp_path / "named.zip", [0, 1, 1], classes=["a", "b", "c"]), conditional)
    assert "no labels" in refused(data_set(tmp_path / "none.zip", [None] * 3), conditional)
    assert "attributes" in refused(data_set(tmp_path / "attributes.zip", [(0, 1), (1, 1), (0, 0)]), conditional)
    assert "4 classes" in refused(data_set(tmp_path / "more.zip", [0, 1, 3]), conditional)
    assert "2 classes" in refused(data_set(tmp_path / "fewer.zip", [0, 1, 1]), conditional)
    assert "2 classes" in refused(data_set(tmp_path / "two.zip", [0, 1, 1], classes=["a", "b"]), conditional)


def test_an_unconditional_teacher_asks_for_no_labels(pixel: Teacher, conditional: Teacher, tmp_path: Path) -> None:
    """It takes the same images that a conditional one refuses for their labels."""
    wrong = {"labelled": ([4, 7], "8 classes"), "attributes": ([(0, 1), (1, 1)], "attributes")}
    for name, (labels, reason) in wrong.items():
        images = data_set(tmp_path / f"{name}.zip", labels)
        assert reason in refused(images, conditional)
        require_fit(images, pixel)


def test_a_latent_teacher_takes_images_not_latents(latent: Teacher, tmp_path: Path) -> None:
    assert latent.image_shape == (3, 32, 32) != latent.denoiser.shape
    require_fit(data_set(tmp_path / "images.zip", [None] * 3, side=32, channels=3), latent)
    assert "(3, 16, 16)" in refused(data_set(tmp_path / "latents.zip", [None] * 3, channels=3), latent)


def damage(path: Path, member: str) -> None:
    """Overwrite the pixels of one image; the zip's table of contents stays whole."""
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo(member).header_offset
    raw = bytearray(path.read_bytes())
    raw[offset + 100 : offset + 140] = b"\xaa" * 40
    path.write_bytes(raw)


def test_an_unreadable_image_is_found_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.zip"
    data_set(path, [None] * 12)
    seen: list[int] = []
    require_readable(ImageArchive(path), seen.append)
    assert seen == [12]
    damage(path, "00000/img00000011.png")
    archive = ImageArchive(path)  # the first image is whole
    with pytest.raises(GsdError, match=r"data\.zip"):
        require_readable(archive)
    # a set that is too large to keep decoded: some, evenly spread, the last among them
    monkeypatch.setattr(archives, "KEEP_IN_MEMORY", 100)
    monkeypatch.setattr("gsd_cli.core.distillation.real_images.CHECKED", 5)
    archive = ImageArchive(path)
    assert not archive.in_memory
    with pytest.raises(GsdError, match=r"data\.zip"):
        require_readable(archive)
    data_set(path, [None] * 12)
    seen.clear()
    require_readable(ImageArchive(path), seen.append)
    assert seen == [5]


def test_few_images_and_other_names_are_cautions(pixel: Teacher, conditional: Teacher, tmp_path: Path) -> None:
    few = data_set(tmp_path / "few.zip", [None] * (FEW - 1))
    assert any(f"{FEW - 1} images are few" in caution for caution in cautions(few, pixel))
    many = data_set(tmp_path / "many.zip", [k % 3 for k in range(FEW)], classes=["cat", "dog", "cow"])
    assert not cautions(many, pixel)
    assert not cautions(many, conditional)  # its names are not known
    named = Teacher("named", conditional.denoiser, "named", class_names=("cat", "cow", "dog"))
    (caution,) = cautions(many, named)
    assert "class 1 is dog" in caution and "cow for the teacher" in caution


class TestEncoded:
    """EncodedImages next to the autoencoder itself."""

    @pytest.fixture
    def images(self, tmp_path: Path) -> ImageArchive:
        return data_set(tmp_path / "images.zip", [k % 2 for k in range(40)], side=32, channels=3)

    @pytest.fixture
    def calls(self, latent: Teacher) -> Any:
        """The sizes of the calls of the encoder."""
        sizes: list[int] = []
        handle = latent.autoencoder.net.encoder.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
        yield sizes
        handle.remove()

    def test_latents_are_the_autoencoders(self, latent: Teacher, images: ImageArchive) -> None:
        encoded = in_teacher_space(images, latent, CPU)
        assert (len(encoded), encoded.shape) == (40, latent.denoiser.shape)
        assert torch.equal(self._labels(encoded), self._labels(images))
        indices = torch.tensor([3, 39, 3])
        with torch.no_grad():
            expected = latent.autoencoder.encode(images.batch(indices))
        found = encoded.batch(indices)
        assert found.dtype == torch.float32
        assert torch.allclose(found, expected, atol=1e-5)
        assert torch.equal(found[0], found[2])

    @staticmethod
    def _labels(images: RealImages) -> Tensor:
        assert images.labels is not None
        return images.labels

    def test_the_bits_do_not_depend_on_the_order(self, latent: Teacher, images: ImageArchive) -> None:
        one, other = (in_teacher_space(images, latent, CPU) for _ in range(2))
        whole = one.batch(torch.arange(40))
        for part in torch.randperm(40).split(7):
            other.batch(part)
        assert torch.equal(other.batch(torch.arange(40)), whole)

    def test_the_bits_do_not_depend_on_mixed_precision_around(self, latent: Teacher, images: ImageArchive) -> None:
        indices = torch.arange(5)
        expected = in_teacher_space(images, latent, CPU).batch(indices)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(in_teacher_space(images, latent, CPU).batch(indices), expected)

    def test_each_image_is_encoded_once_in_calls_of_one_size(
        self, latent: Teacher, images: ImageArchive, calls: list[int]
    ) -> None:
        encoded = in_teacher_space(images, latent, CPU)
        for _ in range(3):
            encoded.batch(torch.arange(40))
        assert calls == [CALL] * 3  # 16 + 16 + 8, filled up

    def test_half_precision_and_none_where_memory_is_short(
        self, latent: Teacher, images: ImageArchive, calls: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = in_teacher_space(images, latent, CPU).batch(torch.arange(8))
        numbers = 40 * torch.Size(latent.denoiser.shape).numel()
        monkeypatch.setattr("gsd_cli.core.distillation.real_images.KEEP_IN_MEMORY", 2 * numbers)
        half = in_teacher_space(images, latent, CPU).batch(torch.arange(8))
        assert half.dtype == torch.float32
        assert torch.equal(half, whole.half().float())
        monkeypatch.setattr("gsd_cli.core.distillation.real_images.KEEP_IN_MEMORY", 2 * numbers - 1)
        unkept = in_teacher_space(images, latent, CPU)
        assert torch.equal(unkept.batch(torch.arange(8)), whole)
        calls.clear()
        unkept.batch(torch.arange(8))
        assert calls == [CALL]

    def test_a_pixel_teacher_sees_the_images_themselves(self, pixel: Teacher, images: ImageArchive) -> None:
        assert in_teacher_space(images, pixel, CPU) is images
        assert (
            EncodedImages(images, Autoencoder(), images.shape, CPU)
            .batch(torch.tensor([5]))
            .equal(images.batch(torch.tensor([5])))
        )
