"""Where files live, what their disks say, and how their JSON is read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import cache_dir, read_json, storage_errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_disk_trouble_becomes_exit_8(tmp_path: Path, number: int) -> None:
    with pytest.raises(GsdError) as caught, storage_errors(tmp_path / "not" / "yet"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == 8
    assert str(tmp_path / "not" / "yet") in caught.value.message


@pytest.mark.parametrize(("target", "named"), [(None, "stdout"), (Path("/dev/full"), "/dev/full")])
def test_a_full_stream_says_nothing_of_a_disk(target: Path | None, named: str) -> None:
    with pytest.raises(GsdError) as caught, storage_errors(target):
        raise OSError(errno.ENOSPC, "full")
    assert (caught.value.code, caught.value.message) == (8, f"no room to write {named}")


def test_a_full_disk_says_how_much_is_free(tmp_path: Path) -> None:
    with (
        pytest.raises(GsdError, match=r"no room to write .*x\.zip \([\d.]+ \w?B free\)"),
        storage_errors(tmp_path / "x.zip"),
    ):
        raise OSError(errno.ENOSPC, "full")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), storage_errors(tmp_path):
        raise BrokenPipeError


@pytest.mark.parametrize("content", [None, b"{", b"", b"\xff"])
def test_unreadable_json_is_an_input_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(GsdError) as caught:
        read_json(tmp_path / "x.json")
    assert caught.value.code == 3


def test_cache_dir_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSD_CACHE_DIR", str(tmp_path / "env"))
    assert cache_dir(tmp_path / "flag") == tmp_path / "flag"
    assert cache_dir() == tmp_path / "env"
    monkeypatch.delenv("GSD_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir().name == "gsd"
