"""Two examples for gsd and for each subcommand. Help, man pages and reference show them, and tests run them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, str]] = {
    "prepare": (
        "gsd prepare fashion-mnist -o fashion.zip",
        "gsd prepare photos/ --size 32 --fit-teacher small",
    ),
    "distill": (
        "gsd distill --teacher ddpm-fashion --preset quick",
        "gsd distill --teacher ddpm-cifar10 -o runs/cifar",
    ),
    "sample": (
        "gsd sample -N 16 --grid -o grid.png",
        "gsd sample --seeds 0-9999 -o - --format tar | tar tv",
    ),
    "interpolate": (
        "gsd interpolate seed:1 seed:7 --frames 12 -o strip.png",
        "gsd interpolate seed:1 seed:2 seed:3 -o walk.gif",
    ),
    "edit": (
        "gsd edit example:bag --attribute brightness --range=-3:3:7",
        "gsd sample -N 1 -o - | gsd edit - --direction pc0 --strength 2 -o edit.png",
    ),
    "bench": (
        "gsd bench --compare ddim-50 -N 500",
        "gsd bench --compare ddim-10,ddim-50 --metrics ppl,time --report report/",
    ),
}

START = ("gsd sample -N 16 --grid -o grid.png", "gsd distill --teacher ddpm-fashion --preset quick")
