"""A teacher trained on captions, from images to a sampled prompt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsd_cli.base.storage import read_json
from gsd_cli.core.models.prompts import load_prompts
from gsd_cli.data.dataset import ImageArchive
from tests.support.shell import Shell
from tests.support.teachers import sentence_encoder

pytest.importorskip("transformers")
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220)}
FIT = ("--fit-teacher", "tiny", "--fit-steps", "2", "--batch-size", "4", "--size", "16", "--text-encoder", "encoder")


@pytest.fixture
def squares(shell: Shell) -> Shell:
    (shell.folder / "in").mkdir()
    lines = []
    for k in range(12):
        name, colour = [*COLOURS.items()][k % 3]
        Image.new("RGB", (16, 16), colour).save(shell.folder / "in" / f"{k}.png")
        lines.append(f"{k}.png,a {name} cat")
    (shell.folder / "captions.csv").write_text("\n".join(lines))
    sentence_encoder(shell.folder / "encoder")
    return shell


def test_from_captions_to_a_sampled_prompt(squares: Shell) -> None:
    def run(*words: str) -> bytes:
        done = squares.gsd(*words)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    prepare = ("prepare", "in", "--captions", "captions.csv", *FIT, "-o", "in.zip")
    assert run(*prepare).split() == [b"in.zip", b"in-prompts.safetensors", b"in-teacher"]
    captions = ImageArchive(squares.folder / "in.zip").captions
    assert captions is not None and sorted(set(captions)) == ["a blue cat", "a green cat", "a red cat"]
    prompts = load_prompts(squares.folder / "in-prompts.safetensors")
    assert set(prompts.texts) == set(captions) and not prompts.empty.none
    card = read_json(squares.folder / "in-teacher" / "gsd.json")
    assert card["captions"] == 3 and card["classes"] == []
    done = squares.gsd(*prepare, "--fit-objective", "flow")
    assert done.returncode == 2 and b"--fit-objective eps, now flow" in done.stderr  # another one is there
    run(
        "distill", "--teacher", "in-teacher", "--steps", "2", "--batch-size", "2", "--eval-samples", "16", "--guidance",
        "1.5", "-o", "run",
    )  # fmt: skip
    run("sample", "--model", "run", "-N", "4", "--prompt", "a red dog", "-o", "red.npz")
    assert np.load(squares.folder / "red.npz")["images"].shape == (4, 16, 16, 3)


def test_images_without_a_caption(squares: Shell) -> None:
    (squares.folder / "captions.csv").write_text("\n".join(f"{k}.png,a cat" for k in range(10)))
    command = ("prepare", "in", "--captions", "captions.csv", "--size", "16", "-o", "in.zip", "--json")
    done = squares.gsd(*command)
    assert done.returncode == 3 and b"no caption for 10.png, 11.png" in done.stderr and b"--skip-bad" in done.stderr
    assert not (squares.folder / "in.zip").exists()
    done = squares.gsd(*command, "--skip-bad", "--labels", "labels.csv")
    assert done.returncode == 3 and b"labels.csv" in done.stderr
    (squares.folder / "labels.csv").write_text("\n".join(f"{k}.png,{k % 2}" for k in range(1, 12)))
    done = squares.gsd(*command, "--skip-bad", "--labels", "labels.csv")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["metrics"]["data"]["images"] == 9
    data = ImageArchive(squares.folder / "in.zip")
    assert data.captions == ("a cat",) * 9
    assert data.labels is not None and data.labels.tolist() == [k % 2 for k in range(1, 10)]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--captions", "none.csv"), 3, "no such file: none.csv"),
        (("--captions", "captions.csv", "--fit-teacher", "tiny", "--conditional"), 2, "leave out one of them"),
        (("--text-encoder", "encoder"), 2, "--text-encoder does nothing without --fit-teacher"),
        (("--text-encoder", "encoder", "--fit-teacher", "tiny"), 2, "--text-encoder does nothing without --captions"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    squares: Shell, words: tuple[str, ...], code: int, said: str
) -> None:
    before = sorted(Path(squares.folder).iterdir())
    done = squares.gsd("prepare", "in", "--size", "16", *words)
    assert done.returncode == code and said in done.stderr.decode(), done.stderr.decode()
    assert sorted(Path(squares.folder).iterdir()) == before
