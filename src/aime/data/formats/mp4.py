"""Video files: frames out of them one by one, and into them with an own beginning for each episode."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from aime.errors import DataError

QUALITY = "8"
"""H.264's constant rate factor. At 64×64 pixels it keeps humanoid-walk at 44 dB with colours at full resolution
(yuv444p); at half resolution, as is usual, it would be 32 dB."""


def frame_rate(path: Path) -> float | None:
    """Frames a second that a video says it has.

    Raises:
        DataError: it cannot be opened.
    """
    with _open(path) as container:
        rate = _stream(container, path).average_rate
        return float(rate) if rate else None


def decode(path: Path, start: float = 0.0, count: int | None = None) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 from `start` seconds on, `count` of them or all.

    Raises:
        DataError: the video is missing, damaged, foreign, or ends too soon.
    """
    done = 0
    with _open(path) as container:
        stream = _stream(container, path)
        rate = float(stream.average_rate or 30)
        base = stream.time_base or Fraction(1, 90_000)
        try:
            if start:
                container.seek(int(start / base), stream=stream)
            for frame in container.decode(stream):
                # Seeking goes to a key frame at or before the place.
                if start and (frame.time is None or frame.time < start - 0.5 / rate):
                    continue
                if done == count:
                    return
                yield frame.to_ndarray(format="rgb24")
                done += 1
        except av.error.FFmpegError as error:
            raise DataError(f"{path} is damaged after {done} frames ({error}); it was left as it is") from error
    if count is not None and done < count:
        raise DataError(f"{path} is truncated: {count} frames from second {start:.2f} on are needed, it has {done}")


def _open(path: Path) -> Any:
    try:
        return av.open(str(path))
    except (OSError, ValueError, av.error.FFmpegError) as error:  # ValueError: its texts are not UTF-8
        raise DataError(f"{path} is missing, truncated or foreign: it cannot be read as video ({error})") from error


def _stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise DataError(f"{path} is foreign: there is no video in it")
    return container.streams.video[0]


class VideoWriter:
    """One video file. `codec` and `pixel_format` say how it is written: H.264 where this FFmpeg has it, else MPEG-4.

    Args:
        path: the file; its suffix chooses the container.
        size: height and width of a frame, even.
        fps: frames a second.
    """

    def __init__(self, path: Path, size: int, fps: Fraction) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._container = av.open(str(path), mode="w")
        # Not every build of FFmpeg may ship x264.
        known = "libx264" in av.codecs_available
        # No frame waits for a later one, and no frame is far from one that stands alone: quick to read from anywhere.
        options = {"crf": QUALITY, "preset": "medium", "bf": "0", "g": "8", "forced-idr": "1"}
        self._stream: Any = self._container.add_stream(
            "libx264" if known else "mpeg4", rate=fps, options=options if known else {}
        )
        self.codec, self.pixel_format = ("h264", "yuv444p") if known else ("mpeg4", "yuv420p")
        if not known:
            self._stream.bit_rate = 20 * size * size * max(1, round(fps))
        self._fps = fps
        self._stream.height = self._stream.width = size
        self._stream.pix_fmt = self.pixel_format
        self.frames = 0

    @property
    def bytes(self) -> int:
        """Size of the file so far; the encoder holds some frames back."""
        return self.path.stat().st_size if self.path.exists() else 0

    def write(self, frames: np.ndarray) -> None:
        """Adds frames (T, size, size, 3) uint8; the first can be decoded without those before it."""
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pict_type = av.video.frame.PictureType.I if number == 0 else av.video.frame.PictureType.NONE
            frame.pts = self.frames
            frame.time_base = 1 / self._fps
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Finishes the file."""
        self._container.mux(self._stream.encode())
        self._container.close()

    def discard(self) -> None:
        """Lets go of the file after an error."""
        self._container.close()


def whole_rate(time_step: float) -> Fraction:
    """Frames a second, as a fraction that a video file can hold."""
    return (1 / Fraction(time_step).limit_denominator(10_000)).limit_denominator(1_000)
