"""Does the isometric term disentangle? Walks and edits of generators distilled with and without it.

    python -m benchmarks.editing.disentanglement --without runs/geometry/runs/off-seed{0,1,2} \\
        --term runs/geometry/runs/stress-1-seed{0,1,2} --page build/disentanglement.md

Takes about half an hour per run. Writes the page, and its rows as JSON and CSV under --out. It resumes where it
stopped: rows that are in --out are not measured again. The runs come from `benchmarks.distillation.geometry` or from
`gsd bench --ablate`, in pairs of one seed.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

from benchmarks.editing.directions import Laboratory
from benchmarks.latents.walks import FRAMES, walk_figures
from benchmarks.support.pages import markdown_table, publish
from benchmarks.support.results import Results, Row

FIGURES = ("success", "leakage", "monotonicity", "class_kept", "auroc", "feature_distance")
WALKED = ("largest_over_mean", "worst", "length")
PAGE = """# Does the isometric term disentangle?

{result}

    {command}

Pairs of runs of equal seed and length, one without the term and one with it ({count}): {pairs}. With several pairs the
figures are means ± standard deviations. Brackets give the mean ratio of a pair. {machine}.

## Walks: plain `slerp` in {frames} equal angles

{walks}

{number} latents are joined in pairs, the same for all runs. Steps and lengths are measured in the generator's own
features.

## Edits of measurable attributes and classes in the latent

{edits}

Each attribute is edited in {number} images. The directions come from {samples} samples of each generator. Success,
Spearman's correlation with strength (monotonicity), class kept and AUROC are better when high; leakage and the feature
distance from the unedited image are better when low. `gsd_cli/metrics/edit_quality.py` defines them.
"""


def main() -> None:
    """Measure what is missing, write the page."""
    args = arguments()
    torch.set_num_threads(args.threads)
    rows = Results(Path(args.out) / "disentanglement.json", {"N": args.number, "samples": args.samples})
    plain, term = ([measured(rows, run, args) for run in runs] for runs in (args.without, args.term))
    names = [f"`{a.name}` and `{b.name}`" for a, b in zip(args.without, args.term, strict=True)]
    publish(
        PAGE,
        args.page,
        result=result(plain, term),
        pairs=", ".join(names),
        count=len(names),
        walks=table(["slerp"], WALKED, plain, term),
        edits=table([name for name in plain[0] if name != "slerp"], FIGURES, plain, term),
        number=args.number,
        samples=args.samples,
        frames=FRAMES,
    )


def measured(rows: Results, run: Path, args: argparse.Namespace) -> dict[str, Row]:
    """Figures of one run's generator by what was done: `slerp`, or the name of an attribute."""

    @functools.cache
    def lab() -> Laboratory:
        return Laboratory(str(run), args.number, args.samples, 0)

    found = {"slerp": rows.measure_once(f"{run.name}: slerp", lambda: walk_figures(lab().generator, lab().z, "slerp"))}
    for target in lab().attributes:
        if args.attributes is None or target.name in args.attributes:
            row = functools.partial(lab().row, target, "latent")
            found[target.name] = rows.measure_once(f"{run.name}: {target.name}", row)
    return found


def table(
    names: Sequence[str], figures: Sequence[str], plain: Sequence[dict[str, Row]], term: Sequence[dict[str, Row]]
) -> str:
    """Two rows for each name: without the term, and with it and its ratio; the means of all names last."""
    means = [{"mean": {f: mean(run[n][f] for n in names) for f in figures}} for run in [*plain, *term]]
    lines = []
    for name in [*names, "mean"] if len(names) > 1 else names:
        both = (means[: len(plain)], means[len(plain) :]) if name == "mean" else (plain, term)
        before, after = ([[run[name][f] for f in figures] for run in runs] for runs in both)
        lines.append([f"{name}, without", *(spread(values) for values in zip(*before, strict=True))])
        cells = zip(zip(*before, strict=True), zip(*after, strict=True), strict=True)
        lines.append([f"{name}, with", *(f"{spread(b)} ({ratio(a, b):.2f})" for a, b in cells)])
    return markdown_table(["", *(f.replace("_", " ") for f in figures)], lines)


def result(plain: Sequence[dict[str, Row]], term: Sequence[dict[str, Row]]) -> str:
    """The page's first sentence."""

    def change(figure: str, names: Sequence[str]) -> str:
        before, after = ([mean(run[n][figure] for n in names) for run in runs] for runs in (plain, term))
        return f"{ratio(before, after):.2f} x"

    attributes = [name for name in plain[0] if name != "slerp"]
    return (
        f"With the isometric term, the largest step of a walk over its mean step is {change(WALKED[0], ['slerp'])} "
        f"that without it, the success of edits {change('success', attributes)} and their leakage "
        f"{change('leakage', attributes)} (pairs of runs: {len(plain)})."
    )


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{mean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def ratio(before: Sequence[float], after: Sequence[float]) -> float:
    """The mean ratio of pairs."""
    return mean(b / a if a else float("nan") for a, b in zip(before, after, strict=True))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", type=Path, nargs="+", required=True, help="runs distilled with --irl off")
    parser.add_argument("--term", type=Path, nargs="+", required=True, help="runs distilled with the term")
    parser.add_argument("--attributes", nargs="*", help="these alone (all that are built in)")
    parser.add_argument("-N", "--number", type=int, default=200, help="images edited for each direction")
    parser.add_argument("--samples", type=int, default=1024, help="samples that directions are found on")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", default="runs/disentanglement")
    parser.add_argument("--page", type=Path, help="the page to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
