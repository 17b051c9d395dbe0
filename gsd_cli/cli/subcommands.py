"""The table of the six subcommands: the options, check, plan and function of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from gsd_cli.cli import checks, preflight, preflight_distill

if TYPE_CHECKING:
    from gsd_cli.base.console import Console, Result
    from gsd_cli.base.session import Session
    from gsd_cli.options import Common


@dataclass(frozen=True)
class Subcommand:
    """One subcommand.

    option_model, function: `module:name`, imported when first used, because they load pydantic and torch.
    check: raises GsdError for mistakes that can be found without torch. plan: lines on what the command would do.
    answer: the result where it is known without torch, else None. shares_work: whether several processes share it.
    """

    option_model: str
    function: str
    check: Callable[[Any], None]
    plan: Callable[[Any], Iterable[str]]
    answer: Callable[[Any, Console], Result | None] = lambda options, console: None
    shares_work: Callable[[Any], bool] = lambda options: False

    @property
    def options(self) -> type[Common]:
        """The pydantic model of its options."""
        model: type[Common] = resolve_name(self.option_model)
        return model

    def runner(self) -> Callable[[Any, Session], Result]:
        """The function that does the work."""
        function: Callable[[Any, Session], Result] = resolve_name(self.function)
        return function


# fmt: off
SUBCOMMANDS: dict[str, Subcommand] = {
    "prepare": Subcommand(
        "gsd_cli.options:PrepareOptions", "gsd_cli.commands.prepare:run",
        preflight.check_prepare, preflight.plan_prepare, shares_work=lambda options: options.fit_teacher is not None,
    ),
    "distill": Subcommand(
        "gsd_cli.options:DistillOptions", "gsd_cli.commands.distill:run",
        preflight_distill.check_distill, preflight_distill.plan_distill, preflight_distill.answer_distill,
        lambda options: True,
    ),
    "sample": Subcommand(
        "gsd_cli.options:SampleOptions", "gsd_cli.commands.sample:run",
        checks.check_sample, preflight.plan_sample, shares_work=lambda options: True,
    ),
    "interpolate": Subcommand(
        "gsd_cli.options:InterpolateOptions", "gsd_cli.commands.interpolate:run",
        checks.check_interpolate, preflight.plan_interpolate,
    ),
    "edit": Subcommand(
        "gsd_cli.options:EditOptions", "gsd_cli.commands.edit:run",
        checks.check_edit, preflight.plan_edit,
    ),
    "bench": Subcommand(
        "gsd_cli.options:BenchOptions", "gsd_cli.commands.bench:run",
        checks.check_bench, preflight.plan_bench,
    ),
}
# fmt: on
"""In the order that help shows."""
