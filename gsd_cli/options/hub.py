"""Options for publishing a generator on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from gsd_cli.options.fields import opt

LONGEST_NAME = 96


def _repository(value: str | None) -> str | None:
    """The hub's own rule for OWNER/NAME."""
    if value is None:
        return None
    part = r"[\w](?:[\w.-]*[\w])?"
    fits = re.fullmatch(f"{part}/{part}", value, re.ASCII) and not re.search(r"--|\.\.|\.git$", value)
    if not fits or len(value) > LONGEST_NAME:
        raise ValueError(f"{value!r} is not the name of a repository on the hub, OWNER/NAME")
    return value


def _licence(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", value):
        raise ValueError(f"{value!r} is not an identifier of a licence, such as mit, apache-2.0 or cc-by-4.0")
    return value


class HubSettings(BaseModel):
    """Whether a finished generator is prepared for the hub, and uploaded."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    push_to_hub: Annotated[str | None, AfterValidator(_repository)] = opt(
        None,
        "Prepare the generator for this repository of the Hugging Face hub, with a model card and images, and print "
        "what would be uploaded. Nothing is uploaded without --publish. A finished run is not trained again.",
        panel="Hub",
        metavar="OWNER/NAME",
    )
    publish: bool = opt(
        False, "Upload what --push-to-hub prepares, with the token of hf auth login or HF_TOKEN.", panel="Hub"
    )
    license: Annotated[str | None, AfterValidator(_licence)] = opt(
        None, "Licence in the model card, such as mit; default: the teacher's.", panel="Hub", metavar="ID"
    )

    def publishing_problems(self) -> Iterator[str]:
        """What is wrong with these options together."""
        if self.push_to_hub is None:
            for name in ("publish", "license"):
                if getattr(self, name):
                    yield f"--{name} needs --push-to-hub OWNER/NAME"
