"""The page that --report writes, in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from gsd_cli.base.table import Table
from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.gallery import Gallery
from gsd_cli.comparison.report import Findings, headlines, render, write_report
from gsd_cli.comparison.tables import latex, markdown, table1, table2
from gsd_cli.metrics.speed import Timing

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
window.addEventListener("load", () => {
  const facts = {
    scroll: document.documentElement.scrollWidth, width: window.innerWidth,
    rows: document.querySelectorAll("tbody tr").length,
    broken: [...document.images].filter(i => !i.naturalWidth).length, images: document.images.length,
    requests: performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).length,
    paper: getComputedStyle(document.body).backgroundColor,
  };
  document.title = "PROBE" + JSON.stringify(facts) + "END";
});
</script></head>"""


def rows() -> list[Row]:
    slow = Row("msa & <b>co", 1000, 10, {"fd": 4.0, "fd_error": 0.2, "ppl": 80.0, "ppl_low": 70.0, "ppl_high": 90.0})
    slow.time = Timing(2.0, 1.9, 2.1, 5, 1)
    fast = Row("runs/toy", 1, 10, {"fd": 3.0, "fd_error": 0.1, "ppl": 60.0, "ppl_low": 50.0, "ppl_high": 70.0})
    fast.time = Timing(0.004, 0.0039, 0.0041, 5, 1)
    return [slow, fast]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "run").mkdir()
    lines = [{"step": i, "images": 64 * i, "fd": 70.0 / (i + 1), "fake_loss": 1.0} for i in range(5)]
    (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    images = torch.rand(6, 1, 16, 16) * 2 - 1
    facts = {"FD-toy": "10 samples", "PPL": "a long protocol " * 20}
    tables = [table1(rows(), "FD-toy", facts), table2(rows(), "FD-toy", facts)]
    gallery = Gallery({row.name: images for row in rows()}, {"runs/toy": [images]})
    found = Findings("runs/toy against MSA", "FD-toy", rows(), tables, {}, gallery, gallery, folder / "run")
    write_report(folder / "out", found)
    return folder / "out"


def test_everything_is_written(report: Path) -> None:
    tables = {f"table{n}.{kind}" for n in (1, 2) for kind in ("md", "csv", "tex")}
    pictures = {"figure1.png", "pareto.png", "walks.png", "curves.png", "ablation.png", "ablation-walks.png"}
    assert {path.name for path in report.iterdir()} == tables | pictures | {"bench.json", "report.html"}
    for name in pictures:
        Image.open(report / name).verify()


def test_the_page_asks_nobody_and_escapes_names(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert "http" not in re.sub(r"data:[^\"']+", "", page)
    assert "<b>co" not in page and "&lt;b&gt;co" in page


def test_headlines_compare_with_the_first_row() -> None:
    found = {line.name: line.value for line in headlines(rows(), "FD-toy")}
    assert found == {"FD-toy": "0.75 x", "PPL": "0.75 x", "speed": "500 x"}


def test_the_tables_keep_to_the_papers_order() -> None:
    first, second = table1(rows(), "FD-toy", {}), table2(rows(), "FD-toy", {})
    assert [row[0] for row in first.rows] == ["msa & <b>co", "toy", "toy / msa & <b>co"]
    assert [row[0] for row in second.rows] == ["toy", "msa & <b>co"]
    assert "0.75" in first.rows[-1] and "1/1000" in first.rows[-1]


def test_a_second_distance_and_the_grain_have_columns_of_their_own() -> None:
    slow, fast = rows()
    slow.distances = {"FD-toy": {"fd": 4.0}}
    fast.distances = {"FD-toy": {"fd": 3.0}, "FD-toy-2": {"fd": 0.5, "fd_error": 0.04}}
    fast.figures |= {"grain_bright": 41.0, "grain_bright_error": 0.3, "grain_dark": 11.5}
    shown = table1([slow, fast], "FD-toy", {}, {"grain_bright": 35.0, "grain_dark": 0.0})
    assert shown.columns[2:6] == ["FD-toy ↓", "FD-toy-2 ↓", "grain, bright", "grain, dark"]
    shown.columns[:] = [name.removesuffix(" ↓") for name in shown.columns]
    cells = {row[0]: dict(zip(shown.columns, row, strict=True)) for row in shown.rows}
    assert list(cells) == ["msa & <b>co", "toy", "real images", "toy / msa & <b>co"]
    assert cells["toy"]["FD-toy-2"] == "0.500 ± 0.04" and cells["toy"]["grain, bright"] == "41 ± 0.3"
    assert cells["msa & <b>co"]["FD-toy-2"] == cells["msa & <b>co"]["grain, dark"] == "-"
    assert cells["real images"] == dict.fromkeys(shown.columns, "-") | {
        "model": "real images", "grain, bright": "35", "grain, dark": "0"
    }  # fmt: skip
    assert cells["toy / msa & <b>co"]["FD-toy"] == "0.75"  # none of what is not measured
    assert {cells["toy / msa & <b>co"][name] for name in shown.columns[3:6]} == {"-"}
    second = table2([slow, fast], "FD-toy", {}, {"grain_bright": 35.0})
    assert [row[0] for row in second.rows] == ["toy", "msa & <b>co", "real images"]
    slow.distances["FD-toy-2"] = {"fd": 1.0}
    assert {line.name: line.value for line in headlines([slow, fast], "FD-toy")}["FD-toy-2"] == "0.50 x"


def test_latex_and_markdown_hold_every_cell() -> None:
    shown = table1(rows(), "FD_toy", {})
    text = latex(shown)
    assert r"FD\_toy" in text and r"msa \& <b>" in text and r"3.000 $\pm$ 0.1" in text
    assert text.count(r" \\") == 1 + len(shown.rows)
    assert all(cell in markdown(shown) for row in shown.rows for cell in row)


def test_a_figure_and_its_unit_or_error_share_a_line() -> None:
    cells = [["gsd", "2.1 ± 0.3", "422 ms (419 ms to 1.2 s)", "0.48, not resolved"]]
    page = render("x", [], [Table("t", ["model", "FD", "time", "ratio"], cells, [])], [])
    for cell in ("2.1~±~0.3", "422~ms (419~ms to 1.2~s)", "0.48, not resolved"):
        assert cell.replace("~", "\u00a0") in page


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1200, False)])
def test_a_browser_shows_it(report: Path, tmp_path: Path, width: int, dark: bool) -> None:
    # a headless window is no narrower than 500 pixels: a frame is as narrow as a phone
    page = (report / "report.html").read_text().replace("</head>", PROBE, 1)
    (tmp_path / "page.html").write_text(page)
    host = (
        f"<iframe src=page.html style='width:{width}px;height:900px;border:0'></iframe>"
        "<script>const f = document.querySelector('iframe');"
        "f.onload = () => setTimeout(() => document.title = f.contentDocument.title, 300)</script>"
    )
    (tmp_path / "host.html").write_text(host)
    done = subprocess.run(
        [
            str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--allow-file-access-from-files", "--enable-logging=stderr", "--window-size=1300,1000",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []), f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "host.html").as_uri(),
        ],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    facts = json.loads(re.search(r"PROBE(.*?)END", done.stdout.decode())[1])  # type: ignore[index]
    assert facts["width"] == width
    assert facts["scroll"] <= width, "no horizontal scroll"
    assert facts["rows"] == 5
    assert facts["images"] == 6 and facts["broken"] == 0 and facts["requests"] == 0
    assert (facts["paper"] != "rgb(255, 255, 255)") == dark
    assert b"CONSOLE" not in done.stderr


def test_a_ratio_of_overlapping_intervals_is_not_resolved() -> None:
    slow, fast = rows()
    fast.figures |= {"ppl_low": 35.0, "ppl_high": 85.0}
    shown = table1([slow, fast], "FD-toy", {})
    cells = dict(zip(shown.columns, shown.rows[-1], strict=True))
    assert cells["PPL ↓"] == "0.75, not resolved"
    assert cells["FD-toy ↓"] == "0.75"  # 4.0 and 3.0 with errors of 0.2 and 0.1 are apart
    assert any("95 % intervals" in note for note in shown.notes)
    found = {one.name: one.value for one in headlines([slow, fast], "FD-toy")}
    assert found["PPL"] == "not resolved" and found["FD-toy"] == "0.75 x"
    clear = table1(rows(), "FD-toy", {})
    assert not any("not resolved" in cell for row in clear.rows for cell in row)
    fast.figures["fd_error"] = 0.6
    assert "not resolved" in str(table1([slow, fast], "FD-toy", {}).rows[-1])
