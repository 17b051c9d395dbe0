"""One part of `python -m benchmarks.gpu`, in a process of its own: `python -m benchmarks.gpu.parts PART --out DIR`.

A part is a list of rows. A row that fails holds its traceback, and the next one begins; DIR/PART.json is written after
every row, so earlier rows survive a crash.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import GIGABYTE, ROOT, Plan, Row, Rows

PACKAGES = {
    "torch": "torch", "torchvision": "torchvision", "diffusers": "diffusers", "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub", "numpy": "numpy", "scipy": "scipy", "PIL": "pillow", "pydantic": "pydantic",
    "typer": "typer", "rich": "rich", "filelock": "filelock", "platformdirs": "platformdirs", "tqdm": "tqdm",
    "accelerate": "accelerate", "matplotlib": "matplotlib", "jinja2": "jinja2", "sklearn": "scikit-learn",
    "cleanfid": "clean-fid",
}  # fmt: skip
"""What gsd imports, and what pip calls it."""
IMAGES = ROOT / "tests" / "assets" / "fashion-100.zip"


def imports(plan: Plan, rows: Rows) -> None:
    """What is installed, and what the machine has."""
    missing = []
    for name, package in PACKAGES.items():
        try:
            importlib.import_module(name)
        except Exception as error:
            missing.append(f"{package} ({type(error).__name__}: {error})")

    def machine() -> Row:
        import torch

        from gsd_cli.base.versions import versions
        from gsd_cli.compute.device import resolve_device

        device = resolve_device(plan.device)
        found: Row = {"device": str(device), "machine": platform.machine(), "versions": versions()}
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            found |= {"name": properties.name, "memory_gib": round(properties.total_memory / GIGABYTE, 1)}
            found |= {"cuda": torch.version.cuda, "bf16": torch.cuda.is_bf16_supported()}
        return found

    def packages() -> Row:
        if missing:
            raise ImportError(f"not importable: {'; '.join(missing)}. Install gsd with its dependencies: pip install .")
        return {"found": len(PACKAGES)}

    rows.add("packages", packages)
    rows.add("machine", machine)


SMOKE = (
    f"prepare {shlex.quote(str(IMAGES))} --size 16 -o toy.zip --fit-teacher tiny --fit-features --fit-steps 6",
    "distill {toy} --steps 4 -o run",
    "distill {toy} --steps 8 -o run",
    "sample --model run -N 4 -o sample.png",
    "interpolate seed:1 seed:2 --model run --frames 4 -o walk.png",
    "interpolate seed:1 seed:2 --model run --frames 4 --path geodesic --geodesic-steps 2 -o geodesic.png",
    "edit seed:1 --model run --direction pc0 -o edit.png",
    "edit sample.png --model run --direction pc1 --invert-steps 3 -o inverted.png",
    "bench --model run --compare ddim-2 --metrics fd,ppl,isometry,time,memory,throughput -N 64 --ppl-samples 10",
    "bench --model run --compare ddim-2 --metrics edit --edit-samples 10 -N 64",
)
TOY = "--teacher toy-teacher --data toy.zip --features toy-features --batch-size 8 --eval-samples 16"
SMOKE_LARGE = (
    "distill {toy} --steps 12 -o run",
    "distill {toy} --steps 4 -o adversarial --adversarial 1 --recompute --micro-batch 4 --dropout 0.1",
    "distill {toy} --steps 4 -o fp16 --precision fp16",
    "distill {toy} --minutes 0.5 -o paced --profile profile",
    "sample --model fashion -N 64 --grid -o fashion.png",
    "edit example:pullover --model fashion --attribute trouser -o trouser.png",
    "interpolate example:bag example:ankle-boot --model fashion --frames 8 -o strip.png",
    "distill {toy} --steps 4 -o compiled --compile --adversarial 1",
)


def smoke(plan: Plan, rows: Rows) -> None:
    """All six commands, a resumed run among them, in this process: a failure shows its traceback."""
    work = plan.out / "smoke"
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    for line in SMOKE if plan.small else (*SMOKE, *SMOKE_LARGE):
        words = shlex.split(line.replace("{toy}", TOY))
        rows.add(" ".join(words).replace(str(ROOT) + "/", ""), partial(command, words, plan))


def command(words: list[str], plan: Plan) -> Row:
    """A command of gsd, as its flags say it, with errors left as they are."""
    from gsd_cli.base.console import Console
    from gsd_cli.base.session import Session
    from gsd_cli.cli.config import resolve
    from gsd_cli.cli.flags import MODELS, commands
    from gsd_cli.cli.subcommands import SUBCOMMANDS

    given: dict[str, Any] = {}
    names = {name: one for one in commands()[words[0]].flags for part in one.names for name in part.split("/")}
    rest, places = words[1:], [one for one in commands()[words[0]].flags if one.argument]
    while rest:
        word = rest.pop(0)
        one = names[word] if word.startswith("-") else places[0]
        value: Any = True if one.boolean else rest.pop(0) if word.startswith("-") else word
        given[one.public] = [*given.get(one.public, []), value] if one.many else value
    given |= {"device": plan.device, "offline": True}
    options = resolve(words[0], MODELS[words[0]], given, MODELS).options
    result = SUBCOMMANDS[words[0]].runner()(options, Session.start(options, Console(quiet=True)))
    return {"outputs": result.outputs}


PARTS = {"imports": "imports", "a": "smoke", "b": "parity", "c": "rates", "d": "memory", "e": "long"}
"""The function of each part: `imports` and `smoke` are here, the others in measures.py."""


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    out = options.out.resolve()
    plan = Plan(out, options.device, options.small, options.seconds)
    name = PARTS[options.part]
    part = globals().get(name) or getattr(importlib.import_module("benchmarks.gpu.measures"), name)
    part(plan, Rows(out / f"{options.part}.json"))


if __name__ == "__main__":
    main()
