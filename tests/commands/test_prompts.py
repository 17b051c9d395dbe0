"""A text-conditional teacher as a user meets it: prompts encoded, distilled, sampled, edited, measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gsd_cli.base.storage import read_json
from tests.support import teachers
from tests.support.shell import Shell

pytest.importorskip("transformers")
SHORT = ("--steps", "2", "--batch-size", "2", "--eval-samples", "16", "--adversarial", "off")


SETTINGS = {
    "SD": ("--guidance", "1.5"),
    "SDXL": ("--guidance", "teacher:3"),
    "SD3": ("--guidance", "teacher:3"),
    "FLUX": ("--adversarial", "0.1", "--data", "teacher", "--teacher-samples", "16"),
    "SANA": ("--guidance", "1.5", "--adapters", "2"),
}
"""Settings of the distillation of each kind."""
PIPELINES = {"SD3": "StableDiffusion3Pipeline", "FLUX": "FluxPipeline", "SANA": "SanaPipeline"}


@pytest.mark.parametrize(
    "kind", ["SD", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("SDXL", "SD3", "FLUX", "SANA"))]
)  # fmt: skip
def test_all_commands(shell: Shell, kind: str) -> None:
    teachers.with_text_encoders(shell.folder / "teacher", kind)
    (shell.folder / "prompts.txt").write_text("a cat\n\ntwo dogs\na red house\n")

    def run(*words: str) -> bytes:
        done = shell.gsd(*words)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    assert run("prepare", "prompts.txt", "--teacher", "teacher").split() == [b"prompts.safetensors"]
    run("distill", "--teacher", "teacher", "--prompts", "prompts.safetensors", *SHORT, *SETTINGS[kind], "-o", "run")
    index = read_json(shell.folder / "run" / "generator" / "model_index.json")
    assert index["_class_name"] == PIPELINES.get(kind, "StableDiffusionPipeline")
    run("sample", "--model", "run", "-N", "6", "-o", "own.npz")
    run("sample", "--model", "run", "-N", "6", "--prompts", "prompts.safetensors", "-o", "given.npz")
    run("sample", "--model", "run", "-N", "6", "--prompt", "a cat", "-o", "cat.npz")
    own, given, cat = (np.load(shell.folder / f"{name}.npz")["images"] for name in ("own", "given", "cat"))
    assert own.shape == (6, 16, 16, 3) and np.array_equal(own, given)  # it keeps the prompts it was trained with
    same = [np.array_equal(a, b) for a, b in zip(own, cat, strict=True)]
    assert any(same) and not all(same)  # some seeds draw the first prompt
    run("sample", "--model", "run", "--seeds", "0,1", "-o", "made")
    one, two = sorted(str(path) for path in (shell.folder / "made").glob("*.png"))
    run("interpolate", one, two, "--model", "run", "--frames", "3", "--invert-steps", "3", "-o", "walk.png")
    run("edit", one, "--model", "run", "--direction", "pc0", "--invert-steps", "3", "-o", "edit.png")
    metrics = "time" if kind == "FLUX" else "ppl,time"  # a long one: its texts have 256 tokens
    measured = run(
        "bench", "--model", "run", "--compare", "msa-3,heun-2", "--metrics", metrics, "--ppl-samples", "10", "--json",
    )  # fmt: skip
    assert {"msa-3", "heun-2"} <= json.loads(measured)["metrics"]["rows"].keys()


def test_a_run_is_resumed_with_its_prompts_alone(shell: Shell) -> None:
    teachers.with_text_encoders(shell.folder / "teacher", "SD")
    for name, text in (("one", "a cat\n"), ("two", "a dog\n")):
        (shell.folder / f"{name}.txt").write_text(text)
        assert shell.gsd("prepare", f"{name}.txt", "--teacher", "teacher").returncode == 0
    command = ("distill", "--teacher", "teacher", *SHORT[2:], "-o", "run", "--prompts")
    assert shell.gsd(*command, "one.safetensors", "--steps", "1").returncode == 0
    done = shell.gsd(*command, "two.safetensors", "--steps", "2")
    assert done.returncode == 2 and b"prompts" in done.stderr
    done = shell.gsd(*command, "one.safetensors", "--steps", "2")
    assert done.returncode == 0 and b"resumed at step 1" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("distill", "--teacher", "sd", "-o", "run"), 3, "it needs prompts"),
        (("distill", "--teacher", "sd", "--prompts", "none.safetensors", "-o", "run"), 3, "no such file"),
        (("distill", "--teacher", "ddpm-fashion", "--prompts", "a.txt", "-o", "run"), 3, "not a text-conditional"),
        (("prepare", "a.txt", "--teacher", "ddpm-fashion"), 3, "not a text-conditional"),
        (("prepare", "none.txt", "--teacher", "sd"), 3, "no such file"),
        (("prepare", "a.txt", "--teacher", "sd", "--grey"), 2, "--grey is about images"),
        (("prepare", "a.txt", "--teacher", "sd", "-o", "a.zip"), 2, "prompts are written as .safetensors"),
        (("sample", "--prompt", "a cat", "--model", "fashion"), 2, "not text-conditional"),
        (("sample", "--prompt", "a cat", "--class", "1"), 2, "give one of"),
    ],
)  # fmt: skip
def test_mistakes_have_a_way_out(shell: Shell, words: tuple[str, ...], code: int, said: str) -> None:
    teachers.text_pipeline(shell.folder / "sd", "SD")
    (shell.folder / "a.txt").write_text("a cat\n")
    done = shell.gsd(*words)
    assert done.returncode == code and said in done.stderr.decode(), done.stderr.decode()
    assert not Path(shell.folder, "run").exists()
