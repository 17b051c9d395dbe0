"""A generator taken away: exported, run by gsd, by onnxruntime alone and by torch alone."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from gsd_cli.compute.random import latents, seed_numbers
from tests.support.shell import DISTILL, Shell

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "deploy.md"
SEEDS = (0, 7, 65_535, 65_536, 123_456_789_012)


def export(shell: Shell, name: str) -> None:
    """Export the run, and keep what that says in NAME.json."""
    (shell.folder / f"{name}.json").write_bytes(run(shell, "sample", "--model", "run", "--export", name, "--json"))


@pytest.fixture(scope="module")
def place(workshop: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder with a run and its generator as x.onnx."""
    shell = Shell(tmp_path_factory.mktemp("exports"))
    shutil.copytree(workshop.folder, shell.folder, dirs_exist_ok=True)
    export(shell, "x.onnx")
    return shell


@pytest.fixture(scope="module")
def program(place: Shell) -> Shell:
    """The same folder, with x.pt2."""
    export(place, "x.pt2")
    return place


@pytest.fixture(scope="module")
def snippet() -> dict[str, Any]:
    """The names that the page's program defines."""
    found = re.search(r"<!-- without gsd -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    assert not re.search(r"^\s*(import|from) .*(gsd_cli|torch|PIL)", found[1], re.M)
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(found[1], str(PAGE), "exec"), names)
    return names


