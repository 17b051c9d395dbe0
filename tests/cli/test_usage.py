"""Wrong options: exit 2 before torch is loaded, with one message that names them all."""

from __future__ import annotations

import pytest

from gsd_cli.cli.app import main
from tests.support.shell import Shell

WRONG: list[tuple[list[str], list[str]]] = [
    (["distill", "--alpha", "nan", "--steps", "0", "--lr", "-1", "--device", "tpu", "--preset", "quik"],
     ["--alpha", "--steps", "--lr", "--device", "--preset", "did you mean quick?"]),
    (["distill", "--batch-size", "x", "--irl-ratio", "-1", "--irl-weight", "often", "--beta1", "1"],
     ["--batch-size", "--irl-ratio", "--irl-weight", "--beta1"]),
    (["distill", "--irl", "isometric", "--irl-phi", "vgg", "--irl-every", "0"], ["--irl", "--irl-phi", "--irl-every"]),
    (["distill", "--steps", "5", "--kimg", "2"], ["one of --kimg, --steps"]),
    (["distill", "--tau-min", "1", "--tau-max", "0.5"], ["--tau-min"]),
    (["sample", "--seeds", "5-3"], ["runs backwards"]),
    (["sample", "--seeds", "1,,2"], ["--seeds"]),
    (["sample", "--seeds", ""], ["--seeds"]),
    (["sample", "--seeds", "-1"], ["--seeds"]),
    (["sample", "--seeds", "0-99999999"], ["more than"]),
    (["sample", "-N", "0", "--truncation", "2"], ["--num-samples", "--truncation"]),
    (["sample", "-N", "4", "--seeds", "1"], ["not both"]),
    (["sample", "--grid", "-o", "x.zip"], ["--grid"]),
    (["prepare"], ["SOURCE"]),
    (["prepare", "photos", "--size", "33", "--fit-teacher", "huge"], ["--size", "--fit-teacher"]),
    (["interpolate", "a.png"], ["IMAGE"]),
    (["interpolate", "a", "b", "--frames", "1", "--path", "straight"], ["--frames", "--path"]),
    (["edit"], ["IMAGE"]),
    (["edit", "seed:1", "--strength", "inf", "--range", "1:2"], ["--strength", "--range"]),
    (["distill", "--alpha", "x", "--steps", "1.5", "--batch-size", "0"],
     ["--alpha: a number is needed, not 'x'",
      "--steps: a whole number is needed, not '1.5'", "must be greater than 0"]),
    (["edit", "seed:1", "--range", "foo"], ["--range: 'foo' does not have the form A:B:N"]),
    (["bench", "--metrics", "fd,beauty,pp", "--compare", "mso,ddim-0"],
     ["'beauty', 'pp' (did you mean ppl?)", "'mso' (did you mean msa?), 'ddim-0'"]),
    (["bench", "--metrics", ","], ["no metric given"]),
    (["bench", "--max-fid", "0", "-N", "1"], ["--max-fid", "--num-samples"]),
    (["bench", "--metrics", "time", "--max-fid", "3"], ["--max-fid needs fd"]),
    (["distill", "--no-such-option"], ["--no-such-option"]),
    (["destill"], ["destill"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "named"), WRONG, ids=lambda value: " ".join(value)[:40])
@pytest.mark.fault(15, "wrong values on the command line")
def test_wrong_options_are_all_named_with_exit_2(arguments: list[str], named: list[str], shell: Shell) -> None:
    done = shell.gsd(*arguments)
    text = done.stderr.decode()
    assert done.returncode == 2, text
    assert not done.stdout
    assert "Traceback" not in text
    for word in named:
        assert word in text


@pytest.mark.parametrize("name", ["\x00", "a\x00.toml", "x" * 5000])
@pytest.mark.fault(21, "a config under a name that no file can have")
def test_a_config_with_an_impossible_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, because the system cannot pass such a word to another."""
    assert main(["prepare", "--config", name]) == 2
    assert "--config: cannot read" in capsys.readouterr().err


LONG = "9" * 5000
TOO_LONG = [
    ["prepare", LONG], ["prepare", ".", "--labels", LONG], ["prepare", ".", "-o", f"{LONG}.zip"],
    ["distill", "--teacher", LONG], ["distill", "--data", LONG], ["distill", "--features", LONG],
    ["distill", "-o", LONG],
    ["sample", "--model", LONG], ["sample", "-o", LONG], ["sample", "-o", f"{LONG}.png"],
    ["interpolate", LONG, "seed:1"], ["edit", LONG], ["edit", "seed:1", "-o", f"{LONG}.png"],
    ["bench", "--compare", LONG], ["bench", "--stats", LONG], ["bench", "--features", LONG],
    ["bench", "--report", LONG],
]  # fmt: skip


@pytest.mark.parametrize("arguments", TOO_LONG, ids=lambda words: " ".join(word[:9] for word in words))
@pytest.mark.fault(15, "a name that no file can have")
def test_a_name_that_no_file_can_have(arguments: list[str], shell: Shell) -> None:
    done = shell.gsd(*arguments, "--offline")
    text = done.stderr.decode()
    assert done.returncode in (2, 3, 4, 8), text
    assert "error: " in text and "hint: " in text
    assert not done.stdout
    assert list(shell.folder.iterdir()) in ([], [shell.folder / "home"])


@pytest.mark.fault(21, "wrong keys and types in gsd.toml")
def test_the_environment_and_config_files_are_checked_and_named(shell: Shell) -> None:
    (shell.folder / "gsd.toml").write_text('alhpa = 1\n[distill]\nlr = "fast"\n[sample]\ntruncation = 2\n')
    done = shell.gsd("distill", env={"GSD_ALPHA": "-3"})
    text = done.stderr.decode()
    assert done.returncode == 2
    assert "gsd.toml: unknown key 'alhpa' (did you mean alpha?)" in text
    assert "--lr (from gsd.toml)" in text
    assert "--alpha (from GSD_ALPHA)" in text
    assert "truncation" not in text


def test_dry_run_shows_origins_and_writes_nothing(shell: Shell) -> None:
    (shell.folder / "mine.toml").write_text("[distill]\nalpha = 1.2\n")
    done = shell.gsd("distill", "-n", "--config", "mine.toml", "--steps", "7", env={"GSD_BETA1": "0.5"})
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0
    assert "alpha = 1.2  # mine.toml" in lines
    assert "steps = 7  # --steps" in lines
    assert "beta1 = 0.5  # GSD_BETA1" in lines
    assert "# lr = 0.0001  # preset quick" in lines
    assert sorted(p.name for p in shell.folder.iterdir()) == ["mine.toml"]


@pytest.mark.fault(4, "a file where a folder is needed")
def test_an_output_that_cannot_be_written_is_exit_8_at_once(shell: Shell) -> None:
    (shell.folder / "taken").write_text("a file")
    for arguments in (["distill", "-o", "taken"], ["sample", "-o", "taken/x.png"], ["bench", "--report", "taken"]):
        done = shell.gsd(*arguments)
        assert done.returncode == 8, done.stderr.decode()
        assert "taken" in done.stderr.decode()
    assert (shell.folder / "taken").read_text() == "a file"


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["sample", "--model", "nowhere"], 3, "no such model"),
        (["distill", "--teacher", "ddpm-cifar"], 3, "did you mean ddpm-cifar10?"),
        (["distill", "--teacher", "model.pkl"], 3, "no such file"),
        (["distill", "--teacher", "ddpm-cifar10"], 4, "google/ddpm-cifar10-32"),
        (["prepare", "nothing-here"], 3, "nothing-here"),
        (["interpolate", "nothing.png", "seed:1"], 3, "nothing.png"),
        (["sample", "--device", "cuda:7"], 5, "cuda:7"),
    ],
    ids=str,
)
def test_missing_things_have_their_exit_code_and_a_hint(
    arguments: list[str], code: int, word: str, shell: Shell
) -> None:
    done = shell.gsd(*arguments)
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert word in text
    assert "hint:" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("sample", "--format", "tar", "-o", "x.png"), ("--format tar contradicts -o x.png", "-o x.tar")),
        (("sample", "--format", "jpg", "-o", "x.webp"), ("contradicts", "-o x.jpg")),
        (("sample", "-o", "x.gif"), (".gif files are not written", ".webp")),
        (("sample", "--grid", "-o", "x.zip"), ("--grid", "-o grid.png")),
        (("prepare", ".", "-o", "z.tar"), (".tar is a shard", "--shards")),
        (("prepare", ".", "-o", "z.npz"), ("a data set is a .zip", "-o z.zip")),
        (("prepare", ".", "-o", "z.zip", "--conditional"), ("--conditional does nothing without --fit-teacher",)),
        (
            ("prepare", ".", "-o", "z.zip", "--fit-lr", "1e-4", "--fit-steps", "9", "--features-net", "convnext"),
            ("--fit-lr", "--fit-steps", "--features-net", "--fit-features"),
        ),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("dry", [(), ("-n",)], ids=["run", "dry"])
def test_contradictions_are_refused_before_torch_is_loaded(
    arguments: tuple[str, ...], named: tuple[str, ...], dry: tuple[str, ...], shell: Shell
) -> None:
    script = """
import sys
from gsd_cli.cli.app import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""
    done = shell.python(script, *arguments, *dry)
    text = done.stderr.decode()
    assert done.returncode == 2, text
    assert "hint: " in text and all(word in text for word in named), text
    assert not [path for path in shell.folder.iterdir() if path.name != "home"]


def test_a_source_that_does_not_exist_is_refused_before_torch_is_loaded(shell: Shell) -> None:
    script = """
import sys
from gsd_cli.cli.app import main
code = main(sys.argv[1:])
assert not {"torch", "numpy"} & set(sys.modules)
sys.exit(code)
"""
    done = shell.python(script, "prepare", "nowhere")
    assert done.returncode == 3, done.stderr.decode()
    assert "no such data set or path: nowhere" in done.stderr.decode()
    assert not [path for path in shell.folder.iterdir() if path.name != "home"]
