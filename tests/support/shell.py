"""Runs gsd as a user does: a real process, with a separate folder and home."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support import warm

IMAGES = Path(__file__).parents[1] / "assets" / "fashion-100.zip"


@dataclass(frozen=True)
class Shell:
    """Runs gsd in a folder, with a separate cache and home and without network."""

    folder: Path

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GSD_", "HF_"))}
        home = str(self.folder / "home")
        return kept | {
            "HOME": home,
            "XDG_CONFIG_HOME": home,
            "HF_HOME": f"{home}/hf",
            "GSD_CACHE_DIR": f"{home}/cache",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            # a timed choice may differ from one process to the next
            "GSD_PRECISION": "fp32",
        }

    def gsd(
        self, *arguments: str, env: dict[str, str] | None = None, input: bytes = b"", cold: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end. cold: in a fresh interpreter, for variables that imports read."""
        changed = env or {}
        environment = self.environment() | changed
        if cold or any(name.startswith(warm.SETTLED) for name in changed):
            command = [sys.executable, "-m", "gsd_cli", *arguments]
            return subprocess.run(
                command, cwd=self.folder, input=input, capture_output=True, timeout=280, env=environment
            )
        return warm.Running(arguments, self.folder, environment, input).wait()

    def running(
        self, *arguments: str, env: dict[str, str] | None = None, input: bytes = b"", terminal: str | None = None,
        prepare: warm.Preparation | None = None,
    ) -> warm.Running:  # fmt: skip
        """Start a command, to stop or kill it later. terminal: the device for its three streams."""
        return warm.Running(arguments, self.folder, self.environment() | (env or {}), input, terminal, prepare)

    def python(
        self, script: str, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a Python script in the same environment, with gsd importable."""
        root = str(Path(__file__).parents[2])
        environment = self.environment() | {"PYTHONPATH": root} | (env or {})
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, timeout=280, env=environment)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gsd_cli", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def sh(self, script: str) -> subprocess.CompletedProcess[bytes]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            capture_output=True,
            timeout=280,
            env=self.environment() | {"PATH": path},
        )


DISTILL = (
    "distill",
    "--teacher",
    "toy-teacher",
    "--data",
    "toy.zip",
    "--features",
    "toy-features",
    "--batch-size",
    "8",
    "--eval-samples",
    "16",
)


def wait_for(path: Path, seconds: float = 120) -> None:
    """Wait until a file or folder is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)
