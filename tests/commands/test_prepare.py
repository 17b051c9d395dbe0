"""gsd prepare as a user runs it: bad images, interruptions, workers, shards, labels."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.commands import prepare
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import PrepareOptions
from gsd_cli.options.prepare import resolve_target, resolve_value_range
from tests.support.shell import IMAGES, Shell

N = 1500
ASKED = {"size": 32, "grey": None, "value_range": None, "split": "train", "limit": None, "shards": None, "labels": None,
         "source": "photos"}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images to be interrupted: 1,500 JPEGs of three classes."""
    folder = tmp_path_factory.mktemp("in") / "photos"
    pixels = np.random.default_rng(0).integers(0, 256, (160, 240, 3), dtype=np.uint8)
    for kind in ("a", "b", "c"):
        (folder / kind).mkdir(parents=True)
    for i in range(N):
        Image.fromarray(np.roll(pixels, i, 1)).save(folder / "abc"[i % 3] / f"{i:04d}.jpg", quality=60)
    return folder


SCRIPT = """
import sys
from pathlib import Path
from gsd_cli.data.sources.open import open_source
from gsd_cli.data.build import Preparation, prepare
from gsd_cli.base.signals import StopRequest

if __name__ == "__main__":
    source = open_source(sys.argv[1], "train", Path("cache"), offline=True)
    recipe = Preparation(32, 3, asked=%r)
    prepare(source, Path("x.zip"), recipe, source.labels, False, int(sys.argv[2]), StopRequest(), lambda done: None)
"""


