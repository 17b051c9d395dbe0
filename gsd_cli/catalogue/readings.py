"""How the output of a network can be read: what it predicts, and with which noise schedule it was trained.

A diffusers folder says this in scheduler_config.json. Where it does not, several readings fit the folder, and a reading
is never chosen in silence: `--assume` names it, or real images tell (`core/models/reading_check.py`). Plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gsd_cli.catalogue.bare_files import is_value, named_values
from gsd_cli.catalogue.families import EDM, FLOW, SCORE_SDE, find_family

PREDICTIONS = {"epsilon": ("eps", "noise"), "v_prediction": ("v", "velocity"), "sample": ("x0", "x_start")}
"""What a network can predict, as diffusers calls it, with other names."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "ldm": {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid", "beta_start": 1e-4, "beta_end": 0.02},
}
"""The known noise schedules: of Ho et al. 2020, of Stable Diffusion, of Rombach et al. 2022 (latent diffusion), of
Nichol and Dhariwal 2021, and of GeoDiff (Xu et al. 2022)."""
FLOW_PREDICTION, SCORE = "flow_prediction", "score"
OTHER_NAMES = {"squaredcos_cap_v2": "cosine", "scaled": "scaled_linear", "sd": "scaled_linear"}
_BETAS = ("beta_schedule", "beta_start", "beta_end")


@dataclass(frozen=True)
class Reading:
    """What a network predicts, and its noise schedule as a diffusers scheduler config. name: as `--assume` takes it."""

    prediction: str
    schedule: Mapping[str, Any]
    name: str


FLOW_READING = Reading(FLOW_PREDICTION, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, FLOW)
"""A network trained by flow matching."""
SCORE_SDE_READING = Reading(SCORE, {"_class_name": "ScoreSdeVeScheduler", "sigma_max": 348.0}, SCORE_SDE)
"""A network trained by a variance-exploding score SDE, up to the level of the published ones of 256 x 256 pixels."""
EDM_READING = Reading("epsilon", {"_class_name": "EDMEulerScheduler"}, EDM)
"""A network trained as Karras et al. (2022) did, for data of standard deviation 0.5."""
WHOLE = (FLOW, EDM, SCORE_SDE)
"""The readings whose name says everything."""


def same_schedule(reading: Reading) -> tuple[Reading, ...]:
    """The readings of another prediction with the same noise schedule, and the reading itself."""
    if reading.name in WHOLE:
        return (reading,)
    schedule = reading.name.partition(",")[2]
    return tuple(
        Reading(prediction, reading.schedule, f"{names[0]},{schedule}") for prediction, names in PREDICTIONS.items()
    )


def fitting_readings(config: Mapping[str, Any], takes_levels: bool = False) -> tuple[Reading, ...]:
    """The readings that agree with a scheduler config, which may be empty; one if the config says everything.

    takes_levels: whether the network is given noise levels rather than timesteps, as those of score SDEs alone are.
    """
    family = find_family(config)
    if family == FLOW:
        return (Reading(FLOW_PREDICTION, config, FLOW),)
    if family == SCORE_SDE:
        return (Reading(SCORE, config, SCORE_SDE),)
    if family == EDM:  # without a prediction_type, diffusers' schedulers assume `epsilon`
        return (Reading(str(config.get("prediction_type") or "epsilon"), config, EDM),)
    if takes_levels:
        return (SCORE_SDE_READING,)
    prediction = _stated_prediction(config)
    predictions = (prediction,) if prediction else tuple(PREDICTIONS)
    discrete = tuple(
        Reading(prediction, schedule, f"{_short(prediction)},{name}")
        for prediction in predictions
        for name, schedule in _fitting_schedules(config).items()
    )
    return discrete if config.keys() - {"clip_sample"} else (*discrete, FLOW_READING, EDM_READING)


def _stated_prediction(config: Mapping[str, Any]) -> str | None:
    """The prediction type that a config names; None if it should name one."""
    if config.get("prediction_type") is not None:
        return str(config["prediction_type"])
    # diffusers 0.9 introduced prediction_type. Before, predict_epsilon said it, and at first all networks predicted eps
    if "predict_epsilon" in config:
        return "epsilon" if config["predict_epsilon"] else "sample"
    version = str(config.get("_diffusers_version", "")).split(".")[:2]
    return "epsilon" if len(version) == 2 and version[0] == "0" and version[1] in "012345678" else None


def _fitting_schedules(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The noise schedules that agree with a config, by name."""
    stated = {key: config[key] for key in _BETAS if config.get(key) is not None}
    kind = stated.get("beta_schedule")
    if config.get("trained_betas") is not None:
        return {"trained_betas": config}
    found: dict[str, Mapping[str, Any]] = {}
    for name, facts in SCHEDULES.items():
        agrees = facts["beta_schedule"] == kind if kind is not None else stated.keys() <= facts.keys()
        merged = {**config, **facts, **stated}
        if agrees and merged not in found.values():
            found[name] = merged
    return found or {str(kind): config}  # a schedule that is not known is refused where it is read


def _short(prediction: str) -> str:
    return PREDICTIONS.get(prediction, (prediction,))[0]


def normalize(text: str) -> str:
    """The words of `--assume` under their main names: `epsilon,linear` is `eps,linear`. Raises ValueError.

    Words as `size=64` are kept: a file of bare weights does not say the size of its images (`bare_files.py`).
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    values = [word for word in words if is_value(word)]
    words = [word for word in words if word not in values]
    predictions = {name: others[0] for name, others in PREDICTIONS.items()}
    predictions |= {other: others[0] for others in PREDICTIONS.values() for other in others}
    schedules = {name: name for name in SCHEDULES} | OTHER_NAMES
    if len(words) == 1 and words[0] in WHOLE:
        return words[0]
    first = [predictions[word] for word in words if word in predictions]
    second = [schedules[word] for word in words if word in schedules]
    if not (words or values) or len(first) > 1 or len(second) > 1 or len(first) + len(second) < len(words):
        known = f"{', '.join(predictions[name] for name in PREDICTIONS)}, and of {', '.join(SCHEDULES)}"
        known += f"; or {' or '.join(WHOLE)}"
        raise ValueError(f"{text!r} is no reading of a network; give one of {known}: eps,linear")
    return ",".join(first + second + values)


def assumed(readings: tuple[Reading, ...], words: str) -> tuple[Reading, ...]:
    """The readings that agree with the words of a normalized `--assume`."""
    return tuple(one for one in readings if set(words.split(",")) <= set(one.name.split(",")))


def unstated(readings: tuple[Reading, ...]) -> list[str]:
    """What the folder does not say, given the readings that fit it."""
    found = []
    if len({str(one.schedule) for one in readings}) > 1:
        found.append("which noise schedule its network was trained with")
    if len({one.prediction for one in readings}) > 1:
        found.append("what its network predicts")
    if len({str(named_values(one.name)) for one in readings}) > 1:
        found.append("how its attention is laid out")
    return found
