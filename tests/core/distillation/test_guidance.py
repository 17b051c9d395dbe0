"""Classifier-free guidance: the estimates, what the fake score is trained on, closed forms, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from gsd_cli.base.errors import UsageError
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.guidance import DROPPED, Guidance, build_guidance
from gsd_cli.core.distillation.losses import score_identity_loss
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.dit import DIT
from gsd_cli.core.models.unet2d_condition import UNET2D_CONDITION
from gsd_cli.options import DistillSettings
from tests.support import teachers
from tests.support.stepping import run_step

CPU = torch.device("cpu")
SHAPE = (4, 8, 8)


def dit() -> Denoiser:
    """A teacher with three classes and a null class, whose classes matter: random tables differ by little."""
    net = teachers.dit()
    with torch.no_grad():
        for block in net.transformer_blocks:
            block.norm1.emb.class_embedder.embedding_table.weight.mul_(20)
    return Denoiser(net, BetaSchedule.linear(), kind=DIT).eval()


def make(teacher: Denoiser | None = None, **settings: Any) -> Distillation:
    values = {"batch_size": 6, "precision": "fp32", "irl": "off", "pair_every": 3, **settings}
    return Distillation(teacher or dit(), DistillSettings(**values), 8, CPU, lambda *_: {}, pixels=False)


class TestOption:
    @pytest.mark.parametrize(
        ("given", "kept", "scales"),
        [
            ("off", "off", (1, 1)), ("1", "off", (1, 1)), ("teacher:1.0", "off", (1, 1)), ("1.50", "1.5", (1.5, 1.5)),
            ("teacher:4.0", "teacher:4", (4, 1)),
        ],
    )  # fmt: skip
    def test_scales(self, given: str, kept: str, scales: tuple[float, float]) -> None:
        settings = DistillSettings(guidance=given)
        assert settings.guidance == kept and settings.guidance_scales() == scales

    @pytest.mark.parametrize("given", ["", "0.5", "-2", "31", "nan", "inf", "fake:2", "teacher:", "teacher:x", "1,5"])
    def test_nonsense_is_refused(self, given: str) -> None:
        with pytest.raises(ValidationError, match="with K from 1 to 30"):
            DistillSettings(guidance=given)


class TestEstimates:
    @torch.no_grad()
    def test_they_are_the_formula(self) -> None:
        model, null = dit(), Condition(torch.tensor([3]))
        x, sigma, condition = torch.randn(4, *SHAPE), torch.tensor([0.1, 0.5, 2.0, 9.0]), Condition(torch.arange(4) % 3)
        own, free = model(x, sigma, condition), model(x, sigma, null)
        assert (own - free).abs().max() > 0.01
        found = Guidance(3.0, 1.0, null).estimates(model, x, sigma, condition, (3.0, 1.0, 1.5))
        for estimate, scale in zip(found, (3.0, 1.0, 1.5), strict=True):
            torch.testing.assert_close(estimate, free + scale * (own - free), rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_without_guidance_a_model_is_called_once_with_its_rows(self) -> None:
        rows = []

        class Seen(nn.Module):
            def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
                rows.append(len(x))
                return x

        x, sigma = torch.randn(4, *SHAPE), torch.ones(4)
        Guidance().estimates(Seen(), x, sigma, UNCONDITIONAL, (1.0, 1.0))
        Guidance(2.0, 1.0, Condition(torch.tensor([3]))).estimates(
            Seen(), x, sigma, Condition(torch.zeros(4, dtype=torch.int64)), (2.0, 1.0)
        )
        assert rows == [4, 8]

    def test_a_linear_generator_finds_the_guided_gaussian(self) -> None:
        """Classes N(m_c, S), and N(m_0, S) without one: D_k is the denoiser of N(m_0 + k (m_c - m_0), S)."""
        means = torch.tensor([[1.0, -1.0], [0.5, 2.0], [0.0, 0.5]])  # two classes, and none
        spread = 0.7

        class Gaussian(nn.Module):
            def __init__(self, centres: Tensor) -> None:
                super().__init__()
                self.centres = centres

            def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
                kept = (spread**2 / (spread**2 + sigma**2)).reshape(-1, 1, 1, 1)
                assert condition.classes is not None
                centre = self.centres[condition.classes].reshape(x.shape)
                return centre + kept * (x - centre)

        guidance, torch_state = Guidance(2.5, 1.0, Condition(torch.tensor([2]))), torch.Generator().manual_seed(0)
        centres = torch.zeros(2, 2, requires_grad=True)
        adam = torch.optim.Adam([centres], 0.05, (0.0, 0.999))
        for step in range(300):
            adam.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
            condition = Condition(torch.arange(64) % 2)
            y = (centres[condition.classes] + spread * torch.randn(64, 2, generator=torch_state)).reshape(-1, 1, 1, 2)
            sigma = torch.empty(64).uniform_(-2.3, 2.3, generator=torch_state).exp()
            x = y + sigma.reshape(-1, 1, 1, 1) * torch.randn(y.shape, generator=torch_state)
            (f,) = guidance.estimates(Gaussian(means), x, sigma, condition, (2.5,))
            (g,) = guidance.estimates(Gaussian(centres.detach()), x, sigma, condition, (1.0,))
            adam.zero_grad()
            score_identity_loss(y, f, g, 1.0).mean().backward()
            adam.step()
        torch.testing.assert_close(centres.detach(), means[2] + 2.5 * (means[:2] - means[2]), rtol=0, atol=0.05)


class TestFakeScore:
    def test_a_tenth_of_the_rows_has_no_condition(self) -> None:
        draws = Draws(0, 4000, range(4000), SHAPE, Condition(torch.arange(3)), CPU)
        condition, null = draws.condition("x"), Condition(torch.tensor([3]))
        dropped = Guidance(2.0, 2.0, null).drop(condition, draws, "fake", 0)
        assert dropped.classes is not None and condition.classes is not None
        changed = dropped.classes != condition.classes
        assert (dropped.classes[changed] == 3).all() and changed.float().mean().item() == pytest.approx(
            DROPPED, abs=0.02
        )
        again = Guidance(2.0, 2.0, null).drop(condition, draws, "fake", 0)
        other = Guidance(2.0, 2.0, null).drop(condition, draws, "fake", 1)
        assert torch.equal(dropped.classes, again.classes) and not torch.equal(dropped.classes, other.classes)  # type: ignore[arg-type]
        assert Guidance(2.0, 1.0, null).drop(condition, draws, "fake", 0) is condition

    @pytest.mark.parametrize("form", ["bounded", "plain"])
    def test_long_and_short_guidance_begins_at_rest(self, form: str) -> None:
        """Both networks are the teacher's copy, guided alike; a guided teacher alone pulls at once."""
        images, condition = torch.randn(6, *SHAPE), Condition(torch.arange(6) % 3)
        norms = {
            kind: make(guidance=kind, fake_score=form).score_identity.measure(images, condition, 0).gradient.norm()
            for kind in ("off", "3", "teacher:3")
        }
        assert norms["teacher:3"] > 100 * max(norms["off"], norms["3"])

    def test_the_step_trains_all_three_networks(self) -> None:
        for kind in ("2", "teacher:2"):
            task = make(guidance=kind)
            before = {name: value.clone() for name, value in task.tensors().items()}
            assert run_step(task, 0)["skipped"] == 0
            after = task.tensors()
            moved = {name.split("/")[0] for name, value in before.items() if not torch.equal(value, after[name])}
            assert {"generator", "fake", "average"} <= moved

    @pytest.mark.parametrize("kind", ["2", "teacher:2"])
    def test_micro_batches_change_nothing(self, kind: str) -> None:
        """By the gradients: Adam without momentum makes a step of full size from any rounding error."""
        found = []
        for size in (None, 2):
            task = make(guidance=kind, micro_batch=size, lr=1e-6)
            for step in range(2):
                metrics = run_step(task, step)
            squares = {name: value for name, value in task.tensors().items() if name.endswith("/exp_avg_sq")}
            # with "2" the generator rests: its gradient is rounding errors
            named = "fake" if kind == "2" else ("fake", "generator")
            found.append((metrics["fake_loss"], {n: v for n, v in squares.items() if n.startswith(named)}))
        (loss, whole), (other, parts) = found
        assert loss == pytest.approx(other, rel=1e-4) and len(whole) > 20
        # of biases of keys, which attention does not see, too
        least = 1e-6 * max(float(square.max()) for square in whole.values())
        for name, square in whole.items():
            torch.testing.assert_close(square, parts[name], rtol=0.01, atol=max(least, float(square.max()) / 100))

    def test_off_is_what_it_was(self) -> None:
        """Bit for bit: a run from before the option resumes."""
        tasks = [make(), make(guidance="1")]
        for task in tasks:
            run_step(task, 0)
        assert all(torch.equal(a, b) for a, b in zip(*(task.tensors().values() for task in tasks), strict=True))


