"""Runs gsd in processes forked from a server that has already imported torch.

Half of a short command's time is imports. multiprocessing's fork server does them once. Each command is still a
process with its own files, signals and exit code.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SETTLED = ("HF_", "TORCH", "OMP_", "PYTHON", "XDG_", "LD_")
"""Prefixes of variables that libraries read at import. A command with one needs a fresh interpreter."""

TIMEOUT = 280
DRAWING = ("matplotlib.backends.backend_agg", "matplotlib.figure", "rich.console", "rich.live", "rich.table")
"""Imported where something is drawn. In a new home matplotlib also lists the system's fonts, for seconds."""


def preload() -> None:
    """Import everything that any command imports. The server does this once."""
    import diffusers
    import PIL.Image

    import gsd_cli

    PIL.Image.init()
    for name in DRAWING:
        importlib.import_module(name)

    for name in ("UNet2DModel", "DDPMScheduler", "DDIMScheduler"):  # diffusers imports a class when it is first used
        getattr(diffusers, name)
    for module in pkgutil.walk_packages(gsd_cli.__path__, "gsd_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


Preparation = Callable[[], object]
"""A function that the process calls before the command, for example to set a limit."""


def _child(
    arguments: list[str], folder: str, environment: dict[str, str], streams: list[str], prepare: Preparation | None
) -> None:  # fmt: skip
    for number, path in enumerate(streams):
        handle = os.open(path, os.O_RDWR)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["gsd", *arguments]
    if prepare is not None:
        prepare()
    code = 1
    try:
        from gsd_cli.cli.app import main

        code = main()
    finally:
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):  # as the interpreter does at its end
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Running:
    """A command that runs in another process. streams: the files of its stdin, stdout and stderr."""

    def __init__(
        self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], given: bytes = b"",
        terminal: str | None = None, prepare: Preparation | None = None,
    ):  # fmt: skip
        self.arguments = list(arguments)
        self._scratch = tempfile.TemporaryDirectory()
        self.streams = [Path(self._scratch.name) / name for name in ("in", "out", "err")]
        for stream, content in zip(self.streams, (given, b"", b""), strict=True):
            stream.write_bytes(content)
        paths = [terminal] * 3 if terminal else [str(stream) for stream in self.streams]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.support.warm_server"])
        self._process = context.Process(target=_child, args=(self.arguments, str(folder), environment, paths, prepare))
        self._process.start()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid or 0, number)

    def wait(self, seconds: float = TIMEOUT) -> subprocess.CompletedProcess[bytes]:
        """Wait for its end; returns its exit code (negative for a signal) and output, like subprocess.run."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.arguments, seconds, stderr=self.streams[2].read_bytes())
        out, err = (stream.read_bytes() for stream in self.streams[1:])
        self._scratch.cleanup()
        return subprocess.CompletedProcess(self.arguments, self._process.exitcode, out, err)
