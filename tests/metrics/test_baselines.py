"""Samples of the teacher's own samplers: kept by batches, made once, announced as they are made."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from gsd_cli.core.classifier import FeatureNet
from gsd_cli.core.samplers import parse_sampler
from gsd_cli.core.teachers import Teacher, load_teacher
from gsd_cli.metrics.baselines import sampled_statistics
from gsd_cli.metrics.features import ClassifierFeatures
from gsd_cli.metrics.statistics import Statistics

BATCH, STEPS = 8, 3


@pytest.fixture(scope="module")
def teacher(toy_teacher_folder: Path) -> Teacher:
    return load_teacher(str(toy_teacher_folder))


@pytest.fixture(scope="module")
def extractor() -> ClassifierFeatures:
    torch.manual_seed(0)
    return ClassifierFeatures(FeatureNet(1, 10), "toy")


def made(teacher: Teacher, extractor: ClassifierFeatures, n: int, cache: Path) -> tuple[Statistics, list[int]]:
    """Statistics of n seeds, and the counts of calls that were announced."""
    said: list[int] = []
    sampler = parse_sampler(f"ddim-{STEPS}")
    found = sampled_statistics(
        teacher, sampler, extractor, n, cache, torch.device("cpu"), BATCH, lambda done, _: said.append(done)
    )
    return found, said


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
