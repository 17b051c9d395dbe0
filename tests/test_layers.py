"""The order of the packages, checked from the text of the code: imports go one way, and light modules stay light."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gsd_cli"
ORDER = (
    "base", "catalogue", "options", "compute", "data", "core.models", "core.sampling", "core.training", "core.latents",
    "core.export", "core.distillation", "core.editing", "core.explorer", "metrics", "comparison", "commands", "cli",
)  # fmt: skip
"""A module imports from its own package and from those before it."""
APART = (("core.training", "core.latents"), ("core.distillation", "core.editing"))
"""Pairs of packages of which the second does not import the first."""
LIGHT = ("base", "catalogue", "options", "cli", "api", "__init__", "__main__")
ALSO_LIGHT = {
    "core.distillation.inputs", "core.distillation.run_folder", "core.models.fingerprint", "core.training.pace",
    "core.models.teacher_config", "core.models.unet2d_config", "core.models.unet2d_condition_config",
    "core.models.config_check", "core.models.dit_config", "core.models.ddp_unet_config",
    "core.models.edm_config", "core.models.edm_pickle", "core.models.inert_pickle",
    "core.models.sd3_config", "core.models.flux_config", "core.models.sana_config", "core.models.text_sizes",
    "core.models.flow_pipeline",
}  # fmt: skip
"""What cli.preflight asks before torch is loaded."""
HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "PIL",
    "tifffile",
    "diffusers",
    "sklearn",
    "matplotlib",
    "safetensors",
    "onnx",
    "onnxruntime",
    "onnxscript",
}
LATE = {
    "cli.app", "cli.preflight", "cli.preflight_distill", "cli.checks", "cli.check_inputs", "cli.check_directions",
    "cli.check_texts", "cli.flags", "api", "__init__", "__main__",
}  # fmt: skip
"""Modules that may import gsd's own modules inside functions, because they answer before torch is loaded."""


def names() -> list[str]:
    """Every module, without `gsd_cli.`."""
    files = sorted(PACKAGE.rglob("*.py"))
    return [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in files]


def package_of(module: str) -> str | None:
    """The package of a module that has a place in the order; None for the modules at the root."""
    fitting = [package for package in ORDER if f"{module}.".startswith(f"{package}.")]
    return max(fitting, key=len, default=None)


@cache
def imports(module: str) -> tuple[tuple[str, bool, bool], ...]:
    """The imports of a module: (dotted name, whether at import time, whether only for type checkers)."""
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    return tuple(_imports(tree, at_top=True, typing=False))


def _imports(node: ast.AST, *, at_top: bool, typing: bool) -> Iterator[tuple[str, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, at_top, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            # a module of ours may be imported as a name of its package
            yield from ((_module(child.module or "", alias.name), at_top, typing) for alias in child.names)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from _imports(child, at_top=at_top and not inside, typing=typing or checking)


def _module(base: str, name: str) -> str:
    whole = f"{base}.{name}".removeprefix("gsd_cli.")
    return f"gsd_cli.{whole}" if whole in names_set() and base.startswith("gsd_cli") else base


@cache
def names_set() -> frozenset[str]:
    return frozenset(names())


def ours(module: str) -> Iterator[tuple[str, bool, bool]]:
    for name, at_top, typing in imports(module):
        if name.startswith("gsd_cli."):
            yield name.removeprefix("gsd_cli."), at_top, typing


def test_every_module_has_a_place() -> None:
    """Only the public API is at the root."""
    loose = {name for name in names() if package_of(name) is None} - {"core.__init__"}
    assert loose == {"__init__", "__main__", "api"}


@pytest.mark.parametrize("module", [name for name in names() if package_of(name)])
def test_imports_come_from_earlier_packages(module: str) -> None:
    own = ORDER.index(str(package_of(module)))
    for name, _, _ in ours(module):
        package = package_of(name)
        assert package is not None and ORDER.index(package) <= own, f"{module} imports {name}"
        assert (package, ORDER[own]) not in APART, f"{module} imports {name}"


@pytest.mark.parametrize("module", names())
def test_light_modules_load_nothing_heavy(module: str) -> None:
    if not module.startswith(LIGHT) and module not in ALSO_LIGHT:
        return
    loaded = {name.partition(".")[0] for name, at_top, typing in imports(module) if at_top and not typing}
    assert not loaded & HEAVY
    asked = {name for name, at_top, typing in ours(module) if at_top and not typing} - ALSO_LIGHT
    assert {package_of(name) for name in asked} <= {"base", "catalogue", "options", "cli", None}, module


@pytest.mark.parametrize("module", names())
def test_imports_of_our_own_stand_at_the_top(module: str) -> None:
    if module not in LATE:
        assert [name for name, at_top, _ in ours(module) if not at_top] == []


def test_there_is_no_circle() -> None:
    """Imports for type checkers count too, because a reader follows them."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name, _, _ in ours(module):
                if name in names_set():
                    visit(name, (*path, module))
            done.add(module)

    for module in names():
        visit(module, ())
