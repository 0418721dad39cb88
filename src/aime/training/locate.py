"""From what a person names to a checkpoint: a run folder, a checkpoint folder, a bundled model or a hub name.

What `aime.load` is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

import aime
from aime.errors import CheckpointError, unknown
from aime.training.build import build_model
from aime.training.checkpoint import CONFIG, MODEL, STATE, load_checkpoint
from aime.training.runs import is_checkpoint, latest_in

BUNDLED = Path(aime.__file__).resolve().parents[2] / "pretrained"
"""Models that come with AIME: pretrained/<name>/ is a checkpoint folder, and `aime.load("<name>")` loads it."""
EPISODES = "episodes"
"""Folder of the episodes that come with a shared model, inside its own."""
FILES = {".pt", ".ckpt", ".pth", ".npy", ".npz", ".hdf5", ".h5", ".safetensors", ".yaml", ".json"}
"""Ends of names that are a file's, not a model's on the hub; there a dot may be part of the name."""


def load(name: str | Path, device: str | torch.device = "cpu") -> Any:
    """Load a trained model, in eval mode: a `WorldModel`, or a peer with its verbs.

    Args:
        name: a run folder (its newest whole checkpoint is taken), a checkpoint folder, the name of a bundled model
            ("cartpole-swingup"), or a name on the Hugging Face hub ("owner/model", with the extra aime[hub]).
        device: where to put it.

    Raises:
        CheckpointError: nothing of that name, or it is truncated, damaged, foreign or of another version.
    """
    checkpoint = load_checkpoint(locate(name))
    model = build_model(checkpoint.config.world_model, checkpoint.model_config)
    checkpoint.restore_model(model)
    return model.to(device).eval()


def locate(name: str | Path) -> Path:
    """The checkpoint folder that a name stands for; see `load`."""
    path = Path(name)
    if path.exists():
        if path.is_dir() and not is_checkpoint(path):
            found = latest_in(path)
            if found is not None:
                return found
        return path  # load_checkpoint says what is wrong with it, if something is
    if is_checkpoint(BUNDLED / name):
        return BUNDLED / name
    if isinstance(name, str) and _is_hub_name(name):
        return _download(name)
    bundled = sorted(p.name for p in BUNDLED.iterdir() if is_checkpoint(p)) if BUNDLED.is_dir() else []
    if bundled and len(path.parts) == 1:
        raise CheckpointError(f"there is no folder {name} here, and {unknown('bundled model', name, bundled)}")
    raise CheckpointError(
        f"there is no checkpoint {name}; give a run folder such as runs/humanoid-walk, a checkpoint folder inside one, "
        "or a hub name such as owner/model"
    )


def _is_hub_name(name: str) -> bool:
    """owner/model, where that is not plainly a path: runs/humanoid-walk, or something in a folder that is here."""
    owner, _, model = name.partition("/")
    plain = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and Path(model).suffix.lower() not in FILES
    return plain and owner != "runs" and not Path(owner).exists()


def _download(name: str) -> Path:
    """Fetch the files of a model, and no others, from the hub (or find them in its cache)."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"there is no folder {name} here; to look for it on the Hugging Face hub, install the extra: "
            "pip install 'aime[hub]'"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=[MODEL, CONFIG, STATE, f"{EPISODES}/*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"there is no folder {name} here, and the Hugging Face hub did not give it: {reason}"
        ) from error
