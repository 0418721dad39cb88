"""All the pictures of a real model (small and untrained) on one clip."""

from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from aime.errors import ShapeError
from aime.pictures import write_run_pictures
from tests.helpers import pushed_ball, small_model


@pytest.mark.parametrize(("frames", "context"), [(12, 4), (5, 8)])
def test_all_pictures_are_written_and_nothing_is_left_changed(frames: int, context: int, tmp_path: Path) -> None:
    model = small_model().train()
    observations, actions = pushed_ball(batch=2, time=frames)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    written = write_run_pictures(model, observations, actions, None, tmp_path / "p", context_frames=context)
    names = {path.name for path in written}
    assert names == {"strip.png", "dream.mp4", "attention.png", "slots.png", "mixture.png"}
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert min(image.size) > 300
    with av.open(str(tmp_path / "p" / "dream.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == frames
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_one_frame_is_too_few(tmp_path: Path) -> None:
    observations, actions = pushed_ball(batch=1, time=1)
    with pytest.raises(ShapeError, match="at least 2 frames, not 1"):
        write_run_pictures(small_model(), observations, actions, None, tmp_path)
