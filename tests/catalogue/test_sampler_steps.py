"""Samplers of more steps than a teacher has noise levels are refused from the model's files alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gsd_cli.base.errors import ExitCode, UsageError
from gsd_cli.catalogue.registry import DISCRETE_SAMPLERS
from gsd_cli.catalogue.sampler_steps import require_steps_of_teacher
from gsd_cli.core.sampling.samplers import SAMPLER_KINDS


def model(folder: Path, levels: object, **schedule: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheduler_config.json").write_text(json.dumps({"num_train_timesteps": levels, **schedule}))
    return folder


def test_all_that_ask_for_too_many_are_named_at_once(tmp_path: Path) -> None:
    few = model(tmp_path / "few", 100)
    require_steps_of_teacher(["msa", "ddim-100", "heun-900", "runs/other", "one-step-teacher"], few)
    with pytest.raises(UsageError) as caught:
        require_steps_of_teacher(["msa-101", "ddim-50", "ddim-1000"], few)
    assert caught.value.code == ExitCode.USAGE
    assert "msa-101" in caught.value.message and "ddim-1000" in caught.value.message
    assert "ddim-50" not in caught.value.message


def test_a_pipelines_schedule_is_found_and_a_missing_one_is_left_to_the_sampler(tmp_path: Path) -> None:
    model(tmp_path / "latent" / "scheduler", 20)
    with pytest.raises(UsageError):
        require_steps_of_teacher(["ddim-21"], tmp_path / "latent")
    for odd in (tmp_path / "nothing", model(tmp_path / "odd", "many")):
        require_steps_of_teacher(["ddim-1000"], odd)


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "ScoreSdeVeScheduler"])
def test_a_continuous_teacher_takes_any_number(tmp_path: Path, kind: str) -> None:
    names = ["msa-101", "ddim-1000"]
    require_steps_of_teacher(names, model(tmp_path / "few", 100, _class_name=kind))
    with pytest.raises(UsageError) as caught:
        require_steps_of_teacher(names, model(tmp_path / "discrete", 100, _class_name="DDPMScheduler"))
    assert all(name in caught.value.message for name in names)


def test_the_discrete_samplers_are_those_whose_records_say_so() -> None:
    assert {name for name, kind in SAMPLER_KINDS.items() if kind.discrete} == set(DISCRETE_SAMPLERS)


def test_it_is_said_before_torch_is_loaded(tmp_path: Path) -> None:
    folder = model(tmp_path / "toy", 50)
    (folder / "gsd.json").write_text("{}")
    script = (
        "import sys\n"
        "from gsd_cli.cli.checks import check_bench\n"
        "from gsd_cli.options import BenchOptions\n"
        "try:\n"
        f"    check_bench(BenchOptions(model={str(folder)!r}, compare='ddim-51'))\n"
        "except Exception as error:\n"
        "    print(int(error.code), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"]
