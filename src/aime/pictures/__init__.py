"""Pictures: functions from arrays and files to strips, videos, overlays and plots."""

from aime.pictures import style
from aime.pictures.overlays import draw_attention, draw_slots
from aime.pictures.plots import Line, Panel, draw_coverage, draw_horizons, draw_mixture
from aime.pictures.run import write_run_pictures
from aime.pictures.strips import draw_strip
from aime.pictures.training import plot_metrics
from aime.pictures.videos import draw_dream_video, write_video

__all__ = [
    "Line",
    "Panel",
    "draw_attention",
    "draw_coverage",
    "draw_dream_video",
    "draw_horizons",
    "draw_mixture",
    "draw_slots",
    "draw_strip",
    "plot_metrics",
    "style",
    "write_run_pictures",
    "write_video",
]
