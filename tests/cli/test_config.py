"""Where the value of each option comes from, and which mistakes are named."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gsd_cli.base.console import Console
from gsd_cli.base.errors import UsageError
from gsd_cli.cli import app
from gsd_cli.cli.config import Resolved, resolve
from gsd_cli.cli.subcommands import SUBCOMMANDS
from gsd_cli.options import (
    PRESETS,
    BenchOptions,
    DistillOptions,
    EditOptions,
    InterpolateOptions,
    PrepareOptions,
    SampleOptions,
)

MODELS = {
    "prepare": PrepareOptions,
    "distill": DistillOptions,
    "sample": SampleOptions,
    "interpolate": InterpolateOptions,
    "edit": EditOptions,
    "bench": BenchOptions,
}


@pytest.fixture(autouse=True)
def _nothing_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, no user config, and no variables of gsd."""
    import os

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in os.environ:
        if name.startswith("GSD_"):
            monkeypatch.delenv(name)


def run(command: str = "distill", config: str | None = None, **given: Any) -> Resolved:
    return resolve(command, MODELS[command], given, MODELS, config)


def problems(command: str = "distill", config: str | None = None, **given: Any) -> list[str]:
    with pytest.raises(UsageError) as caught:
        run(command, config, **given)
    assert caught.value.code == 2
    return caught.value.problems


def write(path: str, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return path


def test_defaults_and_the_quick_preset() -> None:
    found = run()
    assert (found.options.kimg, found.origins["kimg"]) == (PRESETS["quick"]["kimg"], "preset quick")
    assert (found.options.alpha, found.origins["alpha"]) == (1.0, "default")
    assert found.options.preset == "quick"
    assert found.origins["preset"] == "default"
    assert set(found.origins) >= {"teacher", "seed", "json", "lr"}


def layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str]) -> Resolved:
    given: Mapping[str, Any] = {"preset": "sid"}
    config = None
    for name in names:
        match name:
            case "user":
                write(str(tmp_path / "config" / "gsd" / "config.toml"), "lr = 2.0")
            case "here":
                write("gsd.toml", "lr = 3.0")
            case "config":
                config = write("mine.toml", "lr = 4.0")
            case "env":
                monkeypatch.setenv("GSD_LR", "5.0")
            case "flag":
                given = {**given, "lr": 6.0}
    return run("distill", config, **given)


@pytest.mark.parametrize(
    ("names", "value", "origin"),
    [
        ([], 1e-5, "preset sid"),
        (["user"], 2.0, "config.toml"),
        (["user", "here"], 3.0, "gsd.toml"),
        (["user", "here", "config"], 4.0, "mine.toml"),
        (["user", "here", "config", "env"], 5.0, "GSD_LR"),
        (["user", "here", "config", "env", "flag"], 6.0, "--lr"),
        (["user", "flag"], 6.0, "--lr"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the user config folder is set by XDG_CONFIG_HOME")
def test_precedence_and_origins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str], value: float, origin: str
) -> None:
    found = layers(monkeypatch, tmp_path, names)
    assert found.options.lr == value
    assert Path(found.origins["lr"]).name == origin
    assert found.origins["preset"] == "--preset"
    assert found.origins["beta1"] == "default"


def test_a_table_wins_over_the_top_level_of_its_file() -> None:
    write("gsd.toml", "batch-size = 8\nseed = 3\n[distill]\nbatch_size = 16\n[sample]\nbatch_size = 99\n")
    found = run().options
    assert (found.batch_size, found.seed) == (16, 3)
    assert run("sample").options.batch_size == 99


def test_one_config_serves_every_command() -> None:
    config = write("all.toml", "seed = 7\nalpha = 1.1\n[prepare]\nsize = 64\n")
    assert run("distill", config).options.alpha == 1.1
    assert run("sample", config).options.seed == 7
    assert run("prepare", config, source="x").options.size == 64


def test_config_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("alpha = 1.2"))
    found = run(config="-")
    assert (found.options.alpha, found.origins["alpha"]) == (1.2, "stdin")


