"""Opening the generator that --model names, said on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gsd_cli.console import Console

if TYPE_CHECKING:
    from gsd_cli.core.generator import Model


def open_model(spec: str | None, device: Any, console: Console) -> Model:
    """Load a generator onto `device`, ready to sample, and say which it is."""
    from gsd_cli.core.generator import load_model

    model = load_model(spec)
    if spec is None:
        console.say(f"model: {model.name}")
    model.generator.to(device).eval().requires_grad_(False)
    return model
