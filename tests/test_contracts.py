"""No part of the package is forgotten: every public class of a family is among those that pass its contract."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest
from test_components import AUGMENTATIONS, DISCRIMINATORS, ENCODERS, POSTERIORS, PRIORS
from test_data_contract import MAKERS
from test_decoder_contract import DECODERS
from test_likelihoods import LIKELIHOODS

from pixelgan_lightning import (
    augmentations,
    datamodules,
    decoders,
    discriminators,
    encoders,
    likelihoods,
    posteriors,
    priors,
)

FAMILIES: dict[str, tuple[ModuleType, type, set[type]]] = {
    "priors": (priors, priors.Prior, {type(make()) for make in PRIORS.values()}),
    "posteriors": (posteriors, posteriors.Posterior, {type(make()) for make, _ in POSTERIORS.values()}),
    "encoders": (encoders, encoders.Encoder, {type(make()) for make in ENCODERS.values()}),
    "decoders": (decoders, decoders.Decoder, {type(member.make()) for member in DECODERS.values()}),
    "discriminators": (
        discriminators,
        discriminators.Discriminator,
        {type(make()) for make in DISCRIMINATORS.values()},
    ),
    "augmentations": (
        augmentations,
        augmentations.Augmentation,
        {type(make()) for make in AUGMENTATIONS.values()},
    ),
    "likelihoods": (likelihoods, likelihoods.Likelihood, {type(likelihood) for likelihood in LIKELIHOODS.values()}),
    # Read by a package that is optional: tests/test_hugging_face.py.
    "datamodules": (datamodules, datamodules.ImageDataModule, {*MAKERS, datamodules.HuggingFaceDataModule}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_member_passes_the_contract_of_its_family(name: str) -> None:
    module, base, tested = FAMILIES[name]
    public = {value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, base)}
    assert public - {base} == tested
