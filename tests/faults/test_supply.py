"""What gsd depends on is bounded from both sides, and its source reaches for nothing that runs what it reads."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import gsd_cli

PACKAGE = Path(gsd_cli.__file__).parent
ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads",
    "shelve.open", "marshal.loads", "yaml.load", "extractall", "extract",
}  # fmt: skip


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for group in project["optional-dependencies"].values() for one in group)]
    loose = [one for one in wanted if not one.startswith("gsd-cli") and not (">=" in one and ",<" in one)]
    assert loose == []


def calls() -> Iterator[tuple[str, ast.Call, Path]]:
    """Every call of the package: its name as written, without what it is called on unless that is a module."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node, path


def test_nothing_that_runs_or_unpacks_what_it_reads_is_called() -> None:
    found = [
        f"{path.name}: {name}"
        for name, _, path in calls()
        if name in FORBIDDEN or name.rpartition(".")[2] in ("extractall", "extract")
    ]
    assert found == []


def test_what_could_unpickle_is_told_not_to() -> None:
    for name, node, path in calls():
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name == "torch.load":
            assert given.get("weights_only") == "True", path
        if name == "np.load":
            assert given.get("allow_pickle") == "False", path
        assert "trust_remote_code" not in given or given["trust_remote_code"] == "False", path
