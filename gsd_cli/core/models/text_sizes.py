"""What a text-conditional network takes of a text. No torch."""

from __future__ import annotations

from typing import NamedTuple


class TextSizes(NamedTuple):
    """The size of a token's vector, that of the vector of the whole text (None where a network takes none), and
    whether the network is also given the size of the image, and a mask of the tokens that count."""

    token: int
    whole: int | None = None
    image: bool = False
    mask: bool = False

    def __str__(self) -> str:
        numbers = f"{self.token}" if self.whole is None else f"{self.token} and {self.whole}"
        return f"{numbers} (masked)" if self.mask else numbers
