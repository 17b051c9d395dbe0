"""One toy teacher and one toy run for all tests of the commands."""

from __future__ import annotations

import pytest

from tests.shell import DISTILL, IMAGES, Shell


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A toy teacher and a run distilled from it, made once by the commands themselves."""
    shell = Shell(tmp_path_factory.mktemp("workshop"))
    prepared = shell.gsd(
        "prepare", str(IMAGES), "--size", "16", "-o", "toy.zip",
        "--fit-teacher", "tiny", "--fit-features", "--fit-steps", "6",
    )  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr.decode()
    assert prepared.stdout.decode().split() == ["toy.zip", "toy-features", "toy.toy.npz", "toy-teacher"]
    distilled = shell.gsd(*DISTILL, "--steps", "12", "-o", "run")
    assert distilled.returncode == 0, distilled.stderr.decode()
    assert distilled.stdout.decode().split() == ["run/generator"]
    return shell
