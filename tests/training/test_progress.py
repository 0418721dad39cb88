"""What a person sees, and how a run is asked to stop."""

import logging
import signal
import threading

import pytest

from aime.config import UNLIMITED_STEPS
from aime.training.progress import Display, Pace, clock
from aime.training.stop import stop_on_signal


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0 s"), (59.4, "59 s"), (60.0, "1 min 00 s"), (190.2, "3 min 10 s"), (7505.0, "2 h 05 min")],
)
def test_seconds_as_a_person_says_them(seconds: float, said: str) -> None:
    assert clock(seconds) == said


def test_what_is_done_before_training_begins_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("aime.training.progress.time.perf_counter", lambda: now[0])
    pace = Pace(step=50, frames_per_step=64, elapsed=30.0)
    now[0] += 5.0
    pace.begin()
    assert pace.elapsed == pytest.approx(30.0)
    now[0] += 2.0
    pace.begin()  # goes on after a stop: nothing is taken back
    assert pace.elapsed == pytest.approx(32.0)


def test_speed_is_that_of_the_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("aime.training.progress.time.perf_counter", lambda: now[0])
    pace = Pace(step=50, frames_per_step=64, elapsed=30.0)
    for step in range(60, 260, 10):
        now[0] += 40.0 if step == 60 else 5.0  # a slow start is forgotten
        figures = pace.mark(step)
    assert figures["step_seconds"] == pytest.approx(0.5)
    assert figures["frames_per_second"] == pace.frames_per_second == pytest.approx(128.0)
    assert figures["elapsed_seconds"] == pytest.approx(30 + 40 + 19 * 5)
    assert figures["memory_mib"] > 10


def test_what_is_no_training_counts_neither_as_time_nor_against_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("aime.training.progress.time.perf_counter", lambda: now[0])
    pace = Pace(step=0, frames_per_step=10)
    now[0] += 4.0
    with pace.paused():
        now[0] += 500.0
        assert pace.elapsed == 4.0
    now[0] += 6.0
    assert pace.elapsed == 10.0
    assert pace.mark(20)["frames_per_second"] == pytest.approx(20.0)


def test_a_run_that_only_minutes_end_names_no_last_step(caplog: pytest.LogCaptureFixture) -> None:
    display, pace = Display("walker", 0, UNLIMITED_STEPS), Pace(0, 64)
    with caplog.at_level(logging.INFO, "aime"), display.running():
        display.figures(7, 1.0, pace, seconds_left=90.0)
    assert "step 7  loss" in caplog.text and "1 min 30 s left" in caplog.text


def test_before_the_first_line_there_is_no_speed() -> None:
    pace = Pace(step=0, frames_per_step=64)
    assert pace.frames_per_second == pace.step_seconds == 0.0


def test_without_a_terminal_a_line_tells_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("aime.training.progress.time.perf_counter", lambda: now[0])
    display, pace = Display("walker", 0, 100), Pace(0, 64)
    with caplog.at_level(logging.INFO, "aime"), display.running():
        for step in range(1, 101):
            now[0] += 0.5
            pace.mark(step)
            display.advance(step)
            display.figures(step, 1234.5, pace)
    lines = [record.message for record in caplog.records]
    assert len(lines) == 6 and "step 100/100" in lines[-1]
    assert "loss 1,234.5" in lines[1] and "128.0 frames/s" in lines[1] and "left" in lines[1]


def test_other_ranks_show_nothing(caplog: pytest.LogCaptureFixture) -> None:
    display = Display("walker", 0, 1, shown=False)
    with caplog.at_level(logging.INFO, "aime"), display.running():
        display.figures(1, 1.0, Pace(0, 64))
    assert caplog.text == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as wish:
        assert not wish
        signal.raise_signal(number)
        assert wish and wish.reason in ("Ctrl-C", "SIGTERM")
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_in_another_thread_nobody_handles_signals() -> None:
    seen: list[bool] = []

    def inside() -> None:
        with stop_on_signal() as wish:
            seen.append(bool(wish))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [False] and signal.getsignal(signal.SIGINT) is before
