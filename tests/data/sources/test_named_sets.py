"""The named data sets, on files of exactly their formats."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gsd_cli.base.errors import GsdError
from gsd_cli.data.sources import cifar10 as cifar
from gsd_cli.data.sources import idx as idx_source
from gsd_cli.data.sources.idx import FASHION_CLASSES
from gsd_cli.data.sources.manual import ORIGINS
from gsd_cli.data.sources.open import open_source
from gsd_cli.data.sources.source import Source
from tests.support.images import cifar_batch, grey, idx, make_tar, make_zip, put


def opened(spec: Path | str, split: str = "train", cache: Path = Path("unused")) -> Source:
    return open_source(str(spec), split, cache, offline=True)


def pixels(source: Source, start: int = 0) -> list[list]:
    return [np.asarray(payload).tolist() for payload in source.payloads(range(start, len(source.names)))]


# -- Fashion-MNIST ------------------------------------------------------------------------------


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fashion"
    folder.mkdir()
    for stem, n in (("train", 4), ("t10k", 2)):
        images = np.arange(n * 6, dtype=np.uint8).reshape(n, 2, 3)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(n, dtype=np.uint8)[::-1].copy()))
    monkeypatch.setattr(idx_source, "DEBIAN_FASHION", folder)
    return folder


@pytest.mark.parametrize(("split", "n"), [("train", 4), ("test", 2)])
def test_idx_files_are_read(fashion: Path, split: str, n: int) -> None:
    source = opened("fashion-mnist", split)
    assert (source.name, source.licence) == (f"fashion-mnist ({split})", "MIT")
    assert source.labels is not None
    assert source.labels.classes == FASHION_CLASSES
    assert source.labels.values == list(range(n))[::-1]
    assert pixels(source) == np.arange(n * 6).reshape(n, 2, 3).tolist()
    assert pixels(source, 1) == pixels(source)[1:]


def test_a_folder_of_idx_files_is_read_by_its_path(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = fashion.rename(fashion.with_name("mine"))
    source = opened(mine, "test")
    assert source.name == "mine (test)"
    assert len(source.names) == 2
    assert source.licence is None


@pytest.mark.parametrize("name", ["fashion-mnist", "celeba-hq", "lsun-church"])
def test_unknown_split_is_a_usage_error(fashion: Path, name: str) -> None:
    with pytest.raises(GsdError) as caught:
        opened(name, "validation")
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_offline_without_the_files_is_a_network_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(idx_source, "DEBIAN_FASHION", tmp_path / "nowhere")
    with pytest.raises(GsdError) as caught:
        opened(name, cache=tmp_path)
    assert caught.value.code == 4
    assert "path" in str(caught.value.hint)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"no gzip", gzip.compress(b"\0\0"), idx(np.zeros((4, 2, 3), np.uint8))[:-12],
        gzip.compress(gzip.decompress(idx(np.zeros((4, 2, 3), np.uint8)))[:-3]),
        gzip.compress(gzip.decompress(idx(np.zeros((4, 2, 3), np.uint8))).replace(b"\x08", b"\x0d", 1)),
        idx(np.zeros((5, 2, 3), np.uint8)), idx(np.zeros(24, np.uint8)),
    ],
    ids=["empty", "text", "short header", "cut gzip", "too few pixels", "floats", "more than labels", "flat"],
)  # fmt: skip
def test_a_damaged_idx_file_is_an_input_error(fashion: Path, payload: bytes) -> None:
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(payload)
    with pytest.raises(GsdError) as caught:
        opened("fashion-mnist")
    assert caught.value.code == 3


def test_known_names_win_over_folders(fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("fashion-mnist")
    assert len(opened("fashion-mnist").names) == 4


# -- CIFAR-10 -----------------------------------------------------------------------------------

IMAGES = np.random.default_rng(3).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = [(7 * i) % 10 for i in range(12)]


def cifar_files() -> dict[str, bytes]:
    files = {f"data_batch_{i + 1}": cifar_batch(IMAGES[2 * i : 2 * i + 2], LABELS[2 * i : 2 * i + 2]) for i in range(5)}
    return {**files, "test_batch": cifar_batch(IMAGES[10:], LABELS[10:]), "readme.html": b"<p>"}


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    members = {f"{cifar.FOLDER}/{name}": payload for name, payload in cifar_files().items()}
    return make_tar(tmp_path / cifar.TARBALL, members, "w:gz")


def test_the_made_batches_are_what_pickle_reads_from_the_real_ones() -> None:
    batch = pickle.loads(cifar_batch(IMAGES, LABELS), encoding="latin1")  # as torchvision reads them
    assert batch["labels"] == LABELS
    assert batch["data"].shape == (12, 3072)
    assert np.array_equal(batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), IMAGES)


@pytest.mark.parametrize("form", ["tarball", "folder", "parent"])
def test_cifar_is_read_from_its_own_files(tarball: Path, tmp_path: Path, form: str) -> None:
    path = tarball
    if form != "tarball":
        with tarfile.open(tarball) as archive:
            archive.extractall(tmp_path / "out", filter="data")
        path = tmp_path / "out" / (cifar.FOLDER if form == "folder" else "")
    train, test = opened(path), opened(path, "test")
    assert (train.name, test.name) == ("cifar10 (train)", "cifar10 (test)")
    assert train.labels is not None
    assert train.labels.classes == cifar.CLASSES
    assert train.labels.values == LABELS[:10]
    assert test.labels is not None
    assert test.labels.values == LABELS[10:]
    assert pixels(train) == IMAGES[:10].tolist()
    assert pixels(train, 3) == IMAGES[3:10].tolist()
    assert pixels(test) == IMAGES[10:].tolist()
    assert bool(train.warnings) == (form == "tarball")  # its sha256 is not the official one


def test_cifar_comes_from_the_cache_when_its_hash_fits(tarball: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tarball.parent
    (cache / "datasets").mkdir()
    tarball.rename(cache / "datasets" / cifar.TARBALL)
    with pytest.raises(GsdError, match="sha256") as caught:
        opened("cifar10", cache=cache)
    assert caught.value.code == 3
    digest = hashlib.sha256((cache / "datasets" / cifar.TARBALL).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar, "SHA256", digest)
    source = opened("cifar10", cache=cache)
    assert len(source.names) == 10
    assert source.facts == {"source_sha256": digest}
    assert source.warnings == ()


class Payload:
    """Pickled, it would create a file when loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.fault(6, "pickles as CIFAR-10's batches")
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "proof"
    hostile = pickle.dumps({"data": Payload(proof), "labels": [1]}, protocol)
    (tmp_path / "data_batch_1").write_bytes(hostile)
    with pytest.raises(GsdError, match="system") as caught:
        opened(tmp_path)
    assert caught.value.code == 3
    assert not proof.exists()
    pickle.loads(hostile)  # it is hostile
    assert proof.exists()


