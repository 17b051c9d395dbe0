"""Every benchmark opens with its command, and every benchmark that the documentation names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [path for path in sorted((ROOT / "benchmarks").rglob("*.py")) if '__name__ == "__main__"' in path.read_text()]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.txt")]
NAMED = re.compile(r"python -m (benchmarks[.\w]*\w)|(benchmarks/[/\w]+\.py)")
RETIRED = {f"benchmarks/{name}.py" for name in ("averages", "calibration", "feature_maps", "gradient_norms", "levers")}
"""Named in docs/experiments.md, which says where to find them."""


def module(path: Path) -> str:
    """The name after `python -m`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


@pytest.mark.parametrize("path", SCRIPTS, ids=module)
def test_a_script_opens_with_its_command(path: Path) -> None:
    described = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert f"python -m {module(path)} " in described


def test_every_benchmark_named_exists() -> None:
    modules = {module(path) for path in SCRIPTS}
    for page in [*PAGES, *SCRIPTS]:
        text = page.read_text(encoding="utf-8")
        if page.name == "CHANGELOG.md":  # the first version named its own
            text = text.partition("## [0.1.0]")[0]
        for run, path in NAMED.findall(text):
            assert run in modules or ((ROOT / path).is_file() and path) or path in RETIRED, (
                f"{page.name}: {run or path}"
            )
