"""What a file of bare weights says about its network, and what it leaves open: one `BareModel` per file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class BareModel:
    """A network read from tensors alone.

    arrange(values): its config (with the `_class_name` of a kind) and its tensors under the kind's names, for the
    values of what the tensors leave open. predictions: what it can predict, as diffusers calls it. schedules: the noise
    schedules that fit, by name; no name for the only one. choices: the values that fit what is open, by the key that
    `--assume` takes; none where any could. scheduler: what is known of its sampler, as a diffusers config.
    """

    library: str
    arrange: Callable[[Mapping[str, str]], tuple[dict[str, Any], State]]
    predictions: tuple[str, ...]
    schedules: Mapping[str, Mapping[str, Any]]
    choices: Mapping[str, tuple[str, ...]]
    scheduler: Mapping[str, Any] = field(default_factory=dict)


def find_prefix(state: State, anchor: str) -> str | None:
    """What stands before the name of a tensor that a network has; an average's is preferred. None without it."""
    found = [name.removesuffix(anchor) for name in state if name == anchor or name.endswith(f".{anchor}")]
    return min(found, key=lambda prefix: ("ema" not in prefix, "online" in prefix, prefix), default=None)


def below(state: State, prefix: str) -> State:
    """The tensors whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
