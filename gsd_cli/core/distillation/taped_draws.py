"""Random numbers that a recorded step can draw again: they keep their addresses, and another step fills them.

A CUDA graph repeats kernels on fixed addresses. What it must not repeat is a step's random numbers, so these are drawn
outside of it. `TapedDraws` notes on a tape what a step draws. `Tape.fill` draws the same for another step, into the
same buffers, and `TapedDraws` hands these out when the step is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from gsd_cli.core.distillation.draws import Draw, Draws

Stream = tuple[int | str, ...]


@dataclass(frozen=True)
class Entry:
    """One draw: its name without the step, how to draw it in a step, and its buffer."""

    name: tuple[object, ...]
    draw: Callable[[int], Tensor]
    buffer: Tensor


@dataclass(frozen=True)
class Tape:
    """What a step draws, in its order."""

    entries: list[Entry] = field(default_factory=list)

    def fill(self, step: int) -> None:
        """Draw everything for `step`, into the buffers."""
        for entry in self.entries:
            entry.buffer.copy_(entry.draw(step))


class TapedDraws(Draws):
    """The numbers of `source`, which are noted on a tape or taken from one.

    The first number of a stream must be its step, as it is everywhere in a distillation.
    """

    def __init__(self, source: Draws):
        super().__init__(
            source.seed, source.batch, source.rows, source.shape, source.conditions, source.device
        )  # fmt: skip
        self.source = source
        self._noting: Tape | None = None
        self._playing: Iterator[Entry] | None = None

    @contextmanager
    def noted(self) -> Iterator[Tape]:
        """A context in which draws are noted on the tape that it gives."""
        self._noting = Tape()
        try:
            yield self._noting
        finally:
            self._noting = None

    @contextmanager
    def played(self, tape: Tape) -> Iterator[None]:
        """A context in which draws are the buffers of `tape`.

        Raises RuntimeError if other numbers are drawn than those that were noted.
        """
        self._playing = iter(tape.entries)
        try:
            yield
            if (left := next(self._playing, None)) is not None:
                raise RuntimeError(f"the tape has {left.name}, which was not drawn")
        finally:
            self._playing = None

    def normal(self, *stream: int | str, count: int | None = None) -> Tensor:
        """N(0, I), float32 [B, *shape]; only the first `count` rows if it is given."""
        return self._draw(("normal", count), stream, lambda own: self.source.normal(*own, count=count))

    def sigma(self, draw: Draw, *stream: int | str) -> Tensor:
        """Noise levels by `draw(n, random)`, [B]."""
        return self._draw(("sigma",), stream, lambda own: self.source.sigma(draw, *own))

    def uniform(self, *stream: int | str) -> Tensor:
        """Uniform in [0, 1), float32 [B]."""
        return self._draw(("uniform",), stream, lambda own: self.source.uniform(*own))

    def integers(self, below: int, *stream: int | str, host: bool = True) -> Tensor:
        """Uniform in {0..below-1}, int64 [B]."""
        return self._draw(
            ("integers", below, host), stream, lambda own: self.source.integers(below, *own, host=host)
        )  # fmt: skip

    def _draw(self, what: tuple[object, ...], stream: Stream, draw: Callable[[Stream], Tensor]) -> Tensor:
        if self._playing is None and self._noting is None:
            return draw(stream)
        place = next(k for k, part in enumerate(stream) if isinstance(part, int))
        before, after = stream[:place], stream[place + 1 :]
        name = (*what, *before, *after)
        if self._playing is not None:
            entry = next(self._playing, None)
            if entry is None or entry.name != name:
                raise RuntimeError(f"{name} is drawn, the tape has {entry and entry.name}")
            return entry.buffer
        drawn = draw(stream)
        assert self._noting is not None
        self._noting.entries.append(Entry(name, lambda step: draw((*before, step, *after)), drawn.clone()))
        return drawn