def run(shell: Shell, *words: str) -> bytes:
    done = shell.gsd(*words)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def nearly_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether 8-bit images differ by one level at most, and in one pixel of 500 at most."""
    difference = np.abs(a.astype(int) - b.astype(int))
    return a.shape == b.shape and bool(difference.max() <= 1 and (difference > 0).mean() <= 0.002)


@pytest.mark.parametrize(("files", "name"), [("place", "x.onnx"), ("program", "x.pt2")])
def test_an_export_says_how_close_it_is(request: pytest.FixtureRequest, files: str, name: str) -> None:
    place: Shell = request.getfixturevalue(files)
    found = json.loads((place.folder / f"{name}.json").read_text())
    figures = found["metrics"]
    assert found["outputs"] == [name]
    assert (place.folder / name).stat().st_size == figures["bytes"]
    assert figures["largest_difference"] < 1e-4
    assert figures["compared_seeds"] == 64
    assert "images" not in figures
    assert not (place.folder / "samples").exists()


def test_the_page_gives_the_images_of_gsd_sample(place: Shell, snippet: dict[str, Any]) -> None:
    run(place, "sample", "--model", "run", "--seeds", ",".join(map(str, SEEDS)), "-o", "made")
    made = snippet["make_images"](str(place.folder / "x.onnx"), SEEDS)
    for seed, image in zip(SEEDS, made, strict=True):
        (file,) = (place.folder / "made").glob(f"*{seed}.png")
        decoded = np.asarray(Image.open(io.BytesIO(snippet["encode_png"](image))))
        assert nearly_equal(decoded, pixels(file)), seed


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 3, 5), (1, 4, 4), (1, 1, 17), (3, 5, 5), (1, 1, 31), (1, 32, 32), (4, 8, 8)]
)
def test_the_page_draws_the_latents_of_gsd(snippet: dict[str, Any], shape: tuple[int, int, int]) -> None:
    """Also for shapes that torch fills in other ways: below 16 numbers, and not a multiple of 16."""
    for seed in (*SEEDS, 65_537, 2**40 + 3, 10**25):
        found = snippet["latent"](seed, shape)
        np.testing.assert_allclose(found, latents([seed], shape)[0].numpy(), rtol=0, atol=2e-6)
        assert int(snippet["draw"](seed, "class", 1)[0]) % 10 == int(seed_numbers([seed], 10)[0])


@pytest.mark.parametrize("words", [("--model", "x.onnx"), ("--model", "run", "--backend", "onnx")])
def test_backend_gives_the_images_of_torch(place: Shell, words: tuple[str, ...]) -> None:
    run(place, "sample", "--model", "run", "-N", "100", "-o", "torch.npz")
    run(place, "sample", *words, "-N", "100", "-o", "onnx.npz")
    first, second = (np.load(place.folder / name)["images"] for name in ("torch.npz", "onnx.npz"))
    assert first.std() > 1
    assert nearly_equal(first, second)


def test_a_folder_is_exported_into_the_cache_once(place: Shell) -> None:
    words = ("sample", "--model", "run", "--backend", "onnx", "-N", "1", "--cache-dir", "own", "-o", "one.png")
    first, second = place.gsd(*words), place.gsd(*words)
    assert first.returncode == second.returncode == 0
    assert b"exporting" in first.stderr
    assert b"exporting" not in second.stderr
    (cached,) = (place.folder / "own" / "exports").iterdir()
    cached.write_bytes(cached.read_bytes()[:1000])  # a damaged entry is replaced
    third = place.gsd(*words)
    assert third.returncode == 0
    assert b"exporting" in third.stderr


def test_walks_and_edits_are_those_of_torch(place: Shell) -> None:
    for name, words in (
        ("walk", ("interpolate", "seed:1", "seed:2", "--frames", "5")),
        ("edit", ("edit", "seed:3", "--direction", "pc0", "--range=-2:2:5", "--fit-samples", "32")),
        ("jac", ("edit", "seed:3", "--direction", "jac0", "--range=-2:2:5", "--fit-samples", "32")),
    ):
        for backend in ("torch", "onnx"):
            run(place, *words, "--model", "run", "--backend", backend, "-o", f"{name}-{backend}.png", "--scale", "1")
        strips = [pixels(place.folder / f"{name}-{backend}.png") for backend in ("torch", "onnx")]
        assert np.ptp(strips[0].reshape(16, 5, 16), axis=1).max() > 1  # the images of a strip differ
        assert nearly_equal(*strips), name


def test_a_file_alone_walks_between_seeds(place: Shell) -> None:
    run(place, "interpolate", "seed:1", "seed:2", "--model", "x.onnx", "--frames", "3", "-o", "w", "--path", "slerp")
    run(place, "interpolate", "seed:1", "seed:2", "--model", "run", "--frames", "3", "-o", "v", "--path", "slerp")
    frames = [sorted((place.folder / name).glob("*.png")) for name in "vw"]
    assert len(frames[0]) == len(frames[1]) == 3
    assert all(nearly_equal(pixels(a), pixels(b)) for a, b in zip(*frames, strict=True))


def test_bench_times_onnxruntime(place: Shell) -> None:
    metrics = ("--metrics", "fd,time,throughput,memory", "-N", "16", "--features", "toy-features")
    words = (
        "--compare",
        "one-step-teacher",
        *metrics,
        "--time-batch",
        "4",
        "--batch-size",
        "4",
        "--backend",
        "onnx",
        "--json",
    )
    found = json.loads(run(place, "bench", "--model", "run", *words))["metrics"]
    assert "onnxruntime" in json.dumps(found["protocol"])
    assert all(row["time"]["median"] > 0 for row in found["rows"].values())
    assert found["protocol"]["memory"] == "one network call at batch 4, in torch, above what was in use before it"
    assert {"fd", "images_per_second_4"} <= found["rows"]["run"].keys()


def test_torch_opens_a_program_alone(program: Shell) -> None:
    """As the page shows."""
    place = program
    facts = {"gsd.json": ""}
    opened = torch.export.load(place.folder / "x.pt2", extra_files=facts).module()
    shape = json.loads(json.loads(facts["gsd.json"])["latent_shape"])
    z = latents(range(3), shape)
    run(place, "sample", "--model", "run", "-N", "3", "-o", "three.npz")
    made = (opened(z).detach() * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert nearly_equal(np.load(place.folder / "three.npz")["images"].reshape(made.shape), made)


def test_distill_exports_a_finished_run(place: Shell, workshop: Shell) -> None:
    """The run is not trained again; the file is the one that gsd sample writes."""
    recorded = json.loads((workshop.folder / "run" / "options.json").read_text())
    words = (*DISTILL, "--steps", str(recorded["total_steps"]), "-o", "run", "--export", "again.onnx")
    done = workshop.gsd(*words)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == ["run/generator", "again.onnx"]
    files = workshop.folder / "again.onnx", place.folder / "x.onnx"
    assert onnx.load(files[0]).graph == onnx.load(files[1]).graph


def test_python_exports_too(place: Shell) -> None:
    script = """
import gsd_cli
from gsd_cli import GsdError, SampleOptions
options = SampleOptions(model="run", export="from-python.pt2")
result = gsd_cli.export(options)
print(result.outputs[0], result.metrics["largest_difference"] < 1e-4)
for wrong, call in ((options, gsd_cli.sample), (SampleOptions(model="run"), gsd_cli.export)):
    try:
        call(wrong)
    except GsdError as error:
        print(error.code.name, error.hint is not None)
