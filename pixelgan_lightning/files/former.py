"""Descriptions of models from before phases were parts, in checkpoints and exported folders of that time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOME = "pixelgan_lightning.phases"


def with_phases(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description in today's form; the same, if it is one already."""
    new = dict(description)
    if "phases" in new or "reconstruction" not in new:
        return new
    former = {name: new.pop(name, None) for name in FORMER}

    def phase(name: str, cls: str, **more: Any) -> dict[str, Any]:
        return {"class_path": f"{HOME}.{cls}", "init_args": {**former[name], **more}}

    phases = {
        "reconstruction": phase(
            "reconstruction",
            "ReconstructionPhase",
            encoder_lr=former["encoder_lr"],
            images=former["reconstruction_images"],
        ),
        "discriminator": phase("discriminating", "DiscriminatorPhase"),
        "generator": phase("generating", "GeneratorPhase"),
        "agreement": phase(
            "agreement",
            "AgreementPhase",
            neighbour_steps=former["neighbour_steps"] or 0,
            alone=former["agreement_warmup_steps"] or 0,
        ),
        "classification": phase("classification", "ClassificationPhase", alone=former["label_warmup_steps"] or 0),
    }
    if not former["agree"]:
        del phases["agreement"]
    if former["label_aware"]:
        discriminator = new["discriminator"]
        new["discriminator"] = {**discriminator, "init_args": {**discriminator["init_args"], "label_aware": True}}
    return {**new, "phases": phases}


FORMER = (
    "reconstruction",
    "encoder_lr",
    "reconstruction_images",
    "discriminating",
    "generating",
    "agreement",
    "agree",
    "neighbour_steps",
    "agreement_warmup_steps",
    "classification",
    "label_warmup_steps",
    "label_aware",
    "accumulate_batches",
    "compile_decoder",
    "init_from",
)
"""Arguments that a model had and has no more."""


__all__ = ["with_phases"]