GOOD = cifar_batch(IMAGES[:1], [3])
DATA = GOOD.index(b"cnumpy")


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"text", GOOD[:-1], GOOD[:2000], cifar_batch(IMAGES[:1], [12]), cifar_batch(IMAGES[:2], [1]),
        pickle.dumps({b"labels": [1]}, 2), pickle.dumps([1, 2], 2), GOOD.replace(b"U\x02u1", b"U\x02f8"),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}, 4),
        GOOD.replace(b"cnumpy\nndarray", b"cnumpy\nload"), GOOD.replace(b"_reconstruct", b"_set_typeDict"),
        GOOD.replace(b"cnumpy\ndtype\n", b"cbuiltins\neval\n"),
        b"\x80\x02r\xff\xff\xff\x7f.", b"\x80\x04\x8e" + b"\xff" * 8, b"(" * 100_000 + b".",
    ],
)  # fmt: skip
def test_what_is_no_batch_is_an_input_error(payload: bytes) -> None:
    with pytest.raises(GsdError) as caught:
        cifar.read_batch("data_batch_1", payload)
    assert caught.value.code == 3


def test_a_flipped_byte_anywhere_never_runs_anything() -> None:
    random = np.random.default_rng(0)
    head = [*range(300), *range(len(GOOD) - 60, len(GOOD))]  # the opcodes; the rest is pixels
    for place in head:
        damaged = bytearray(GOOD)
        damaged[place] = random.integers(256)
        try:
            images, labels = cifar.read_batch("data_batch_1", bytes(damaged))
        except GsdError:
            continue
        assert images.shape == (len(labels), 32, 32, 3)


# -- downloading --------------------------------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    """Sends `payload`, or what `fault` makes of it."""

    payload, fault = b"", "none"

    def do_HEAD(self) -> None:
        self.send_response(404 if self.fault == "missing" else 200)
        self.send_header("Content-Length", str(len(self.payload)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if self.fault != "missing":
            self.wfile.write(self.payload[: len(self.payload) // 2] if self.fault == "cut" else self.payload)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tarball: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    handler = type("Handler", (Server,), {"payload": tarball.read_bytes()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=functools.partial(listening.serve_forever, 0.02), daemon=True).start()
        monkeypatch.setattr(cifar, "URL", f"http://127.0.0.1:{listening.server_port}/{cifar.TARBALL}")
        monkeypatch.setattr(cifar, "SHA256", hashlib.sha256(handler.payload).hexdigest())
        yield handler
        listening.shutdown()


@pytest.mark.parametrize("fault", ["none", "missing", "cut", "altered", "unreachable"])
@pytest.mark.fault(20, "CIFAR-10 cut, altered, missing")
def test_cifar_is_fetched_whole_or_not_at_all(
    server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    cache, payload, url = tmp_path / "cache", server.payload, cifar.URL
    server.fault = fault
    if fault == "altered":
        server.payload = payload[:-1] + b"x"
    if fault == "unreachable":
        monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:1/x")
    if fault != "none":
        with pytest.raises(GsdError) as caught:
            open_source("cifar10", "train", cache, offline=False)
        assert caught.value.code == 4
        assert [p for p in cache.rglob("*") if p.is_file()] == []
    server.fault, server.payload = "none", payload
    monkeypatch.setattr(cifar, "URL", url)
    assert len(open_source("cifar10", "train", cache, offline=False).names) == 10
    server.fault = "missing"
    assert len(open_source("cifar10", "train", cache, offline=False).names) == 10  # from the cache


# -- sets that people bring ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ORIGINS)
def test_what_may_not_be_fetched_says_where_to_put_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(GsdError, match=name) as caught:
        opened(name, cache=tmp_path)
    assert caught.value.code == 3
    assert str(tmp_path / "datasets") in str(caught.value.hint)


def test_what_was_brought_is_found(tmp_path: Path) -> None:
    put(tmp_path / "datasets" / "celeba-hq" / "1.png", 5)
    assert list(opened("celeba-hq", cache=tmp_path).names) == ["1.png"]
    make_zip(tmp_path / "datasets" / "church_outdoor_val_lmdb.zip", {"a.png": grey(1)})
    assert list(opened("lsun-church", "val", tmp_path).names) == ["a.png"]
    with pytest.raises(GsdError):
        opened("lsun-church", "train", tmp_path)
