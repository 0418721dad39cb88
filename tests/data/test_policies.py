"""Policies are smooth, lively, within bounds, and a user's own are checked."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from aime.data.policies import PolicyContext, make_policy, split_side
from aime.data.policy_file import PolicyFile
from aime.errors import ConfigError

SMOOTH = ("ou", "cpg", "spline")
WALKER = ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")


def context(task: str = "walker-walk", actuators: tuple[str, ...] = WALKER, position: float = 0.0) -> PolicyContext:
    physics = SimpleNamespace(data=SimpleNamespace(qpos=np.array([position])))
    return PolicyContext(task, actuators, 0.05, physics)


def actions(name: str, seed: int, frames: int = 400, about: PolicyContext | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    policy = make_policy(name, about or context(), rng)
    return np.stack([policy.act(None, rng) for _ in range(frames)])


@pytest.mark.parametrize("name", [*SMOOTH, "mixture", "uniform"])
def test_actions_are_within_bounds_and_follow_from_the_seed(name: str) -> None:
    for seed in range(5):
        drawn = actions(name, seed)
        assert drawn.shape == (400, 6)
        assert np.isfinite(drawn).all() and np.abs(drawn).max() <= 1.0
        np.testing.assert_array_equal(drawn, actions(name, seed))
    assert not np.array_equal(actions(name, 0), actions(name, 1))


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_policies_push_far_and_change_slowly(name: str) -> None:
    for seed in range(5):
        drawn = actions(name, seed)
        swing = drawn.std(axis=0).mean()
        jump = np.abs(np.diff(drawn, axis=0)).mean()
        assert swing > 0.3, "hard enough to move a body"
        assert jump < 0.75 * swing, "held long enough to move it"
    drawn = actions("uniform", 0)
    assert np.abs(np.diff(drawn, axis=0)).mean() > drawn.std(axis=0).mean()


def test_the_noise_has_the_correlation_time_it_says() -> None:
    about = PolicyContext("walker-walk", ("joint",) * 200, 0.05, None)
    drawn = actions("ou", 0, frames=2000, about=about)
    lag = 6  # 0.3 s: one correlation time
    correlation = np.corrcoef(drawn[:-lag].ravel(), drawn[lag:].ravel())[0, 1]
    assert abs(correlation - np.exp(-1)) < 0.03


def test_sides_move_in_antiphase() -> None:
    for seed in range(5):
        drawn = actions("cpg", seed)
        for joint in range(3):
            right, left = drawn[:, joint], drawn[:, joint + 3]
            assert np.corrcoef(right, left)[0, 1] < -0.9


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("left_knee", "right_knee"),
        ("hip_L_extend", "hip_R_extend"),
        ("lift_front_left", "lift_back_left"),
        ("fthigh", "bthigh"),
        ("lfemurrx", "rfemurrx"),
    ],
)
def test_actuators_are_told_apart_by_their_side_only(one: str, other: str) -> None:
    names = ["fthigh", "bthigh", "lfemurrx", "rfemurrx", "lowerbackrx"]
    assert split_side(one, names)[0] == split_side(other, names)[0]
    assert split_side(one, names)[1] != split_side(other, names)[1]


def test_middle_actuators_have_no_side() -> None:
    assert split_side("lowerbackrx", ["lfemurrx", "rfemurrx"]) == ("lowerbackrx", False)
    assert split_side("lift_front_left", [])[1] == split_side("lift_back_right", [])[1], "diagonal legs go together"


def test_the_mixture_draws_each_policy_and_writes_down_its_gain() -> None:
    drawn = [make_policy("mixture", context(), np.random.default_rng(seed)) for seed in range(60)]
    assert {policy.name for policy in drawn} == set(SMOOTH)
    gains = [policy.details["gain"] for policy in drawn]
    assert min(gains) >= 0.6 and max(gains) <= 1.0 and np.std(gains) > 0.05


@pytest.mark.parametrize("name", SMOOTH)
def test_a_cart_is_pulled_back_to_the_middle_of_its_rail(name: str) -> None:
    middle, right = (
        actions(name, 0, about=context("cartpole-swingup", ("slide",), position)).mean() for position in (0.0, 1.5)
    )
    assert right < middle - 0.3


def test_a_harness_is_for_humanoids_only() -> None:
    with pytest.raises(ConfigError, match="walker-walk has none"):
        make_policy("assisted", context(), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="did you mean spline"):
        make_policy("splines", context(), np.random.default_rng(0))


# A user's own


def own(folder: Path, code: str) -> PolicyFile:
    path = folder / "mine.py"
    path.write_text(code)
    return PolicyFile(path)


def run(file: PolicyFile) -> np.ndarray:
    rng = np.random.default_rng(0)
    policy = file.make(context(), rng)
    return np.stack([policy.act(None, rng) for _ in range(3)])


def test_a_function_is_a_policy(tmp_path: Path) -> None:
    file = own(tmp_path, "import numpy as np\ndef policy(time_step, rng):\n    return rng.uniform(-1, 1, 6)")
    expected = np.random.default_rng(0).uniform(-1, 1, (3, 6))
    np.testing.assert_array_equal(run(file), expected)
    made = file.make(context(), np.random.default_rng(0))
    assert made.name == "file:mine.py" and len(made.details["sha256"]) == 64


def test_a_factory_makes_a_policy_with_memory_for_each_episode(tmp_path: Path) -> None:
    file = own(
        tmp_path,
        "import itertools\n"
        "def make_policy(context, rng):\n"
        "    count = itertools.count()\n"
        "    return lambda time_step, rng: [next(count) / 10] * context.action_dim",
    )
    for _ in range(2):
        np.testing.assert_allclose(run(file)[:, 0], [0.0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def other(): pass", r"must define policy\(time_step, rng\)"),
        ("def policy(", "failed at line 1: SyntaxError"),
        ("\n\n1 / 0", "failed at line 3: ZeroDivisionError"),
        ("def policy(time_step, rng):\n    return missing", "failed at line 2: NameError: name 'missing'"),
        ("def policy(time_step, rng):\n    return [0.0] * 5", r"shape \(6,\), the policy returned \(5,\)"),
        ("def policy(time_step, rng):\n    return [1.5] * 6", r"in \[-1, 1\].*1.5"),
        ("def policy(time_step, rng):\n    return [float('nan')] * 6", "finite"),
        ("def policy(time_step, rng):\n    return 'forward'", "must be numbers, the policy returned 'forward'"),
        ("def make_policy(context, rng):\n    return 3", "must return a function, it returned int"),
    ],
)
def test_what_is_wrong_with_a_policy_file_is_said(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"mine.py.*{words}"):
        run(own(tmp_path, code))


def test_a_policy_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing.py: there is no such file"):
        PolicyFile(tmp_path / "nothing.py")
