"""The pictures of an evaluation: plots by horizon, and the best, the median and the worst clip as strip and video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aime.evaluation.bootstrap import Curve
from aime.evaluation.calibration import Calibration
from aime.evaluation.clips import Clips
from aime.evaluation.report import Evaluation
from aime.pictures import Line, Panel, draw_coverage, draw_dream_video, draw_horizons, draw_strip, style

_LINES = {
    "ceiling": ("reconstruction", style.GREEN, False),
    "best": ("best sample", style.SKY, False),
    "dream": ("dream", style.DREAM, False),
    "shuffled": ("shuffled actions", style.VERMILION, True),
    "mean_frame": ("mean frame", style.ORANGE, False),
    "copy_last": ("copy last", style.MUTED, False),
}


def write_showcase(
    model: Any, clips: Clips, scores: dict[str, Tensor], evaluation: Evaluation, folder: Path, device: torch.device
) -> list[Path]:
    """Draw an evaluation.

    Args:
        model: what was evaluated.
        clips: the clips.
        scores: the dream's scores, metric to (clips, horizon).
        evaluation: what was found.
        folder: where the pictures go.
        device: where the model is.

    Returns:
        The files written.
    """
    written = [_draw_scores(evaluation, folder / "horizons.png")]
    if evaluation.readout is not None:
        written.append(_draw_readout(evaluation, folder / "states.png"))
    if evaluation.calibration is not None:
        written.append(_draw_calibration(evaluation.calibration, folder / "calibration.png"))
    context = evaluation.config.context_frames
    for name, (clip, decibel) in pick_clips(scores).items():
        one = clips[clip : clip + 1].to(device)
        belief = model.observe(one.observations[:, :context], one.actions[:, :context], one.is_first[:, :context])
        dream = model.imagine(belief, one.actions[:, context:], sample=False)
        rows = {"truth": one.observations[0]}
        if hasattr(model, "forward_sequence"):
            rows["reconstruction"] = model.forward_sequence(
                one.observations, one.actions, one.is_first
            ).reconstructions[0]
        rows["dream"] = dream.observations[0]
        title = f"{evaluation.data['task']}, {name} of {len(clips)} clips: {decibel:.1f} dB on what moves"
        written.append(draw_strip(rows, folder / f"clip-{name}.png", context_frames=context, title=title))
        written.append(draw_dream_video(rows, folder / f"clip-{name}.mp4", context_frames=context))
    return written


def pick_clips(scores: dict[str, Tensor]) -> dict[str, tuple[int, float]]:
    """The best, median and worst clip and their mean PSNR on moving pixels; on all pixels, if nothing ever moves.

    None where no dream is finite, and so none has a score.
    """
    mean = scores["moving_psnr"].nanmean(dim=1)
    if mean.isnan().all():
        mean = scores["psnr"].mean(dim=1)
    sorted_clips = mean.argsort()
    order: list[int] = sorted_clips[~mean[sorted_clips].isnan()].tolist()
    if not order:
        return {}
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    return {name: (clip, float(mean[clip])) for name, clip in chosen.items()}


def _line(label: str, curve: Curve, colour: str, *, dashed: bool = False, strong: bool = False) -> Line:
    return Line(label, curve.mean, curve.low, curve.high, colour, dashed=dashed, strong=strong)


def _draw_scores(evaluation: Evaluation, path: Path) -> Path:
    panels = []
    for metric, title, unit in (
        ("moving_psnr", "PSNR on moving pixels", "dB"),
        ("psnr", "PSNR", "dB"),
        ("ssim", "SSIM", ""),
        ("lpips", "LPIPS (lower is better)", ""),
    ):
        lines = [
            _line(label, evaluation.scores[predictor][metric], colour, dashed=dashed, strong=predictor == "dream")
            for predictor, (label, colour, dashed) in _LINES.items()
            if metric in evaluation.scores.get(predictor, {})
        ]
        if lines:
            panels.append(Panel(title, unit, lines))
    gain = evaluation.differences["gain_over_copy_last"]
    gains = [
        _line("moving pixels", gain["moving_psnr"], style.DREAM, strong=True),
        _line("all pixels", gain["psnr"], style.PURPLE),
    ]
    panels.append(Panel("Gain over copying the last frame", "dB", gains, zero=True, own_legend=True))
    heading = f"{evaluation.model['name']} on {evaluation.data['task']}, {evaluation.data['clips']} clips"
    return draw_horizons(panels, path, heading=heading)


def _draw_readout(evaluation: Evaluation, path: Path) -> Path:
    readout = evaluation.readout
    assert readout is not None
    panels = []
    for statistic, title in (("mean", "R², mean over states"), ("median", "R², median over states")):
        lines = [
            _line("real beliefs", readout.r2["watched"][statistic], style.GREEN),
            _line("dreamed beliefs", readout.r2["dream"][statistic], style.DREAM, strong=True),
            _line("last state kept", readout.r2["last_state"][statistic], style.MUTED),
        ]
        panels.append(Panel(title, "", lines, zero=True, floor=-1.0))
    heading = f"What a linear read-out of the belief knows of the physical state: {evaluation.data['task']}"
    return draw_horizons(panels, path, heading=heading)


def _draw_calibration(calibration: Calibration, path: Path) -> Path:
    horizon = len(calibration.spread_to_error.mean)
    thirds = max(1, horizon // 3)
    spans = {
        f"horizons 1–{thirds}": (slice(0, thirds), style.SKY),
        f"horizons {horizon - thirds + 1}–{horizon}": (slice(horizon - thirds, horizon), style.DREAM),
    }
    nominal = calibration.levels[::-1]
    lines = []
    for label, (span, colour) in spans.items():
        shares = [float(torch.tensor(curve.mean[span]).nanmean()) for curve in calibration.coverage[::-1]]
        lines.append(Line(label, shares, colour=colour))
    return draw_coverage(nominal, lines, path, heading="Where the truth falls among the samples")
