"""Strips, overlays, videos and plots: right sizes, right pixels in the right places, and they decode again."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from aime.errors import ConfigError, ShapeError
from aime.pictures import (
    Line,
    Panel,
    draw_attention,
    draw_coverage,
    draw_dream_video,
    draw_horizons,
    draw_mixture,
    draw_slots,
    draw_strip,
    style,
    write_video,
)
from aime.pictures.strips import horizon_label, pick_frames


def clip(length: int = 20, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (length, 3, 16, 16), dtype=torch.uint8, generator=generator)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def contains(sheet: np.ndarray, frame: torch.Tensor, factor: int) -> bool:
    """Whether a sheet holds a frame, enlarged, somewhere."""
    image = frame.permute(1, 2, 0).numpy().repeat(factor, 0).repeat(factor, 1)
    size = len(image)
    corners = np.argwhere((sheet[: 1 - size, : 1 - size] == image[0, 0]).all(axis=-1))
    return any(np.array_equal(sheet[y : y + size, x : x + size], image) for y, x in corners)


def test_a_strip_shows_the_frames_themselves(tmp_path: Path) -> None:
    truth, dream = clip(), clip(12, seed=1)
    path = draw_strip({"truth": truth, "dream": dream}, tmp_path / "s.png", context_frames=8, frame_size=64, title="A")
    sheet = pixels(path)
    shown = pick_frames(20, 8, 12)
    for t in shown:
        assert contains(sheet, truth[t], 4)
        if t >= 8:
            assert contains(sheet, dream[t - 8], 4), "a dream is drawn under the frames that it is a dream of"
    assert not contains(sheet, truth[0], 4)
    # The mark where the dream begins.
    assert (sheet == style.rgb(style.DREAM)).all(axis=-1).sum(axis=0).max() > 128


@pytest.mark.parametrize(
    ("length", "context", "columns"), [(48, 8, 12), (10, 8, 12), (2, 1, 12), (48, 1, 6), (30, 29, 4), (200, 8, 12)]
)
def test_a_strip_shows_the_last_watched_the_first_dreamed_and_the_last(length: int, context: int, columns: int) -> None:
    shown = pick_frames(length, context, columns)
    assert {context - 1, context, length - 1} <= set(shown)
    assert shown == sorted(set(shown))
    assert len(shown) <= columns
    assert shown[0] >= 0 and shown[-1] < length


def test_horizons_count_from_the_first_dreamed_frame() -> None:
    assert [horizon_label(t, 8) for t in (0, 7, 8, 47)] == ["−7", "0", "+1", "+40"]


def test_a_strip_of_one_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="cannot begin to dream after 8"):
        draw_strip({"truth": clip(8)}, tmp_path / "s.png", context_frames=8)


def test_an_mp4_decodes_to_the_frames(tmp_path: Path) -> None:
    images = np.zeros((7, 33, 46, 3), dtype=np.uint8)  # an odd height: it is padded, not refused
    images[:, :, :23] = (200, 30, 40)
    images[3:, :, 23:] = (20, 60, 220)
    path = write_video(images, tmp_path / "v.mp4", fps=10)
    with av.open(str(path)) as video:
        assert video.streams.video[0].average_rate == 10
        decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(decoded) == 7
    assert decoded[0].shape == (34, 46, 3)
    for frame, image in zip(decoded, images, strict=True):
        assert np.abs(frame[:33].astype(int) - image).mean() < 8


def test_a_gif_decodes_to_the_frames(tmp_path: Path) -> None:
    images = np.zeros((5, 20, 30, 3), dtype=np.uint8)
    for t in range(5):
        images[t, :, 6 * t : 6 * t + 6] = (250, 200, 10)
    path = write_video(images, tmp_path / "v.gif", fps=20)
    with Image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.info["duration"] == 50
        for t in range(5):
            gif.seek(t)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - images[t]).mean() < 8


def test_a_video_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.mp4 or \.gif"):
        write_video(np.zeros((2, 8, 8, 3), dtype=np.uint8), tmp_path / "v.avi")


def test_a_dream_video_has_every_frame_and_marks_the_dream(tmp_path: Path) -> None:
    truth, dream = clip(), clip(12, seed=1)
    path = draw_dream_video({"truth": truth, "dream": dream}, tmp_path / "d.gif", context_frames=8, frame_size=64)
    blue = style.rgb(style.DREAM)
    with Image.open(path) as video:
        assert video.n_frames == 20
        assert video.width > 2 * 64
        marked = []
        for t in range(20):
            video.seek(t)
            near = np.abs(np.asarray(video.convert("RGB")).astype(int) - blue).max(axis=-1) < 12
            marked.append(bool((near.sum(axis=0) > 60).any()))
    assert marked == [t >= 8 for t in range(20)]


def test_overlays_are_bright_where_the_map_is(tmp_path: Path) -> None:
    frames = torch.full((3, 3, 16, 16), 0.5)
    maps = torch.zeros(3, 8, 8)
    maps[:, 1, 6] = 1.0
    path = draw_attention(frames, maps, tmp_path / "a.png", expected=maps, columns=3, frame_size=64)
    sheet = pixels(path).astype(float)
    rows = sheet.shape[0]
    hot = np.argwhere(sheet[:, :, 0] - sheet[:, :, 2] > 90)
    assert len(hot) > 50
    # Heat stands in the lower two of three rows of images, and in the upper right of each image.
    assert hot[:, 0].min() > rows / 3
    assert len(draw_slots(frames, torch.rand(3, 4, 8, 8), tmp_path / "s.png").read_bytes()) > 1000


def test_each_slot_has_its_colour(tmp_path: Path) -> None:
    frames = torch.zeros(2, 3, 16, 16)
    maps = torch.zeros(2, 3, 8, 8)
    for slot in range(3):
        maps[:, slot, 2 * slot : 2 * slot + 2, 2 * slot : 2 * slot + 2] = 1.0
    sheet = pixels(draw_slots(frames, maps, tmp_path / "s.png", columns=2, frame_size=64)).astype(int)
    for slot in range(3):
        # Each slot colours the row of all slots and its own, beside its swatch in the legend.
        near = np.abs(sheet - style.rgb(style.colour(slot))).max(axis=-1) < 45
        assert (near.sum(axis=0) > 0).sum() > 20


@pytest.mark.parametrize("components", [1, 3, 15])
def test_mixtures_are_drawn_with_and_without_a_dream(components: int, tmp_path: Path) -> None:
    weights = torch.rand(20, components).softmax(dim=1)
    alone = draw_mixture(weights, tmp_path / "a.png")
    both = draw_mixture(weights, tmp_path / "b.png", dreamed=weights[8:], surprise=torch.rand(20))
    assert pixels(both).shape[0] > 1.5 * pixels(alone).shape[0]


def test_plots_by_horizon(tmp_path: Path) -> None:
    line = Line("dream", [3.0, 2.0, float("nan")], [2.5, 1.5, float("nan")], [3.5, 2.5, float("nan")])
    panel = Panel("PSNR", "dB", [line])
    one = pixels(draw_horizons([panel], tmp_path / "1.png"))
    four = pixels(draw_horizons([panel] * 3, tmp_path / "3.png", heading="three panels"))
    assert four.shape[0] > 1.5 * one.shape[0] and four.shape[1] > 1.5 * one.shape[1]
    assert (np.abs(one.astype(int) - style.rgb(style.DREAM)).max(axis=-1) < 8).sum() > 200
    assert draw_coverage([0.2, 0.8], [Line("all", [0.1, 0.7])], tmp_path / "c.png").stat().st_size > 5000


def test_pictures_are_large_enough_for_print(tmp_path: Path) -> None:
    path = draw_strip({"truth": clip(48), "dream": clip(40)}, tmp_path / "new" / "s.png", context_frames=8)
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert width >= 1500 and height >= 300
