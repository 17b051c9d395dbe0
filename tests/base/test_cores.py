"""The cores that a process may use, by affinity and by control groups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gsd_cli.base.cores import available_cores, read_cpu_quota


def test_cores_are_counted() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.fixture
def groups(tmp_path: Path) -> tuple[Path, Path]:
    """A folder for control groups, and the file that lists those of a process."""
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "own").write_text("")
    return tmp_path / "cgroup", tmp_path / "own"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")).write_text(text + "\n")


def test_without_a_limit_there_is_no_quota(groups: tuple[Path, Path]) -> None:
    assert read_cpu_quota(*groups) is None
    write(groups[0], cpu_max="max 100000")
    assert read_cpu_quota(*groups) is None


def test_version_2(groups: tuple[Path, Path]) -> None:
    root, own = groups
    write(root, cpu_max="150000 100000")  # what a container sees
    assert read_cpu_quota(root, own) == 1.5
    own.write_text("0::/kubepods/pod7\n")  # the host's view: every group above limits too
    write(root / "kubepods" / "pod7", cpu_max="max 100000")
    write(root / "kubepods", cpu_max="50000 100000")
    assert read_cpu_quota(root, own) == 0.5


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1(groups: tuple[Path, Path], mount: str) -> None:
    root, own = groups
    own.write_text("3:cpuset:/other\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/x\n")
    write(root / mount, cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
    assert read_cpu_quota(root, own) is None
    write(root / mount / "docker" / "ab", cpu_cfs_quota_us="200000", cpu_cfs_period_us="100000")
    assert read_cpu_quota(root, own) == 2.0


def test_damaged_files_are_no_quota(groups: tuple[Path, Path]) -> None:
    for text in ("", "x y", "100 0", "\0"):
        write(groups[0], cpu_max=text)
        assert read_cpu_quota(*groups) is None


LIMIT = """
import os, sys
from pathlib import Path
from gsd_cli.base import cores
cores.CGROUPS, cores.OWN_CGROUPS, cores._allowed_cores = Path(sys.argv[1]), Path("/nonexistent"), lambda: 8
cores.limit_threads(int(sys.argv[2]) or None)
print(os.environ.get("OMP_NUM_THREADS"))
"""


@pytest.mark.parametrize(
    ("quota", "asked", "given", "wanted"),
    [("max 100000", 0, None, "None"), ("250000 100000", 0, None, "3"), ("10000 100000", 0, None, "1"),
     ("250000 100000", 5, None, "5"), ("250000 100000", 0, "7", "7"), ("max 100000", 2, "7", "2")],
)  # fmt: skip
def test_threads_follow_the_option_then_the_environment_then_the_quota(
    groups: tuple[Path, Path], quota: str, asked: int, given: str | None, wanted: str
) -> None:
    write(groups[0], cpu_max=quota)
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "RANK")}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])} | ({"OMP_NUM_THREADS": given} if given else {})
    command = [sys.executable, "-c", LIMIT, str(groups[0]), str(asked)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == wanted


def test_torch_that_is_loaded_is_told() -> None:
    lines = ("import torch", "from gsd_cli.base.cores import limit_threads", "limit_threads(3)")
    script = "\n".join((*lines, "print(torch.get_num_threads())"))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"
