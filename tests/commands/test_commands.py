"""The six subcommands end to end, on a toy teacher that the first of them trains."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsd_cli.base.errors import GsdError
from gsd_cli.data.image_writers import encode_image
from tests.support.shell import DISTILL, IMAGES, Shell


def test_prepare_writes_the_layout_that_other_tools_read(workshop: Shell) -> None:
    with zipfile.ZipFile(workshop.folder / "toy.zip") as archive:
        labels = json.loads(archive.read("dataset.json"))["labels"]
        record = json.loads(archive.read("gsd.json"))
        image = Image.open(io.BytesIO(archive.read("00000/img00000000.png")))
    assert image.size == (16, 16)
    assert image.mode == "L"
    assert record["images"] == 100
    assert len(labels) == 100
    assert {label for _, label in labels} == set(range(10))
    assert -1 < record["mean"][0] < 1


def test_distill_leaves_a_complete_run(workshop: Shell) -> None:
    run = workshop.folder / "run"
    names = {p.name for p in run.iterdir()}
    assert {"generator", "samples", "metrics.jsonl", "curves.png", "options.json", "checkpoints"} <= names
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [rows[0]["step"], rows[-1]["step"]] == [0, 12]
    assert rows[-1]["fd"] > 0
    card = json.loads((run / "generator" / "gsd.json").read_text())
    assert card["sigma_init"] == 2.5
    assert card["images"] == 96
    assert "sigma_init" in (run / "generator" / "README.md").read_text()


@pytest.mark.fault(8, "--alpha and --seed changed")
def test_a_finished_run_says_so_and_other_options_are_refused(workshop: Shell) -> None:
    again = workshop.gsd(*DISTILL, "--steps", "12", "-o", "run")
    assert again.returncode == 0
    assert "nothing to do" in again.stderr.decode()
    assert again.stdout.decode().split() == ["run/generator"]
    other = workshop.gsd(*DISTILL, "--steps", "12", "-o", "run", "--alpha", "1.2", "--seed", "3")
    assert other.returncode == 2
    assert "alpha (1.0 -> 1.2)" in other.stderr.decode()
    assert "seed (0 -> 3)" in other.stderr.decode()


def test_a_generator_opens_with_diffusers_alone(workshop: Shell) -> None:
    import torch
    from diffusers import UNet2DModel

    from gsd_cli.compute.random import latents
    from gsd_cli.core.models.generator import load_model

    folder = workshop.folder / "run" / "generator"
    net = UNet2DModel.from_pretrained(folder)
    model = load_model(str(folder))
    z = latents([0, 1], (1, 16, 16))
    sigma = model.generator.sigma_init
    t = model.generator.denoiser.schedule.timestep(torch.tensor([sigma, sigma]))
    with torch.no_grad():
        by_hand = sigma * z - sigma * net(sigma * z / (1 + sigma**2) ** 0.5, t).sample
        torch.testing.assert_close(by_hand, model.generator(z))


@pytest.mark.fault(19, "batches of 1 and 9")
def test_a_hardly_trained_generator_and_a_useless_seed_are_remarked_on(workshop: Shell) -> None:
    done = workshop.gsd("sample", "--model", "run", "--seed", "5", "-N", "2", "-o", "two.npz")
    assert done.returncode == 0
    said = done.stderr.decode()
    assert "warning: run was trained for 12 steps only" in said
    assert "--seeds 5" in said
    plain = workshop.gsd("sample", "--model", "fashion", "--seeds", "5", "-o", "one.npz")
    assert "warning" not in plain.stderr.decode()


def test_images_depend_on_their_seed_alone(workshop: Shell) -> None:
    everything = workshop.gsd("sample", "--model", "run", "--seeds", "0-8", "--batch-size", "9", "-o", "all.npz")
    assert everything.returncode == 0, everything.stderr.decode()
    alone = workshop.gsd("sample", "--model", "run", "--seeds", "7,3", "--batch-size", "1", "-o", "two.npz")
    assert alone.returncode == 0
    whole, two = np.load(workshop.folder / "all.npz"), np.load(workshop.folder / "two.npz")
    assert two["seeds"].tolist() == [7, 3]
    np.testing.assert_array_equal(two["images"], whole["images"][[7, 3]])


@pytest.mark.parametrize("name", ["out", "grid.png", "x.npz", "x.zip", "x.tar"])
def test_sample_writes_what_the_extension_says(name: str, workshop: Shell, tmp_path: Path) -> None:
    done = workshop.gsd("sample", "--model", "run", "-N", "3", "-o", str(tmp_path / name))
    outputs = [Path(line) for line in done.stdout.decode().split()]
    assert done.returncode == 0, done.stderr.decode()
    assert all(path.is_file() for path in outputs)
    assert len(outputs) == (3 if name == "out" else 1)
    if name == "grid.png":
        assert Image.open(outputs[0]).size == (32, 32)


def test_bench_prints_a_table_and_json(workshop: Shell) -> None:
    arguments = ["bench", "--model", "run", "--compare", "msa-10,ddim-3", "-N", "16", "--ppl-samples", "10"]
    done = workshop.gsd(*arguments, "--metrics", "ppl,time", "--json", "--report", "report")
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    rows = report["metrics"]["rows"]
    assert list(rows) == ["msa-10", "ddim-3", "run"]
    assert [rows[name]["calls"] for name in rows] == [10, 3, 1]
    assert rows["run"]["time"]["median"] < rows["msa-10"]["time"]["median"]
    assert all(row["ppl_low"] < row["ppl"] < row["ppl_high"] for row in rows.values())
    assert "e = 0.0001" in report["metrics"]["protocol"]["PPL"]
    assert "Table 1" in done.stderr.decode()
    files = {Path(path).name for path in report["outputs"]}
    wanted = {
        "table1.md",
        "table1.csv",
        "table1.tex",
        "bench.json",
        "figure1.png",
        "walks.png",
        "curves.png",
        "report.html",
    }
    assert wanted <= files


def test_bench_says_why_stdout_is_empty(workshop: Shell) -> None:
    call = ["bench", "--model", "run", "--compare", "ddim-2", "--metrics", "time"]
    done = workshop.gsd(*call)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    assert b"stdout gets nothing: the tables are on stderr. --report DIR" in done.stderr
    for more in (["--json"], ["--report", "r"]):
        silent = workshop.gsd(*call, *more)
        assert silent.stdout and b"stdout gets nothing" not in silent.stderr


def test_bench_reports_the_geometry(workshop: Shell) -> None:
    done = workshop.gsd("bench", "--model", "run", "--compare", "one-step-teacher", "--metrics", "isometry", "--json")
    assert done.returncode == 0, done.stderr.decode()
    metrics = json.loads(done.stdout)["metrics"]
    for row in metrics["rows"].values():
        assert row["speed_cv"] > 0
        assert row["effective_rank"] >= 1
        assert row["mcn"] >= 1
        assert row["path_ratio"] >= 1
        assert 0 < row["spearman"] <= 1
    assert "great circles" in metrics["protocol"]["isometry"]


@pytest.mark.slow
def test_bench_measures_edits_of_generators(workshop: Shell) -> None:
    done = workshop.gsd(
        "bench", "--model", "run", "--compare", "one-step-teacher,./run", "--metrics", "edit", "--edit-samples", "10",
        "--report", "edits", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)["metrics"]
    assert found["rows"]["run"]["edits"] == found["rows"]["./run"]["edits"]  # the same weights give the same images
    assert "edits" not in found["rows"]["one-step-teacher"]
    ours = found["rows"]["run"]["edits"]
    # an untrained generator need not have a direction for each
    assert ours and ours.keys() <= {"brightness", "contrast", "width", "height", "symmetry"}
    for figures in ours.values():
        assert 0 <= figures["success"] <= 1
        assert -1 <= figures["monotonicity"] <= 1
        assert figures["leakage"] >= 0
    assert "10 own samples" in found["protocol"]["edits"]
    assert (workshop.folder / "edits" / "edits.csv").read_text().startswith("model,attribute,success")


def test_a_threshold_that_was_missed_is_exit_7(workshop: Shell) -> None:
    done = workshop.gsd(
        "bench", "--model", "run", "--features", "toy-features", "--stats", "toy.toy.npz",
        "--compare", "msa-5", "-N", "24", "--metrics", "fd", "--max-fid", "0.0001", "--json",
    )  # fmt: skip
    assert done.returncode == 7, done.stderr.decode()
    row = json.loads(done.stdout)["metrics"]["rows"]["run"]
    assert row["fd"] > 0.0001


def test_stats_may_be_a_data_set(workshop: Shell) -> None:
    shutil.copy(workshop.folder / "toy.zip", workshop.folder / "mine.zip")
    found = []
    for stats in ("toy.toy.npz", "mine.zip", "mine.zip"):  # measured, then found next to the data
        done = workshop.gsd(
            "bench", "--model", "run", "--features", "toy-features", "--stats", stats, "--compare", "one-step-teacher",
            "-N", "24", "--metrics", "fd", "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        found.append(json.loads(done.stdout)["metrics"]["rows"]["run"]["fd"])
    assert found[1] == found[2] == pytest.approx(found[0], rel=1e-6)
    assert (workshop.folder / "mine.toy.npz").exists()
    missing = workshop.gsd("bench", "--model", "run", "--stats", "cifar10-trian", "--metrics", "fd")
    assert missing.returncode == 3
    assert b"cifar10-train" in missing.stderr


def test_features_of_a_second_network_have_another_name(workshop: Shell, shell: Shell) -> None:
    fit = ("--fit-features", "--features-net", "convnext", "--fit-steps", "2")
    prepared = shell.gsd("prepare", str(IMAGES), "--size", "16", "-o", "toy.zip", *fit)
    assert prepared.returncode == 0, prepared.stderr.decode()
    assert prepared.stdout.decode().split() == ["toy.zip", "toy-features-2", "toy.toy-2.npz"]
    card = json.loads((shell.folder / "toy-features-2" / "gsd.json").read_text())
    assert (card["name"], card["architecture"]) == ("toy-2", "convnext")
    done = workshop.gsd(
        "bench", "--model", "run", "--features", str(shell.folder / "toy-features-2"), "--compare", "ddim-2",
        "-N", "24", "--metrics", "fd,grain", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["figure"] == "FD-toy-2"
    assert metrics["real"]["source"] == "toy.toy-2.npz"
    for row in metrics["rows"].values():
        assert row["distances"]["FD-toy-2"]["fd"] == row["fd"] > 0
        assert {"grain_bright", "grain_dark"} & row.keys()


def test_bench_measures_quality_against_other_generators(workshop: Shell) -> None:
    done = workshop.gsd(
        "bench", "--model", "run", "--compare", "one-step-teacher,./run", "--metrics",
        "fd,kid,pr,diversity,memory,throughput", "-N", "32", "--batch-size", "16", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    metrics = json.loads(done.stdout)["metrics"]
    ours, same = metrics["rows"]["run"], metrics["rows"]["./run"]
    for key in ("fd", "kid", "precision", "recall", "density", "coverage", "diversity"):
        assert ours[key] == pytest.approx(same[key]), key
    assert ours["images_per_second_16"] > 0
    assert "equal N only" in metrics["protocol"]["FD-toy"]
    assert "KID" in metrics["protocol"]


def test_bench_judges_thresholds(workshop: Shell) -> None:
    done = workshop.gsd(
        "bench", "--model", "run", "--compare", "ddim-2", "--metrics", "ppl,time", "--ppl-samples", "10",
        "--max-ppl", "1e-9", "--min-speedup", "1e9", "--json",
    )  # fmt: skip
    assert done.returncode == 7
    assert "PPL" in done.stderr.decode() and "times as fast as ddim-2" in done.stderr.decode()
    assert json.loads(done.stdout)["metrics"]["rows"]["run"]["ppl"] > 0


def test_bench_ablates_and_reuses_finished_variants(workshop: Shell) -> None:
    arguments = (
        "bench", "--model", "run", "--compare", "one-step-teacher", "--metrics", "ppl,time", "--ppl-samples", "10",
        "--ablate", "--ablate-kimg", "0.128", "--ablate-runs", "variants", "--json",
    )  # fmt: skip
    done = workshop.gsd(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)["metrics"]["ablation"]
    assert list(found["rows"])[-1] == "full loss"
    assert set(found["rows"]) == {"full loss", "without isometry loss", "without distillation loss"}
    assert "Table 2" in done.stderr.decode() and "Table 1" in done.stderr.decode()
    cards = [
        json.loads(path.read_text()) for path in sorted((workshop.folder / "variants").glob("*/generator/gsd.json"))
    ]
    assert [card["images"] for card in cards] == [128] * 3
    assert [(card["settings"]["irl"], card["settings"]["sidl_weight"]) for card in cards] == [
        ("stress", 1.0), ("stress", 0.0), ("off", 1.0),
    ]  # fmt: skip
    again = workshop.gsd(*arguments, "--report", "ablated")
    assert again.stderr.decode().count("nothing to do") == 3
    heights = [Image.open(workshop.folder / "ablated" / f"{name}.png").height for name in ("figure1", "ablation")]
    assert heights[1] / heights[0] == 3 / 2
    assert (workshop.folder / "ablated" / "ablation-walks.png").exists()


def test_images_have_the_format_of_their_name(workshop: Shell) -> None:
    """JPEG and WebP, like PNG: one image or a grid on stdout, and one file per image in a folder."""
    sample = ("sample", "--model", "run", "--seeds", "3,5")
    made = {}
    for name in ("grid.png", "grid.jpg", "grid.jpeg", "grid.webp"):
        done = workshop.gsd(*sample, "-o", f"kinds/{name}")
        assert done.returncode == 0, done.stderr.decode()
        with Image.open(workshop.folder / "kinds" / name) as image:
            made[name] = (image.format, np.asarray(image.convert("L"), dtype=float))
    assert [kind for kind, _ in made.values()] == ["PNG", "JPEG", "JPEG", "WEBP"]
    exact = made["grid.png"][1]
    assert (made["grid.webp"][1] == exact).all()  # lossless
    assert abs(made["grid.jpg"][1] - exact).mean() < 3
    piped = workshop.gsd(*sample, "-o", "-", "--format", "webp")
    assert piped.stdout == (workshop.folder / "kinds" / "grid.webp").read_bytes()
    folder = workshop.gsd(*sample, "-o", "kinds/each", "--format", "jpg")
    assert [Path(line).name for line in folder.stdout.decode().split()] == ["seed-00000003.jpg", "seed-00000005.jpg"]


def test_an_image_too_large_for_its_format_is_a_usage_error() -> None:
    wide = np.zeros((1, 16_384, 1), np.uint8)
    assert encode_image(wide)
    with pytest.raises(GsdError, match="16,383") as caught:
        encode_image(wide, "webp")
    assert caught.value.code == 2
