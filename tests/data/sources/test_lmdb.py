"""LSUN's official form, written by lmdb itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gsd_cli.base.errors import GsdError
from gsd_cli.data.decode import decode
from gsd_cli.data.sources.open import open_source
from gsd_cli.data.sources.source import Source
from tests.support.images import NOISE, encoded, grey, make_zip

lmdb = pytest.importorskip("lmdb")


def opened(path: Path | str, split: str = "train", cache: Path = Path("unused")) -> Source:
    return open_source(str(path), split, cache, offline=True)


def make_lmdb(path: Path, values: dict[bytes, bytes], subdir: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        lmdb.open(str(path), map_size=2**24, subdir=subdir) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in values.items():
            transaction.put(key, value)
    return path


VALUES = {
    f"{i:040x}".encode(): encoded(NOISE.point(lambda v, i=i: (v + i) % 256), "webp", lossless=True) for i in range(40)
}


@pytest.mark.parametrize("subdir", [True, False])
def test_values_are_read_in_the_order_of_the_keys(tmp_path: Path, subdir: bool) -> None:
    shuffled = dict(reversed(VALUES.items()))
    path = make_lmdb(tmp_path / ("church_lmdb" if subdir else "church.lmdb"), shuffled, subdir)
    source = opened(path)
    assert list(source.names) == [key.decode() for key in VALUES]
    pixels = [np.asarray(decode(payload)) for payload in source.payloads(range(len(source.names)))]
    assert all(np.array_equal(mine, (np.asarray(NOISE) + i).astype(np.uint8)) for i, mine in enumerate(pixels))
    for start in (1, 39, 40):
        assert [np.asarray(decode(p)).tolist() for p in source.payloads(range(start, len(source.names)))] == [
            p.tolist() for p in pixels[start:]
        ]
    assert source.labels is None


def test_lsun_is_found_by_its_name(tmp_path: Path) -> None:
    make_lmdb(tmp_path / "datasets" / "bedroom_train_lmdb", VALUES)
    make_lmdb(tmp_path / "datasets" / "lsun-church" / "church_outdoor_val_lmdb", {b"k": grey(3)})
    assert len(opened("lsun-bedroom", "train", tmp_path).names) == 40
    assert len(opened("lsun-church", "val", tmp_path).names) == 1


def test_odd_keys_have_names(tmp_path: Path) -> None:
    names = opened(make_lmdb(tmp_path / "a_lmdb", {b"\xff\x00": grey(1), b"plain": grey(2)})).names
    assert sorted(names) == ["\\xff\x00", "plain"]


@pytest.mark.parametrize("keep", [0, 100, 8192, 20_000])
def test_a_file_cut_short_is_an_input_error_not_a_crash(tmp_path: Path, keep: int) -> None:
    path = make_lmdb(tmp_path / "a_lmdb", VALUES)
    data = path / "data.mdb"
    data.write_bytes(data.read_bytes()[:keep])
    with pytest.raises(GsdError) as caught:
        opened(path)
    assert caught.value.code == 3


def test_empty_and_foreign_databases_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "text.mdb").write_text("text")
    zipped = make_zip(tmp_path / "a.zip", {"church_lmdb/data.mdb": b"x"})
    for path in (make_lmdb(tmp_path / "a_lmdb", {}), tmp_path / "text.mdb", zipped):
        with pytest.raises(GsdError) as caught:
            opened(path)
        assert caught.value.code == 3
    assert "unpack" in str(caught.value.hint)


def test_a_value_that_is_no_picture_is_a_bad_picture(tmp_path: Path) -> None:
    good, bad = opened(make_lmdb(tmp_path / "a_lmdb", {b"a": grey(1), b"b": b"text"})).payloads([0, 1])
    decode(good)
    with pytest.raises((ValueError, OSError)):
        decode(bad)
