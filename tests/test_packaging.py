"""The wheel and the sdist are complete and small, and an installed wheel runs."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from gsd_cli.cli.flags import commands

ROOT = Path(__file__).parents[1]
LARGEST = 25_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist, built by the project's own backend."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_the_wheel_holds_everything_and_is_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.message_from_bytes(archive.read(next(n for n in names if n.endswith("METADATA"))))
    assert wheel.stat().st_size <= LARGEST
    kept = ["py.typed", "cli/flags.json", "__main__.py", "assets/fashion/README.md", "assets/ddpm-fashion/README.md",
            "assets/fashion/diffusion_pytorch_model.safetensors", "assets/features-fashion/train.npz",
            "assets/fashion-mnist.zip", "assets/fashion-refined/later/diffusion_pytorch_model.safetensors"]  # fmt: skip
    assert {f"gsd_cli/{name}" for name in kept} <= names
    shared = {name.split(".data/data/share/")[1] for name in names if ".data/data/share/" in name}
    pages = {"man/man1/gsd.1", *(f"man/man1/gsd-{name}.1" for name in commands())}
    scripts = {"bash-completion/completions/gsd", "zsh/site-functions/_gsd", "fish/vendor_completions.d/gsd.fish"}
    assert shared == pages | scripts
    for licence in ("LICENSE", "gsd_cli/assets/LICENSE-fashion-mnist.txt"):
        assert any(name.endswith(f"licenses/{licence}") for name in names)
    assert not any(name.startswith(("tests", "docs", "scripts", "benchmarks")) for name in names)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "One-step" in metadata.get_payload() or "one network call" in metadata.get_payload()


def test_the_sdist_holds_what_tests_and_docs_need(built: Path) -> None:
    path = next(built.glob("*.tar.gz"))
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [
        "tests/support/shell.py",
        "docs/tutorial.md",
        "mkdocs.yml",
        "completions/_gsd",
        "man/gsd.1",
        "scripts/generate.py",
    ]
    assert {*wanted, "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"} <= names
    assert path.stat().st_size <= LARGEST


def test_the_wheel_runs_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    # the installed dependencies are shared, not installed again
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")} | {
        "HOME": str(tmp_path)
    }

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(str(python), "-m", "pip", "install", "--no-deps", "--no-index", "--ignore-installed", "-q", str(wheel))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    gsd = str(python.with_name("gsd"))
    assert run(gsd, "--version") == f"gsd {version}\n"
    assert run(str(python), "-m", "gsd_cli", "--version") == f"gsd {version}\n"
    assert "Method" in run(gsd, "distill", "-h")
    where = run(str(python), "-c", "import gsd_cli; print(gsd_cli.__file__)")
    assert str(tmp_path) in where
    assert (tmp_path / "venv/share/man/man1/gsd-sample.1").exists()
    assert run(gsd, "sample", "-N", "1", "-o", "one.png") == "one.png\n"


def test_the_workflow_calls_what_contributors_call() -> None:
    import yaml

    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["all"]["steps"]
    assert steps[-1]["run"] == ".ci/run"
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_citation_names_the_version() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
