"""Files of bare weights, which say less than a diffusers folder: what `--assume` adds to them. No heavy imports."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".pt", ".pth", ".ckpt")
"""Files that `torch.save` wrote; only plain tensors are read from them."""
SIZE = "size"
NAMED = (SIZE, "heads", "order")
"""What `--assume` can name as KEY=VALUE: the side of the images in pixels; of guided-diffusion's attention, the
channels per head, and whether queries, keys and values are stored for all heads together (`joint`) or head by head
(`split`)."""
ORDERS = ("split", "joint")


def is_bare(path: Path) -> bool:
    """Whether a path is a file of bare weights."""
    return path.suffix in SUFFIXES and path.is_file()


def named_values(words: str) -> dict[str, str]:
    """The KEY=VALUE words of a reading's name."""
    return dict(word.split("=", 1) for word in words.split(",") if "=" in word)


def with_size(words: str | None, side: int) -> str:
    """The words of `--assume`, with the side of the images if they do not name one."""
    known = [words] if words else []
    return ",".join(known if SIZE in named_values(words or "") else [*known, f"{SIZE}={side}"])


def is_value(word: str) -> bool:
    """Whether a word of `--assume` names a value that it can name."""
    key, equals, value = word.partition("=")
    if not equals or key not in NAMED:
        return False
    return value in ORDERS if key == "order" else value.isascii() and value.isdigit() and 0 < int(value) <= 4096
