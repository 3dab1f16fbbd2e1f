"""The phases of a training step, in the order in which they run, each with an optimizer of its own.

============== =========================== ==================================== ==============================
phase          minimises                   reads                                moves
============== =========================== ==================================== ==============================
reconstruction ``-log p(x|z)``             codes of the images                  encoder, posterior and decoder
discriminator  ``-log D(z')``,             codes, samples ``z'`` of the prior   discriminator
               ``-log(1 - D(z))``
generator      ``-log D(z)``               codes                                encoder and posterior
agreement      ``-I(y; y')``               categories of two views              encoder and posterior
classification ``-log q(y|x)``             categories and labels                encoder and posterior
============== =========================== ==================================== ==============================

Agreement is not in the paper (PixelGAN autoencoders, sections 2 and 2.3); the others are, in this order.
"""

from pixelgan_lightning.phases.agreement import AgreementPhase
from pixelgan_lightning.phases.base import Encoded, Phase, TrainStep
from pixelgan_lightning.phases.classification import ClassificationPhase
from pixelgan_lightning.phases.discriminator import DiscriminatorPhase
from pixelgan_lightning.phases.generator import GeneratorPhase
from pixelgan_lightning.phases.reconstruction import ReconstructionPhase

__all__ = [
    "AgreementPhase",
    "ClassificationPhase",
    "DiscriminatorPhase",
    "Encoded",
    "GeneratorPhase",
    "Phase",
    "ReconstructionPhase",
    "TrainStep",
]
