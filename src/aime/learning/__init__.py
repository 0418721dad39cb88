"""The pillar of learning: four objectives, an adversary, and the balance between their gradients.

`discriminator` judges clips, `objectives` makes losses of its judgement, `rgb` balances gradients by rotation, and
`balancers` applies it, or one of its rivals, to a model.
"""

from aime.learning.balancers import GradientBalancer
from aime.learning.discriminator import DiscriminatorOutput, TemporalPatchDiscriminator
from aime.learning.objectives import discriminator_loss, generator_loss
from aime.learning.report import BalanceReport
from aime.learning.rgb import RGB

__all__ = [
    "RGB",
    "BalanceReport",
    "DiscriminatorOutput",
    "GradientBalancer",
    "TemporalPatchDiscriminator",
    "discriminator_loss",
    "generator_loss",
]
