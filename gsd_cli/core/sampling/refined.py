"""A generator whose images the teacher refines with a few calls, as SDEdit edits images (Meng et al., ICLR 2022).

    x = G(z) + s n(z),   then K steps of the teacher's probability-flow ODE from s to 0, with DPM-Solver++(2M)

The noise n(z) is the latent's own (`later_noise`), so that a latent still means one image.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.few_steps import later_noise, spread_levels
from gsd_cli.core.models.generator import Call, Generator, Model
from gsd_cli.core.models.open import open_teacher
from gsd_cli.core.sampling.ode import dpm_steps


class RefinedGenerator(Generator):
    """The images of `generator`, each refined with `refining` calls of the teacher."""

    def __init__(self, generator: Generator, teacher: Denoiser, refining: int):
        super().__init__(generator.denoiser, generator.sigmas, generator.autoencoder, generator.later)
        self.condition = generator.condition
        self.teacher = teacher
        self.refining = refining_levels(generator.sigmas[-1], refining)

    @property
    def calls(self) -> int:
        """Network calls per image, the generator's and the teacher's."""
        each = 1 if self.teacher.guidance == 1 else 2
        return len(self.sigmas) + each * len(self.refining)

    def trace(self, z: Tensor, condition: Condition) -> list[Call]:
        """The generator's calls, and the refinement as one more."""
        calls, sigma = super().trace(z, condition), self.refining[0]
        noisy = calls[-1].clean + sigma * later_noise(z, len(self.sigmas))

        def denoise(x: Tensor, sigma: float) -> Tensor:
            clean: Tensor = self.teacher(x, per_image(sigma, x), condition)
            return clean

        return [*calls, Call(noisy, sigma, dpm_steps(denoise, noisy, [*self.refining, 0.0]))]


def refining_levels(last: float, steps: int) -> tuple[float, ...]:
    """The noise levels of K refining steps after a generator whose last call is at the level `last`.

        t_k = t_1 (1 - (k - 1) / K)^2,   t = s / (1 + s)

    The first is that of the next call of a generator of several steps (`spread_levels`): 0.556 after 2.5. The others
    fall faster, because what is left to do is fine detail.
    """
    first = spread_levels(last, 2)[1]
    times = [first / (1 + first) * (1 - k / steps) ** 2 for k in range(steps)]
    return tuple(t / (1 - t) for t in times)


def refine(model: Model, steps: int, session: Session) -> Model:
    """The model with images that its teacher refines with this many calls each.

    Raises UsageError for a model that does not name its teacher, and as `open_teacher` where there is none.
    """
    if model.teacher is None:
        raise UsageError([f"--refine: {model.name} does not name its teacher"], hint="leave out --refine")
    revision = model.card.get("teacher_revision")
    found = open_teacher(model.teacher, session, revision, model.teacher_reading, prompts=model.prompts).denoiser
    teacher = found.to(model.generator.device).eval().requires_grad_(False)
    if model.teacher_guidance != 1:  # once it is on its device, where guidance puts the null condition
        teacher = teacher.with_guidance(model.teacher_guidance)
    return replace(model, generator=RefinedGenerator(model.generator, teacher, steps))