def start_script(shell: Shell, photos: Path, workers: int) -> subprocess.Popen[bytes]:
    """The core of the command, in a separate process."""
    (shell.folder / "script.py").write_text(SCRIPT % ASKED)
    command = [sys.executable, "script.py", str(photos), str(workers)]
    return subprocess.Popen(command, cwd=shell.folder, env=shell.environment())


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of an uninterrupted run with one worker."""
    shell = Shell(tmp_path_factory.mktemp("whole"))
    assert start_script(shell, photos, 1).wait(200) == 0
    return (shell.folder / "x.zip").read_bytes()


def wait_for_work(shell: Shell, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not list(shell.folder.glob(".x.zip.part-*/*.chunk")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.fault(2, "a signal to gsd prepare")
def test_a_stopped_run_resumes_to_the_same_bytes(photos: Path, whole: bytes, shell: Shell) -> None:
    process = shell.start("prepare", str(photos), "-o", "x.zip", "--workers", "2")
    wait_for_work(shell, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert not out
    assert "stopped, state saved" in err.decode()
    assert not (shell.folder / "x.zip").exists()
    done = shell.gsd(*shlex.split(err.decode().split("resume with: ")[1].splitlines()[0])[1:])
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == "x.zip\n"
    assert (shell.folder / "x.zip").read_bytes() == whole
    assert {p.name for p in shell.folder.iterdir()} <= {"x.zip", "home"}


def test_a_killed_run_is_resumed_and_its_workers_end(photos: Path, whole: bytes, shell: Shell) -> None:
    process = start_script(shell, photos, 2)
    wait_for_work(shell, process)
    workers = children(process.pid)
    assert workers
    process.kill()
    process.wait(10)
    end = time.monotonic() + 60
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not (shell.folder / "x.zip").exists()
    assert start_script(shell, photos, 2).wait(200) == 0
    assert (shell.folder / "x.zip").read_bytes() == whole
    assert {p.name for p in shell.folder.iterdir()} == {"x.zip", "script.py"}


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.fault(11, "bad files next to a good one")
def test_every_bad_image_is_named_once_on_its_own_line(shell: Shell) -> None:
    folder = shell.folder / "images"
    folder.mkdir()
    Image.new("L", (40, 40), 7).save(folder / "good.png")
    (folder / "text.png").write_text("text")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    done = shell.gsd("prepare", "images", "-o", "x.zip")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 3
    assert sorted(line.split(": ")[1] for line in lines if line.startswith("error")) == [
        "empty.jpg",
        "loop.png",
        "text.png",
    ]
    assert "hint: --skip-bad leaves them out" in lines
    assert not (shell.folder / "x.zip").exists()
    done = shell.gsd("prepare", "images", "-o", "x.zip", "--skip-bad", "--json")
    assert done.returncode == 0, done.stderr.decode()
    data = json.loads(done.stdout)["metrics"]["data"]
    assert (data["images"], data["left_out"], data["channels"]) == (1, 3, 1)
    assert done.stderr.decode().count("skipped") == 3


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch, source: object = IMAGES, **options: object) -> Result:
    monkeypatch.chdir(folder)
    given = {"source": str(source), "size": 16, "quiet": True, "cache_dir": folder / "cache", **options}
    chosen = PrepareOptions.model_validate(given)
    return prepare.run(chosen, Session.start(chosen, Console(quiet=True)))


def test_shards_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = zipfile.ZipFile(IMAGES).namelist()
    (tmp_path / "kinds.csv").write_text("name,kind\n" + "".join(f"{n},{n.split('/')[0]}\n" for n in names))
    result = prepared(tmp_path, monkeypatch, labels=Path("kinds.csv"), shards=3, output=Path("toy"))
    assert result.outputs == ["toy.json"]
    assert len(list(tmp_path.glob("toy-*.tar"))) == 3
    data = ImageArchive(tmp_path / "toy.json")
    assert (data.record["images"], len(data.record["classes"]), data.shape) == (100, 10, (1, 16, 16))
    assert result.metrics["data"] == {**data.record, "classes": tuple(data.record["classes"]), "attributes": ()}
    assert data.labels is not None
    assert [data.record["classes"][k] for k in data.labels] == [n.split("/")[0] for n in sorted(names)]


def test_the_same_command_again_does_nothing_and_other_options_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path, monkeypatch, output=Path("x.zip"))
    before = (tmp_path / "x.zip").stat()
    prepared(tmp_path, monkeypatch, output=Path("x.zip"))
    with pytest.raises(UsageError, match=r"--size 16, now 8, --limit None, now 7"):
        prepared(tmp_path, monkeypatch, output=Path("x.zip"), size=8, limit=7)
    after = (tmp_path / "x.zip").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    prepared(tmp_path, monkeypatch, output=Path("x.zip"), size=8, limit=7, force=True)
    assert len(ImageArchive(tmp_path / "x.zip")) == 7


@pytest.mark.parametrize("output", [None, Path("toy.zip"), Path("link.zip")])
def test_the_source_itself_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Path | None
) -> None:
    (tmp_path / "toy.zip").write_bytes(IMAGES.read_bytes())
    (tmp_path / "link.zip").symlink_to("toy.zip")
    with pytest.raises(UsageError, match="the source itself"):
        prepared(tmp_path, monkeypatch, "toy.zip", output=output, force=True)
    assert (tmp_path / "toy.zip").read_bytes() == IMAGES.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["cifar10", "--offline"], 4, "cifar10"),
        (["hf:someone/pets", "--offline"], 4, "someone/pets"),
        (["celeba-hq"], 3, "datasets/celeba-hq"),
        (["lsun-bedroom", "--split", "test"], 2, "train or val"),
        ([str(IMAGES), "--labels", "nothing.csv", "-o", "x.zip"], 3, "nothing.csv"),
        ([str(IMAGES), "-o", "x.json"], 2, "--shards"),
        ([str(IMAGES), "-o", "x.tar"], 2, "--shards"),
        ([str(IMAGES), "-o", "x.npz"], 2, "-o x.zip"),
        ([str(IMAGES), "-o", "-"], 2, "not written to a stream"),
        ([str(IMAGES), "-o", "/dev/null"], 2, "not written to a stream"),
        ([str(IMAGES), "-o", "out/"], 2, "out/ is a folder, a file is needed: out/DATA.zip"),
        ([str(IMAGES), "-o", "home"], 8, "home is a folder"),
        ([str(IMAGES), "--split", "test"], 2, "no split 'test'"),
        ([str(IMAGES), "-o", "x.zip", "--conditional"], 2, "--fit-teacher"),
        ([str(IMAGES), "--shards", "0", "--workers", "0"], 2, "--workers"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_missing_or_wrong(arguments: list[str], code: int, word: str, shell: Shell) -> None:
    (shell.folder / "home").mkdir(exist_ok=True)
    done = shell.gsd("prepare", *arguments)
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert word in text
    assert "Traceback" not in text
    assert not list(shell.folder.glob("*.zip")) and not (shell.folder / "-").exists()


@pytest.mark.parametrize(
    ("output", "written"), [("x", "x.zip"), ("x.v2", "x.v2.zip"), ("x.ZIP", "x.ZIP"), ("out/x.zip", "out/x.zip")]
)
def test_a_data_set_has_the_suffix_of_its_form(output: str, written: str) -> None:
    assert resolve_target(PrepareOptions(source="y", output=Path(output))) == Path(written)
    expected = Path(written.removesuffix(".zip")).with_suffix(".json") if output != "x.v2" else Path("x.v2.json")
    assert resolve_target(PrepareOptions(source="y", output=Path(output), shards=2)) == expected


LABELS = {
    "absent": "name,kind\n0.png,cat\n1.png,dog\n3.png,cat\n",
    "empty": "name,kind\n0.png,cat\n1.png,dog\n2.png,\n3.png,cat\n",
}


@pytest.mark.parametrize("name", LABELS)
def test_images_without_a_label_are_left_out_if_the_user_says_so(shell: Shell, name: str) -> None:
    (shell.folder / "in").mkdir()
    for i in range(4):
        Image.new("L", (8, 8), 50 * i).save(shell.folder / "in" / f"{i}.png")
    (shell.folder / "l.csv").write_text(LABELS[name])
    arguments = ("prepare", "in", "--labels", "l.csv", "--size", "8", "-o", "x.zip")
    refused = shell.gsd(*arguments)
    assert refused.returncode == 3
    assert "2.png" in refused.stderr.decode() and "hint: --skip-bad" in refused.stderr.decode()
    done = shell.gsd(*arguments, "--skip-bad")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().count("skipped 1 image without a label in l.csv: 2.png") == 1
    data = ImageArchive(shell.folder / "x.zip")
    assert data.labels is not None
    assert (data.labels.tolist(), data.record["images"], data.record["left_out"]) == ([0, 1, 0], 3, 1)
    assert data.uint8(torch.arange(3))[:, 0, 0, 0].tolist() == [0, 50, 150]


def test_what_the_range_does_to_images_is_said(shell: Shell) -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    hot = ramp.copy()
    hot[3, 3] = 1e4
    for folder, images in {"hot": [ramp, hot], "scales": [ramp, ramp * 255], "gone": [ramp, ramp * np.nan]}.items():
        (shell.folder / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(shell.folder / folder / f"{i}.tif")

    def said(folder: str, code: int = 0) -> str:
        done = shell.gsd("prepare", folder, "--size", "16", "-o", f"{folder}.zip")
        assert done.returncode == code, done.stderr.decode()
        return done.stderr.decode()

    assert "warning: 1 of 2 images has floats outside 0 to 1 (1.tif)" in said("hot")
    assert len(np.unique(ImageArchive(shell.folder / "hot.zip").uint8(torch.tensor([1])))) > 200
    assert "warning: 1 of 2 images uses less than an eighth of the greys (1 nearly one)" in said("scales")
    assert "error: 1.tif: none of its values is finite" in said("gone", 3)


@pytest.mark.fault(4, "a file-size limit on gsd prepare")
def test_a_full_disk_is_exit_8_and_leaves_no_data_set(shell: Shell) -> None:
    limited = "ulimit -f 60; trap '' XFSZ; gsd prepare"  # files of 60 KiB at most
    done = shell.sh(f"{limited} {IMAGES} --size 64 -o x.zip --workers 2")
    assert done.returncode == 8, done.stderr.decode()
    assert not (shell.folder / "x.zip").exists()


@pytest.mark.parametrize(("given", "found"), [("-1:1", (-1, 1)), ("0:4095", (0, 4095)), ("1e-3:2.5e2", (1e-3, 250))])
def test_a_range_of_values_has_two_numbers(given: str, found: tuple[float, float]) -> None:
    assert resolve_value_range(PrepareOptions(source="x", value_range=given)) == found
    low, high = given.split(":")
    for wrong in (f"{high}:{low}", f"{low}:{low}", "1..2:3"):
        with pytest.raises(UsageError, match="--value-range"):
            resolve_value_range(PrepareOptions(source="x", value_range=wrong))
