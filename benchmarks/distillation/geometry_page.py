"""Tables, verdict and page of benchmarks/distillation/geometry.py, from its rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from math import prod
from statistics import mean, stdev
from typing import Any

MEASURED = {
    "fd": "FD", "ppl": "PPL", "speed_cv": "speed CV", "spearman": "Spearman",
    "precision": "precision", "recall": "recall", "pair_distance": "pair distance",
    "confidence": "confidence",
}  # fmt: skip
MORE = {
    "ppl_untrimmed": "PPL untrimmed", "ppl_coarse": "PPL, e = 1e-3", "stress": "stress", "path_ratio": "path / chord",
    "graph_spearman": "graph Spearman", "effective_rank": "effective rank", "mcn": "MCN", "vor": "VoR",
}  # fmt: skip
ALTERNATIVE_FORMS = ("segments", "bottleneck", "annealed", "apart")
"""Forms that `gsd distill` does not have: benchmarks/distillation/geometry_alternatives.py."""
GOAL = {"ppl": 0.70, "speed_cv": 0.65, "fd": 1.05, "cost": 1.25}
"""What the default form must reach, as ratios to the distillation alone."""

UNSAID = {"irl_gradient": "free"}
"""Settings of a variant or run that does not name them: some are older than `manifold`, the default of gsd since."""

Row = dict[str, Any]

PAGE = """## {kimg} thousand images

{outcome} The goal: PPL <= {goal_ppl:.2f} x and speed CV <= {goal_cv:.2f} x those of the
distillation alone, at a Frechet distance <= {goal_fd:.2f} x and a cost <= {goal_cost:.2f} x.

{command}

Each run distils `{teacher}` at batch {batch_size}. {start}Machine: {machine}.

{table}

- FD: `{figure}` of {samples} samples. It is biased upwards at small N, so compare it at equal N only.
- PPL: {ppl_pairs} pairs, e = 1e-4, slerp of flattened latents, float32 images neither rounded nor clamped, 1% trimmed
  at each end. Blur and collapse lower PPL too: read it next to FD, recall and the pair distance.
- Isometry: {paths} great circles. Distances are measured in `{features}` maps. Pair distance is the mean distance of
  random pairs of images.
- Confidence: the domain classifier's mean top probability for a sample. Images between classes lower it.
- Cost: seconds per image of a whole training step, median of {repeats}, forms interleaved.

{more}

![Path length and variation of the speed against Frechet distance]({figures}/frontier.png)

Points are means over seeds. The line joins runs of the distillation alone that were stopped at different lengths.
px: `irl_phi=pixels`; wide: `tau_min=0.2 tau_max=1.2`.

![Speed along random great circles]({figures}/speeds.png)

![Angle between latents against the length of the path of images]({figures}/angles.png)

