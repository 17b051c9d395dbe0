"""Progress and images on terminals and in pipes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console as RichConsole

from gsd_cli.base import progress
from gsd_cli.base.console import Console
from gsd_cli.base.progress import PlainProgress, RichProgress
from gsd_cli.base.table import Table, fit_to_width
from gsd_cli.base.terminal_image import draw_image


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_becomes_a_panel_that_fits_once_there_are_facts(width: int) -> None:
    out = io.StringIO()
    console = RichConsole(file=out, force_terminal=True, width=width)
    with RichProgress("distilling", 100, console) as bar:
        bar.update(10, note="8 img/s")
        assert "panel" not in type(bar._draw()).__name__.lower()
        bar.update(20, note="8 img/s", facts={"FD": "13.9", "last grid": "runs/" + "long/" * 40 + "x.png"})
        console.print(bar._draw())
    text = out.getvalue()
    assert "13.9" in text
    assert "20/100" in text
    assert max(len(line) for line in RichConsole(width=width).render_lines(bar._draw())) > 0
    shown = RichConsole(file=io.StringIO(), width=width, record=True)
    shown.print(bar._draw())
    assert all(len(line) <= width for line in shown.export_text().splitlines())


def test_in_a_pipe_a_line_says_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    with PlainProgress("distilling", 100, said.append) as bar:
        for k in range(0, 45, 4):
            now[0] = float(k)
            bar.update(k, note="1 img/s")
    assert said == ["distilling: 12/100, 1 img/s, 0:01:28 left", "distilling: 24/100, 1 img/s, 0:01:16 left",
                    "distilling: 36/100, 1 img/s, 0:01:04 left"]  # fmt: skip


def test_a_picture_is_drawn_in_half_blocks_where_there_are_no_pixels(tmp_path: Path) -> None:
    Image.effect_noise((32, 32), 60).save(tmp_path / "a.png")
    console = RichConsole(file=io.StringIO(), force_terminal=True, width=40, color_system="truecolor", record=True)
    console.print(draw_image(tmp_path / "a.png", console.size))
    lines = console.export_text().splitlines()
    assert 10 <= len(lines) <= 40
    assert all(len(line) <= 40 for line in lines)


def test_show_without_a_terminal_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Console().show_image(tmp_path / "a.png")
    assert "needs a terminal" in capsys.readouterr().err


WIDE = Table(
    "Table 1",
    ["model", "calls", *(f"figure-{k}" for k in range(9))],
    [[name, "1", *(f"{k}.12345 ± 0.1" for k in range(9))] for name in ("ddim-50", "one-step-teacher")],
)


@pytest.mark.parametrize(("width", "blocks"), [(300, 1), (120, 2), (80, 3), (30, 10), (10, 10)])
def test_a_table_too_wide_for_the_terminal_is_shown_in_blocks_and_whole(width: int, blocks: int) -> None:
    console = RichConsole(file=io.StringIO(), width=width, record=True)
    parts = list(fit_to_width(WIDE, console))
    for part in parts:
        console.print(part)
    shown = console.export_text()
    assert len(parts) == blocks
    assert "…" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
    if width >= 80:
        assert all(shown.count(name) == blocks for name in ("ddim-50", "one-step-teacher"))
        assert all(shown.count(text) == 2 for text in WIDE.rows[0][2:])
        assert all(shown.count(name) == 1 for name in ("Table 1", *WIDE.columns[1:]))


def test_what_is_done_between_steps_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal shows it at once; a pipe gets a line where the last is old enough."""
    out = io.StringIO()
    console = RichConsole(file=out, force_terminal=True, width=100)
    with RichProgress("distilling", 100, console) as bar:
        bar.update(20, note="8 img/s", facts={"FD-toy": "13.9"})
        bar.doing("measuring FD-toy on 2,000 samples ... 45%")
        console.print(bar._draw())
        shown = out.getvalue()
        bar.doing("")
        out.truncate(0)
        console.print(bar._draw())
    assert "measuring FD-toy on 2,000 samples ... 45%" in shown
    assert "measuring" not in out.getvalue().rsplit("FD-toy", 1)[0].rsplit("╭", 1)[-1]
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    with PlainProgress("distilling", 100, said.append) as plain:
        plain.update(4)
        for seconds, activity in ((1, "evaluating"), (11, "measuring"), (12, ""), (30, "")):
            now[0] = seconds
            plain.doing(activity)
    assert said == ["distilling: 4/100, measuring"]


def test_the_console_shows_it_on_the_bar_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.doing("nothing runs")
    with console.progress("outer") as outer:
        with console.progress("inner") as inner:
            console.doing("within")
        assert (outer.activity, inner.activity) == ("", "within")
        console.doing("after")
    assert outer.activity == "after"
