"""What `gsd distill --preset` stands for."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"kimg": 11, "eval_every": 5.5, "eval_samples": 1000, "lr": 1e-4, "ema_ramp": 0.4},
    "standard": {"kimg": 100, "eval_every": 10, "lr": 1e-4, "ema_ramp": 0.4},
    "paper": {"epochs": 100, "eval_every": 50, "lr": 1e-4},
    "sid": {
        "kimg": 400_000,
        "eval_every": 1000,
        "batch_size": 256,
        "lr": 1e-5,
        "alpha": 1.2,
        "ema_half_life": 500_000,
    },
}
"""Defaults of `--preset`. Evaluations take under a twentieth of a run: longer runs have fewer, the short one smaller
ones. Short runs wander, and want a longer moving average. Any flag, variable or config key wins over them."""
