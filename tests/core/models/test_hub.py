"""The hub's own client against a hub on loopback, in processes of their own: it reads its settings at import."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gsd_cli.catalogue.diffusers_layout import find_weights
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.fingerprint import weights_fingerprint
from tests.support import teachers
from tests.support.hub import COMMIT, Hub, serve
from tests.support.shell import Shell

NAME = "someone/toy"
FETCH = """
import json, sys
from gsd_cli.core.models.hub import is_cached, fetch
from gsd_cli.base.errors import GsdError
seen = []
try:
    folder, commit = fetch(
        sys.argv[1], offline="offline" in sys.argv, on_bytes=lambda done, total: seen.append([done, total])
    )
    print(json.dumps({"folder": str(folder), "commit": commit, "cached": is_cached(sys.argv[1]), "bytes": seen[-1:]}))
except GsdError as error:
    print(json.dumps({"code": error.code, "message": error.message, "hint": error.hint}))
"""


@pytest.fixture
def big_teacher(toy_teacher_folder: Path, tmp_path: Path) -> Path:
    """The toy teacher with weights of 25 MB: the client writes 10 MB at a time."""
    folder = tmp_path / "served"
    folder.mkdir()
    for path in toy_teacher_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + bytes(25_000_000))
    return folder


def fetch(shell: Shell, hub: Hub | None, *arguments: str) -> dict:
    endpoint = hub.url if hub is not None else "http://127.0.0.1:9"
    environment = shell.environment() | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, *arguments], env=environment, cwd=shell.folder, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def weights(found: dict) -> Path:
    return Path(found["folder"]) / "diffusion_pytorch_model.safetensors"


def test_a_download_is_kept_and_used_offline(shell: Shell, toy_teacher_folder: Path) -> None:
    with serve({NAME: toy_teacher_folder}) as hub:
        found = fetch(shell, hub, NAME)
    size = (toy_teacher_folder / "diffusion_pytorch_model.safetensors").stat().st_size
    assert found["commit"] == COMMIT
    assert found["cached"]
    assert found["bytes"][0][0] >= size
    assert fetch(shell, None, NAME, "offline")["folder"] == found["folder"]
    # the server is gone: the cache serves
    assert fetch(shell, None, NAME)["folder"] == found["folder"]


@pytest.mark.parametrize(
    "saved", [{"variant": "fp16"}, {"max_shard_size": "10KB"}, {"variant": "fp16", "max_shard_size": "10KB"}], ids=str
)
def test_weights_in_pieces_or_only_a_variant_are_fetched(
    saved: dict[str, str], shell: Shell, toy_teacher: Denoiser, toy_teacher_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    toy_teacher.net.save_pretrained(folder, **saved)
    shutil.copy(toy_teacher_folder / "scheduler_config.json", folder)
    with serve({NAME: folder}) as hub:
        found = fetch(shell, hub, NAME)
    assert found["cached"]
    assert fetch(shell, None, NAME, "offline")["folder"] == found["folder"]
    expected, there = find_weights(folder), find_weights(Path(found["folder"]))
    assert expected is not None and there is not None
    assert [path.name for path in there.files] == [path.name for path in expected.files]
    assert weights_fingerprint(Path(found["folder"])) == weights_fingerprint(folder)


def test_text_encoders_are_fetched_without_the_network(shell: Shell) -> None:
    """`gsd prepare PROMPTS.txt --teacher T`: the weights of a distillation are far larger than it needs."""
    pytest.importorskip("transformers")
    folder = teachers.with_text_encoders(shell.folder / "served", "FLUX")
    (folder / "transformer-in-one-file.safetensors").write_bytes(b"as the hub has it for other programs")
    (shell.folder / "prompts.txt").write_text("a cat\ntwo dogs\n")
    with serve({NAME: folder}) as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        done = shell.gsd("prepare", "prompts.txt", "--teacher", NAME, env=online)
        assert done.returncode == 0, done.stderr.decode()
        asked = {path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path}
        asked = {path.partition(COMMIT)[2] for path in asked}
        encoders = {f"/{path.relative_to(folder)}" for path in folder.glob("t*_*/*.safetensors")}
        assert {path for path in asked if path.endswith(".safetensors")} == encoders != set()
        assert {"/transformer/config.json", "/scheduler/scheduler_config.json"} <= asked
        hub.requests.clear()
        fetch(shell, hub, NAME)
        asked = {path.partition(COMMIT)[2] for method, path, _ in hub.requests if method == "GET"}
        networks = {f"/{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "vae")}
        assert {path for path in asked if path.endswith(".safetensors")} == networks


@pytest.mark.fault(20, "a connection cut at 15 MB")
def test_a_cut_connection_goes_on_where_it_stopped(shell: Shell, big_teacher: Path) -> None:
    with serve({NAME: big_teacher}) as hub:
        hub.cut_after = 15_000_000
        found = fetch(shell, hub, NAME)
        ranges = [r for method, path, r in hub.requests if method == "GET" and path.endswith("safetensors")]
    assert weights(found).read_bytes() == (big_teacher / "diffusion_pytorch_model.safetensors").read_bytes()
    assert len(ranges) == 2
    assert ranges[1] is not None and int(ranges[1].removeprefix("bytes=").split("-")[0]) > 0


@pytest.mark.fault(20, "a byte altered on the way")
def test_damage_on_the_way_is_found_and_the_next_try_works(shell: Shell, toy_teacher_folder: Path) -> None:
    with serve({NAME: toy_teacher_folder}) as hub:
        hub.damage = True
        failed = fetch(shell, hub, NAME)
        assert failed["code"] == 4
        assert "damaged" in failed["message"]
        hub.damage = False
        found = fetch(shell, hub, NAME)
    assert weights(found).read_bytes() == (toy_teacher_folder / "diffusion_pytorch_model.safetensors").read_bytes()


def test_only_a_bin_is_fetched_when_there_is_nothing_safer(shell: Shell, big_teacher: Path) -> None:
    (big_teacher / "diffusion_pytorch_model.safetensors").rename(big_teacher / "diffusion_pytorch_model.bin")
    (big_teacher / "training_args.bin").write_bytes(b"a pickle nobody asked for")
    with serve({NAME: big_teacher}) as hub:
        folder = Path(fetch(shell, hub, NAME)["folder"])
    assert (folder / "diffusion_pytorch_model.bin").exists()
    assert not (folder / "training_args.bin").exists()


@pytest.mark.fault(10, "unknown, gated, offline and unreachable hub models")
@pytest.mark.fault(20, "404, 403, no server")
def test_what_the_hub_refuses_is_said(shell: Shell, toy_teacher_folder: Path) -> None:
    with serve({NAME: toy_teacher_folder}) as hub:
        hub.gated.add("someone/secret")
        missing = fetch(shell, hub, "someone/nothing")
        gated = fetch(shell, hub, "someone/secret")
    offline = fetch(shell, None, NAME, "offline")
    unreachable = fetch(shell, None, NAME)
    assert [e["code"] for e in (missing, gated, offline, unreachable)] == [4, 4, 4, 4]
    assert "no such model" in missing["message"]
    assert "granted" in gated["message"] and "HF_TOKEN" in gated["hint"]
    assert "--offline" in offline["hint"]
    assert "cannot be reached" in unreachable["message"]
