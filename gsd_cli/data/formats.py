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
_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF",
    b"msf1": "HEIF",
}  # fmt: skip


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (16 bytes) is an image."""
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return riff or head.startswith(_BEGINNINGS) or _brand(head) is not None


def known_format(head: bytes) -> str | None:
    """The name of an image format that may need what is not installed: AVIF, HEIC, HEIF, JPEG XL, JPEG 2000."""
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    if head.startswith((b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51")):
        return "JPEG 2000"
    return _brand(head)


def _brand(head: bytes) -> str | None:
    return _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
