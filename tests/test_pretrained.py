"""Models that come with AIME: they are read by today's code, and dream what follows better than a still does."""

from __future__ import annotations

from pathlib import Path

import pytest

import aime
from aime.commands.subject import open_subject
from aime.evaluation.metrics import psnr
from aime.training.locate import BUNDLED

NAMES = sorted(folder.name for folder in BUNDLED.iterdir() if folder.is_dir())


def test_there_are_two() -> None:
    assert {"cartpole-swingup", "walker-walk"} <= set(NAMES)


def test_together_they_are_small() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file()) <= 10e6


@pytest.mark.parametrize("name", NAMES)
def test_it_dreams_from_what_comes_with_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # as a user anywhere would
    clip = open_subject(name, device="cpu").clip("test", 0, 56, advice="")
    frames, actions = clip["observations"], clip["actions"]
    model = aime.load(name)
    belief = model.observe(frames[:, :8], actions[:, :8])
    dream = model.imagine(belief, actions[:, 8:], sample=False).observations
    truth, still = frames[:, 8:].float() / 255, frames[:, 7:8].float() / 255
    assert float(psnr(dream, truth).mean()) > float(psnr(still.expand_as(truth), truth).mean()) + 1
