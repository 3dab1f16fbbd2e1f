"""Products of priors: for example a class and a continuous style."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.priors.base import Prior
from pixelgan_lightning.random import RowDraws


class ProductPrior(Prior):
    """Independent priors side by side: the code is the concatenation of theirs (Makhzani et al., 2015, section 5).

    With one categorical factor its categories are those of the product: cluster accuracy, labels and tables refer to
    it. More than one is not supported.

    Args:
        priors: the factors, in the order of the code.

    Raises:
        ConfigurationError: no factors, or several with categories.
    """

    def __init__(self, priors: Sequence[Prior]) -> None:
        super().__init__()
        if not priors:
            raise ConfigurationError("priors=[] is not usable: allowed are lists of one or more priors")
        self.priors = torch.nn.ModuleList(priors)
        self.code_dim = sum(prior.code_dim for prior in priors)
        for prior, part in zip(priors, self.slices(), strict=True):
            if prior.num_categories is not None:
                if self.num_categories is not None:
                    raise ConfigurationError(
                        "priors with more than one over categories are not usable: allowed is one at most"
                    )
                self.num_categories = prior.num_categories
                start = part.start + (prior.category_slice.start if prior.category_slice else 0)
                self.category_slice = slice(start, start + prior.num_categories)

    def factors(self) -> list[Prior]:
        """The priors in the order of the code."""
        return [prior for prior in self.priors if isinstance(prior, Prior)]

    def slices(self) -> list[slice]:
        """Where each factor's code lies in the code."""
        ends = itertools.accumulate((prior.code_dim for prior in self.factors()), initial=0)
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.cat([prior.sample(n, generator) for prior in self.factors()], 1)

    def keyed(self, draws: RowDraws, purpose: str, n: int) -> Tensor:
        """Each factor's own draws, side by side."""
        codes = [prior.keyed(draws, f"{purpose}, factor {i}", n) for i, prior in enumerate(self.factors())]
        return torch.cat(codes, 1)

    def log_prob(self, z: Tensor) -> Tensor:
        parts = zip(self.factors(), self.slices(), strict=True)
        return torch.stack([prior.log_prob(z[:, part]) for prior, part in parts]).sum(0)

    def enumerate(self) -> tuple[Tensor, Tensor] | None:
        """All combinations, the last factor's codes changing fastest, if every factor has finitely many codes."""
        codes, log_weights = torch.zeros(1, 0), torch.zeros(1, dtype=torch.float64)
        for prior in self.factors():
            finite = prior.enumerate()
            if finite is None:
                return None
            n, m = len(codes), len(finite[0])
            codes = torch.cat([codes.repeat_interleave(m, 0), finite[0].repeat(n, 1)], 1)
            log_weights = (log_weights[:, None] + finite[1]).flatten()
        return codes, log_weights

    def manifold(self, side: int) -> Tensor | None:
        return self.factors()[0].manifold(side) if len(self.priors) == 1 else None
