"""Plots from metrics.jsonl: what is logged is drawn, what is broken is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from aime.errors import DataError
from aime.pictures import plot_metrics
from aime.pictures.training import OBJECTIVES, read_metrics, running_mean


def write_log(run: Path, lines: int = 120, end: str = "") -> Path:
    names = list(OBJECTIVES)
    rng = np.random.default_rng(0)
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(1, lines + 1):
            line: dict[str, float | None] = {"step": step, "recon_nll": 5.0 / step, "psnr": 20.0 + step}
            line |= {name: float(rng.normal()) for name in names}
            line |= {f"gradient/norm/{name}": float(rng.random()) for name in names}
            line |= {f"gradient/angle/{name}": 0.5 for name in names}
            line |= {f"gradient/rotation/{name}": 0.25 for name in names}
            line |= {f"gradient/cosine/{a}/{b}": -0.5 for a in names for b in names if a < b}
            line["slot_overlap"] = None if step == 3 else 0.1
            if step % 40 == 0:
                line |= {"validation/psnr": 30.0, "validation/dream_psnr": 25.0, "validation/copy_last_psnr": 20.0}
            file.write(json.dumps(line) + "\n")
        file.write(end)
    return run


def test_everything_logged_is_drawn(tmp_path: Path) -> None:
    written = plot_metrics(write_log(tmp_path))
    names = {path.name for path in written}
    assert names == {"losses.png", "loss-parts.png", "health.png", "held-out.png", "gradients.png"}
    assert all(path.parent == tmp_path / "pictures" and path.stat().st_size > 5000 for path in written)


def test_what_is_not_logged_is_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "total_vae_loss": 3.0}\n')
    assert [path.name for path in plot_metrics(str(tmp_path))] == ["losses.png"]


def test_values_come_by_name_with_their_steps(tmp_path: Path) -> None:
    series = read_metrics(write_log(tmp_path) / "metrics.jsonl")
    steps, values = series["validation/psnr"]
    assert steps.tolist() == [40, 80, 120]
    assert values.tolist() == [30.0] * 3
    assert 3 not in series["slot_overlap"][0], "a value that was not finite is null in the log, and left out"


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    series = read_metrics(write_log(tmp_path, end='{"step": 121, "ps') / "metrics.jsonl")
    assert series["psnr"][0][-1] == 120


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"step": 1}\nnot json\n{"step": 2}\n', "line 2, is not JSON"),
        ('[1, 2]\n{"step": 2}\n', "line 1, has no step"),
        ('{"loss": 1}\n', "line 1, has no step"),
    ],
)
def test_a_broken_log_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        plot_metrics(tmp_path)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        plot_metrics(tmp_path)


def test_running_mean_by_hand() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan, 5.0])
    assert running_mean(values, 2).tolist() == [1.0, 1.5, 2.5, 3.0, 5.0]
    assert running_mean(values[:3], 1).tolist() == [1.0, 2.0, 3.0]
