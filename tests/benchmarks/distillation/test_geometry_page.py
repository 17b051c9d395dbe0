"""The page of benchmarks/distillation/geometry.py says what its rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.distillation import geometry_frontier as frontier
from benchmarks.distillation import geometry_page as geometry


def rows(**figures: tuple[float, float, float]) -> list[dict[str, Any]]:
    made = []
    for name, (fd, ppl, cv) in figures.items():
        for seed in (0, 1):
            row = {"variant": name.replace("_", "-"), "seed": seed, "fd": fd + seed, "ppl": ppl, "speed_cv": cv}
            made.append(row)
    return made


def test_variants_are_the_grid_and_the_run_without() -> None:
    wanted = geometry.variants("speed,jacobian", "0.3,1")
    assert [v.name for v in wanted] == ["off", "speed-0.3", "speed-1", "jacobian-0.3", "jacobian-1"]
    assert wanted[2].flags == ["--irl", "speed", "--irl-ratio", "1", "--irl-gradient", "free"]
    assert wanted[0].flags == ["--irl", "off"]


def test_settings_of_their_own_make_variants_of_their_own() -> None:
    wanted = geometry.variants("speed", "3", {"tau_min": "0.02", "tau_max": "0.1"})
    assert [v.name for v in wanted] == ["off", "speed-3 tau_max=0.1 tau_min=0.02"]
    flags = ["--irl-gradient", "free", "--tau-max", "0.1", "--tau-min", "0.02"]
    assert wanted[1].flags == ["--irl", "speed", "--irl-ratio", "3", *flags]
    assert [geometry.named(v.name) for v in wanted] == wanted
    found = [{"variant": name} for name in (wanted[1].name, "jacobian-1", "speed-10", "speed-3", "off", "off")]
    assert [v.name for v in geometry.measured(found)] == ["off", "speed-3", "speed-10", wanted[1].name, "jacobian-1"]


def test_a_name_says_where_the_gradient_points_or_it_is_free() -> None:
    (_, along) = geometry.variants("stress", "0.2", {"irl_gradient": "manifold"})
    assert along.flags == ["--irl", "stress", "--irl-ratio", "0.2", "--irl-gradient", "manifold"]
    assert (along.step, geometry.named(along.step).method) == ("stress irl_gradient=manifold", along.method)
    assert geometry.named("stress-0.2 irl_every=4 tau_max=1").step == "stress irl_every=4"
    assert geometry.named("stress").method == {"irl_gradient": "free"}


def test_experiments_are_distilled_as_speed() -> None:
    flags = ["--irl", "speed", "--irl-ratio", "0.2", "--irl-gradient", "free"]
    assert geometry.Variant("bottleneck", 0.2).flags == flags
    found = [{"variant": name} for name in ("bottleneck-0.2", "speed-3", "segments-3")]
    assert [v.name for v in geometry.measured(found)] == ["speed-3", "segments-3", "bottleneck-0.2"]


def test_the_verdict_keeps_within_distance_and_cost() -> None:
    wanted = geometry.variants("speed,jacobian", "1")
    cost = {"off": 1.0, "speed": 1.1, "jacobian": 1.1}
    made = rows(off=(10, 40, 0.8), speed_1=(10.2, 25, 0.5), jacobian_1=(12, 10, 0.1))
    best, reached = geometry.verdict(made, wanted, cost)
    assert (best.name, reached) == ("speed-1", True)
    assert geometry.verdict(made, wanted, {**cost, "speed": 1.5})[0] is None
    made = rows(off=(10, 40, 0.8), speed_1=(10, 35, 0.7), jacobian_1=(10, 30, 0.7))
    best, reached = geometry.verdict(made, wanted, cost)
    assert (best.name, reached) == ("jacobian-1", False)


def test_what_is_drawn_is_the_verdict_or_the_best_bargain() -> None:
    wanted = geometry.variants("speed,jacobian", "1")
    cost = {"off": 1.0, "speed": 1.1, "jacobian": 1.1}
    made = rows(off=(10, 40, 0.8), speed_1=(10.2, 25, 0.5), jacobian_1=(12, 10, 0.1))
    assert geometry.shown(made, wanted, cost).name == "speed-1"
    assert geometry.shown(made, wanted, {**cost, "speed": 1.5}).name == "jacobian-1"
    made = rows(off=(10, 40, 0.8), speed_1=(12, 20, 0.4), jacobian_1=(40, 20, 0.4))
    assert geometry.shown(made, wanted, cost).name == "speed-1"
    assert geometry.shown(rows(off=(10, 40, 0.8)), geometry.variants("off", "0"), cost).name == "off"


def test_a_setting_without_the_term_is_compared_and_never_chosen() -> None:
    wanted = geometry.variants("off", "0", {"lr": "2e-4"})
    assert [v.name for v in wanted] == ["off", "off lr=2e-4"]
    assert wanted[1].flags == ["--irl", "off", "--lr", "2e-4"]
    made = rows(**{"off": (10, 40, 0.8), "off lr=2e-4": (5, 20, 0.2)})
    assert geometry.verdict(made, wanted, {"off": 1.0}) == (None, False)
    assert "| 20 ± 0 (0.50) | 0.2 ± 0 (0.25) |" in geometry.table(made, wanted, geometry.MEASURED, {"off": 1.0})


def test_a_ratio_is_of_means_whatever_the_seeds() -> None:
    made = [
        *rows(off=(10, 40, 0.8)),
        {"variant": "off", "seed": 0, "fd": 15.0},
        {"variant": "speed-1", "seed": 7, "fd": 6.0},
    ]
    assert geometry.ratio(made, "speed-1", "fd") == pytest.approx(6 / 12)
    assert geometry.ratio(made, "speed-1", "ppl") is None


def test_the_page_has_means_spreads_and_ratios() -> None:
    wanted = geometry.variants("speed", "1")
    made = rows(off=(10, 40, 0.8), speed_1=(20, 30, 0.4))
    facts = dict.fromkeys(
        ["command", "machine", "figure", "features", "teacher", "kimg", "batch_size", "samples", "ppl_pairs",
         "paths", "repeats", "start", "figures"], "x",
    )  # fmt: skip
    text = geometry.page(made, wanted, {"off": 0.5, "speed": 0.6}, facts)
    assert "| variant | seeds | FD | PPL | speed CV | s / image |" in text
    assert "| off | 0, 1 | 10.5 ± 0.71 | 40 ± 0 | 0.8 ± 0 | 0.5 |" in text
    assert "| speed-1 | 0, 1 | 20.5 ± 0.71 (1.95) | 30 ± 0 (0.75) | 0.4 ± 0 (0.50) | 0.6 (1.20) |" in text
    assert "No variant keeps within" in text


def test_a_point_of_the_frontier_is_the_mean_over_seeds(tmp_path: Path) -> None:
    made = rows(off=(10, 40, 0.8), stress_1=(12, 20, 0.5))
    assert frontier.means(made, geometry.named("stress-1"), "ppl") == (12.5, 20)
    frontier.draw_frontier(made, tmp_path / "frontier.png")
    assert Image.open(tmp_path / "frontier.png").width > 1000


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("off", "off"),
        ("off kimg=4", "off"),
        ("off sigma_init=10", "off sigma_init=10"),
        ("stress-1 irl_phi=pixels", "stress"),
        ("stress-1 irl_gradient=manifold irl_phi=pixels", "stress irl_gradient=manifold"),
        ("stress-1 irl_every=4 irl_gradient=manifold", "stress irl_gradient=manifold"),
    ],
)
def test_only_other_lengths_lie_on_the_line_of_the_distillation_alone(name: str, kind: str) -> None:
    assert geometry.named(name).kind == kind


def test_labels_of_the_frontier_are_short() -> None:
    assert frontier.short("-1 irl_gradient=manifold irl_phi=pixels") == "1 px"
    assert frontier.short("-0.2 irl_every=4 irl_gradient=manifold") == "0.2 every 4"
    assert frontier.short(" kimg=6") == "kimg=6"
