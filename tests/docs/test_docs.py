"""The documentation is true: every command of README and docs is a command, every link leads somewhere.

Every `gsd ...` line is run with --dry-run. With -m slow the README's and the tutorial's examples are also run for real,
in a shell, with SHORTENED: what is long is made short, nothing else is changed.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsd_cli.base.console import Console
from gsd_cli.catalogue.find import HUB_ID
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.cli import app
from gsd_cli.cli.flags import commands
from gsd_cli.core.distillation import estimate
from tests.support.disk import empty_disk
from tests.support.shell import Shell
from tests.support.teachers import text_pipeline

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHORTENED = {
    "gsd distill": "--steps 2 --batch-size 4 --eval-samples 16",
    "gsd bench": "--compare ddim-2 -N 16 --ppl-samples 10",
    "gsd prepare": "--fit-steps 2 --batch-size 4 --size 16",
    "gsd edit": "--invert-steps 3",
    "gsd interpolate": "--invert-steps 3",
}
"""Appended to a command that is run for real: a later flag wins over the text's own."""
SKIPPED = ("python -m venv", "pip install", "gsd --install-completion")
"""Not run here: tests of the package install it, and a test must not touch the user's shell."""


def blocks(page: Path, language: str = "sh") -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def gsd_words(line: str) -> Iterator[list[str]]:
    """The arguments of every gsd in a line of shell, comments, pipes and redirections taken away."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;><")
    lexer.whitespace_split = True
    part: list[str] = []
    for word in [*lexer, "|"]:
        if not set(word) <= set("|&;><"):
            part.append(word)
            continue
        if part[:1] == ["gsd"]:
            yield part[1:]
        elif "gsd_cli" in part:
            yield part[part.index("gsd_cli") + 1 :]
        part = [] if set(word) <= set("|&;") else ["redirected to"]


def lines_of(page: Path) -> list[str]:
    return [line.strip() for block in blocks(page) for line in block.replace("\\\n", " ").splitlines() if line.strip()]


FIRST_PAGES = {
    tuple(words): page.name
    for page in reversed(PAGES)
    for line in lines_of(page)
    for words in gsd_words(line)
    if words and words[0] in commands()
}
COMMANDS = [
    pytest.param(list(words), id=f"{page}: {' '.join(words)[:60]}") for words, page in reversed(FIRST_PAGES.items())
]
"""Each command once, with the first page that it is on."""


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_one(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_teacher_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Nothing is wrong with it but that the reader's files and runs are not here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # what is published is refused without a network
    # how long a step takes is no question here, and to time it takes seconds
    monkeypatch.setattr(estimate, "seconds_of", lambda *_: 0.01)
    monkeypatch.setattr(estimate, "_choose", lambda *_: "fp32")
    monkeypatch.setattr(shutil, "disk_usage", empty_disk)
    (tmp_path / "mine.toml").write_text("seed = 0\n")
    teacher = words[words.index("--teacher") + 1] if "--teacher" in words else "ddpm-fashion"
    if teacher not in TEACHERS and not HUB_ID.fullmatch(teacher):  # a dry run reads a teacher that is a folder
        if "--prompts" in words:
            text_pipeline(tmp_path / teacher, "SD")
        else:
            shutil.copytree(toy_teacher_folder, tmp_path / teacher)
    before = sorted(p.name for p in tmp_path.iterdir())
    monkeypatch.setattr(Console, "claim_stdout", lambda self: setattr(self, "_out", io.BytesIO()))
    code = app.main([*words, "--dry-run"])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code in (0, 3)
    assert all("no such " in line for line in errors), errors
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def shortened(line: str) -> str:
    """A line of the docs, made short: flags are put before a pipe, a redirection or a comment."""
    line = line.partition(" #")[0].strip().replace("0-9999", "0-9").replace("0-99 ", "0-9 ")
    for start, more in SHORTENED.items():
        drop = r" (--preset|--compare|-N|--size) \S+" if start != "gsd edit" else r"$^"
        line = re.sub(
            rf"({re.escape(start)}\b[^|>]*)", lambda m, d=drop, s=more: f"{re.sub(d, '', m[1]).rstrip()} {s} ", line
        )
    return line


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_the_examples_work_as_written(name: str, shell: Shell) -> None:
    (shell.folder / "photos").mkdir()
    for k in range(8):
        picture = np.random.default_rng(k).integers(0, 255, (20, 20), np.uint8)
        Image.fromarray(picture).save(shell.folder / "photos" / f"{k}.png")
    lines = [line for line in lines_of(ROOT / name) if not line.startswith(SKIPPED)]
    if shutil.which("jq") is None:
        lines = [line for line in lines if "| jq" not in line]
    script = "set -e\n" + "\n".join(f"echo '$' {shlex.quote(s)} >&2\n{s}" for s in map(shortened, lines))
    done = shell.sh(script)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert b"Traceback" not in done.stderr


def anchors(page: Path) -> set[str]:
    """What a link to a heading of this page may name."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", h.lower()).strip()) for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    site = load_config(
        str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True, extra={"explorer": False}
    )
    build(site)
    assert "without the live explorer" in (tmp_path / "site" / "explorer" / "index.html").read_text()
    assert (tmp_path / "site" / "reference" / "gsd-sample" / "index.html").exists()


