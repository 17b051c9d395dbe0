"""Networks cut into pieces over two processes (--shard) train as whole ones do, and what they save is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from gsd_cli.base.errors import ExitCode, UsageError
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import load_model
from gsd_cli.options import DistillOptions, DistillSettings
from tests.core.distillation.test_processes import require_alike
from tests.support.shell import DISTILL, Shell

CPU = torch.device("cpu")
Found = dict[str, dict[str, torch.Tensor]]
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

COMPARE = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from gsd_cli.compute.distributed import World, join_world
from gsd_cli.compute.sharding import gather, local
from gsd_cli.core.distillation import adversarial_term
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.diffusers_folder import load_denoiser
from gsd_cli.core.training.checkpoint import host_copies
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import DistillSettings
from tests.support.stepping import run_step
torch.set_num_threads(1)
adversarial_term.HEAD_START = 0
cpu = torch.device("cpu")
world = join_world(cpu)
teacher, data = load_denoiser(Path(sys.argv[1])), ImageArchive(Path(sys.argv[3]))
seen = {}

def build(world, shard):
    def evaluate(generator, step):
        seen[shard] = generator
        return {}
    settings = DistillSettings(
        batch_size=16, lr=1e-4, adversarial=1.0, precision="fp32", irl_weight=0.5, clip_grad=0.1, shard=shard,
        micro_batch=6, reuse_images=True,
    )
    return Distillation(teacher, settings, 4, cpu, evaluate, world=world, data=data)

def gradients(task):
    named = {f"generator.{k}": p.grad for k, p in task.generator.named_parameters()}
    named |= {f"fake.{k}": p.grad for k, p in task.fake_score.network.named_parameters()}
    named |= {f"discriminator.{k}": p.grad for k, p in task.adversarial.heads.named_parameters()}
    return {k: gather(v).clone() for k, v in named.items()}

def keep(**found):
    if world.main:
        out.update({f"{name}/{k}": v for name, tensors in found.items() for k, v in tensors.items()})

out = {}
one, two = build(World(), False), build(world, True)
for step in range(2):
    run_step(one, step), run_step(two, step)
keep(one=gradients(one), two=gradients(two))

# this process's numbers of each network
networks = {"teacher": two.teacher, "fake": two.fake_score.network, "generator": two.generator, "average": two.average}
counts = torch.tensor([[sum(t(p).numel() for p in n.parameters()) for t in (local, lambda p: p)]
                       for n in networks.values()])
keep(held={"both": world.gather(counts[None])})

# checkpoints: each is loaded by the other kind of run
saved = {"one": one.tensors(), "two": two.tensors()}
two.evaluate(2)
keep(of_one=host_copies(saved["one"]), average={k: v.clone() for k, v in seen[True].state_dict().items()})
if world.main:
    saved["two"] = host_copies(saved["two"])
    keep(of_two=saved["two"])
    resumed = build(World(), False)
    resumed.load(saved["two"])
    run_step(resumed, 2)
    keep(resumed_by_one=gradients(resumed))
world.wait()
resumed = build(world, True)
resumed.load(host_copies(saved["one"]))
again = resumed.tensors()
keep(again={k: v.clone() for k, v in again.items()})
run_step(resumed, 2)
keep(resumed_by_two=gradients(resumed))

# an update that is not finite in one process is left out in both
before = gather(next(two.generator.parameters())).clone()
for parameter in two.generator.parameters():
    parameter.grad = torch.zeros_like(parameter)
if world.main:
    local(next(two.generator.parameters()).grad).fill_(float("nan"))
from gsd_cli.core.training.descent import descend
skipped = descend(two.generator, two.generator_adam, clip=1.0).skipped
after = gather(next(two.generator.parameters()))
keep(skipped={"flags": world.gather(skipped[None])})
if world.main:
    keep(kept={"before": before, "after": after.clone()})
    save_file({k: v.detach().contiguous().clone() for k, v in out.items()}, sys.argv[2])
world.wait()
"""


