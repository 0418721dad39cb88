"""``aime train``: the flags of a run, which run folder it goes to, and what to do when it is to evaluate only.

aime train                                                        humanoid-walk at the base preset
aime train --preset tiny --env cartpole-swingup --max-steps 600   minutes on two CPU cores
aime train --run-dir runs/cartpole-swingup                        go on where that run stopped
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path

from aime.commands.flags import parse
from aime.config import DataConfig, TrainConfig
from aime.errors import ConfigError
from aime.presets import PRESETS, preset_config

log = logging.getLogger("aime")


@dataclass(frozen=True)
class TrainFlags(TrainConfig):
    """Train a world model on video and actions. Where there is no video yet, some is collected first.

    tiny, base and large are presets of all sizes; every other flag changes one setting of the preset.

    On two CPU cores: aime train --preset tiny --env cartpole-swingup

    The same command again goes on where the run stopped.
    """

    config: Path | None = None
    """A YAML file with settings, such as a run's config.yaml; flags are stronger."""


def run(argv: Sequence[str], *, root: Path = Path("runs"), prog: str = "aime train") -> int:
    """The command.

    Args:
        argv: its flags.
        root: where runs go that name no --run-dir.
        prog: what its help calls it.
    """
    config = settings(argv, root=root, prog=prog)
    if config.eval_only:
        from aime.commands.evaluate import evaluate_model

        model = config.load_checkpoint or str(config.run_path)
        return evaluate_model(model, data_dir=config.data.data_dir, device=config.device)
    from aime.training.trainer import train

    folder = train(config)
    log.info("the run is in %s; look into it with: aime inspect %s", folder, folder)
    return 0


def settings(argv: Sequence[str], *, root: Path, prog: str = "aime train") -> TrainConfig:
    """The settings that the flags ask for.

    What no flag says is taken from --config, --preset or --load-checkpoint where one of them is given (`_start`), else
    from the run that is to go on, else from the base preset. Without --run-dir the run is ``<root>/<env>``, or, where
    the flags contradict the run that lies there, the first of ``<env>-2``, ``<env>-3``, … that they do not: a run is
    continued or left alone, never mixed with another.
    """
    argv = ["--world-model" + token[7:] if token.partition("=")[0] == "--model" else token for token in argv]
    preset = _value(argv, "--preset")
    # An unknown preset is refused by `_parse`; a known one also decides the defaults that --help shows.
    begin = preset_config(preset if preset in PRESETS else "base", _value(argv, "--world-model") or "aime")
    flags = _parse(argv, begin, prog)
    # Imported here because it brings torch: --help and a mistyped flag are answered without waiting for that.
    from aime.training.runs import run_settings

    if preset and flags.config is not None:
        raise ConfigError("give --config or --preset, not both: a settings file says its own preset")
    start = _start(flags, argv)
    asked = _of_the_data(_parse(argv, start, prog) if start else flags, argv)
    if asked.eval_only and asked.load_checkpoint is not None:
        return _plain(asked)
    for folder in [asked.run_dir] if asked.run_dir is not None else _folders(root, asked.data.env):
        there = run_settings(folder)
        if there is None:
            return replace(_plain(asked), run_dir=folder)
        try:
            mine = _plain(asked if start is not None else _parse_onto(argv, folder, there, prog))
        except ConfigError:  # the flags can work, but not with what else that run was told
            if asked.run_dir is not None:
                raise
        else:
            if asked.run_dir is not None or _goes_on(folder, there, mine):
                return replace(mine, run_dir=folder)  # the trainer refuses a named folder that does not fit
        log.info("%s holds a run with other settings, so this run gets a folder beside it", folder)
    raise AssertionError("the folders never end")


def _parse(argv: Sequence[str], start: TrainConfig, prog: str) -> TrainFlags:
    own = {f.name: getattr(start, f.name) for f in fields(TrainConfig)}
    return parse(TrainFlags, argv, prog=prog, default=TrainFlags(**own))