![Latent walks, without and with the term in turn]({figures}/walks.png)
"""


@dataclass(frozen=True)
class Variant:
    """One way to distil: a form, its target ratio (0: the distillation alone), settings of its own."""

    form: str
    ratio: float
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """`off`, `speed-1`, `speed-3 tau_max=0.1`: what `named` reads."""
        first = "off" if self.form == "off" else f"{self.form}-{self.ratio:g}"
        return self._words(first, [name for name, _ in self.settings])

    @property
    def step(self) -> str:
        """What the cost of a training step depends on, as a name: the form, where its gradient points, how often."""
        return self._words(self.form, ["irl_gradient", "irl_every"])

    @property
    def kind(self) -> str:
        """What has a colour of its own when variants are drawn: the form, and where its gradient points. Settings of
        the distillation alone, but for its length, make one of their own."""
        if self.form == "off" and any(name != "kimg" for name, _ in self.settings):
            return self.name
        return self._words(self.form, ["irl_gradient"])

    @property
    def flags(self) -> list[str]:
        """For gsd distill."""
        form = "speed" if self.form in ALTERNATIVE_FORMS else self.form
        ratio = [] if form == "off" else ["--irl-ratio", f"{self.ratio:g}"]
        words = [("--" + name.replace("_", "-"), value) for name, value in self.method.items()]
        return ["--irl", form, *ratio, *chain.from_iterable(words)]

    @property
    def method(self) -> dict[str, str]:
        """Its own settings, those among them that its name leaves unsaid."""
        return {**({} if self.form == "off" else UNSAID), **dict(self.settings)}

    def _words(self, first: str, names: list[str]) -> str:
        return " ".join([first, *("=".join(pair) for pair in self.settings if pair[0] in names)])


OFF = Variant("off", 0.0)


def named(name: str) -> Variant:
    """The variant of a name."""
    first, *pairs = name.split()
    form, _, ratio = first.partition("-")
    own = (pair.partition("=") for pair in pairs)
    return Variant(form, float(ratio or 0), tuple((setting, value) for setting, _, value in own))


def variants(forms: str, ratios: str, settings: dict[str, str] | None = None) -> list[Variant]:
    """The distillation alone, then every form at every ratio, with these settings."""
    own = tuple(sorted((settings or {}).items()))
    return [OFF, *(Variant(f, float(r), own) for f in forms.split(",") for r in ratios.split(","))]


def measured(rows: list[Row]) -> list[Variant]:
    """The variants that rows are of: the distillation alone, then by form, settings and ratio."""
    found = {named(row["variant"]) for row in rows}
    order = {
        form: place
        for place, form in enumerate(("off", "speed", "stress", "straight", "literal", "jacobian", *ALTERNATIVE_FORMS))
    }
    return sorted(found, key=lambda variant: (order[variant.form], variant.settings, variant.ratio))


def ratio(rows: list[Row], name: str, key: str) -> float | None:
    """A variant's mean figure over that of the distillation alone, None where either is missing.

    Of means, not seed by seed: a run given again on another machine lies as far from itself as from another seed's.
    """
    mine, base = ([row[key] for row in rows if row["variant"] == v and key in row] for v in (name, "off"))
    return mean(mine) / mean(base) if mine and base and mean(base) else None


def ratios(rows: list[Row], variant: Variant) -> dict[str, float] | None:
    """Distance, PPL and CV of speed over those of the distillation alone; None where one is missing."""
    found = {key: ratio(rows, variant.name, key) for key in ("fd", "ppl", "speed_cv")}
    known = {key: value for key, value in found.items() if value is not None}
    return known if len(known) == len(found) else None


def verdict(rows: list[Row], wanted: list[Variant], cost: dict[str, float]) -> tuple[Variant | None, bool]:
    """The variant to choose, and whether it reaches the goal.

    Of those whose distance and cost are within the goal the one with the least PPL x CV of speed.
    """
    scored = []
    for variant in wanted:
        reached = ratios(rows, variant)
        if reached is None or variant.form == "off":
            continue
        reached["cost"] = cost[variant.step] / cost["off"]
        if reached["fd"] <= GOAL["fd"] and reached["cost"] <= GOAL["cost"]:
            done = all(reached[key] <= limit for key, limit in GOAL.items())
            scored.append((not done, reached["ppl"] * reached["speed_cv"], variant))
    if not scored:
        return None, False
    missed, _, best = min(scored, key=lambda entry: entry[:2])
    return best, not missed


def shown(rows: list[Row], wanted: list[Variant], cost: dict[str, float]) -> Variant:
    """The variant to draw next to the distillation alone: the verdict's; where none keeps within distance and cost, the
    one of least FD x PPL x CV of speed; itself where there is no other."""
    best, _ = verdict(rows, wanted, cost)
    products = {v: prod(found.values()) for v in wanted if v != OFF and (found := ratios(rows, v)) is not None}
    return best or min(products, key=lambda variant: products[variant], default=OFF)


def table(rows: list[Row], wanted: list[Variant], titles: dict[str, str], cost: dict[str, float] | None) -> str:
    """Markdown: mean and standard deviation over seeds, and the ratio of means to the distillation alone."""
    keys = [key for key in titles if any(key in row for row in rows)]
    lines = [["variant", "seeds", *(titles[key] for key in keys), *(["s / image"] if cost else [])]]
    lines.append(["---"] + ["---:"] * (len(lines[0]) - 1))
    for variant in wanted:
        seeds = sorted(int(row["seed"]) for row in rows if row["variant"] == variant.name)
        cells = [variant.name, ", ".join(map(str, seeds))]
        for key in keys:
            values = [row[key] for row in rows if row["variant"] == variant.name and key in row]
            spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
            share = ratio(rows, variant.name, key) if variant != OFF else None
            cells.append(f"{mean(values):.3g}{spread}" + (f" ({share:.2f})" if share is not None else ""))
        if cost:
            share_of_cost = "" if variant.form == "off" else f" ({cost[variant.step] / cost['off']:.2f})"
            cells.append(f"{cost[variant.step]:.3g}{share_of_cost}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(rows: list[Row], wanted: list[Variant], cost: dict[str, float], facts: dict[str, str]) -> str:
    """A section of docs/results/geometry.md; facts: command, machine and protocol."""
    best, reached = verdict(rows, wanted, cost)
    if best is None:
        outcome = "**No variant keeps within the goal's distance and cost.**"
    else:
        ending = "and it reaches the goal" if reached else "but it misses the goal"
        outcome = (
            f"**Of the variants within the goal's distance and cost, `{best.name}` has the smallest product of PPL and "
            f"speed CV, {ending}.**"
        )
    limits = {
        "goal_ppl": GOAL["ppl"], "goal_cv": GOAL["speed_cv"], "goal_fd": GOAL["fd"], "goal_cost": GOAL["cost"]
    }  # fmt: skip
    tables = {"table": table(rows, wanted, MEASURED, cost), "more": table(rows, wanted, MORE, None)}
    return PAGE.format(**facts, **tables, **limits, outcome=outcome)
