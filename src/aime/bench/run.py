"""``aime bench``: all the sections, preset by preset, between two looks at the machine."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from aime.bench.compare import measure_balance, measure_peer
from aime.bench.config import CLIPS, BenchConfig, Section
from aime.bench.figures import Figure, NotMeasured
from aime.bench.growth import measure_growth
from aime.bench.loading import batches, measure_loading
from aime.bench.memory import OUT_OF_MEMORY
from aime.bench.pillars import measure_pillars
from aime.bench.probe import FLOP, machine, precisions, probe
from aime.bench.steps import measure_steps
from aime.bench.subject import Subject
from aime.bench.table import Report
from aime.bench.watching import measure_parallel, measure_streaming
from aime.config import TrainConfig
from aime.config import replace as changed
from aime.data.store import EpisodeStore
from aime.errors import ConfigError
from aime.presets import preset_config
from aime.training.device import resolve_device, resolve_precision

log = logging.getLogger("aime")

MEASURES: dict[Section, Callable[[Subject, BenchConfig], Iterator[Figure]]] = {
    "step": lambda subject, config: measure_steps(subject, config.rounds),
    "pillars": lambda subject, config: measure_pillars(subject, config.rounds),
    "balance": lambda subject, config: measure_balance(subject, config.rounds),
    "peer": lambda subject, config: measure_peer(subject, config.rounds),
    "parallel": lambda subject, config: measure_parallel(subject, config.rounds),
    "streaming": lambda subject, config: measure_streaming(subject, config.rounds),
    "loading": lambda subject, config: measure_loading(subject, config.rounds, config.data_dir),
    "growth": lambda subject, config: measure_growth(subject, config.rounds),
}


def measure(config: BenchConfig) -> Report:
    """Measure what the settings ask for.

    Raises:
        ConfigError: the settings do not fit each other, or this device.
        DataError: `data_dir` holds no store, a broken one, or too few windows; nothing is measured then.
    """
    device = resolve_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.precision not in ("auto", *precisions(device)):
        raise ConfigError(f"precision {config.precision} is not in this device's arithmetic; take float32 or auto")
    subjects = [_subject(name, config, device) for name in config.presets]
    if config.data_dir is not None and "loading" in config.only:
        store = EpisodeStore.open(config.data_dir)
        for subject in subjects:
            batches(store, subject)
        store.close()
    found = machine(device)
    figures = list(_probed("before", device))
    for subject in subjects:
        for section in config.only:
            log.info("%s, %s: %s", subject.preset, subject.precision, section)
            figures += _section(section, subject, config)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()  # for the processes that measure memory beside this one
    figures += _probed("after", device)
    return Report({**found, "load_after": os.getloadavg()[0]}, config, figures)


def _probed(when: str, device: torch.device) -> Iterator[Figure]:
    """The matrix product's speed in each precision."""
    for name in ("float32", "bf16"):
        what = f"2048² product {when}"
        if name in precisions(device):
            yield Figure.rate(what, FLOP, "FLOP/s", probe(name, device), section="probe", precision=name)
        else:
            yield Figure(what, None, "FLOP/s", note="this device has none", section="probe", precision=name)


def _section(section: Section, subject: Subject, config: BenchConfig) -> list[Figure]:
    """A section's figures under the subject's name; one without a value where the machine is too small for it."""
    found: list[Figure] = []
    try:
        found.extend(MEASURES[section](subject, config))
    except (NotMeasured, MemoryError, torch.OutOfMemoryError) as error:
        why = str(error) if isinstance(error, NotMeasured) else OUT_OF_MEMORY
        found.append(Figure("the rest of it" if found else "all of it", None, "s", note=why))
    return [
        replace(f, section=section, preset=subject.preset, precision=f.precision or subject.precision) for f in found
    ]


def _subject(preset: str, config: BenchConfig, device: torch.device) -> Subject:
    train: TrainConfig = preset_config(preset)
    time, latents = config.sequence_length, train.model.latents_per_frame
    return Subject(
        preset,
        changed(
            train,
            precision=resolve_precision(config.precision, device, train.model),
            data=changed(train.data, batch_size=config.batch_size or CLIPS[preset]),
            balancer=changed(train.balancer, balancer=config.balancer),
            model=changed(train.model, sequence_length=time, num_latent_perceiver=time * latents),
        ),
        device,
    )
