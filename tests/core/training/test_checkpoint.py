from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.base.atomic import PREFIX
from gsd_cli.base.errors import GsdError
from gsd_cli.core.training.checkpoint import (
    MANIFEST,
    STATE,
    TENSORS,
    CheckpointStore,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
)
from tests.support.damage import cut, empty, flip


def tensors(step: int) -> dict[str, Tensor]:
    return {"a/weight": torch.full((3, 2), float(step)), "norms": torch.tensor([step, 0.1], dtype=torch.float64)}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(10, tensors(10), {"skipped": 1, "seconds": 2.5})
    store.save(20, tensors(20), {"skipped": 2, "seconds": 5.0})
    return store


def test_round_trip(store: CheckpointStore) -> None:
    checkpoint, damaged = store.latest()
    assert damaged == []
    assert checkpoint is not None
    assert checkpoint.step == 20
    assert checkpoint.state == {"skipped": 2, "seconds": 5.0}
    assert checkpoint.tensors.keys() == tensors(20).keys()
    for key, value in tensors(20).items():
        assert checkpoint.tensors[key].dtype == value.dtype
        assert torch.equal(checkpoint.tensors[key], value)


def test_an_empty_store_is_no_error(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "nowhere").latest() == (None, [])


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    store = CheckpointStore(tmp_path)
    store.save(1, {"all": base, "part": base[2:4], "turned": base.reshape(2, 3).T}, {})
    saved = store.latest()[0].tensors
    assert saved["part"].tolist() == [2, 3]
    assert saved["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    store = CheckpointStore(tmp_path, keep)
    for step in (1, 2, 9, 10, 100):
        store.save(step, tensors(step), {})
    kept = sorted(int(p.name.removeprefix("step-")) for p in tmp_path.glob("step-*"))
    assert kept == [1, 2, 9, 10, 100][-keep:]
    assert [p for p in tmp_path.iterdir() if not p.name.startswith("step-")] == []


def test_saving_a_step_again_replaces_it(store: CheckpointStore) -> None:
    store.save(20, tensors(21), {"skipped": 0})
    checkpoint, _ = store.latest()
    assert checkpoint.tensors["a/weight"][0, 0] == 21
    assert len(list(store.folder.iterdir())) == 2


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
@pytest.mark.fault(5, "a file of a checkpoint flipped, cut, emptied or removed")
def test_a_damaged_checkpoint_is_named_and_the_older_one_used(store: CheckpointStore, damage, name: str) -> None:
    newest = store.folder / "step-00000020"
    damage(newest / name)
    checkpoint, damaged = store.latest()
    assert damaged == [newest]
    assert checkpoint.step == 10
    assert torch.equal(checkpoint.tensors["a/weight"], tensors(10)["a/weight"])


@pytest.mark.parametrize("manifest", ["null", "[]", "{}", '{"tensors.safetensors": 3}', "\udcff"])
@pytest.mark.fault(5, "manifests of another kind")
def test_a_manifest_of_another_kind_is_damage(store: CheckpointStore, manifest: str) -> None:
    (store.folder / "step-00000020" / MANIFEST).write_bytes(manifest.encode("utf-8", "surrogateescape"))
    assert store.latest()[0].step == 10


@pytest.mark.fault(5, "every checkpoint altered")
def test_none_intact_is_an_input_error(store: CheckpointStore) -> None:
    for path in store.folder.glob("step-*"):
        flip(path / TENSORS)
    with pytest.raises(GsdError, match="intact") as caught:
        store.latest()
    assert caught.value.code == 3
    assert "--no-resume" in caught.value.hint
    store.clear()
    assert store.latest() == (None, [])


def test_a_damaged_newer_checkpoint_does_not_crowd_out_good_ones(store: CheckpointStore) -> None:
    flip(store.folder / "step-00000020" / TENSORS)
    for step in (12, 14, 16):  # the run went on from step 10
        store.save(step, tensors(step), {})
    flip(store.folder / "step-00000016" / TENSORS)
    assert store.latest()[0].step == 14


@pytest.mark.fault(1, "leftovers of a save")
def test_leftovers_are_swept(store: CheckpointStore) -> None:
    shutil.copytree(store.folder / "step-00000020", store.folder / f"{PREFIX}abc")
    (store.folder / f"{PREFIX}file").write_text("x")
    assert store.latest()[0].step == 20
    assert sorted(p.name for p in store.folder.iterdir()) == ["step-00000010", "step-00000020"]


def test_nothing_in_a_checkpoint_is_a_pickle(store: CheckpointStore) -> None:
    newest = store.folder / "step-00000020"
    assert sorted(p.name for p in newest.iterdir()) == sorted([TENSORS, STATE, MANIFEST])
    assert json.loads((newest / STATE).read_text())["step"] == 20


def _save_for_ever(folder: str, first: int) -> None:
    store = CheckpointStore(Path(folder))
    for step in range(first, first + 10_000):
        store.save(step, {"big": torch.full((400_000,), float(step)), "small": torch.tensor([step])}, {"note": step})


@pytest.mark.fault(1, "SIGKILL at random moments of saves")
def test_a_killed_save_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    moments = random.Random(0)
    reached, interrupted = 0, 0
    for _ in range(8):
        process = fork.Process(target=_save_for_ever, args=(str(tmp_path), reached + 1))
        process.start()
        limit = time.monotonic() + 20
        while not list(tmp_path.glob(f"step-{reached + 1:08d}")) and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.06))
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        interrupted += bool(list(tmp_path.glob(".tmp-*")))
        before = max(int(p.name.removeprefix("step-")) for p in tmp_path.glob("step-*"))
        checkpoint, damaged = CheckpointStore(tmp_path).latest()
        assert damaged == []
        assert checkpoint.step == before > reached
        assert checkpoint.state == {"note": before}
        assert (checkpoint.tensors["big"] == before).all()
        assert not list(tmp_path.glob(".tmp-*"))
        reached = before
    assert interrupted, "no kill fell into a save: the test proves nothing"


