"""gsd in a process of its own that need not import torch again: forked from a server that has.

Half of a short command's time is imports. multiprocessing's fork server makes them once; each
command is still a process with its own files, signals and exit code.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

SETTLED = ("HF_", "TORCH", "OMP_", "PYTHON", "XDG_", "LD_")
"""Variables that libraries read while they are imported: they ask for a fresh interpreter."""

TIMEOUT = 280


def preload() -> None:
    """All that any command imports; run once, in the server, by importing this module there."""
    import diffusers

    import gsd_cli

    for name in ("UNet2DModel", "DDPMScheduler", "DDIMScheduler"):  # diffusers imports what is asked for
        getattr(diffusers, name)
    for module in pkgutil.walk_packages(gsd_cli.__path__, "gsd_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _child(arguments: list[str], folder: str, environment: dict[str, str], streams: list[str]) -> None:
    for number, path in enumerate(streams):
        handle = os.open(path, os.O_RDWR)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["gsd", *arguments]
    code = 1
    try:
        from gsd_cli.app import main

        code = main()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(
    arguments: tuple[str, ...], folder: Path, environment: dict[str, str], given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """The command's exit code (negative for a signal) and what it wrote, as subprocess.run gives them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm_server"])
    with tempfile.TemporaryDirectory() as scratch:
        streams = [Path(scratch) / name for name in ("in", "out", "err")]
        for stream, content in zip(streams, (given, b"", b""), strict=True):
            stream.write_bytes(content)
        process = context.Process(
            target=_child, args=(list(arguments), str(folder), environment, [str(s) for s in streams])
        )
        process.start()
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), TIMEOUT)
        return subprocess.CompletedProcess(
            list(arguments), process.exitcode, streams[1].read_bytes(), streams[2].read_bytes()
        )
