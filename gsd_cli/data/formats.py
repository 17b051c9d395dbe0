"""Which files are images: by their suffix, or by how they begin. No torch, NumPy or Pillow here."""

from __future__ import annotations

SUFFIXES = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".mpo", ".webp", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".avifs", ".heic", ".heics",
    ".heif", ".heifs", ".hif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jxl", ".tga",
))  # fmt: skip
"""Suffixes of images, in lower case. Those that cannot be decoded here are named as bad images, not passed over."""
_BEGINNINGS = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ",
)  # fmt: skip
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (16 bytes) is an image."""
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    isobmff = head[4:8] == b"ftyp" and head[8:12] in _BRANDS  # AVIF, HEIC, HEIF
    return riff or isobmff or head.startswith(_BEGINNINGS)
