"""Metrics of cost: time per image, memory of a call, images per second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gsd_cli.base.text import format_seconds
from gsd_cli.comparison.contenders import Row, Subject
from gsd_cli.comparison.context import Context
from gsd_cli.comparison.metric import Column, Entry, Metric
from gsd_cli.compute.device import autocast
from gsd_cli.compute.random import latents
from gsd_cli.core.models.denoiser import per_image
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.sampling.one_step import ONE_STEP_SIGMA
from gsd_cli.metrics.speed import memory_of_call, throughput, time_interleaved

REPEATS = 5
MANY_CALLS = 100
"""A sampler of more calls than this needs no warm-up: its first call is a hundredth of its time at most."""


# -- time -----------------------------------------------------------------------------------------


def _measure_times(context: Context, entries: Sequence[Entry]) -> None:
    batch, shape = context.options.time_batch, context.latent_shape
    tasks = {entry.row.name: _sampling_task(entry.contender.subject, batch, shape) for entry in entries}
    with context.session.progress("timing", REPEATS * len(tasks)) as bar:
        for entry in entries:
            if entry.contender.subject.calls <= MANY_CALLS:
                tasks[entry.row.name]()
        timings = time_interleaved(tasks, batch, context.device, REPEATS, lambda done, _: bar.update(done))
    for entry in entries:
        entry.row.time = timings[entry.row.name]


def _sampling_task(subject: Subject, batch: int, shape: tuple[int, int, int]) -> Callable[[], object]:
    """Makes `batch` images from latents that are drawn beforehand."""
    z = latents(range(batch), shape, "timing")
    return lambda: subject.sample(z, range(batch))


def _median(row: Row) -> Mapping[str, float]:
    return {} if row.time is None else {"time": row.time.median, "low": row.time.low, "high": row.time.high}


def _time_protocol(context: Context) -> dict[str, str]:
    backend = "; the model is run by onnxruntime" if context.options.backend == "onnx" else ""
    return {
        "time": f"per image at batch {context.options.time_batch}, median (and quartiles) of {REPEATS}, after a warm-up"
        f" where an image takes up to {MANY_CALLS} calls, models interleaved in one process, loading excluded{backend}"
    }


TIME = Metric(
    "time",
    measure_together=_measure_times,
    columns=[
        Column(
            "time",
            "time per image",
            spread=("low", "high"),
            figures=_median,
            place=1,
            better="lower",
            unit="s",
            spread_is="quartiles",
            show=format_seconds,
            count=lambda row: row.time.repeats if row.time else None,
        )
    ],
    protocol=_time_protocol,
)


# -- memory ---------------------------------------------------------------------------------------


def _measure_memory(context: Context, entries: Sequence[Entry]) -> None:
    """The peak of one network call of each contender; of a generator, of all its calls, which use the same memory."""
    z = latents(range(context.options.batch_size), context.latent_shape, "timing").to(context.device)
    denoiser = context.teacher.denoiser
    condition = denoiser.conditions.first(len(z)).to(context.device)
    for entry in entries:
        teacher = partial(denoiser, sigma=per_image(ONE_STEP_SIGMA, z), condition=condition)
        model = entry.contender.model
        with autocast(context.device, context.precision):
            found = memory_of_call(model if isinstance(model, Generator) else teacher, z)
        if found is not None:
            entry.row.figures["peak_memory_mb"] = found / 1e6


def _memory_protocol(context: Context) -> dict[str, str]:
    batch, by = context.options.batch_size, "" if context.options.backend == "torch" else ", in torch"
    return {"memory": f"one network call at batch {batch}{by}, above what was in use before it"}


MEMORY = Metric(
    "memory",
    measure_together=_measure_memory,
    columns=[Column("peak_memory_mb", "memory (MB)", ".4g", better="lower", unit="MB", count=lambda row: None)],
    protocol=_memory_protocol,
)


# -- throughput -----------------------------------------------------------------------------------


def _measure_throughput(context: Context, entries: Sequence[Entry]) -> None:
    """Images per second of the model, the last entry, by batch size."""
    with context.session.progress("throughput"), autocast(context.device, context.precision):
        rates = throughput(context.renderer, context.options.batch_size, context.session.check)
    entries[-1].row.figures |= {f"images_per_second_{size}": rate for size, rate in rates.items()}


THROUGHPUT = Metric("throughput", measure_together=_measure_throughput)
