"""Damaged runs and generators, other options, two at once: named, refused, or worked around."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.faults.conftest import contents, require_refusal, wait_for
from tests.support.damage import cut, empty, flip
from tests.support.shell import DISTILL, Shell

WEIGHTS = "diffusion_pytorch_model.safetensors"


DAMAGES = [flip, cut, empty, Path.unlink]


@pytest.mark.fault(5, "the newest checkpoint of a run cut, altered, without a manifest")
@pytest.mark.parametrize(("name", "damage"), [("tensors.safetensors", flip), ("manifest.json", Path.unlink)])
def test_a_run_goes_on_from_the_newest_checkpoint_that_verifies(name: str, damage, desk: Shell) -> None:
    longer = (*DISTILL, "--steps", "16", "-o", "run")
    assert desk.gsd(*longer).returncode == 0
    whole = load_file(desk.folder / "run" / "generator" / WEIGHTS)
    newest = desk.folder / "run" / "checkpoints" / "step-00000016"
    damage(newest / name)
    shutil.rmtree(desk.folder / "run" / "generator")
    done = desk.gsd(*longer)
    text = done.stderr.decode()
    assert done.returncode == 0, text
    assert "damaged checkpoint skipped: run/checkpoints/step-00000016" in text
    assert "resumed at step 12" in text
    again = load_file(desk.folder / "run" / "generator" / WEIGHTS)
    assert all((again[key] == whole[key]).all() for key in whole)


@pytest.mark.fault(5, "every checkpoint of a run altered")
def test_a_run_without_an_intact_checkpoint_is_refused(desk: Shell) -> None:
    for path in (desk.folder / "run" / "checkpoints").glob("*/tensors.safetensors"):
        flip(path)
    require_refusal(desk.gsd(*DISTILL, "--steps", "16", "-o", "run"), 3, "intact", "--no-resume")


@pytest.mark.fault(5, "a generator's weights or card altered, cut, emptied, removed")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "gsd.json"])
def test_a_damaged_generator_makes_no_pictures(name: str, damage, desk: Shell) -> None:
    path = desk.folder / "run" / "generator" / name
    if damage is flip and name != WEIGHTS:
        path.write_text(path.read_text().replace('"', "'", 1))
    else:
        damage(path)
    require_refusal(desk.gsd("sample", "--model", "run", "-N", "1", "-o", "x.png"), 3, "run")
    assert not (desk.folder / "x.png").exists()


@pytest.mark.fault(5, "a run's options.json and metrics damaged")
@pytest.mark.parametrize("content", ["", "[]", "null", "{", "\x00" * 100, "[" * 100_000, '{"teacher": NaN}'])
def test_damaged_records_of_a_run_are_no_crash(content: str, desk: Shell) -> None:
    (desk.folder / "run" / "metrics.jsonl").write_text(content)
    done = desk.gsd(*DISTILL, "--steps", "13", "-o", "run")
    assert done.returncode == 0, done.stderr.decode()
    (desk.folder / "run" / "options.json").write_text(content)
    done = desk.gsd(*DISTILL, "--steps", "14", "-o", "run")
    require_refusal(done, 2 if "NaN" in content else 3, "options")


@pytest.mark.fault(8, "six options changed at once")
def test_every_key_that_differs_is_named(desk: Shell) -> None:
    changed = {"--lr": "0.5", "--irl": "off", "--batch-size": "4", "--alpha": "1.1", "--seed": "9", "--sigma-init": "2"}
    words = [word for pair in changed.items() for word in pair]
    before = contents(desk.folder)
    require_refusal(
        desk.gsd(*DISTILL, "--steps", "14", "-o", "run", *words), 2,
        "lr (", "irl (stress -> off)", "batch_size (8 -> 4)", "alpha (1.0 -> 1.1)", "seed (0 -> 9)", "sigma_init (",
        "--force",
    )  # fmt: skip
    assert contents(desk.folder) == before


def test_a_run_from_before_an_option_went_the_only_way_there_was(desk: Shell) -> None:
    path = desk.folder / "run" / "options.json"
    options = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in options.items() if key != "irl_gradient"}))
    require_refusal(desk.gsd(*DISTILL, "--steps", "14", "-o", "run"), 2, "irl_gradient (free -> manifold)")
    done = desk.gsd(*DISTILL, "--steps", "14", "-o", "run", "--irl-gradient", "free")
    assert done.returncode == 0, done.stderr.decode()


def test_settings_that_nothing_asks_may_differ(desk: Shell) -> None:
    arguments = (*DISTILL, "--irl", "off", "--steps", "4", "-o", "plain")
    assert desk.gsd(*arguments).returncode == 0
    again = desk.gsd(*arguments, "--irl-ratio", "0.7", "--tau-max", "0.4")
    assert again.returncode == 0, again.stderr.decode()
    assert "nothing to do" in again.stderr.decode()
    require_refusal(desk.gsd(*arguments, "--irl", "speed"), 2, "irl (off -> speed)")


@pytest.mark.fault(9, "two gsd distill, two gsd prepare")
@pytest.mark.parametrize(
    ("arguments", "sign"),
    [
        # few images and a short run give a discriminator reasons for warnings of its own
        ((*DISTILL, "--steps", "80", "--adversarial", "off", "-o", "long"), "long/metrics.jsonl"),
        (("prepare", "toy.zip", "--size", "512", "-o", "large.zip", "--workers", "1"), ".large.zip.part-*/.lock"),
    ],
    ids=["distill", "prepare"],
)
def test_the_second_of_two_says_so_and_stops(arguments: tuple[str, ...], sign: str, desk: Shell) -> None:
    first = desk.running(*arguments)
    wait_for(lambda: list(desk.folder.glob(sign)), first)
    second = desk.gsd(*arguments)
    assert first.alive
    require_refusal(second, 2, "another gsd process is working in")
    done = first.wait()
    assert done.returncode == 0, done.stderr.decode()
    assert b"warning" not in done.stderr


@pytest.mark.fault(13, "a learning rate that makes the loss infinite, for good")
def test_a_run_that_diverges_ends_with_exit_6_and_its_last_good_state(desk: Shell) -> None:
    done = desk.gsd(*DISTILL, "--steps", "400", "-o", "wild", "--lr", "1e18", "--irl", "off")
    require_refusal(done, 6, "diverged", "wild/checkpoints", "--lr")
    rows = [json.loads(line) for line in (desk.folder / "wild" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0
