from __future__ import annotations

from gsd_cli.base.session import Session
from gsd_cli.commands.edit_reports import report_others


def test_a_large_change_of_another_attribute_is_a_warning() -> None:
    session = Session()
    changes = {"contrast": [-2.51, -1.9, 0.0, 2.04], "width": [0.0, 2.0, -2.0, 1.0]}
    report_others([-2, -1, 0, 2.5], changes, session)
    assert session.console.warnings == [
        "contrast changed too, in standard deviations: -2.5 at -2, +2.0 at +2.5; smaller strengths, or "
        "--preserve contrast, keep more of it"
    ]
