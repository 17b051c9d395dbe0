"""report.html: one file with everything in it, no request to anywhere, readable on a phone and in the dark."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from gsd_cli.base.table import Table
from gsd_cli.base.versions import gsd_version

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Headline:
    """One number large: what it is, its value, and what is behind it."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Picture:
    """A PNG file with its title and caption."""

    path: Path
    title: str
    caption: str

    @property
    def data(self) -> str:
        """The file as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode("ascii")


def render(title: str, headlines: list[Headline], tables: list[Table], pictures: list[Picture]) -> str:
    """The page as HTML; every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, headlines=headlines, tables=tables, pictures=pictures, version=gsd_version())