def test_modules_and_adam_round_trip() -> None:
    def trained(steps: int) -> tuple[nn.Module, torch.optim.Adam]:
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        adam = torch.optim.Adam(net.parameters(), 0.01, (0.0, 0.999))
        for k in range(steps):
            adam.zero_grad()
            net(torch.randn(8, 4, generator=torch.Generator().manual_seed(k))).square().sum().backward()
            adam.step()
        return net, adam

    net, adam = trained(3)
    saved = {**module_tensors("net", net), **optimizer_tensors("adam", adam), "network/other": torch.ones(1)}
    saved = {key: value.clone() for key, value in saved.items()}  # as a file would give them back
    fresh, fresh_adam = trained(0)
    load_module("net", fresh, saved)
    load_optimizer("adam", fresh_adam, saved)
    for model, optimizer in ((net, adam), (fresh, fresh_adam)):
        optimizer.zero_grad()
        model(torch.ones(8, 4) * torch.arange(8.0)[:, None]).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), fresh.state_dict().values(), strict=True))
    assert fresh_adam.param_groups[0]["betas"] == (0.0, 0.999)


@pytest.mark.parametrize("fused", [False, True])
def test_moments_keep_their_parameters_strides(fused: bool, tmp_path: Path) -> None:
    """Fused Adam wants parameter, gradient and moments laid out alike; a checkpoint holds contiguous tensors."""

    def made() -> tuple[torch.nn.Module, torch.optim.Adam]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4))
        net = net.to(memory_format=torch.channels_last)
        return net, torch.optim.Adam(net.parameters(), lr=0.1, fused=fused)

    def step(net: torch.nn.Module, adam: torch.optim.Adam, seed: int) -> None:
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        adam.zero_grad()
        net(x).square().mean().backward()
        adam.step()

    store = CheckpointStore(tmp_path)
    net, adam = made()
    step(net, adam, 1)
    store.save(1, module_tensors("net", net) | optimizer_tensors("adam", adam), {})
    checkpoint, _ = store.latest()
    assert checkpoint is not None and all(value.is_contiguous() for value in checkpoint.tensors.values())
    again, resumed = made()
    load_module("net", again, checkpoint.tensors)
    load_optimizer("adam", resumed, checkpoint.tensors)
    assert not next(again.parameters()).is_contiguous()
    for parameter in again.parameters():
        state = resumed.state[parameter]
        assert parameter.stride() == state["exp_avg"].stride() == state["exp_avg_sq"].stride()
        assert state["step"].dtype == torch.float32 and state["step"].device == parameter.device
    step(net, adam, 2)
    step(again, resumed, 2)
    for ours, theirs in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
