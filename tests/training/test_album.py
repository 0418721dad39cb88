"""Whole episodes as perception sees them: any stretch of them, and the same after a resume."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aime.data.dataset import Window, read_window
from aime.data.store import EpisodeStore
from aime.perception.perceiver import CausalPerceiver
from aime.rehearsal import Recollection
from aime.training import album as albums
from aime.training.album import Album, Page, starts_of, watch_episode
from tests.helpers import small_model
from tests.training.conftest import FRAMES

CLIP = 6
KEYS = ("observations", "actions", "is_first")


@pytest.fixture
def store(ball_store: Path) -> EpisodeStore:
    return EpisodeStore.open(ball_store)


def numbered(store: EpisodeStore, watched: list[int] | None = None) -> Callable[[int], Page]:
    """Sees in each frame which episode it is of, and which frame it is."""

    def watch(episode: int) -> Page:
        if watched is not None:
            watched.append(episode)
        length = store.record(episode).length
        told = torch.stack([torch.full((length,), float(episode)), torch.arange(float(length))], dim=-1)[None]
        starts = starts_of(length, CLIP)
        contexts = torch.stack([-told[0, start : start + CLIP] for start in starts])
        return Page(Recollection(told, told, told, told, told[..., 0] < 0), starts, contexts)

    return watch


def test_an_episode_is_seen_as_a_clip_of_its_length_is_and_nothing_learns(store: EpisodeStore) -> None:
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    episode = store.split("train")[0]
    seen = watch_episode(model, store, episode, CLIP).seen
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    clip = {key: x[None] for key, x in read_window(store, Window(episode, 0), FRAMES, KEYS).items()}
    output = model.eval().forward_sequence(clip["observations"], clip["actions"], clip["is_first"], sample=False)
    torch.testing.assert_close(seen.mean, output.latent_mean)
    torch.testing.assert_close(seen.context, output.context)
    assert torch.equal(seen.actions, clip["actions"]) and torch.equal(seen.is_first, clip["is_first"])
    assert not seen.mean.requires_grad


@pytest.mark.parametrize(("length", "clip", "expected"), [(6, 6, [0]), (8, 6, [0, 1, 2]), (70, 48, [0, 6, 12, 18, 22])])
def test_clips_begin_all_along_an_episode_and_the_last_ends_it(length: int, clip: int, expected: list[int]) -> None:
    assert starts_of(length, clip) == expected


def test_a_clip_is_of_its_place_in_latents_contexts_and_frames(store: EpisodeStore) -> None:
    album = Album(store, CLIP, seed=0, trained_on=10**6)
    album.open(0, numbered(store))
    seen, windows = album.draw(400)
    assert {(window.episode, window.start) for window in windows} == {
        (episode, start) for episode in store.split("train") for start in starts_of(FRAMES, CLIP)
    }
    for row, window in enumerate(windows[:20]):
        assert seen.mean[row, :, 0].tolist() == [window.episode] * CLIP
        assert seen.mean[row, :, 1].tolist() == list(range(window.start, window.start + CLIP))
        assert torch.equal(seen.context[row], -seen.mean[row])
    at = torch.tensor([1, 4])
    frames = album.frames(windows[:3], at)
    for shown, window in zip(frames, windows, strict=False):
        assert torch.equal(shown, read_window(store, window, CLIP, ["observations"])["observations"][at])


def test_contexts_are_of_the_clip_alone_as_who_watches_only_that_has_them(store: EpisodeStore) -> None:
    model = small_model().eval()
    episode = store.split("train")[0]
    page = watch_episode(model, store, episode, CLIP)
    assert page.starts == starts_of(FRAMES, CLIP) and len(page.contexts) == len(page.starts) > 1
    for number, start in enumerate(page.starts):
        ours = page.clip(number)
        clip = {key: x[None] for key, x in read_window(store, Window(episode, start), CLIP, KEYS).items()}
        watched = model.forward_sequence(clip["observations"], clip["actions"], clip["is_first"], sample=False)
        torch.testing.assert_close(ours.context, watched.context, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.mean, watched.latent_mean, atol=1e-4, rtol=1e-4)
        known = page.seen.context[:, start : start + CLIP]
        assert ((ours.context - known).abs().max() > 1e-3) == (start > 0), "an episode's know what was before"
    assert not page.contexts.requires_grad


def test_contexts_that_dynamics_does_not_hear_are_not_found(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(perceiver_context=False).eval()
    monkeypatch.setattr(CausalPerceiver, "recall", lambda *_: pytest.fail("nobody was to hear it"))
    page = watch_episode(model, store, store.split("train")[0], CLIP)
    assert page.contexts.shape[:2] == (len(page.starts), CLIP) and not page.contexts.any()
    seen = Recollection.together([page.clip(0), page.clip(1)])
    assert seen.context.shape == (2, CLIP, page.seen.context.shape[-1])


def test_it_begins_with_what_training_has_seen_and_takes_in_one_more_a_step(store: EpisodeStore) -> None:
    watched: list[int] = []
    album = Album(store, CLIP, seed=0, trained_on=2 * FRAMES)
    sizes = []
    for step in range(6):
        album.open(step, numbered(store, watched))
        sizes.append(len(watched))
    assert sizes == [2, 3, 4, 5, 5, 5] and sorted(watched) == sorted(store.split("train"))
    for trained_on in (0, 1):
        few: list[int] = []
        Album(store, CLIP, seed=0, trained_on=trained_on).open(0, numbered(store, few))
        assert len(few) == 1, "there is one to draw from, at least"


def test_of_more_than_it_holds_the_oldest_goes_and_a_resumed_one_is_the_same(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(albums, "MOST_FRAMES", 3 * FRAMES)
    album = Album(store, CLIP, seed=3, trained_on=2 * FRAMES)
    watched: list[int] = []
    for step in range(9):
        album.open(step, numbered(store, watched))
        torch.manual_seed(step)
        drawn = album.draw(200)
        held = {window.episode for window in drawn[1]}
        assert len(held) == min(3, 2 + step)
        resumed = Album(store, CLIP, seed=3, trained_on=2 * FRAMES)
        resumed.open(step, numbered(store))
        torch.manual_seed(step)
        again = resumed.draw(200)
        assert again[1] == drawn[1] and torch.equal(again[0].mean, drawn[0].mean)
    assert len(watched) == 2 + 8 and set(watched) == set(store.split("train")), "all of them have their turn"
