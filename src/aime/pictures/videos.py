"""Moving pictures: truth and dream side by side, as mp4 (PyAV) or gif (Pillow)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from aime.errors import ConfigError
from aime.pictures import style
from aime.pictures.frames import Frames, Image, enlarge, factor_for, to_images
from aime.pictures.strips import horizon_label

_HEADER = 34
_FOOTER = 30
_GAP = 8


def write_video(images: Image, path: Path, *, fps: int = 15) -> Path:
    """Write images (T, H, W, 3) to `path`, as the suffix says: ``.mp4`` (H.264, else MPEG-4) or ``.gif``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        _write_gif(images, path, fps)
    elif path.suffix == ".mp4":
        _write_mp4(images, path, fps)
    else:
        raise ConfigError(f"a video must end in .mp4 or .gif, not {path.name!r}")
    return path


def _write_gif(images: Image, path: Path, fps: int) -> None:
    # One palette for all frames, taken from the whole video: palettes per frame make still background flicker.
    sample = Pillow.fromarray(np.concatenate(list(images[:: max(1, len(images) // 8)])))
    palette = sample.quantize(255, method=Pillow.Quantize.MEDIANCUT)
    frames = [Pillow.fromarray(i).quantize(palette=palette, dither=Pillow.Dither.NONE) for i in images]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0)


def _write_mp4(images: Image, path: Path, fps: int) -> None:
    # Colour is stored at half the resolution, which needs even sides.
    height, width = images.shape[1:3]
    if height % 2 or width % 2:
        images = np.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), mode="w") as container:
        if "libx264" in av.codecs_available:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "medium"})
        else:
            stream = container.add_stream("mpeg4", rate=fps)
            stream.bit_rate = 4_000_000
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def draw_dream_video(
    panels: Mapping[str, Frames], path: Path, *, context_frames: int, fps: int = 15, frame_size: int = 256
) -> Path:
    """Panels side by side (truth | dream), each under its name, with the horizon below; a coloured frame marks the
    dream.

    Args:
        panels: name to frames (T, 3, H, W). A panel with fewer frames ends with the longest; before it begins, it shows
            the frames of the first panel, dimmed: that is what was watched.
        context_frames: frames that were watched.
    """
    images = {name: to_images(frames) for name, frames in panels.items()}
    length = max(len(i) for i in images.values())
    first = next(iter(images.values()))
    factor = factor_for(first.shape[1], frame_size)
    height, width = first.shape[1] * factor, first.shape[2] * factor
    canvas_width = len(images) * (width + _GAP) + _GAP
    video = np.empty((length, height + _HEADER + _FOOTER, canvas_width, 3), dtype=np.uint8)
    bold, small = style.font(18, bold=True), style.font(16)
    # Where every panel holds what was watched, too, all of them dream.
    all_dream = all(len(frames) == length for frames in images.values())
    for t in range(length):
        canvas = Pillow.new("RGB", (canvas_width, video.shape[1]), style.PAPER)
        draw = ImageDraw.Draw(canvas)
        dreaming = t >= context_frames
        for index, (name, frames) in enumerate(images.items()):
            offset = length - len(frames)
            x = _GAP + index * (width + _GAP)
            frame = enlarge(frames[t - offset] if t >= offset else _dim(first[t]), factor)
            canvas.paste(Pillow.fromarray(np.ascontiguousarray(frame)), (x, _HEADER))
            draw.text((x + width / 2, _HEADER / 2), name, style.INK, bold, anchor="mm")
            if dreaming and (offset or all_dream):
                draw.rectangle((x - 3, _HEADER - 3, x + width + 2, _HEADER + height + 2), outline=style.DREAM, width=3)
        text = f"dreamed, {horizon_label(t, context_frames)}" if dreaming else "watched"
        colour = style.DREAM if dreaming else style.MUTED
        draw.text((canvas_width / 2, video.shape[1] - _FOOTER / 2), text, colour, small, anchor="mm")
        video[t] = np.asarray(canvas)
    return write_video(video, path, fps=fps)


def _dim(image: Image) -> Image:
    return (image * 0.35 + 255 * 0.65).astype(np.uint8)
