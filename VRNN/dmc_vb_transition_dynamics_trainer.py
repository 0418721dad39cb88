"""The quickstart's trainer by its name: a data set for Card 2, and a script that is ``aime train``.

    python VRNN/dmc_vb_transition_dynamics_trainer.py --env humanoid-walk --batch-size 4 --max-steps 100 --device cuda
    python VRNN/dmc_vb_transition_dynamics_trainer.py --preset tiny --env cartpole-swingup     the laptop-sized variant

The flags are those of ``aime train``; runs go to VRNN/checkpoints/<env>/ beside this file.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script, Python looks for modules in this folder, not in the one that holds it.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import Tensor
from torch.utils.data import Dataset

from aime.commands import train
from aime.data.collect import CollectConfig, collect
from aime.data.dataset import WindowDataset
from aime.data.store import EpisodeStore
from aime.errors import DataError
from VRNN.devices import PortableTensor

__all__ = ["DMCVBDataset", "main"]

CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
TASKS = {"dmc_humanoid": "humanoid-walk", "dmc_walker": "walker-walk", "dmc_cheetah": "cheetah-run"}
"""What a data folder of the DMC Vision Benchmark's name holds."""

log = logging.getLogger("aime")


class DMCVBDataset(Dataset[dict[str, Tensor]]):
    """Windows of episodes, as dictionaries that a `torch.utils.data.DataLoader` puts together.

    Args:
        root: folder of an AIME data store. Where it does not exist and is named as in `TASKS`, or `task` is given, a
            few episodes of that task are collected into it first, which takes a minute or so.
        sequence_length: frames in a window.
        split: train, validation or test.
        task: what to collect, such as ``walker-run``.
        episodes, episode_length: how many to collect, and frames in each.

    Items:
        observations (T, 3, H, W) uint8, actions (T, A) float32 in [-1, 1] (21 of them for a humanoid), is_first (T,).
        They stay on the CPU when sent to a GPU that is not there, with a warning.

    Raises:
        DataError: no store, and no task to collect; or the store is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        sequence_length: int = 16,
        split: str = "train",
        *,
        task: str | None = None,
        episodes: int = 12,
        episode_length: int = 250,
    ) -> None:
        folder = Path(root)
        if not folder.exists():
            task = task or TASKS.get(folder.name)
            if task is None:
                raise DataError(
                    f"there is no data in {folder}; name the task to collect there, DMCVBDataset(root, task="
                    f"'walker-walk'), or record it yourself: aime collect --env walker-walk --out {folder}"
                )
            log.warning("there is no data in %s yet: collecting %d episodes of %s", folder, episodes, task)
            collect(CollectConfig(env=task, out=folder, episodes=episodes, episode_length=episode_length))
        self.windows = WindowDataset(EpisodeStore.open(folder), split, sequence_length)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value.as_subclass(PortableTensor) for name, value in self.windows[index].items()}


def main(argv: Sequence[str] | None = None) -> int:
    """``aime train``, with its runs in VRNN/checkpoints/."""
    from aime.cli import call

    arguments = list(sys.argv[1:] if argv is None else argv)
    return call(lambda flags: train.run(flags, root=CHECKPOINTS, prog=Path(__file__).name), arguments)


if __name__ == "__main__":
    sys.exit(main())