def _parse_onto(argv: Sequence[str], folder: Path, there: TrainConfig, prog: str) -> TrainFlags:
    """The settings of the run in a folder, with the flags on top."""
    model = _value(argv, "--world-model")
    if model not in (None, there.world_model):
        raise ConfigError(
            f"{folder} holds a run of world_model {there.world_model}, not {model}: leave --world-model out to "
            "continue it, or give another --run-dir"
        )
    return _parse(argv, there, prog)


def _plain(flags: TrainConfig) -> TrainConfig:
    return TrainConfig(**{f.name: getattr(flags, f.name) for f in fields(TrainConfig)})


def _value(argv: Sequence[str], flag: str) -> str | None:
    """What a flag is given, before anything else is read; None where it is not there."""
    for position, token in enumerate(argv):
        name, equals, value = token.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else "".join(argv[position + 1 : position + 2])
    return None


def _of_the_data(config: TrainFlags, argv: Sequence[str]) -> TrainFlags:
    """With --data-dir and no --env, the task is that of the data: a run is not called after what it never saw.

    A folder that comes with --load-checkpoint has the name that its run gave it.
    """
    from aime.data.index import INDEX_NAME
    from aime.data.store import EpisodeStore

    folder = config.data.data_dir
    if folder is None or not (folder / INDEX_NAME).exists() or _value(argv, "--env") is not None:
        return config
    if config.load_checkpoint is not None and config.config is None and _value(argv, "--data-dir") is None:
        return config
    task = EpisodeStore.open(folder).task.replace("/", "-")
    return replace(config, data=replace(config.data, env=task))


def _start(flags: TrainFlags, argv: Sequence[str]) -> TrainConfig | None:
    """The settings that --config, --preset or --load-checkpoint name as the ones to start from; None where none does.

    A checkpoint brings its world model and its sizes (--preset is stronger) and the data of its run, but not how that
    learned: objectives, balancer, optimizer and batch size are the preset's, as in every new run. --config with the
    run's config.yaml brings those, too.
    """
    model = _value(argv, "--world-model")
    if flags.config is not None:
        from aime.training.config_file import read_config

        return replace(read_config(flags.config, model), run_dir=None)
    preset = _value(argv, "--preset")
    if flags.load_checkpoint is None or flags.eval_only:
        return flags if preset else None
    from aime.training.checkpoint import load_checkpoint
    from aime.training.locate import locate

    checkpoint = load_checkpoint(locate(flags.load_checkpoint))
    learned = checkpoint.config
    data = _data_of(learned.data, checkpoint.folder, argv)
    if preset:
        return replace(flags, data=data)
    # Another world model than the checkpoint's is the trainer's to refuse; its settings would only hide that.
    fresh = preset_config(learned.preset, model or learned.world_model)
    return replace(fresh, model=learned.model, data=data)


def _data_of(there: DataConfig, checkpoint: Path, argv: Sequence[str]) -> DataConfig:
    """The data of a checkpoint's run, where no flag asks for others.

    Raises:
        ConfigError: they lay in a folder of their own, which is not here; in its place none are collected unasked.
    """
    from aime.data.index import INDEX_NAME

    env = _value(argv, "--env")
    if env not in (None, there.env):
        return DataConfig()
    data = replace(there, batch_size=DataConfig.batch_size, workers=None)
    folder = there.data_dir
    if folder is None or (folder / INDEX_NAME).is_file() or _value(argv, "--data-dir") is not None:
        return data
    if env is None:
        raise ConfigError(
            f"checkpoint {checkpoint} was trained on {there.env} in {folder}, where no data are now; give the "
            "--data-dir to train on, or an --env to collect"
        )
    return replace(data, data_dir=None)


def _folders(root: Path, env: str) -> Iterator[Path]:
    yield root / env
    yield from (root / f"{env}-{n}" for n in count(2))


def _goes_on(folder: Path, there: TrainConfig, mine: TrainConfig) -> bool:
    """Whether the run in a folder can be continued under mine, and is what mine asks for."""
    from aime.training.runs import RunFolder, require_same_run

    try:
        require_same_run(RunFolder(folder), there, mine)
    except ConfigError:
        return False
    return there.load_checkpoint == mine.load_checkpoint
