"""Health: readings of known worth, ranges that raise alarms, and a model that is read whole."""

import math

import pytest
import torch
from rich.console import Console

from aime.evaluation.health import (
    RULES,
    active_latents,
    attention_density,
    changing_pixels,
    check_health,
    health_table,
)
from aime.losses import context_variation


def body_and_attention(on_body: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A body on a quarter of each frame, and attention of which a share lies on it."""
    body = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    body[..., :8, :8] = True
    attention = torch.full((1, 2, 8, 8), (1 - on_body) / 48)
    attention[..., :4, :4] = on_body / 16
    return attention, body


@pytest.mark.parametrize(("on_body", "density"), [(0.25, 1.0), (0.5, 3.0), (0.8, 12.0), (0.0, 0.0)])
def test_attention_density_by_hand(on_body: float, density: float) -> None:
    assert attention_density(*body_and_attention(on_body)) == pytest.approx(density, rel=1e-5)


def test_frames_without_a_body_do_not_count() -> None:
    attention, body = body_and_attention(0.5)
    empty = torch.zeros_like(body)
    both = attention_density(torch.cat([attention, attention], dim=1), torch.cat([body, empty], dim=1))
    assert both == pytest.approx(3.0, rel=1e-5)
    assert math.isnan(attention_density(attention, empty))


def test_changing_pixels_differ_from_the_frame_before() -> None:
    frames = torch.zeros(1, 3, 3, 8, 8)
    frames[0, 1:, 1, 2, 3] = 0.5
    changes = changing_pixels(frames)
    assert changes.nonzero().tolist() == [[0, 1, 2, 3]]


def test_active_latents_vary_with_what_is_seen() -> None:
    mean = torch.randn(4, 50, 5, generator=torch.Generator().manual_seed(0))
    mean[..., 0] = 3.0
    mean[..., 1] *= 0.05
    assert active_latents(mean) == 3


def test_a_context_varies_with_what_is_seen_or_is_a_constant() -> None:
    varying = torch.randn(50, 4, 5, generator=torch.Generator().manual_seed(0))
    assert context_variation(varying[:1].expand(50, -1, -1)) < 1e-12, "a clock"
    assert context_variation(torch.ones(4, 50, 5)) == 0.0
    assert context_variation(torch.zeros(4, 50, 5)) == 0.0
    torch.testing.assert_close(context_variation(varying), torch.tensor(1.0), atol=0.03, rtol=0)
    torch.testing.assert_close(context_variation(varying + 3.0), torch.tensor(0.1), atol=0.02, rtol=0)
    assert context_variation(torch.randn(1, 50, 5)) > 0.9, "one clip, over its frames"


HEALTHY = {
    "codebook_size": 256.0,
    "live_codes": 200.0,
    "codebook_perplexity": 100.0,
    "context_variation": 0.4,
    "kl_latent": 12.0,
    "active_latents": 9.0,
    "effective_components": 3.0,
    "policy_information": 0.2,
    "slot_overlap": 0.1,
    "attention_density": 6.0,
    "disc_real_accuracy": 0.8,
    "disc_fake_accuracy": 0.7,
    "gradient/cosine/a/b": 0.3,
    "gradient/cosine/a/c": -0.2,
}


def test_a_healthy_model_raises_no_alarm() -> None:
    checks = check_health(HEALTHY)
    assert len(checks) == len(RULES)
    assert not any(check.alarm for check in checks)


@pytest.mark.parametrize(
    ("reading", "value", "remedy"),
    [
        ("live_codes", 100.0, "num_codebook_perceiver"),
        ("codebook_perplexity", 3.0, "num_codebook_perceiver"),
        ("context_variation", 1e-5, "perceiver_context"),
        ("kl_latent", 0.1, "warmup_epochs"),
        ("active_latents", 2.0, "warmup_epochs"),
        ("effective_components", 1.01, "policies"),
        ("policy_information", -0.1, "entropy_weight"),
        ("slot_overlap", 0.5, "enforce_diversity"),
        ("attention_density", 1.0, "lambda_att_dyn"),
        ("disc_real_accuracy", 1.2, "discriminator_learning_rate"),
        ("disc_real_accuracy", 0.2, "n_critic"),
        ("gradient/cosine/a/b", -0.95, "objective_weights"),
        ("kl_latent", math.nan, "warmup_epochs"),
    ],
)
def test_each_reading_has_its_alarm_and_its_remedy(reading: str, value: float, remedy: str) -> None:
    alarms = [check for check in check_health({**HEALTHY, reading: value}) if check.alarm]
    assert len(alarms) == 1
    assert remedy in alarms[0].remedy


def test_readings_that_are_not_there_are_not_judged() -> None:
    assert [check.name for check in check_health({"slot_overlap": 0.3})] == ["overlap between slots"]


def test_remedies_name_settings_that_exist() -> None:
    import dataclasses
    import re

    from aime import config

    groups = [value for value in vars(config).values() if dataclasses.is_dataclass(value)]
    known = {field.name for group in groups for field in dataclasses.fields(group)}
    for rule in RULES:
        named = re.findall(r"[a-z]+(?:_[a-z]+)+", rule.remedy)
        assert named or "beta" in rule.remedy
        assert set(named) <= known, rule.name


def test_the_table_shows_remedies_for_alarms_only() -> None:
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(health_table(check_health({**HEALTHY, "slot_overlap": 0.5})))
    text = console.export_text()
    assert "enforce_diversity" in text
    assert "n_critic" not in text
    assert "at most 0.2" in text and "0.55 to 0.9" in text
