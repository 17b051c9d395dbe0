"""The file formats that gsd reads and writes, by their suffixes. No torch, NumPy or Pillow here.

To add a format that gsd writes, add its name here and a function to `data/image_writers.py` or `data/animation.py`.
"""

from __future__ import annotations

from typing import Literal, get_args

# -- images that are read -----------------------------------------------------------------------

IMAGE_SUFFIXES = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".mpo", ".webp", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".avifs", ".heic", ".heics",
    ".heif", ".heifs", ".hif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jxl", ".tga",
))  # fmt: skip
"""Suffixes of images, in lower case. Files of a format that gsd cannot decode are reported, not passed over."""
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ",
)  # fmt: skip
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def looks_like_image(head: bytes) -> bool:
    """Whether a file is an image, by its first 16 bytes."""
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    isobmff = head[4:8] == b"ftyp" and head[8:12] in _BRANDS  # AVIF, HEIC, HEIF
    return riff or isobmff or head.startswith(_SIGNATURES)


_CAMERA_SUFFIXES = frozenset((
    ".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".gpr", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
))  # fmt: skip
"""Raw files of cameras. Many are TIFFs, whose first page is a thumbnail."""

# -- what is written ----------------------------------------------------------------------------

ImageFormat = Literal["png", "jpg", "webp"]
"""One image in one file."""
ArchiveFormat = Literal["npz", "zip", "tar"]
"""Many images in one file."""
SampleFormat = Literal[ImageFormat, ArchiveFormat]
AnimationFormat = Literal["png", "jpg", "gif", "webp", "mp4"]
"""Frames in one file; png and jpg are strips of all frames side by side."""

IMAGE_FORMATS: tuple[str, ...] = get_args(ImageFormat)
ARCHIVE_FORMATS: tuple[str, ...] = get_args(ArchiveFormat)
ANIMATION_FORMATS: tuple[str, ...] = get_args(AnimationFormat)
SAMPLE_FORMATS = {f".{name}": name for name in (*IMAGE_FORMATS, *ARCHIVE_FORMATS)} | {".jpeg": "jpg"}
"""The format that `gsd sample` writes for each suffix."""
ANIMATION_SUFFIXES = {f".{name}": name for name in ANIMATION_FORMATS} | {".jpeg": "jpg"}
"""The format that `gsd interpolate` and `gsd edit` write for each suffix."""

# -- every file ---------------------------------------------------------------------------------

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
FILE_SUFFIXES = IMAGE_SUFFIXES | {
    ".pdf", ".svg", ".mp4", ".mov", ".avi", ".mkv", ".webm", ".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst",
    ".7z", ".rar", ".npz", ".npy", ".json", ".jsonl", ".csv", ".txt", ".html", ".pt", ".pth", ".pkl", ".ckpt",
    ".safetensors", ".lmdb", ".mdb", ".h5", ".hdf5", ".parquet", ".tfrecord",
}  # fmt: skip
"""Suffixes of files of any kind: a name that ends with one is never a folder, nor a file of another kind."""
OTHER_SUFFIXES = (FILE_SUFFIXES - IMAGE_SUFFIXES) | _CAMERA_SUFFIXES | {
    ".lsm", ".svs", ".ndpi", ".scn", ".psd", ".psb", ".cls", ".db", ".xml", ".yaml", ".md",
}  # fmt: skip
"""Suffixes of files that are no images of a data set, whatever their first bytes are: those of whole slides too."""
