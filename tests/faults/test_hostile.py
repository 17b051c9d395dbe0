"""Files made to harm: nothing in them is run, nothing is written outside, no memory is taken on their word."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.faults.conftest import contents, require_refusal
from tests.support.shell import DISTILL, Shell

WEIGHTS = "diffusion_pytorch_model"


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, target: Path):
        self.target = str(target)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.target,)


def pickled(shell: Shell) -> bytes:
    return pickle.dumps(Payload(shell.folder / "ran"))


ROADS: list[tuple[str, tuple[str, ...]]] = [
    ("x.pkl", ("distill", "--teacher", "x.pkl")),
    ("x.ckpt", ("distill", "--teacher", "x.ckpt")),
    ("x.pt", ("distill", "--teacher", "x.pt")),
    (f"toy-teacher/{WEIGHTS}.safetensors", (*DISTILL, "--steps", "1", "-o", "new")),
    (f"run/generator/{WEIGHTS}.safetensors", ("sample", "--model", "run")),
    ("run/generator/config.json", ("sample", "--model", "run")),
    ("run/generator/gsd.json", ("sample", "--model", "run")),
    ("toy-features/features.safetensors", (*DISTILL, "--steps", "1", "-o", "new")),
    ("toy.toy.npz", ("bench", "--model", "run", "--features", "toy-features", "--stats", "toy.toy.npz", "-N", "8")),
    ("toy.zip", (*DISTILL, "--steps", "1", "-o", "new")),
    ("x.png", ("edit", "x.png", "--model", "run", "--direction", "pc0")),
    ("x.safetensors", ("edit", "x.safetensors", "--model", "run", "--direction", "pc0")),
    ("x.zip", ("prepare", "x.zip", "-o", "new.zip")),
    ("x.tar", ("prepare", "x.tar", "-o", "new.zip")),
    ("x.mdb", ("prepare", "x.mdb", "-o", "new.zip")),
    ("train-images-idx3-ubyte.gz", ("prepare", "train-images-idx3-ubyte.gz", "-o", "new.zip")),
    ("labels.csv", ("prepare", "toy.zip", "--labels", "labels.csv", "-o", "new.zip")),
    ("labels.json", ("prepare", "toy.zip", "--labels", "labels.json", "-o", "new.zip")),
]


@pytest.mark.fault(6, "a pickle under every name that a command reads")
@pytest.mark.parametrize(("name", "arguments"), ROADS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_pickle_is_refused_and_not_run(name: str, arguments: tuple[str, ...], desk: Shell) -> None:
    (desk.folder / name).write_bytes(pickled(desk))
    require_refusal(desk.gsd(*arguments), 3)
    assert not (desk.folder / "ran").exists()
    pickle.loads((desk.folder / name).read_bytes())
    assert (desk.folder / "ran").exists()  # it is what it claims to be


@pytest.mark.fault(6, "a pickle in a .bin, in an .npz and in a checkpoint")
def test_pickles_inside_containers(desk: Shell) -> None:
    np.savez(desk.folder / "stats.npz", mu=np.array([Payload(desk.folder / "ran")]), sigma=np.eye(1))
    stats = ("--features", "toy-features", "--stats", "stats.npz")
    require_refusal(desk.gsd("bench", "--model", "run", *stats, "-N", "8"), 3, "stats.npz")
    for checkpoint in (desk.folder / "run" / "checkpoints").glob("*"):
        (checkpoint / "tensors.safetensors").write_bytes(pickled(desk))
    require_refusal(desk.gsd(*DISTILL, "--steps", "13", "-o", "run"), 3, "intact")
    teacher = desk.folder / "toy-teacher"
    (teacher / f"{WEIGHTS}.safetensors").unlink()
    torch.save({"conv_in.weight": Payload(desk.folder / "ran")}, teacher / f"{WEIGHTS}.bin")
    require_refusal(desk.gsd(*DISTILL, "--steps", "1", "-o", "new"), 3, "tensors")
    assert not (desk.folder / "ran").exists()


# -- archives -----------------------------------------------------------------------------------


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (16, 16), 9).save(buffer, "png")
    return buffer.getvalue()


def evil_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", picture())
        for name in ("../up.png", "/abs.png", "a/../../up.png", "c:/windows.png"):
            archive.writestr(name, picture())
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb.png", bytes(80 * 2**20))


def evil_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("good.png", "../up.png", "/abs.png", "good.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture())
            archive.addfile(info, io.BytesIO(picture()))
        for name, kind in (("soft.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("dev.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)


@pytest.mark.fault(12, "an archive with everything that leads out, given to gsd prepare")
@pytest.mark.parametrize(("make", "left_out"), [(evil_zip, 6), (evil_tar, 6)])
def test_archives_lead_nowhere(make: Callable[[Path], None], left_out: int, desk: Shell) -> None:
    inner = Shell(desk.folder / "inner")
    inner.folder.mkdir()
    make(inner.folder / "evil.dat")
    refused = inner.gsd("prepare", "evil.dat", "--size", "16", "-o", "x.zip")
    require_refusal(refused, 3, "leads out", "--skip-bad")
    assert refused.stderr.decode().count("error: ") == left_out
    done = inner.gsd("prepare", "evil.dat", "--size", "16", "-o", "x.zip", "--skip-bad")
    assert done.returncode == 0, done.stderr.decode()
    with zipfile.ZipFile(inner.folder / "x.zip") as archive:
        assert len([name for name in archive.namelist() if name.endswith(".png")]) == 1
    outside = {path.name for path in desk.folder.iterdir()}
    assert "up.png" not in outside and not Path("/abs.png").exists()


def bomb(members: dict[str, bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, payload in members.items():
                archive.writestr(name, payload)

    return make


LARGE = bytes(200 * 2**20)


@pytest.mark.fault(12, "a prepared zip whose image, dataset.json or record is a bomb")
@pytest.mark.parametrize("name", ["00000/img00000000.png", "dataset.json", "gsd.json"])
def test_a_prepared_zip_may_be_a_bomb(name: str, desk: Shell) -> None:
    bomb({"00000/img00000000.png": picture(), name: LARGE})(desk.folder / "toy.zip")
    before = contents(desk.folder)
    running = desk.running(*DISTILL, "--steps", "1", "-o", "new", prepare=partial(allow, 150))
    require_refusal(running.wait(), 3, "toy.zip")
    assert contents(desk.folder) == before


def allow(megabytes: int) -> None:
    """So much more memory for this process than it has now."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 2**20,) * 2)


