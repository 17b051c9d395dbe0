"""gsd distill --push-to-hub on a finished toy run: prepared, printed, and uploaded to a hub on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image
from pydantic import ValidationError

from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.session import Session
from gsd_cli.cli.preflight_distill import check_distill, plan_distill
from gsd_cli.commands.publish import publish, without_paths
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.options import DistillOptions
from tests.support.hub import COMMIT, Hub, serve
from tests.support.shell import DISTILL, Shell

REPO = "someone/toy-one-step"
TOKEN, READ_ONLY = "hf_" + "S3cretS3cret" * 3, "hf_" + "ReadReadRead" * 3
CALL = (*DISTILL, "--steps", "12", "-o", "run", "--push-to-hub", REPO)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serve({}) as found:
        found.uploads, found.token, found.read_only = tmp_path / "uploads", TOKEN, READ_ONLY
        yield found


def online(hub: Hub, token: str | None = TOKEN) -> dict[str, str]:
    """The environment of a user of this hub. Large files go by HTTP: the hub here does not speak Xet."""
    given = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return given | ({"HF_TOKEN": token} if token else {})


def test_without_publish_everything_is_prepared_and_nothing_is_sent(workshop: Shell, hub: Hub) -> None:
    before = (workshop.folder / "run" / "generator" / "gsd.json").stat().st_mtime_ns
    done = workshop.gsd(*CALL, "--json", env=online(hub))
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert not hub.requests
    report = json.loads(done.stdout)
    assert report["outputs"] == ["run/generator", "run/hub"]
    folder, facts = workshop.folder / "run" / "hub", report["metrics"]["hub"]
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert facts["files"] == files and facts["bytes"] == sum(files.values())
    assert facts["published"] is False and "url" not in facts
    assert {"README.md", "gsd.json", "config.json", "images/samples.png", "images/walk.png"} <= set(files)
    assert (folder / "README.md").read_text(encoding="utf-8") in said
    assert "the licence of toy-teacher is not known" in report["warnings"][-1]
    # nothing was trained, and the generator is the run's own
    assert (workshop.folder / "run" / "generator" / "gsd.json").stat().st_mtime_ns == before
    assert weights_fingerprint(folder) == weights_fingerprint(workshop.folder / "run" / "generator")
    assert Image.open(folder / "images" / "samples.png").size == (512, 512)
    assert Image.open(folder / "images" / "walk.png").size == (9 * 64, 3 * 64)


@pytest.mark.slow
def test_a_published_generator_opens_with_gsd_and_by_the_snippet_of_its_card(workshop: Shell, hub: Hub) -> None:
    done = workshop.gsd(*CALL, "--publish", "--license", "mit", "--json", env=online(hub))
    assert done.returncode == 0, done.stderr.decode()
    facts = json.loads(done.stdout)["metrics"]["hub"]
    assert (facts["url"], facts["commit"]) == (f"{hub.url}/{REPO}", COMMIT)
    ((repo, message, names),) = hub.commits
    assert repo == REPO and message.startswith("Generator distilled by gsd")
    assert sorted(names) == sorted(facts["files"])
    card = (hub.folders[REPO] / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    # the token went to the hub, and nowhere else
    assert hub.tokens <= {f"Bearer {TOKEN}", ""} and f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN.encode() not in done.stdout + done.stderr
    for path in (*workshop.folder.rglob("*"), *hub.folders[REPO].rglob("*")):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    # what the card says of use, word for word
    snippet = card.split("```python\n")[1].split("```")[0]
    checked = workshop.python(
        snippet
        + "\nimport sys; from huggingface_hub import snapshot_download"
        + "\nfrom gsd_cli.core.models.generator import load_model"
        + f"\nmodel = load_model(snapshot_download({REPO!r}))"
        + "\nwith torch.no_grad(): own = model.generator(z / sigma)"
        + "\ntorch.testing.assert_close(images, own, rtol=1e-3, atol=1e-3)",
        env=online(hub),
    )
    assert checked.returncode == 0, checked.stderr.decode()


@pytest.mark.parametrize(
    ("token", "said"),
    [(None, "there is no token"), ("hf_wrong", "the hub does not accept the token")],
)
def test_a_token_is_asked_for_before_anything_is_made(token: str | None, said: str, workshop: Shell, hub: Hub) -> None:
    done = workshop.gsd(*CALL, "-o", "new", "--publish", env=online(hub, token))
    assert done.returncode == 4, done.stderr.decode()
    assert f"cannot publish {REPO}: {said}" in done.stderr.decode()
    assert "hf auth login" in done.stderr.decode()
    assert not (workshop.folder / "new").exists() and not hub.commits


def test_a_token_that_may_only_read_is_refused_by_the_hub(workshop: Shell, hub: Hub) -> None:
    done = workshop.gsd(*CALL, "--publish", env=online(hub, READ_ONLY))
    assert done.returncode == 4, done.stderr.decode()
    assert "the token may not write there" in done.stderr.decode()
    assert READ_ONLY.encode() not in done.stdout + done.stderr
    assert not hub.commits


def test_publishing_needs_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    options = DistillOptions(output=tmp_path / "r", push_to_hub=REPO, publish=True, offline=True)
    with pytest.raises(GsdError, match="--publish needs the network, and --offline forbids it") as error:
        check_distill(options)
    assert error.value.code == ExitCode.NETWORK
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(GsdError, match="HF_HUB_OFFLINE forbids it"):
        check_distill(options.model_copy(update={"offline": False}))
    check_distill(options.model_copy(update={"publish": False}))
    plan = list(zip(range(3), plan_distill(options), strict=False))
    assert f"prepares {tmp_path / 'r'}/hub/ for {REPO} and uploads it" in [line for _, line in plan]


def test_a_run_that_is_not_finished_is_not_published(
    workshop: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop.folder)
    options = DistillOptions(output=Path("run"), push_to_hub=REPO, publish=True)
    result = Result(["run/generator"])
    assert publish(options, Path("run"), 13, result, Session.start(options, Console())) is result
    assert f"the run is not finished (12 of 13 steps): nothing is prepared for {REPO}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"publish": True}, "--publish needs --push-to-hub OWNER/NAME"),
        ({"license": "mit"}, "--license needs --push-to-hub"),
        ({"push_to_hub": "name"}, "not the name of a repository"),
        ({"push_to_hub": "a/b/c"}, "not the name of a repository"),
        ({"push_to_hub": "a/../b"}, "not the name of a repository"),
        ({"push_to_hub": "a/b--c"}, "not the name of a repository"),
        ({"push_to_hub": "a/" + "b" * 100}, "not the name of a repository"),
        ({"push_to_hub": "a/b", "license": "MIT License\n"}, "not an identifier of a licence"),
    ],
)
def test_options_that_are_wrong(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DistillOptions.model_validate(given)


def test_no_path_of_this_machine_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "pets-teacher").mkdir(parents=True)
    given = {
        "teacher": str(tmp_path / "pets-teacher"), "near": "data/pets-teacher", "hub": "google/ddpm-cifar10-32",
        "settings": {"prompts": ["../x/prompts.safetensors", "a cat"]}, "steps": 3, "none": None,
    }  # fmt: skip
    assert without_paths(given) == {
        "teacher": "pets-teacher", "near": "pets-teacher", "hub": "google/ddpm-cifar10-32",
        "settings": {"prompts": ["prompts.safetensors", "a cat"]}, "steps": 3, "none": None,
    }  # fmt: skip