@pytest.mark.parametrize(("name", "text", "value"), [("JSON", "true", True), ("JSON", "0", False), ("JSON", "1", True)])
def test_variables_have_public_names(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: bool) -> None:
    monkeypatch.setenv(f"GSD_{name}", text)
    found = run("sample")
    assert found.options.json_ is value
    assert found.origins["json"] == "GSD_JSON"


def test_seeds_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSD_SEEDS", "1-3,9")
    assert run("sample").options.seeds == (1, 2, 3, 9)


# -- presets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"steps": 5}, {"kimg": 5.0}, {"epochs": 5.0}])
@pytest.mark.parametrize("preset", ["quick", "standard", "long", "paper", "sid"])
def test_a_given_length_replaces_the_presets(given: dict, preset: str) -> None:
    options = run(preset=preset, **given).options
    lengths = {name: getattr(options, name) for name in ("kimg", "steps", "epochs")}
    assert {k: v for k, v in lengths.items() if v is not None} == given


def test_a_length_from_the_environment_replaces_the_presets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSD_STEPS", "12")
    options = run(preset="paper").options
    assert (options.steps, options.epochs) == (12, None)


def test_a_preset_is_a_set_of_defaults() -> None:
    write("gsd.toml", 'preset = "sid"\nalpha = 1.1')
    found = run()
    assert (found.options.alpha, found.options.batch_size, found.options.lr) == (1.1, 256, 1e-5)
    assert found.origins["lr"] == "preset sid"
    assert found.origins["alpha"] == "gsd.toml"


def test_commands_without_presets_have_none() -> None:
    assert "preset" not in run("sample").origins


# -- mistakes, all named at once ----------------------------------------------------------------


def test_all_errors_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSD_BATCH_SIZE", "0")
    write("gsd.toml", "lr = -1.0\nalpa = 1\n")
    found = problems(device="tpu", t_max=0)
    assert len(found) == 5
    text = "\n".join(found)
    assert "gsd.toml: unknown key 'alpa' (did you mean alpha?)" in text
    assert "--batch-size (from GSD_BATCH_SIZE)" in text
    assert "--lr (from gsd.toml)" in text
    assert "--device" in text
    assert "--t-max" in text
    assert all("\n" not in problem for problem in found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("stepps = 3", ["unknown key 'stepps'", "did you mean steps?"]),
        ("[distil]\nalpha = 1", ["unknown key 'distil'", "did you mean distill?"]),
        ("[distill]\nalhpa = 1", ["unknown key 'alhpa' in [distill]", "did you mean alpha?"]),
        ("[sample]\ntruncatoin = 1", ["unknown key 'truncatoin' in [sample]", "did you mean truncation?"]),
        ("zzzzqq = 1", ["unknown key 'zzzzqq'"]),
        ("lr = = 3", ["broken TOML", "line 1"]),
        ("lr = 1\nlr = 2", ["broken TOML"]),
    ],
)
@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.fault(21, "wrong keys, types and syntax")
def test_a_wrong_config_names_its_file_and_the_nearest_key(text: str, wanted: list[str], explicit: bool) -> None:
    path = write("mine.toml" if explicit else "gsd.toml", text)
    (problem,) = problems(config=path if explicit else None)
    assert problem.startswith(f"{path}: ")
    for part in wanted:
        assert part in problem


@pytest.mark.parametrize("config", ["missing.toml", "."])
@pytest.mark.fault(21, "a config that is not there")
def test_a_config_that_cannot_be_read(config: str) -> None:
    (problem,) = problems(config=config)
    assert problem.startswith(f"--config: cannot read {config}")


@pytest.mark.parametrize("config", ["mine.toml", "gsd.toml"])
@pytest.mark.fault(21, "a config that is no text")
def test_a_config_that_is_no_text(config: str) -> None:
    Path(config).write_bytes(b"\xff\xfe\x00")
    assert config in problems(config=config if config == "mine.toml" else None)[0]


