"""The recurrent core of the VRNN: h[t] = LSTM(h[t-1], (z[t], Δz[t], c[t], a[t])).

Because the posterior q(z[t] | o[t]) does not depend on h, the whole clip is one fused LSTM call; only a reset in the
middle of a clip (an episode that ends there) splits it, into as many calls as there are reset times.
Variational recurrent neural network: Chung et al., 2015 (arXiv 1506.02216).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class RecurrentState:
    """What the LSTM carries between frames; both (layers=1, batch, hidden), as `torch.nn.LSTM` keeps them."""

    hidden: Float[Tensor, "1 batch hidden"]
    cell: Float[Tensor, "1 batch hidden"]

    def where_first(self, is_first: Bool[Tensor, " batch"]) -> RecurrentState:
        """The state with the elements that start an episode set back to zero."""
        keep = (~is_first).to(self.hidden.dtype)[None, :, None]
        return RecurrentState(self.hidden * keep, self.cell * keep)


class RecurrentCore(nn.Module):
    """A layer-normed LSTM, fused over time, with orthogonal recurrent weights.

    The layer norms stand at its input and its output: inside the gates they would break the fused call.
    """

    def __init__(self, *, latent_dim: int, context_dim: int, action_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        # Each input has a map of its own, so that none drowns the others by its size alone.
        self.from_latent = nn.Linear(latent_dim, hidden_dim)
        self.from_change = nn.Linear(latent_dim, hidden_dim, bias=False)
        self.from_action = nn.Linear(action_dim, hidden_dim, bias=False)
        self.from_context = nn.Linear(context_dim, hidden_dim, bias=False)
        self.register_buffer("heed", torch.ones(()))
        self.heed: Tensor
        """How far the context is believed, of 1."""
        self.unhear()
        self.closed_eyes = nn.Parameter(torch.randn(hidden_dim) * 0.5)
        """What stands in a latent's place where nothing is seen."""
        self.embed = nn.Sequential(nn.LayerNorm(hidden_dim), nn.SiLU())
        self.lstm = nn.LSTM(hidden_dim, hidden_dim, batch_first=True)
        self.norm = nn.LayerNorm(hidden_dim)
        weights, biases = dict(self.lstm.named_parameters()), ("bias_ih_l0", "bias_hh_l0")
        for gate in weights["weight_hh_l0"].data.chunk(4):
            nn.init.orthogonal_(gate)
        # A forget gate that starts open lets gradients through the first steps of training (Jozefowicz et al., 2015).
        for name in biases:
            nn.init.zeros_(weights[name])
        weights["bias_ih_l0"].data[hidden_dim : 2 * hidden_dim] = 1.0

    @torch.no_grad()
    def unhear(self) -> None:
        """Hear nothing of the context, as at first."""
        self.from_context.weight.zero_()
        self.heed.fill_(1.0)

    def initial(self, batch: int) -> RecurrentState:
        """The state before the first frame of an episode: zeros."""
        zeros = self.norm.weight.new_zeros(1, batch, self.hidden_dim)
        return RecurrentState(zeros, zeros)

    def forward(
        self,
        latents: Float[Tensor, "batch time latent"],
        changes: Float[Tensor, "batch time latent"],
        context: Float[Tensor, "batch time context"],
        actions: Float[Tensor, "batch time action"],
        state: RecurrentState,
        is_first: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time hidden"], RecurrentState]:
        """Carry the belief through a clip.

        Args:
            changes: how the latents differ from those a frame before; zero where an episode starts. A velocity is read
                from them at once, which would else have to be learned as the difference of two memories.
            is_first: true where an episode starts; the state is reset before that frame. It is read on the host, so a
                tensor on the CPU costs no synchronisation with a GPU. None means that no frame resets.

        Returns:
            h[t] for every frame (layer-normed), and the state after the last one.
        """
        seen = self.from_latent(latents) + self.from_change(changes) + self.heed * self.from_context(context)
        inputs = self.embed(seen + self.from_action(actions))
        outputs = []
        for start, stop in _segments(is_first, inputs.shape[1]):
            if is_first is not None:
                state = state.where_first(is_first[:, start].to(inputs.device))
            output, state = self._recur(inputs[:, start:stop], state)
            outputs.append(output)
        return self.norm(torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]), state

    def onward(
        self, actions: Float[Tensor, "batch time action"], state: RecurrentState
    ) -> tuple[Float[Tensor, "batch time hidden"], RecurrentState]:
        """Carry the belief on with closed eyes, by the actions alone; otherwise as `forward`, and as fused."""
        output, state = self._recur(self.embed(self.closed_eyes + self.from_action(actions)), state)
        return self.norm(output), state

    def _recur(self, inputs: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """The LSTM; in float32 on a CPU whose kernels have none in bfloat16, which autocast would ask for."""
        exact = inputs.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        with torch.autocast("cpu", enabled=False) if exact else nullcontext():
            inputs = inputs.float() if exact and inputs.dtype == torch.bfloat16 else inputs
            hx = (state.hidden.to(inputs.dtype), state.cell.to(inputs.dtype))
            if inputs.shape[1] == 1:
                # The fused call lays out its weights anew each time, which takes longer than one frame of a stream.
                hidden, cell = torch.lstm_cell(inputs[:, 0], (hx[0][0], hx[1][0]), *self.lstm.all_weights[0])
                return hidden[:, None], RecurrentState(hidden[None], cell[None])
            output, (hidden, cell) = self.lstm(inputs, hx)
        return output, RecurrentState(hidden, cell)


def changes_of(
    values: Float[Tensor, "batch time n"],
    last: Float[Tensor, "batch n"] | None,
    is_first: Bool[Tensor, "batch time"] | None,
) -> Float[Tensor, "batch time n"]:
    """How values differ from those a frame before (`last`, before the first); zero where nothing was before."""
    earlier = values[:, :1] if last is None else last[:, None].to(values.dtype)
    changes = values - torch.cat([earlier, values[:, :-1]], dim=1)
    if is_first is None:
        return changes
    return changes.masked_fill(is_first.to(changes.device, non_blocking=True)[..., None], 0.0)


def _segments(is_first: Tensor | None, length: int) -> list[tuple[int, int]]:
    """The stretches of a clip between the times at which any of its batch elements resets."""
    if is_first is None or length == 1:
        return [(0, length)]
    resets = is_first[:, 1:].any(dim=0).nonzero().flatten().tolist()
    edges = [0, *(t + 1 for t in resets), length]
    return list(pairwise(edges))