"""
    done = place.python(script)
    assert done.stdout.decode().splitlines() == ["from-python.pt2 True", "USAGE True", "USAGE True"], (
        done.stderr.decode()
    )


# -- mistakes -----------------------------------------------------------------------------------


def foreign(path: Path) -> None:
    """An ONNX file of something else."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def altered(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    proto = onnx.load(path.parent / "x.onnx")
    change(proto)
    onnx.save(proto, path)


def without_shape(proto: onnx.ModelProto) -> None:
    for entry in proto.metadata_props:
        if entry.key == "latent_shape":
            entry.value = "[1, 0"


DAMAGED: dict[str, Callable[[Path], Any]] = {
    "foreign": foreign,
    "text": lambda path: path.write_text("no model"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes((path.parent / "x.onnx").read_bytes()[:5000]),
    "no-shape": lambda path: altered(path, without_shape),
}


@pytest.mark.fault(5, "an exported file of another kind, cut, emptied, altered")
@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("words", [("sample",), ("interpolate", "seed:1", "seed:2")])
def test_a_file_of_another_kind_is_refused(place: Shell, kind: str, words: tuple[str, ...]) -> None:
    DAMAGED[kind](place.folder / f"{kind}.onnx")
    done = place.gsd(*words, "--model", f"{kind}.onnx", "-o", "refused.png", "--threads", "1")
    text = done.stderr.decode()
    assert done.returncode == 3, text
    assert f"error: {kind}.onnx" in text
    assert "hint:" in text
    assert "Traceback" not in text
    assert not (place.folder / "refused.png").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("sample --export x.png", 2, ".onnx or a .pt2"),
        ("sample --export new.pt2 --export-precision int8", 2, "always fp32"),
        ("sample --export new.pt2 --export-precision fp16", 2, "always fp32"),
        ("sample --export new.onnx --export-precision fp8", 2, "--export-precision"),
        ("sample --export-precision int8", 2, "does nothing"),
        ("sample --export new.onnx -N 5", 2, "leave out --num-samples"),
        ("sample --export new.onnx --backend onnx", 2, "leave out --backend"),
        ("sample --export run", 2, ".onnx or a .pt2"),
        ("sample --export x.onnx/new.onnx", 8, "cannot write"),
        ("sample --export new.onnx --model nix", 3, "no such model"),
        ("sample --export new.onnx --model x.onnx", 2, "an exported file itself"),
        ("sample --model nix.onnx", 3, "no such file"),
        ("sample --model nix.pt2", 3, "no such file"),
        ("sample --model x.onnx --backend torch", 2, "run by onnxruntime"),
        ("sample --model x.onnx --precision bf16", 2, "fp32"),
        ("sample --model x.onnx --class 1", 2, "not class-conditional"),
        ("sample --model x.onnx --prompt cat", 2, "--prompt"),
        ("interpolate a.png seed:1 --model x.onnx", 2, "takes gradients"),
        ("interpolate seed:1 seed:2 --path geodesic --model x.onnx", 2, "takes gradients"),
        ("edit seed:1 --direction pc0 --model x.onnx", 3, "is an exported file"),
        ("edit seed:1 --attribute width --backend onnx --model run", 2, "takes gradients"),
        ("bench --model x.onnx", 3, "is an exported file"),
        ("distill --export x.png", 2, ".onnx or a .pt2"),
        ("distill --export x.pt2 --export-precision int8", 2, "always fp32"),
        ("distill --export-precision int8", 2, "does nothing"),
    ],
)
def test_mistakes_are_named(place: Shell, words: str, code: int, said: str) -> None:
    done = place.gsd(*words.split())
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert said in text
    assert "hint:" in text
    assert not (place.folder / "new.onnx").exists()


@pytest.mark.parametrize(
    "words",
    ["sample --export new.onnx", "sample --backend onnx -o new.png", "sample --model x.onnx -o new.png",
     "interpolate seed:1 seed:2 --model x.onnx -o new.png", "distill --export new.onnx -o new",
     "bench --backend onnx --metrics time"],
)  # fmt: skip
def test_one_line_says_what_to_install(place: Shell, words: str) -> None:
    """Before torch is loaded."""
    script = """
import sys
sys.modules |= dict.fromkeys(("onnx", "onnxruntime", "onnxscript"))
from gsd_cli.cli.app import main
code = main(sys.argv[1:])
sys.exit(99 if "torch" in sys.modules else code)
"""
    done = place.python(script, *words.split())
    text = done.stderr.decode()
    assert done.returncode == 3, text
    assert "hint: pip install 'gsd-cli[export]'" in text.splitlines()
    assert not list(place.folder.glob("new*"))
