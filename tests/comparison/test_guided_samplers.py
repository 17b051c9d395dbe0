"""gsd bench with a guided teacher: what its samplers are called, what they cost, and where they are kept."""

from __future__ import annotations

import json

import torch

from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.dit import DIT
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers
from tests.support.shell import Shell


def test_guidance_is_what_the_losses_use() -> None:
    model = Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT).eval()
    x, sigma, classes = torch.randn(3, 4, 8, 8), torch.tensor([0.3, 1.0, 5.0]), Condition(torch.tensor([0, 1, 2]))
    with torch.no_grad():
        free, own = model(x, sigma, model.null_condition.expand(3)), model(x, sigma, classes)
        guided = model.with_condition(classes).with_guidance(3)(x, sigma)
    torch.testing.assert_close(guided, free + 3 * (own - free), atol=1e-5, rtol=1e-5)
    assert model.guidance == 1


def test_it_takes_twice_the_calls_and_has_another_name_and_place() -> None:
    model = Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT)
    sampler, guided = parse_sampler("msa-10"), model.with_guidance(1.5)
    assert (sampler.calls(model), sampler.calls(guided)) == (10, 20)
    assert (sampler.name_on(model), sampler.name_on(guided)) == ("msa-10", "msa-10, guidance 1.5")
    assert sampler.cache_name(model) == sampler.cache_name(model.with_guidance(1))
    places = {sampler.cache_name(one) for one in (model, guided, model.with_guidance(2))}
    assert len(places) == 3


def test_a_generator_is_compared_with_the_teacher_that_it_imitates(shell: Shell) -> None:
    teachers.dit_pipeline(shell.folder / "dit")
    run = ("distill", "--teacher", "dit", "--steps", "1", "--batch-size", "2", "--eval-samples", "16")
    measure = ("bench", "--compare", "msa-2", "--metrics", "ppl", "--ppl-samples", "10", "--json", "--model")

    def rows(*words: str) -> dict[str, dict[str, float]]:
        done = shell.gsd(*measure, *words)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)["metrics"]["rows"]  # type: ignore[no-any-return]

    assert shell.gsd(*run, "--guidance", "teacher:2", "--adversarial", "off", "-o", "a").returncode == 0
    assert rows("a")["msa-2, guidance 2"]["calls"] == 4
    assert rows("a", "--guidance", "1")["msa-2"]["calls"] == 2
    card = shell.folder / "a" / "generator" / "gsd.json"
    card.write_text(card.read_text().replace('"teacher:2"', '"2"'))  # of both networks: the unguided images
    assert "msa-2" in rows("a")


def test_a_teacher_without_a_null_condition_is_refused(shell: Shell) -> None:
    done = shell.gsd("bench", "--guidance", "2", "--metrics", "ppl", "--ppl-samples", "10")
    assert done.returncode == 2 and "the teacher is unconditional" in done.stderr.decode()