@pytest.fixture(scope="module")
def compared(toy_teacher_folder: Path, toy_archive_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What two processes found, by kind and name; made once, because launching them takes most of the time."""
    folder = tmp_path_factory.mktemp("sharded")
    script, out = folder / "compare.py", folder / "out.safetensors"
    script.write_text(COMPARE)
    command = [sys.executable, *LAUNCHER, str(script), str(toy_teacher_folder), str(out), str(toy_archive_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found: Found = {}
    for name, value in load_file(out).items():
        kind, _, own = name.partition("/")
        found.setdefault(kind, {})[own] = value
    return found


def require_alike_by_network(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for kind in ("generator", "fake", "discriminator"):
        names = [name for name in one if name.startswith(kind)]
        require_alike({name: one[name] for name in names}, {name: two[name] for name in names})


@pytest.mark.slow
def test_the_gradients_are_those_of_one_process(compared: Found) -> None:
    one, two = compared["one"], compared["two"]
    assert any(gradient.any() for gradient in one.values())
    require_alike_by_network(one, two)


@pytest.mark.slow
def test_each_process_holds_half_of_each_network(compared: Found) -> None:
    held, whole = compared["held"]["both"].unbind(-1)  # [process, network]
    assert torch.equal(whole[0], whole[1]) and torch.equal(held.sum(0), whole[0])
    assert (held / whole - 0.5).abs().max() < 0.01


@pytest.mark.slow
def test_a_checkpoint_is_that_of_a_run_without_shards(compared: Found) -> None:
    one, two = compared["of_one"], compared["of_two"]
    assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in two.items()}


@pytest.mark.slow
def test_either_kind_of_run_resumes_the_other_s_checkpoint(compared: Found) -> None:
    saved, again = compared["of_one"], compared["again"]
    assert saved.keys() == again.keys()
    for name, value in saved.items():
        assert torch.equal(value, again[name]), name
    require_alike_by_network(compared["resumed_by_one"], compared["resumed_by_two"])


@pytest.mark.slow
def test_what_is_evaluated_and_exported_is_whole(compared: Found) -> None:
    saved = {k.removeprefix("average/"): v for k, v in compared["of_two"].items() if k.startswith("average/")}
    assert saved.keys() == compared["average"].keys()
    for name, value in saved.items():
        assert torch.equal(value, compared["average"][name]), name


@pytest.mark.slow
def test_an_update_that_is_not_finite_in_one_process_is_left_out_in_all(compared: Found) -> None:
    assert compared["skipped"]["flags"].tolist() == [1.0, 1.0]
    assert torch.equal(compared["kept"]["before"], compared["kept"]["after"])


# -- refusals ------------------------------------------------------------------------------------


def test_a_single_process_is_refused(toy_teacher: Denoiser) -> None:
    with pytest.raises(UsageError, match="only one") as caught:
        Distillation(toy_teacher, DistillSettings(shard=True), 2, CPU, lambda *_: {})
    assert caught.value.code == ExitCode.USAGE
    assert "torchrun" in str(caught.value.hint)


def test_compile_is_refused() -> None:
    with pytest.raises(ValidationError, match="--compile"):
        DistillOptions(shard=True, compile=True)


# -- the command ---------------------------------------------------------------------------------


def distil(shell: Shell, steps: int, *arguments: str, processes: int) -> str:
    command = [*DISTILL, "--steps", str(steps), "-o", "sharded", *arguments]
    launcher = LAUNCHER if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "gsd_cli", *command], cwd=shell.folder, capture_output=True, timeout=280,
        env=shell.environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stderr.decode()


@pytest.mark.slow
def test_a_run_goes_on_with_or_without_shards(workshop: Shell) -> None:
    distil(workshop, 3, "--shard", processes=2)
    assert "resumed at step 3" in distil(workshop, 5, processes=1)
    assert "resumed at step 5" in distil(workshop, 7, "--shard", processes=2)
    generator = workshop.folder / "sharded" / "generator"
    assert json.loads((generator / "gsd.json").read_text())["steps"] == 7
    whole = load_model(str(generator)).generator.state_dict()
    other = load_model(str(workshop.folder / "run")).generator.state_dict()
    assert {k: v.shape for k, v in whole.items()} == {k: v.shape for k, v in other.items()}
