"""The VQ tokenizer: frames to codes and back, a codebook that stays alive, and nothing that changes in eval mode."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aime.errors import ConfigError
from aime.perception import TokenizerOutput, VQTokenizer
from aime.perception.tokenizer import IDLE_BATCHES


def small(seed: int = 0, image_size: int = 32) -> VQTokenizer:
    torch.manual_seed(seed)
    return VQTokenizer(channels=8, code_dim=16, codebook_size=32, image_size=image_size)


def pictures(n: int, size: int = 32, seed: int = 0) -> Tensor:
    """Frames of a bright block somewhere on a shaded ground."""
    g = torch.Generator().manual_seed(seed)
    frames = torch.linspace(0.2, 0.6, size).expand(n, 3, size, size).clone()
    for frame in frames:
        y, x = torch.randint(0, size - 8, (2,), generator=g).tolist()
        frame[:, y : y + 8, x : x + 8] = torch.rand(3, 1, 1, generator=g)
    return frames


def state(tokenizer: VQTokenizer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tokenizer.state_dict().items()}


def assert_same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def train(tokenizer: VQTokenizer, frames: Tensor, steps: int, lr: float = 3e-3) -> TokenizerOutput:
    optimiser = torch.optim.SGD(tokenizer.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        out = tokenizer(frames)
        loss = 10 * (tokenizer.reconstruct(out.codes) - frames).square().mean() + 0.25 * out.commitment_loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return out


@pytest.mark.parametrize("size", [16, 48, 64])
def test_sizes_ranges_and_round_trip(size: int) -> None:
    tokenizer = small(image_size=size).eval()
    frames = torch.rand(3, 3, size, size)
    out = tokenizer(frames)
    assert out.indices.shape == (3, size // 8, size // 8)
    assert out.indices.min() >= 0 and out.indices.max() < 32
    assert out.codes.shape == (*out.indices.shape, 16)
    torch.testing.assert_close(out.codes.square().mean(-1), torch.ones(out.indices.shape))
    assert torch.equal(tokenizer.encode(frames), out.indices)
    assert torch.equal(tokenizer.decode(out.indices), tokenizer.reconstruct(out.codes).clamp(0, 1))


def test_an_index_names_the_nearest_code() -> None:
    tokenizer = small().eval()
    frames = pictures(4)
    out = tokenizer(frames)
    apart = (tokenizer._features(frames)[..., None, :] - tokenizer.quantiser.codebook * 4).square().sum(-1)
    assert torch.equal(out.indices, apart.argmin(-1))


@pytest.mark.parametrize("training", [True, False])
def test_frames_are_independent_to_the_bit(training: bool) -> None:
    frames = pictures(6)
    other = frames.clone()
    other[2] = torch.rand(3, 32, 32)
    kept = [0, 1, 3, 4, 5]
    one, two = small().train(training), small().train(training)
    a, b = one(frames), two(other)
    for field in ("indices", "codes"):
        assert torch.equal(getattr(a, field)[kept], getattr(b, field)[kept]), field
    first, second = one.reconstruct(a.codes), two.reconstruct(b.codes)
    assert torch.equal(first[kept], second[kept])
    assert not torch.equal(first[2], second[2])


def test_what_stands_still_keeps_its_code() -> None:
    """A code sees its patch and about one patch around it, no more."""
    tokenizer = small(image_size=64).eval()
    frames = pictures(2, 64)
    moved = frames.clone()
    moved[:, :, :8, :8] = 1 - moved[:, :, :8, :8]
    a, b = tokenizer._features(frames), tokenizer._features(moved)
    changed = (a != b).any(-1).any(0)
    assert changed[0, 0]
    changed[:3, :3] = False
    assert not changed.any()


def test_eval_mode_and_encode_change_nothing() -> None:
    tokenizer = small()
    tokenizer(pictures(8))
    before = state(tokenizer)
    tokenizer.encode(pictures(8, seed=5))
    tokenizer.eval()
    tokenizer(pictures(8, seed=6))
    assert_same_state(before, state(tokenizer))


def test_training_is_deterministic() -> None:
    a, b = small(), small()
    for tokenizer in (a, b):
        torch.manual_seed(3)
        train(tokenizer, pictures(8), 4)
    assert_same_state(state(a), state(b))


def test_training_resumes_from_safetensors_to_the_bit(tmp_path: Path) -> None:
    straight, resumed = small(), small(seed=99)
    train(straight, pictures(8), 3)
    save_file(straight.state_dict(), tmp_path / "tokenizer.safetensors")
    resumed.load_state_dict(load_file(tmp_path / "tokenizer.safetensors"))
    outputs = []
    for tokenizer in (straight, resumed):
        torch.manual_seed(7)
        outputs.append(train(tokenizer, pictures(8, seed=1), 3))
    assert_same_state(state(straight), state(resumed))
    assert torch.equal(straight.reconstruct(outputs[0].codes), resumed.reconstruct(outputs[1].codes))
    assert torch.equal(outputs[0].perplexity, outputs[1].perplexity)


def test_a_dead_codebook_is_revived() -> None:
    tokenizer = small()
    frames = torch.rand(16, 3, 32, 32)
    book = tokenizer.quantiser._codebook
    with torch.no_grad():  # every code far from every feature but one: the codebook is dead
        features = tokenizer._features(frames)
        away = -features.mean((0, 1, 2)) / features.mean((0, 1, 2)).norm()
        book.embed.copy_(away.expand_as(book.embed))
        book.embed_avg.copy_(book.embed)
        book.cluster_size.zero_()
    assert tokenizer.encode(frames).unique().numel() == 1
    for _ in range(3):
        tokenizer(frames)
    assert tokenizer.encode(frames).unique().numel() > 24
    assert tokenizer(frames).commitment_loss < 0.5 * (features - 4 * away).square().mean()


def test_codes_in_use_are_left_in_place() -> None:
    """Reviving is for dead codes only: a scene at rest keeps its tokens."""
    tokenizer = small()
    frames = pictures(4)
    for _ in range(30):
        tokenizer(frames)
    names = tokenizer.encode(frames)
    for _ in range(30):
        tokenizer(frames)
    assert (tokenizer.encode(frames) == names).float().mean() > 0.95


def test_use_of_the_codebook_is_reported() -> None:
    tokenizer = small()
    grey = torch.full((4, 3, 32, 32), 0.5)
    out = [tokenizer(grey) for _ in range(IDLE_BATCHES + 30)][-1]
    used = tokenizer.encode(grey).unique().numel()
    assert out.live_codes == used < 32, "what has long been unused is not live"
    assert 1 <= out.perplexity <= used + 0.5
    assert tokenizer(torch.rand(32, 3, 32, 32)).live_codes > used


def test_gradients_pass_straight_through_and_commitment_stops_at_the_codes() -> None:
    tokenizer = small()
    out = tokenizer(pictures(4))
    tokenizer.reconstruct(out.codes).square().mean().backward(retain_graph=True)
    assert tokenizer.encoder[0].weight.grad.abs().sum() > 0
    tokenizer.zero_grad()
    out.commitment_loss.backward()
    assert tokenizer.encoder[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in tokenizer.decoder.parameters())


def test_it_learns_to_reconstruct() -> None:
    tokenizer = small()
    frames = pictures(8)
    optimiser = torch.optim.AdamW(tokenizer.parameters(), lr=2e-3)
    for _ in range(300):
        out = tokenizer(frames)
        loss = 10 * (tokenizer.reconstruct(out.codes) - frames).square().mean() + 0.25 * out.commitment_loss
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimiser.step()
    tokenizer.eval()
    decoded = tokenizer.decode(tokenizer.encode(frames))
    error = (decoded - frames).square().mean()
    mean_picture = (frames.mean(0) - frames).square().mean()
    assert error < 0.25 * mean_picture


def test_bfloat16_autocast_leaves_the_codebook_in_float32() -> None:
    tokenizer = small()
    frames = pictures(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = tokenizer(frames)
        reconstruction = tokenizer.reconstruct(out.codes)
        loss = (reconstruction - frames).square().mean() + out.commitment_loss
    loss.backward()
    assert out.codes.dtype == reconstruction.dtype == torch.float32
    assert loss.isfinite()
    codebook = tokenizer.quantiser.codebook
    assert codebook.dtype == torch.float32
    assert not torch.equal(codebook, codebook.bfloat16().float()), "moving averages were rounded to bfloat16"


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        small(image_size=40)
