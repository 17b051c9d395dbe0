"""Versions recorded with every result."""

from __future__ import annotations

import platform

PACKAGES = ("gsd-cli", "torch", "torchvision", "diffusers", "safetensors", "numpy", "scipy", "pillow", "clean-fid")


def versions() -> dict[str, str]:
    """The installed versions of the packages that figures depend on; none of them is imported."""
    from importlib import metadata  # slow to import, and help does not need it

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def gsd_version() -> str:
    """The installed version of gsd."""
    from importlib import metadata

    try:
        return metadata.version("gsd-cli")
    except metadata.PackageNotFoundError:
        return "0.0.0"
