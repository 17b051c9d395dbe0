"""The surroundings of a command: the console, the stop request, network access and the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gsd_cli.base.console import Console
from gsd_cli.base.cores import limit_threads
from gsd_cli.base.progress import Progress
from gsd_cli.base.signals import StopRequest
from gsd_cli.base.storage import cache_dir


class SessionOptions(Protocol):
    """The options that a session needs: whether the network may be used, the folder of the cache, and the threads."""

    @property
    def offline(self) -> bool: ...  # noqa: D102
    @property
    def cache_dir(self) -> Path | None: ...  # noqa: D102
    @property
    def threads(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class Session:
    """One run of a command. cache: the folder for files that can be downloaded or computed again."""

    console: Console = field(default_factory=Console)
    stop: StopRequest = field(default_factory=StopRequest)
    offline: bool = False
    cache: Path = field(default_factory=cache_dir)

    @classmethod
    def start(cls, options: SessionOptions, console: Console, stop: StopRequest | None = None) -> Session:
        """Create the session of a command with these options, and limit torch to its threads."""
        limit_threads(options.threads)
        return cls(console, stop or StopRequest(), options.offline, cache_dir(options.cache_dir))

    def say(self, text: str) -> None:
        """Print a line for the user."""
        self.console.say(text)

    def warn(self, text: str) -> None:
        """Print a warning: a fact that the user should know before trusting the result."""
        self.console.warn(text)

    def doing(self, activity: str) -> None:
        """Show next to the running progress what is done at the moment; an empty text ends it."""
        self.console.doing(activity)

    def check(self, *_: object) -> None:
        """Raise Stopped if a signal arrived. Arguments are ignored, so that it can be a callback."""
        self.stop.check()

    @contextmanager
    def progress(self, what: str, total: int | None = None) -> Iterator[Progress]:
        """Show the progress of work that takes longer than a second. Each update raises Stopped after a signal."""
        with self.console.progress(what, total) as bar:
            bar.poll = self.stop.check
            yield bar
