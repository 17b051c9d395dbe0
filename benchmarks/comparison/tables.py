"""How do the bundled generators compare with their teacher's samplers, and what does the ablation give?

    python -m benchmarks.comparison.tables --page docs/results/tables.md

Takes ten minutes for `--only msa`, half an hour for `ablation-quick` and many hours for `ablation`, which distils at
full length. Writes the page and its figures. Every section is a `gsd bench --report` in its own folder under --out,
and is not made again while that folder exists; seconds.json there has the time taken, distillations included. The runs
of the ablations are in ./runs, where an interrupted one resumes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.pages import publish
from gsd_cli.base.atomic import write_json

Figures = dict[str, Any]
ABLATION = "--compare one-step-teacher --ablate --metrics fd,pr,ppl,isometry,time -N 2000 --ppl-samples 400"
VARIANTS = ("full loss", "without isometry loss", "without distillation loss")
PAGE = """# {title}

{result}

    {command}

{goals}

{machine}. The Frechet distances are not FID: they are in the features of the bundled classifier. They are biased
upwards at small N; compare them at equal N only. Times are those of this machine.

{sections}
"""


def goal(what: str, value: float, limit: float) -> str:
    """One line on a goal that is an upper limit."""
    return f"* {what}: {value:.3g}, goal at most {limit:.3g}: {'reached' if value <= limit else '**missed**'}"


def result(found: list[Figures]) -> str:
    """The page's first sentence: the models of all reports by their Frechet distance, the best first."""
    rows = {name: row for report in found for name, row in report["rows"].items() if "fd" in row}
    listed = [
        f"{name} {row['fd']:.2f} ± {row['fd_error']:.2f} ({row['calls']} call{'s' * (row['calls'] != 1)})"
        for name, row in sorted(rows.items(), key=lambda entry: entry[1]["fd"])
    ]
    return f"{found[0]['figure']}, lower is better: {', '.join(listed)}."


def goals_reached(sections: str) -> str:
    """How many of the goals in these sections are reached, and which are missed."""
    goals = [line.removeprefix("* ") for line in sections.splitlines() if "goal at most" in line]
    missed = [line.partition(":")[0] for line in goals if "**missed**" in line]
    ending = f" (missed: {'; '.join(missed)})" if missed else ""
    reached = len(goals) - len(missed)
    return f"{reached} of the {len(goals)} goals on this page {'is' if reached == 1 else 'are'} reached{ending}."


def ratios(found: Figures, seconds: float) -> list[str]:
    """The paper's ratios of the last row to its multi-step baseline."""
    rows = found["rows"]
    theirs, ours = rows["msa"], rows[next(reversed(rows))]
    share = ours["time"]["median"] / theirs["time"]["median"]
    return [
        goal("Frechet distance, generator over MSA", ours["fd"] / theirs["fd"], 0.84),
        goal("PPL, generator over MSA", ours["ppl"] / theirs["ppl"], 0.89),
        goal("time, generator over MSA", share, 1 / 300),
    ]


def first_table(found: Figures, seconds: float) -> list[str]:
    """The ratios, and the time that the comparison took."""
    return [*ratios(found, seconds), goal("minutes that the command took", seconds / 60, 3)]


def order(found: Figures, seconds: float) -> list[str]:
    """The order of the ablation's rows, in both columns."""
    rows = found["ablation"]["rows"]
    lines = []
    for key, name in (("fd", "Frechet distance"), ("ppl", "PPL")):
        values = [rows[variant][key] for variant in VARIANTS]
        kept = "as in the paper" if values == sorted(values) else "**not the paper's**"
        lines.append(f"* {name}, order of the rows (full < without isometry < without distillation): {kept}")
    return lines


def quick_order(found: Figures, seconds: float) -> list[str]:
    """The order, and the time from nothing."""
    return [
        *order(found, seconds),
        goal("minutes that the command took, with its three distillations", seconds / 60, 40),
    ]


@dataclass(frozen=True)
class Section:
    """One bench: title, arguments, which tables and figures of its report are shown, its goals.

    model: of this section, instead of --model.
    """

    title: str
    arguments: str
    tables: tuple[str, ...]
    figures: tuple[str, ...]
    goals: Callable[[Figures, float], list[str]] | None = None
    model: str | None = None


SECTIONS = {
    "msa": Section("Against MSA", "--compare msa", ("table1",), ("figure1",), first_table),
    "samplers": Section(
        "The same teacher, more calls",
        "--compare ddim-10,ddim-20,ddim-50,dpm++-10,dpm++-20 --metrics fd,pr,ppl,time -N 2000",
        ("table1",),
        ("pareto",),
    ),
    "refined": Section(
        "One call, and four of the teacher",
        "--refine 4 --compare msa,fashion --metrics fd,pr,grain,ppl,time -N 2000",
        ("table1",),
        ("figure1",),
        ratios,
    ),
    "two-calls": Section(
        "One call, and a second network for a second call",
        "--compare msa,fashion --metrics fd,pr,grain,ppl,time -N 2000",
        ("table1",),
        ("figure1",),
        ratios,
        model="fashion-refined",
    ),
    "ablation": Section(
        "The ablation at full length",
        f"{ABLATION} --ablate-preset standard",
        ("table2",),
        ("ablation", "ablation-walks"),
        order,
    ),
    "ablation-quick": Section("The ablation at `--preset quick`", ABLATION, ("table2",), ("ablation",), quick_order),
}


def bench(model: str, section: Section, folder: Path) -> None:
    """Run one section's command and keep how long it took."""
    command = ["bench", "--model", model, *shlex.split(section.arguments), "--report", str(folder)]
    print("gsd", shlex.join(command), file=sys.stderr, flush=True)
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gsd_cli", *command], check=True, stdout=subprocess.DEVNULL)
    write_json(folder / "seconds.json", {"seconds": time.perf_counter() - begun})


def write_section(name: str, section: Section, model: str, folder: Path, figures: str) -> str:
    """A section of the page."""
    found = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))["seconds"]
    parts = [f"## {section.title}", f"    gsd bench --model {model} {section.arguments}"]
    parts += [(folder / f"{table}.md").read_text(encoding="utf-8").strip() for table in section.tables]
    if section.goals is not None:
        parts.append("\n".join(section.goals(found, seconds)))
    parts += [f"![{section.title}]({figures}/{name}-{figure}.png)" for figure in section.figures]
    return "\n\n".join(parts)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("--title", default="The bundled generator and its teacher's samplers", help="of the page")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"), help="reports")
    parser.add_argument("--page", type=Path, help="write the page here, its figures next to it")
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, write the page."""
    args = arguments()
    for name in args.only.split(","):
        if not (args.out / name / "seconds.json").exists():
            bench(SECTIONS[name].model or args.model, SECTIONS[name], args.out / name)
    there = {name: one for name, one in SECTIONS.items() if (args.out / name / "seconds.json").exists()}
    figures = args.page.stem if args.page else str(args.out)
    sections = [
        write_section(name, one, one.model or args.model, args.out / name, figures) for name, one in there.items()
    ]
    if args.page is not None:
        folder = args.page.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        for name, one in there.items():
            for figure in one.figures:
                shutil.copy(args.out / name / f"{figure}.png", folder / f"{name}-{figure}.png")
    found = [json.loads((args.out / name / "bench.json").read_text(encoding="utf-8")) for name in there]
    text = "\n\n".join(sections)
    publish(PAGE, args.page, title=args.title, sections=text, result=result(found), goals=goals_reached(text))


if __name__ == "__main__":
    main()
