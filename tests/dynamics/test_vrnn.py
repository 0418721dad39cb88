"""Properties of the recurrent core."""

import pytest
import torch

from aime.dynamics import RecurrentCore


def make(seed: int = 0) -> RecurrentCore:
    torch.manual_seed(seed)
    return RecurrentCore(latent_dim=3, context_dim=4, action_dim=2, hidden_dim=16)


def clip(batch: int = 3, time: int = 7) -> tuple[torch.Tensor, ...]:
    """Latents, their changes, contexts and actions."""
    return tuple(torch.randn(batch, time, size) for size in (3, 3, 4, 2))


def test_whole_clip_equals_frame_by_frame():
    core, inputs = make(), clip()
    whole, last = core(*inputs, core.initial(3))
    state, steps = core.initial(3), []
    for t in range(7):
        step, state = core(*(x[:, t : t + 1] for x in inputs), state)
        steps.append(step)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)
    torch.testing.assert_close(state.cell, last.cell)


def test_reset_forgets_what_came_before_and_only_there():
    core, inputs = make(), clip()
    is_first = torch.zeros(3, 7, dtype=torch.bool)
    is_first[1, 4] = True
    reset, _ = core(*inputs, core.initial(3), is_first)
    plain, _ = core(*inputs, core.initial(3))
    fresh, _ = core(*(x[1:2, 4:] for x in inputs), core.initial(1))
    torch.testing.assert_close(reset[1, 4:], fresh[0])
    torch.testing.assert_close(reset[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(reset[1, 4:], plain[1, 4:])


def test_every_input_moves_the_belief():
    core, inputs = make(), clip()
    torch.nn.init.normal_(core.from_context.weight)  # which a fresh core does not hear
    for i in range(4):
        changed = [x.clone() for x in inputs]
        changed[i][:, 2] += 1
        before, _ = core(*inputs, core.initial(3))
        after, _ = core(*changed, core.initial(3))
        assert torch.equal(before[:, :2], after[:, :2])
        assert not torch.allclose(before[:, 2], after[:, 2])


def test_a_context_is_heard_as_far_as_it_is_believed():
    core, (latents, changes, context, actions) = make(), clip()

    def hidden(context: torch.Tensor) -> torch.Tensor:
        return core(latents, changes, context, actions, core.initial(3))[0]

    silence = hidden(torch.zeros_like(context))
    assert torch.equal(hidden(context), silence), "not by a fresh core"
    torch.nn.init.normal_(core.from_context.weight)
    core.heed.fill_(0.5)
    half = hidden(2 * context)
    core.heed.fill_(1.0)
    torch.testing.assert_close(hidden(context), half)
    core.heed.fill_(0.0)
    torch.testing.assert_close(hidden(context), silence)
    core.unhear()
    assert core.heed == 1 and torch.equal(hidden(context), silence)


def test_where_a_cpu_has_no_bf16_kernels_the_recurrence_is_in_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    core, inputs = make(), clip()
    with torch.autocast("cpu", torch.bfloat16):
        hidden, state = core(*inputs, core.initial(3))
        ahead, _ = core.onward(inputs[3], state)
    assert state.cell.dtype == torch.float32
    plain, last = core(*inputs, core.initial(3))
    torch.testing.assert_close(hidden.float(), plain, atol=0.05, rtol=0)
    torch.testing.assert_close(ahead.float(), core.onward(inputs[3], last)[0], atol=0.05, rtol=0)


def test_recurrent_weights_start_orthogonal():
    for gate in make().lstm.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(16), atol=1e-5, rtol=0)