def test_a_generator_is_sampled_with_diffusers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet of the documentation, without gsd, gives the images that gsd gives."""
    import torch

    from gsd_cli.base.storage import ASSETS
    from gsd_cli.core.models.generator import load_model

    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    snippet = re.search(r"<!-- without gsd -->\n```python\n(.*?)```", text, re.S)
    assert snippet is not None
    assert "gsd_cli" not in snippet[1]
    code = snippet[1].replace("runs/ddpm-fashion-quick/generator", str(ASSETS / "fashion"))
    names: dict[str, torch.Tensor] = {}
    exec(compile(code, "docs/python.md", "exec"), names)
    assert names["images"].shape == (4, 1, 32, 32)
    generator = load_model("fashion").generator
    with torch.no_grad():
        torch.testing.assert_close(names["images"], generator(names["z"] / generator.sigma_init), rtol=1e-3, atol=1e-3)


def test_a_direction_is_read_without_gsd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet of docs/editing.md moves a latent as gsd does, with NumPy and safetensors alone."""
    import torch

    from gsd_cli.core.editing.direction import Direction, move_latents
    from gsd_cli.core.editing.direction_file import save_direction

    text = (ROOT / "docs" / "editing.md").read_text(encoding="utf-8")
    snippet = re.search(r"<!-- a direction without gsd -->\n```python\n(.*?)```", text, re.S)
    assert snippet is not None
    assert "gsd_cli" not in snippet[1] and "torch" not in snippet[1]
    monkeypatch.chdir(tmp_path)
    vector = torch.randn(1, 8, 8)
    direction = Direction("brightness", "latent", vector / vector.norm(), 3.0, "mean")
    save_direction(Path("brightness.safetensors"), direction, "0" * 16, None, (-1.5, 2.0))
    names: dict[str, np.ndarray] = {}
    exec(compile(snippet[1], "docs/editing.md", "exec"), names)
    moved = move_latents(torch.from_numpy(names["z"])[None], 2.0 * 3.0 * direction.vector[None])[0]
    np.testing.assert_allclose(names["moved"], moved.numpy(), rtol=1e-5, atol=1e-5)


def test_python_blocks_name_what_exists() -> None:
    import gsd_cli

    for block in blocks(ROOT / "docs" / "python.md", "python"):
        for listed in re.findall(r"^from gsd_cli import (.+)$", block, re.M):
            assert {name.strip() for name in listed.split(",")} <= set(gsd_cli.__all__)
