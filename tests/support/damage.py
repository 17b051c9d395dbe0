"""Damages files as disks and people do."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path) -> None:
    """Flip one bit, at three quarters of the file."""
    payload = bytearray(path.read_bytes())
    payload[len(payload) * 3 // 4] ^= 4
    path.write_bytes(payload)


def cut(path: Path) -> None:
    """Cut off the last seven bytes."""
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    """Empty the file."""
    path.write_bytes(b"")