# -- sizes that lie -----------------------------------------------------------------------------

GIGANTIC = [
    {"block_out_channels": [2**40, 2**40]},
    {"block_out_channels": [2**19, 2**19]},
    {"layers_per_block": 10**9},
    {"layers_per_block": 60},
    {"num_class_embeds": 10**12},
    {"num_class_embeds": 10**6},
    {"sample_size": 10**9},
    {"sample_size": [10**6, 10**6]},
    {"norm_num_groups": 0},
    {"block_out_channels": [8] * 10**5, "down_block_types": ["DownBlock2D"] * 10**5},
    {"attention_head_dim": 10**30},
    {"time_embedding_dim": 10**6},
]


@pytest.mark.fault(10, "config.json of gigantic networks, with little memory")
@pytest.mark.parametrize("changes", GIGANTIC, ids=lambda value: str(value)[:40])
def test_gigantic_configs_are_refused_before_memory_is_taken(changes: dict, desk: Shell) -> None:
    path = desk.folder / "toy-teacher" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    before = contents(desk.folder)
    running = desk.running(*DISTILL, "--steps", "1", "-o", "new", prepare=partial(allow, 400))
    require_refusal(running.wait(30), 3, "toy-teacher")
    assert contents(desk.folder) == before


@pytest.mark.fault(10, "schedules of gigantic or impossible numbers")
@pytest.mark.parametrize(
    "changes",
    [{"num_train_timesteps": 10**12}, {"num_train_timesteps": "many"}, {"num_train_timesteps": 0}, {"beta_end": 2.0},
     {"beta_start": None}, {"trained_betas": [[0.1]]}, {"trained_betas": "x"}, {"beta_start": -1}],
    ids=str,
)  # fmt: skip
def test_impossible_schedules(changes: dict, desk: Shell) -> None:
    path = desk.folder / "toy-teacher" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_betas": None} | changes))
    before = contents(desk.folder)
    running = desk.running(*DISTILL, "--steps", "1", "-o", "new", prepare=partial(allow, 400))
    require_refusal(running.wait(30), 3, "schedule")
    assert contents(desk.folder) == before


def header(shape: str, offsets: str, kind: str = "F32") -> bytes:
    text = f'{{"conv_in.weight":{{"dtype":"{kind}","shape":{shape},"data_offsets":{offsets}}}}}'.encode()
    return struct.pack("<Q", len(text)) + text + bytes(9)


HEADERS = [
    struct.pack("<Q", 2**62) + b"{}",
    struct.pack("<Q", 90 * 2**20) + b"{" + bytes(100),
    struct.pack("<Q", 8) + b"[" * 8,
    header("[1000000,1000000]", "[0,4000000000000]"),
    header("[1]", "[9,13]"),
    header("[2]", "[0,4]"),
    header("[1]", "[0,4]", "F99"),
]


