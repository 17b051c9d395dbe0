"""Samples of the teacher's own samplers: kept by batches, made once, announced as they are made."""

from __future__ import annotations

import copy
import io
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch

from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.feature_nets import ConvNeXtNet, ResidualNet
from gsd_cli.core.models.teacher import Teacher, load_teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from gsd_cli.metrics.baselines import MOST_CALLS, keep_statistics, sampled_batches
from gsd_cli.metrics.features import ClassifierFeatures, Measure
from gsd_cli.metrics.grain import GrainCounts
from gsd_cli.metrics.statistics import Statistics

BATCH, STEPS = 8, 3


@pytest.fixture(scope="module")
def teacher(toy_teacher_folder: Path) -> Teacher:
    return load_teacher(str(toy_teacher_folder))


@pytest.fixture(scope="module")
def extractor() -> ClassifierFeatures:
    torch.manual_seed(0)
    return ClassifierFeatures(ResidualNet(1, 10).eval(), "toy")


def sampled(
    teacher: Teacher, measures: list[Measure], n: int, cache: Path, steps: int = STEPS, optional: Collection[str] = ()
) -> tuple[list[dict[str, torch.Tensor]], list[int]]:
    """What the measures see of n seeds, batch by batch, and the counts of calls that were announced."""
    said: list[int] = []
    batches = sampled_batches(
        teacher, parse_sampler(f"ddim-{steps}"), measures, n, cache, torch.device("cpu"), BATCH,
        lambda done, _: said.append(done), optional,
    )  # fmt: skip
    return list(batches), said


def made(teacher: Teacher, extractor: ClassifierFeatures, n: int, cache: Path) -> tuple[Statistics, list[int]]:
    """Statistics of n seeds, and the counts of calls that were announced."""
    batches, said = sampled(teacher, [extractor], n, cache)
    features = torch.cat([batch["toy"] for batch in batches])
    return keep_statistics(teacher, parse_sampler(f"ddim-{STEPS}"), extractor, features, cache), said


def test_measures_see_the_same_images_and_what_one_lacks_is_made_for_it_alone(
    teacher: Teacher, extractor: ClassifierFeatures, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    second = ClassifierFeatures(ConvNeXtNet(1, 10).eval(), "toy-2")
    together, said = sampled(teacher, [extractor, second, GrainCounts()], 16, tmp_path / "a")
    assert said == [1, 2, 3, 4, 5, 6]  # made once for three
    alone, _ = sampled(teacher, [extractor], 16, tmp_path / "b")
    later, said = sampled(teacher, [extractor, second, GrainCounts()], 16, tmp_path / "b")
    assert said == [1, 2, 3, 4, 5, 6]
    for one, other, first in zip(together, later, alone, strict=True):
        assert one.keys() == {"toy", "toy-2", "grain-counts"}
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert torch.equal(one["toy"], first["toy"])
        assert one["grain-counts"].sum(1).eq(14 * 14).all()


def test_what_is_optional_is_not_worth_many_calls(
    teacher: Teacher, extractor: ClassifierFeatures, tmp_path: Path
) -> None:
    measures, steps = [extractor, GrainCounts()], MOST_CALLS + 1
    (missing,), said = sampled(teacher, [GrainCounts()], 1, tmp_path, steps, {"grain-counts"})
    assert (missing, said) == ({}, [])
    (one,), said = sampled(teacher, measures, 1, tmp_path, steps, {"grain-counts"})  # made for what is needed
    assert one.keys() == {"toy", "grain-counts"} and len(said) == steps
    again, said = sampled(teacher, measures, 1, tmp_path, steps, {"grain-counts"})
    assert (again[0].keys(), said) == (one.keys(), [])
    next(tmp_path.rglob("*-grain-counts/0-0.npz")).unlink()
    (left,), said = sampled(teacher, measures, 1, tmp_path, steps, {"grain-counts"})
    assert (left.keys(), said) == ({"toy"}, [])
    (cheap,), said = sampled(teacher, measures, 1, tmp_path, STEPS, {"grain-counts"})
    assert (cheap.keys(), len(said)) == (one.keys(), STEPS)


def test_batches_are_made_once_and_a_longer_set_goes_on(
    teacher: Teacher, extractor: ClassifierFeatures, tmp_path: Path
) -> None:
    first, said = made(teacher, extractor, 16, tmp_path)
    assert said == [1, 2, 3, 4, 5, 6]
    again, silent = made(teacher, extractor, 16, tmp_path)
    assert silent == []
    assert torch.equal(again.features, first.features)
    longer, said = made(teacher, extractor, 20, tmp_path)
    assert said == [7, 8, 9]  # the pace of what is made, not of what is read
    assert longer.n == 20 and torch.equal(longer.features[:16], first.features)
    whole = Statistics.load(next(tmp_path.rglob("statistics-20.npz")))
    assert (whole.n, whole.extractor, whole.about) == (20, "toy", longer.about)
    np.testing.assert_array_equal(whole.sigma, longer.sigma)
    torch.testing.assert_close(whole.features, longer.features, atol=1e-3, rtol=1e-3)  # half precision
    alone, _ = made(teacher, extractor, 20, tmp_path / "other")
    torch.testing.assert_close(alone.features, longer.features)


def archive(payload: bytes) -> bytes:
    """An .npz whose features are these bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("features.npy", payload)
    return buffer.getvalue()


def array(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


UNFINISHED = b"\x93NUMPY\x01\x00" + (17).to_bytes(2, "little") + b"{'descr': ('<f8',"
DAMAGES = {
    "nothing": b"",
    "cut": b"PK\x03\x04",
    "pickle": b"\x80\x04.",
    "header": archive(UNFINISHED),
    "text": archive(array(np.array(["x"] * 8))),
    "fewer": archive(array(np.zeros((7, 16), np.float32))),
}


@pytest.mark.fault(5, "a batch of a baseline in the cache cut, altered, of another kind")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_batch_is_made_anew(
    damage: bytes, teacher: Teacher, extractor: ClassifierFeatures, tmp_path: Path
) -> None:
    first, _ = made(teacher, extractor, 16, tmp_path)
    (path,) = tmp_path.rglob("8-15.npz")
    path.write_bytes(damage)
    again, said = made(teacher, extractor, 16, tmp_path)
    assert said == [4, 5, 6]
    assert torch.equal(again.features, first.features)


@pytest.mark.parametrize("change", ["prediction", "schedule", "autoencoder", "features", "nothing"])
def test_what_the_vectors_depend_on_is_in_their_place(
    change: str, teacher: Teacher, extractor: ClassifierFeatures, tmp_path: Path
) -> None:
    """Only the same images in the same features are read from the cache."""
    first, _ = sampled(teacher, [extractor], 8, tmp_path)
    other, judge = copy.deepcopy(teacher), extractor
    if change == "prediction":
        other.denoiser.prediction = "v_prediction"
    elif change == "schedule":
        other.denoiser.schedule = BetaSchedule.linear(1000, 1e-4, 0.01)
    elif change == "autoencoder":
        other.autoencoder.scale *= 2
    elif change == "features":
        torch.manual_seed(5)
        judge = ClassifierFeatures(ResidualNet(1, 10).eval(), "toy")
    again, said = sampled(other, [judge], 8, tmp_path)
    assert (said == []) == (change == "nothing")
    fresh, _ = sampled(other, [judge], 8, tmp_path / "fresh")
    assert torch.equal(again[0]["toy"], fresh[0]["toy"])
    assert torch.equal(again[0]["toy"], first[0]["toy"]) == (change in ("nothing", "autoencoder"))