class TestTeachers:
    def test_unconditional(self, toy_teacher: Denoiser) -> None:
        with pytest.raises(UsageError, match="the teacher is unconditional"):
            build_guidance(DistillSettings(guidance="2"), toy_teacher, CPU)
        assert build_guidance(DistillSettings(), toy_teacher, CPU) == Guidance()

    def test_classes_without_a_null_class(self) -> None:
        teacher = Denoiser(teachers.unet(teachers.SMALL, num_class_embeds=3), BetaSchedule.linear())
        with pytest.raises(UsageError, match="not trained with a null class") as caught:
            build_guidance(DistillSettings(guidance="teacher:2"), teacher, CPU)
        assert "leave out --guidance" in str(caught.value.hint)

    def test_prompts_without_the_empty_one(self) -> None:
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        teacher = Denoiser(UNet2DConditionModel(**teachers.TEXT).eval(), BetaSchedule.linear(), kind=UNET2D_CONDITION)
        prompts = Condition(embeddings=torch.randn(2, 5, 8))
        teacher.give_prompts(prompts)
        with pytest.raises(UsageError, match="has no empty prompt") as caught:
            build_guidance(DistillSettings(guidance="2"), teacher, CPU)
        assert "gsd prepare PROMPTS.txt" in str(caught.value.hint)
        teacher.give_prompts(prompts, Condition(embeddings=torch.zeros(1, 5, 8)))
        found = build_guidance(DistillSettings(guidance="2"), teacher, CPU)
        assert found.null.embeddings is not None and found.null.embeddings.abs().sum() == 0
        assert run_step(make(teacher, guidance="2"), 0)["skipped"] == 0