@pytest.mark.parametrize(
    ("command", "given", "wanted"),
    [
        ("distill", {"preset": "quik"}, ["--preset", "did you mean quick?"]),
        ("distill", {"precision": "bf61"}, ["--precision", "did you mean bf16?"]),
        ("distill", {"lr": "nan"}, ["--lr"]),
        ("distill", {"alpha": "inf"}, ["--alpha", "finite"]),
        ("distill", {"beta2": 1.0}, ["--beta2"]),
        ("distill", {"steps": 3, "kimg": 2}, ["give one of --kimg, --steps"]),
        ("distill", {"t_min": 800, "t_max": 700}, ["--t-min is larger than --t-max"]),
        ("distill", {"tau_min": 0.7}, ["--tau-min is larger than --tau-max"]),
        ("sample", {"seeds": "5-3"}, ["--seeds", "runs backwards"]),
        ("sample", {"seeds": "1", "num_samples": 3}, ["--num-samples or --seeds"]),
        ("prepare", {}, ["missing argument SOURCE"]),
        ("prepare", {"source": "x", "size": 33}, ["--size", "33"]),
        ("interpolate", {"images": ("seed:1",)}, ["two or more of IMAGE"]),
        ("edit", {}, ["IMAGE"]),
        ("edit", {"image": "a", "range": "1:2"}, ["--range"]),
        ("bench", {"num_samples": "many"}, ["--num-samples", "many"]),
    ],
)
def test_wrong_values_name_their_option(command: str, given: dict, wanted: list[str]) -> None:
    found = problems(command, **given)
    assert len(found) == 1
    for part in wanted:
        assert part in found[0]


def test_a_wrong_weight_is_one_problem() -> None:
    # auto or a number: one option, one line
    found = problems(irl_weight="aut")
    assert len(found) == 1
    assert "--irl-weight" in found[0]


@pytest.mark.parametrize(
    "text", ["preset = 3", "preset = [1]", "[distill]\npreset = {a = 1}", "lr = [1]", "seed = 1.5"]
)
def test_values_of_a_wrong_type_are_usage_errors(text: str) -> None:
    write("gsd.toml", text)
    assert all("gsd.toml" in problem for problem in problems())


def test_a_command_name_with_a_value_is_an_unknown_key() -> None:
    write("gsd.toml", "distill = 3")
    assert "distill" in problems()[0]


def test_options_are_frozen() -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        run().options.lr = 3.0


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "-N", "4", "--model", "fashion"],
        ["interpolate", "seed:1", "seed:2", "--model", "fashion", "-o", "walk.gif"],
        ["edit", "seed:3", "--model", "fashion", "--direction", "pc0", "--range=-1:1:3"],
        ["bench", "--model", "fashion", "--metrics", "time"],
        ["prepare", "photos", "--size", "16"],
        ["distill", "--preset", "quick", "--alpha", "1.2"],
    ],
    ids=lambda words: words[0],
)
def test_what_a_dry_run_prints_is_a_config_of_the_same_options(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = replace(SUBCOMMANDS[words[0]], plan=lambda options: (), check=lambda options: None)
    monkeypatch.setitem(SUBCOMMANDS, words[0], silent)

    def dry_run(*words: str) -> list[str]:
        out = io.BytesIO()
        monkeypatch.setattr(Console, "claim_stdout", lambda self: setattr(self, "_out", out))
        assert app.main([*words, "-n"]) == 0
        return out.getvalue().decode().splitlines()

    first = dry_run(*words)
    Path("mine.toml").write_text("\n".join(first))
    again = dry_run(words[0], "--config", "mine.toml")
    assert [line.partition("  # ")[0] for line in again] == [line.partition("  # ")[0] for line in first]
    assert any(line.endswith("  # mine.toml") for line in again)