@pytest.mark.fault(5, "safetensors whose header lies")
@pytest.mark.parametrize("content", HEADERS, ids=range(len(HEADERS)))
def test_lying_headers(content: bytes, desk: Shell) -> None:
    for path in (f"run/generator/{WEIGHTS}.safetensors", f"toy-teacher/{WEIGHTS}.safetensors", "x.safetensors"):
        (desk.folder / path).write_bytes(content)
    before = contents(desk.folder)
    for arguments in (
        ("sample", "--model", "run"),
        (*DISTILL, "--steps", "1", "-o", "new"),
        ("interpolate", "x.safetensors", "seed:1", "--model", "fashion"),
    ):
        require_refusal(desk.running(*arguments, prepare=partial(allow, 400)).wait(), 3)
        assert contents(desk.folder) == before


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.fault(11, "PNGs of 200 megapixels and 2^31 pixels a side")
@pytest.mark.parametrize("size", [(20_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_claims_to_be_huge(size: tuple[int, int], desk: Shell) -> None:
    (desk.folder / "pictures").mkdir()
    (desk.folder / "pictures" / "huge.png").write_bytes(huge_png(*size))
    (desk.folder / "pictures" / "good.png").write_bytes(picture())
    before, allowed = contents(desk.folder), partial(allow, 400)
    prepare = ("prepare", "pictures", "--size", "16", "--workers", "1", "-o", "x.zip")
    require_refusal(desk.running(*prepare, prepare=allowed).wait(), 3, "huge.png", "pixels")
    edit = ("edit", "pictures/huge.png", "--model", "run", "--direction", "pc0")
    require_refusal(desk.running(*edit, prepare=allowed).wait(), 3, "huge.png", "pixels")
    added = {name for name in contents(desk.folder) if name not in before}
    assert all(name.startswith(".x.zip.part-") for name in added)  # what --skip-bad would go on from


@pytest.mark.fault(18, "statistics that are a bomb, of another shape, not finite, not an archive")
@pytest.mark.parametrize("kind", ["bomb", "shape", "nan", "npy", "header", "unfinished"])
def test_hostile_statistics(kind: str, desk: Shell) -> None:
    path = desk.folder / "x.npz"
    if kind == "bomb":
        bomb({"mu.npy": LARGE, "sigma.npy": LARGE})(path)
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.eye(3))
    elif kind in ("header", "unfinished"):
        lie = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
        lie = lie if kind == "header" else lie[:50]  # an open bracket: numpy's tokenizer has an error of its own
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(lie) + 1) + lie + b"\n"
        bomb({"mu.npy": array, "sigma.npy": array})(path)
    else:
        value = np.nan if kind == "nan" else 1.0
        np.savez(path, mu=np.full(5, value), sigma=np.full((4, 4), value), extractor="toy", n=9)
    before = contents(desk.folder)
    bench = ("bench", "--model", "run", "--features", "toy-features", "--stats", "x.npz", "-N", "8")
    require_refusal(desk.running(*bench, prepare=partial(allow, 300)).wait(), 3, "x.npz")
    assert contents(desk.folder) == before


# -- paths and code -----------------------------------------------------------------------------


@pytest.mark.fault(12, "dataset.json and shard indices with paths outside")
def test_indices_name_nothing_outside(desk: Shell) -> None:
    with zipfile.ZipFile(desk.folder / "toy.zip", "w") as archive:
        archive.writestr("a.png", picture())
        archive.writestr("dataset.json", json.dumps({"labels": [["../../etc/passwd", 0], ["/etc/passwd", 1]]}))
    require_refusal(desk.gsd(*DISTILL, "--steps", "1", "-o", "new"), 3, "dataset.json")
    listed = [{"url": "/etc/passwd", "nsamples": 1, "filesize": Path("/etc/passwd").stat().st_size}]
    (desk.folder / "out.json").write_text(json.dumps({"shardlist": listed, "gsd": {}}))
    before = contents(desk.folder)
    words = [word if word != "toy.zip" else "out.json" for word in DISTILL]
    require_refusal(desk.gsd(*words, "--steps", "1", "-o", "new"), 3, "out.json")
    assert contents(desk.folder) == before


CODE = "import os; os.mkdir(os.path.join(os.path.dirname(__file__), '..', 'ran'))\n"


@pytest.mark.fault(10, "a teacher with code of its own and a config that names it")
@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "Evil", "auto_map": {"AutoModel": "evil.Evil"}},
        {"_class_name": ["evil", "Evil"]},
        {"_class_name": "UNet2DConditionModel"},
        {"_class_name": "UNet2DModel", "auto_map": {"AutoModel": "evil.Evil"}, "custom_pipeline": "evil.py"},
    ],
    ids=lambda value: str(value["_class_name"]),
)
def test_code_in_a_model_folder_is_never_run(changes: dict, desk: Shell) -> None:
    teacher = desk.folder / "toy-teacher"
    for name in ("evil.py", "__init__.py", "modeling.py", "pipeline.py", "conftest.py", "sitecustomize.py"):
        (teacher / name).write_text(CODE)
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(config | changes))
    index = {"_class_name": ["evil", "Evil"], "unet": ["evil", "Evil"], "_diffusers_version": "0"}
    (teacher / "model_index.json").write_text(json.dumps(index))
    done = desk.gsd(*DISTILL, "--steps", "1", "-o", "new")
    if changes["_class_name"] == "UNet2DModel":
        assert done.returncode == 0, done.stderr.decode()
    else:
        require_refusal(done, 3, "prompts" if changes["_class_name"] == "UNet2DConditionModel" else "is needed")
    assert not (desk.folder / "ran").exists()
