"""Checkpoints: a folder that is there whole or not at all, and in which nothing is ever unpickled.

    step-00000100/
        model.safetensors        weights and buffers, by name: of a run, the weights' moving average
        learning.safetensors     the weights as they were learning, which a run goes on with
        optimizer.safetensors    both optimizers' moments, by the names of their parameters
        balancer.safetensors     what the balancer remembers
        config.yaml              the settings of the run
        state.json               the step, the position in the data, random states; size and SHA-256 of the files above

A checkpoint to share needs only the model, config.yaml and state.json: `save_checkpoint(folder, model)` writes that.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aime import __version__
from aime.config import ModelConfig, ModelSettings, TrainConfig, replace
from aime.errors import AimeError, CheckpointError, ConfigError
from aime.training.config_file import differences, from_yaml, settings, to_yaml
from aime.training.disk import disk_errors, sync
from aime.training.memory import Memory
from aime.training.tensor_tree import SEPARATOR, join_tree, load_optimizer_tensors, optimizer_tensors, split_tree

FORMAT, FORMAT_VERSION = "aime-checkpoint", 1
MODEL, OPTIMIZER, BALANCER = "model.safetensors", "optimizer.safetensors", "balancer.safetensors"
MEMORY, LEARNING = "memory.safetensors", "learning.safetensors"
CONFIG, STATE = "config.yaml", "state.json"
LATER = {"decoder.trust": "", "decoder.mean_frame": "decoder.background"}
"""Buffers that earlier versions did not have, and the tensor that their models had in its place; where that is none,
what a fresh model holds."""


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    config: TrainConfig | None = None,
    *,
    optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
    balancer: Any = None,
    memory: Memory | None = None,
    learning: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a checkpoint. Whatever happens on the way, `folder` is then what it was, or the whole new checkpoint.

    Args:
        folder: where it will be. What is there already is replaced once the new one is whole.
        model: a `WorldModel`; its `config` says how large it is.
        config: the run's settings; by default plain ones around the model's.
        optimizers: by name.
        balancer: anything with a `state_dict()` of tensors and JSON values.
        memory: the frames and latents that are rehearsed on.
        learning: the weights that learn, by name, where `model` has their average in place.
        state: what else belongs to a run, as JSON values ("step" among them).
        half: the model's weights in half precision, but for those too large for it: to share, not to train on.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written; nothing half-written stays behind.
    """
    assert isinstance(model.config, ModelConfig)
    sizes = {name: value for name, value in settings(model.config).items() if name != "action_dim"}
    config = replace(config or TrainConfig(), model=ModelSettings(**sizes))
    weights = {name: _halved(x) if half else x for name, x in model.state_dict().items()}
    tensors: dict[str, dict[str, Tensor]] = {MODEL: weights}
    plain: dict[str, Any] = {}
    if optimizers:
        tensors[OPTIMIZER] = {
            f"{name}{SEPARATOR}{key}": value
            for name, optimizer in optimizers.items()
            for key, value in optimizer_tensors(optimizer, model).items()
        }
    if balancer is not None:
        tensors[BALANCER], plain = split_tree(balancer.state_dict())
    if memory is not None:
        tensors[MEMORY] = memory.state_dict()
    if learning is not None:
        tensors[LEARNING] = dict(learning)

    writing = folder.with_name(f".writing-{folder.name}")
    with disk_errors(f"checkpoint {folder.name}", folder.parent, "the last whole checkpoint there is untouched"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            if writing.exists():  # a killed process left it
                shutil.rmtree(writing)
            writing.mkdir()
            for name, content in tensors.items():
                save_file(_own_memory(content), writing / name)
            (writing / CONFIG).write_text(to_yaml(config), encoding="utf-8")
            for name in tensors:  # safetensors makes its files for their owner's eyes alone
                shutil.copymode(writing / CONFIG, writing / name)
            record = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "aime_version": __version__,
                "torch_version": torch.__version__,
                "action_dim": model.config.action_dim,
                "files": {name: _fingerprint(writing / name) for name in (*tensors, CONFIG)},
                "balancer": plain,
                **(state or {}),
            }
            (writing / STATE).write_text(json.dumps(record), encoding="utf-8")
            for name in (*tensors, CONFIG, STATE):
                sync(writing / name)
            sync(writing)
            replaced = folder.with_name(f".replaced-{folder.name}")
            if folder.exists():
                folder.rename(replaced)
            writing.rename(folder)
            sync(folder.parent)
            if replaced.exists():
                shutil.rmtree(replaced)
        finally:
            shutil.rmtree(writing, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened and found whole; `load_checkpoint` opens one."""

    folder: Path
    config: TrainConfig
    model_config: ModelConfig
    state: dict[str, Any] = field(repr=False)

    @property
    def step(self) -> int:
        """Training steps behind it."""
        return int(self.state.get("step", 0))

    def restore_model(self, model: nn.Module) -> None:
        """Copy the weights into a model of the same size.

        Raises:
            CheckpointError: the model has another size; the message names the first settings that differ.
        """
        assert isinstance(model.config, ModelConfig)
        require_same_model(self, model.config)
        wanted = model.state_dict()
        saved = self._tensors(MODEL)
        for name in LATER.keys() & wanted.keys() - saved.keys():
            saved[name] = saved.get(LATER[name], wanted[name])
        missing, foreign = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
        reshaped = [name for name in wanted.keys() & saved.keys() if wanted[name].shape != saved[name].shape]
        if missing or foreign or reshaped:
            what = (
                f"it lacks {missing[0]}"
                if missing
                else f"it holds {foreign[0]}, which the model does not have"
                if foreign
                else f"{reshaped[0]} is {tuple(saved[reshaped[0]].shape)} in it, not {tuple(wanted[reshaped[0]].shape)}"
            )
            raise CheckpointError(
                f"checkpoint {self.folder} was written by AIME {self.state.get('aime_version', '(unknown)')} and does "
                f"not fit the model of this version ({__version__}): {what}; install that version to use it"
            )
        model.load_state_dict(saved)

    def restore_training(
        self,
        model: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        balancer: Any,
        memory: Memory | None = None,
    ) -> None:
        """Give the optimizers, the balancer and the memory back what they were, and the model the weights that learn.

        Raises:
            CheckpointError: the checkpoint holds a model alone, so that it can be used but not trained on.
        """
        for name in (OPTIMIZER, BALANCER):
            if name not in self.state["files"]:
                raise CheckpointError(
                    f"checkpoint {self.folder} holds a model but no {name}, so its run cannot go on; "
                    f"start a new run from its weights: --load-checkpoint {self.folder} --run-dir <a new folder>"
                )
        saved = join_tree(self._tensors(OPTIMIZER), {})
        for name, optimizer in optimizers.items():
            load_optimizer_tensors(optimizer, model, split_tree(saved.get(name, {}))[0])
        balancer.load_state_dict(join_tree(self._tensors(BALANCER), self.state["balancer"]))
        if memory is not None:
            memory.load_state_dict(self._tensors(MEMORY), next(model.parameters()).device)
        if LEARNING in self.state["files"]:
            model.load_state_dict(self._tensors(LEARNING), strict=False)

    def _tensors(self, name: str) -> dict[str, Tensor]:
        try:
            return load_file(self.folder / name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.folder / name} cannot be read as safetensors: {error}") from error


def load_checkpoint(folder: Path, *, thorough: bool = True) -> Checkpoint:
    """Open a checkpoint folder and make sure that all of it is there.

    Args:
        folder: the checkpoint itself (not the run: see `aime.training.runs.locate`).
        thorough: compare the files' SHA-256 as well as their sizes.

    Raises:
        CheckpointError: missing, truncated, damaged, foreign, or of a newer format. It is left untouched.
    """
    state = _read_state(folder)
    for name, expected in state["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} is not whole: {name} is missing; {_OTHER}")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(
                f"checkpoint {folder} is not whole: {name} has {size} bytes of {expected['bytes']}; {_OTHER}"
            )
        if thorough and _fingerprint(path) != expected:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} is not what was written; {_OTHER}")
    try:
        config = from_yaml((folder / CONFIG).read_text(encoding="utf-8"), folder / CONFIG)
    except ConfigError as error:
        made_by = state.get("aime_version", "(unknown)")
        raise CheckpointError(f"{error} (written by AIME {made_by}; this is {__version__})") from error
    return Checkpoint(folder, config, config.model.for_actions(state["action_dim"]), state)


_OTHER = "use another checkpoint of the run, or copy this one again"


def is_whole(folder: Path) -> bool:
    """Whether a folder is a checkpoint with all of its files at their full size."""
    try:
        load_checkpoint(folder, thorough=False)
    except AimeError:
        return False
    return True


def require_same_model(checkpoint: Checkpoint, wanted: ModelConfig) -> None:
    """Refuse a checkpoint of a model of another size, naming the first settings that differ."""
    found = checkpoint.model_config
    if found.action_dim != wanted.action_dim:
        raise CheckpointError(
            f"checkpoint {checkpoint.folder} was trained on actions of {found.action_dim} numbers, but the data's have "
            f"{wanted.action_dim}; train on that task afresh, or use data of the checkpoint's own "
            f"task ({checkpoint.config.data.env})"
        )
    changed = differences(found, wanted)
    if changed:
        first = "; ".join(f"{name} is {old} in it, {new} here" for name, (old, new) in list(changed.items())[:4])
        more = f" (and {len(changed) - 4} more)" if len(changed) > 4 else ""
        raise CheckpointError(
            f"checkpoint {checkpoint.folder} holds a model of another size: {first}{more}; give the checkpoint's values"
        )


def _read_state(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise CheckpointError(f"there is no checkpoint {folder}")
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is a file, but AIME's checkpoints are folders with {MODEL} and {STATE} inside; "
            "files such as .pt or .ckpt are pickles, which AIME never opens"
        )
    path = folder / STATE
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint of AIME: it has no {STATE}")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {folder} is not whole: {STATE} cannot be read ({error}); {_OTHER}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is not a checkpoint of AIME: its {STATE} is another program's")
    if state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {folder} has format {state.get('format_version')} of AIME {state.get('aime_version')}, but "
            f"this version ({__version__}) reads format {FORMAT_VERSION}; install that version to use it"
        )
    if not {"action_dim", "files"} <= state.keys() or not {MODEL, CONFIG} <= state["files"].keys():
        raise CheckpointError(f"checkpoint {folder} is not whole: its {STATE} names no {MODEL}; {_OTHER}")
    return state


def _halved(tensor: Tensor) -> Tensor:
    halved = tensor.half() if tensor.is_floating_point() else tensor
    return halved if bool(torch.isfinite(halved).all()) else tensor


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own, as safetensors wants them (tied weights share theirs)."""
    taken: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        shared = value.untyped_storage().data_ptr() in taken or value.untyped_storage().nbytes() != value.nbytes
        own[name] = value.clone() if shared else value
        taken.add(own[name].untyped_storage().data_ptr())
    return own


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
