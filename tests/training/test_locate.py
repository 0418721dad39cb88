"""From a name to a checkpoint: folders, bundled models, the hub; and what is said when there is none."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from aime.errors import CheckpointError
from aime.training import locate as module
from aime.training.checkpoint import CONFIG, MODEL, STATE, save_checkpoint
from aime.training.locate import locate
from tests.training.standin import Sized


def test_a_bundled_model_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "pretrained")
    folder = save_checkpoint(tmp_path / "pretrained" / "cartpole-swingup", Sized())
    assert locate("cartpole-swingup") == folder
    with pytest.raises(CheckpointError, match="did you mean cartpole-swingup"):
        locate("cartpole-swing")


def test_a_folder_here_comes_before_a_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "pretrained")
    save_checkpoint(tmp_path / "pretrained" / "mine", Sized())
    save_checkpoint(tmp_path / "here" / "mine", Sized())
    monkeypatch.chdir(tmp_path / "here")
    assert locate("mine") == Path("mine")


@pytest.mark.parametrize(
    "name",
    [
        "runs/humanoid-walk",
        "path/to/checkpoint.pt",
        "checkpoint.pt",
        "given/last.ckpt",
        "given/model.safetensors",
        "given/Config.YAML",
        "nothing",
    ],
)
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_download", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match=f"there is no .*{name}"):
        locate(name)


def test_without_the_hub_package_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"no folder owner/model here.*pip install 'aime\[hub\]'"):
        locate("owner/model")


def hub(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[object]:
    """A hub that gives an answer, or raises it; what it was asked for."""
    asked: list[object] = []
    package, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")

    def snapshot_download(name: str, allow_patterns: list[str]) -> object:
        asked.extend([name, allow_patterns])
        if isinstance(answer, Exception):
            raise answer
        return answer

    package.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    errors.HfHubHTTPError = type("HfHubHTTPError", (OSError,), {})  # type: ignore[attr-defined]
    errors.LocalEntryNotFoundError = type("LocalEntryNotFoundError", (OSError,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return asked


@pytest.mark.parametrize("name", ["me/aime-v1.0", "me/walker.2"])
def test_a_name_on_the_hub_may_have_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_checkpoint(tmp_path / "snapshot", Sized())
    asked = hub(monkeypatch, str(folder))
    assert locate(name) == folder and asked[0] == name


def test_only_the_files_of_a_model_are_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_checkpoint(tmp_path / "snapshot", Sized())
    asked = hub(monkeypatch, str(folder))
    assert locate("owner/model") == folder
    assert asked == ["owner/model", [MODEL, CONFIG, STATE, "episodes/*"]]


def test_a_hub_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, OSError("the network is unreachable\nmore"))
    with pytest.raises(CheckpointError, match=r"hub did not give it: the network is unreachable$"):
        locate("owner/model")
