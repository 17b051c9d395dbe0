"""The teacher's own samples: what they are, that they are made once, and made again when they are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gsd_cli.compute.random import normal_rows
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.teacher import Teacher, load_teacher
from gsd_cli.core.sampling.ode import dpm_solver
from gsd_cli.core.sampling.teacher_samples import TeacherSamples, _damage
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.pixels import to_uint8
from tests.support import teachers

CPU = torch.device("cpu")
STEPS = 20


def make(samples: TeacherSamples, batch_size: int = 4) -> ImageArchive:
    samples.make(CPU, batch_size, lambda _: None, lambda: None)
    return ImageArchive(samples.path)


def everything(archive: ImageArchive) -> Tensor:
    return archive.uint8(torch.arange(len(archive)))


@pytest.fixture
def toy(toy_teacher: Denoiser, tmp_path: Path) -> TeacherSamples:
    return TeacherSamples(Teacher("toy", toy_teacher, "toy"), 10, 7, tmp_path / "cache")


@pytest.fixture
def calls(toy: TeacherSamples) -> Iterator[list[int]]:
    """The batch sizes of the network's calls."""
    sizes: list[int] = []
    handle = toy.teacher.denoiser.net.conv_in.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    yield sizes
    handle.remove()


def test_they_are_dpm_solvers_images_rounded_to_8_bits(toy: TeacherSamples) -> None:
    assert toy.damage() is not None  # nothing is there
    archive = make(toy)
    assert toy.damage() is None
    assert (len(archive), archive.shape, archive.labels) == (10, (1, 16, 16), None)
    noise = normal_rows(range(10), (1, 16, 16), 7, "teacher-samples")
    expected = to_uint8(dpm_solver(toy.teacher.denoiser, noise, STEPS))
    # sums in another order: a pixel in a thousand may be rounded to the other side
    assert (everything(archive).int() - expected.int()).abs().max() <= 1
    assert expected.float().std() > 1
    facts = archive.record
    assert (facts["sampler"], facts["seed"], facts["images"], facts["size"], facts["channels"]) == (
        "dpm++-20", 7, 10, 16, 1,
    )  # fmt: skip
    assert facts["teacher"] in toy.path.name


def test_they_are_a_function_of_teacher_count_and_seed(toy: TeacherSamples, tmp_path: Path) -> None:
    first = everything(make(toy))
    again = replace(toy, cache=tmp_path / "elsewhere")
    assert torch.equal(everything(make(again)), first)
    assert again.path.read_bytes() == toy.path.read_bytes()
    more, other = replace(toy, count=12), replace(toy, seed=8)
    assert len({toy.path, more.path, other.path}) == 3
    assert torch.equal(everything(make(more))[:8], first[:8])  # batches of the same rows
    assert not torch.equal(everything(make(other)), first)
    with torch.no_grad():
        toy.teacher.denoiser.net.conv_out.bias.add_(0.5)
    changed = replace(toy)
    assert changed.path.name != toy.path.name


def test_classes_are_uniform(tmp_path: Path) -> None:
    net = teachers.unet(teachers.SMALL, num_class_embeds=3)
    teacher = load_teacher(str(teachers.flat(tmp_path / "conditional", net)))
    samples = TeacherSamples(teacher, 8, 0, tmp_path / "cache")
    archive = make(samples)
    assert archive.labels is not None
    assert archive.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    noise = normal_rows(range(8), (1, 16, 16), 0, "teacher-samples")
    expected = to_uint8(dpm_solver(teacher.denoiser.with_condition(Condition(archive.labels)), noise, STEPS))
    assert (everything(archive).int() - expected.int()).abs().max() <= 1
    unlike = to_uint8(dpm_solver(teacher.denoiser.with_condition(Condition(archive.labels * 0)), noise, STEPS))
    assert (everything(archive).int() - unlike.int()).abs().max() > 1


def test_a_latent_teachers_are_decoded(tmp_path: Path) -> None:
    folder = teachers.latent_pipeline(tmp_path / "latent", teachers.unet(teachers.LATENT))
    teacher = load_teacher(str(folder))
    archive = make(TeacherSamples(teacher, 3, 0, tmp_path / "cache"))
    assert archive.shape == teacher.image_shape == (3, 32, 32)
    codes = dpm_solver(teacher.denoiser, normal_rows(range(3), teacher.denoiser.shape, 0, "teacher-samples"), STEPS)
    with torch.no_grad():
        expected = to_uint8(teacher.autoencoder.decode(codes))
    assert (everything(archive).int() - expected.int()).abs().max() <= 1


def test_every_channel_of_other_images_is_kept(tmp_path: Path) -> None:
    net = teachers.unet(teachers.SMALL, in_channels=4, out_channels=4)
    teacher = load_teacher(str(teachers.flat(tmp_path / "spectral", net)))
    archive = make(TeacherSamples(teacher, 3, 0, tmp_path / "cache"))
    assert archive.shape == (4, 16, 16)
    expected = to_uint8(dpm_solver(teacher.denoiser, normal_rows(range(3), (4, 16, 16), 0, "teacher-samples"), STEPS))
    assert (everything(archive).int() - expected.int()).abs().max() <= 1


def test_an_interrupted_work_is_resumed(toy: TeacherSamples, calls: list[int], tmp_path: Path) -> None:
    whole = everything(make(replace(toy, cache=tmp_path / "elsewhere")))
    calls.clear()

    def stop_in_the_second_batch() -> None:
        if len(calls) == STEPS + 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.make(CPU, 4, lambda _: None, stop_in_the_second_batch)
    assert not toy.path.exists()
    calls.clear()
    seen: list[int] = []
    toy.make(CPU, 4, seen.append, lambda: None)
    assert calls == [4] * STEPS + [2] * STEPS  # the first batch was there
    assert seen == sorted(seen) and seen[0] == 4 and seen[-1] == 10
    assert torch.equal(everything(ImageArchive(toy.path)), whole)
    assert [path.name for path in toy.path.parent.iterdir()] == [toy.path.name]


def test_a_damaged_batch_is_made_again(toy: TeacherSamples, calls: list[int], tmp_path: Path) -> None:
    whole = everything(make(replace(toy, cache=tmp_path / "elsewhere")))
    calls.clear()

    def stop_at_the_end() -> None:
        if len(calls) == 2 * STEPS + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.make(CPU, 4, lambda _: None, stop_at_the_end)
    first, second = sorted(toy.path.with_suffix("").iterdir())
    first.write_bytes(first.read_bytes()[:-200])
    second.write_bytes(b"")
    calls.clear()
    assert torch.equal(everything(make(toy)), whole)
    assert calls == [4] * STEPS + [4] * STEPS + [2] * STEPS


def test_damage_is_found(toy: TeacherSamples, toy_archive_path: Path) -> None:
    make(replace(toy, count=4))
    whole = replace(toy, count=4).path.read_bytes()
    samples = replace(toy, count=4, seed=0)
    assert "No such file" in str(samples.damage())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    for raw in (bytes(flipped), whole[: len(whole) // 2], whole[:-1], b"", b"PK", toy_archive_path.read_bytes()):
        samples.path.write_bytes(raw)
        assert samples.damage()
    samples.path.write_bytes(whole)
    assert samples.damage() is None
    for count, shape in ((5, (1, 16, 16)), (4, (1, 24, 24)), (4, (3, 16, 16))):
        assert _damage(samples.path, count, shape) == "it holds other images"
    samples.path.unlink()
    samples.path.mkdir()
    assert samples.damage()
