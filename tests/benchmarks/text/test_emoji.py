from __future__ import annotations

import json
from pathlib import Path

from benchmarks.text.emoji import lay_out


def test_captions_name_the_tone_and_the_style(tmp_path: Path) -> None:
    google, fluent = tmp_path / "google" / "package", tmp_path / "fluent" / "package"
    (google / "img" / "google" / "64").mkdir(parents=True)
    (fluent / "assets").mkdir(parents=True)
    wave = {"name": "WAVING HAND SIGN", "short_name": "wave", "unified": "1F44B", "category": "People & Body",
            "skin_variations": {"1F3FF": {"unified": "1F44B-1F3FF"}}}  # fmt: skip
    heart = {"name": "HEAVY BLACK HEART", "short_name": "heart", "unified": "2764-FE0F", "category": "Smileys"}
    (google / "emoji.json").write_text(json.dumps([wave, heart]))
    for name in ("1f44b.png", "1f44b-1f3ff.png", "2764-fe0f.png", "unknown.png"):
        (google / "img" / "google" / "64" / name).write_bytes(b"x")
    (fluent / "assets" / "2764.webp").write_bytes(b"x")
    found = lay_out(fluent.parent, google.parent, tmp_path / "out")
    assert found == {
        "flat-1f44b.png": ("waving hand sign, flat style", "People & Body"),
        "flat-1f44b-1f3ff.png": ("waving hand sign, dark skin tone, flat style", "People & Body"),
        "flat-2764-fe0f.png": ("heavy black heart, flat style", "Smileys"),
        "3d-2764.webp": ("heavy black heart, 3d style", "Smileys"),
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == found.keys()
