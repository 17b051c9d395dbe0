"""What disks and hands do to files."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path) -> None:
    """One bit, three quarters in."""
    payload = bytearray(path.read_bytes())
    payload[len(payload) * 3 // 4] ^= 4
    path.write_bytes(payload)


def cut(path: Path) -> None:
    """The last seven bytes gone."""
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    """Nothing left of it but its name."""
    path.write_bytes(b"")
