"""Which parameters learn from what: from each objective of a step, from each rehearsal, and by which optimizer.

A loss is differentiated for the parts that it is to move and for no others, so that the graph is cut there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from aime.world_model import WorldModel


def objective_reach(model: WorldModel) -> dict[str, list[nn.Parameter]]:
    """What each objective is differentiated for; what hears the context learns at rest alone.

    The ELBO trains what watches and dreams, and takes context, slots and maps as they are. Perception trains the
    tokenizer and the Perceiver. Attention trains the slots and the schema; the features that slots look at stay the
    ELBO's. Realism is the decoder's job.
    """
    watching = _of(model.encoder, model.posterior, model.decoder)
    return {
        "total_vae_loss": watching + dynamics_parameters(model),
        "perceiver_loss": _of(model.tokenizer, model.perceiver),
        "attention_loss": _of(model.slot_attention, model.schema),
        "adversarial_loss": _of(model.decoder),
    }


def generator_parameters(model: WorldModel) -> list[nn.Parameter]:
    """All parameters but the adversary's, which have an optimizer of their own."""
    adversary = {id(p) for p in model.discriminator.parameters()}
    return [p for p in model.parameters() if id(p) not in adversary]


def dynamics_parameters(model: WorldModel) -> list[nn.Parameter]:
    """Those of core, prior and context head, but for what hears the context.

    Wherever it was heard while latents learn, reconstructions were worse. So dynamics begins to hear it when perception
    rests.
    """
    hearing = {id(p) for p in hearing_parameters(model)}
    return [p for p in _of(model.core, model.prior, model.context_head) if id(p) not in hearing]


def hearing_parameters(model: WorldModel) -> list[nn.Parameter]:
    """What hears the context."""
    return _of(model.core.from_context)


def perception_parameters(model: WorldModel) -> list[nn.Parameter]:
    """What learns of single frames, as `rehearse_perception` shows them."""
    return _of(model.encoder, model.posterior, model.decoder)


def decoder_parameters(model: WorldModel) -> list[nn.Parameter]:
    """What `rehearse_decoder` trains."""
    return _of(model.decoder)


def matrices(model: WorldModel, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The filters and matrices among them, which are Muon's: no biases, no gains, no background, and not the head that
    foretells the context, which serves dreams alone."""
    others = {id(p) for p in (model.decoder.background, *_of(model.context_head))}
    return [p for p in parameters if p.ndim >= 2 and id(p) not in others]


def reader_matrices(model: WorldModel) -> list[nn.Parameter]:
    """Those of the Perceiver, which are Muon's, too: by AdamW its context told nothing for hundreds of steps. Neither
    learned queries nor places are among them."""
    return [p for name, p in model.perceiver.named_parameters() if p.ndim >= 2 and name.endswith(".weight")]


def _of(*modules: nn.Module) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]
