"""The contract of a prior ``p(z)`` over codes."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelgan_lightning.component import Component


class Prior(Component):
    """What the aggregated posterior ``q(z)`` is pushed to (PixelGAN autoencoders, section 2).

    A prior of your own needs :attr:`code_dim` and :meth:`sample`; everything else has a default that says
    "not available". Name it by ``class_path`` in YAML, no registration is needed.

    Example:
        >>> class Triangle(Prior):
        ...     code_dim = 1
        ...     def sample(self, n, generator):
        ...         return torch.rand(n, 2, generator=generator).sum(1, keepdim=True)
        >>> Triangle().sample(3, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 1])
    """

    code_dim: int
    """Length of a code vector."""

    num_categories: int | None = None
    """K, if codes are, or contain, categories (one-hot vectors); None otherwise."""

    category_slice: slice | None = None
    """Where in a code the one-hot vector lies; None with categories means the whole code."""

    num_components: int | None = None
    """Number of components that a label can be tied to (label-aware training); None where there are none."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` codes ``[n, code_dim]`` (float32, on the CPU), drawn from ``generator`` and nothing else."""
        raise NotImplementedError(f"{type(self).__name__} does not define sample(n, generator)")

    def sample_with_components(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As :meth:`sample`, together with the component ``[n]`` that each code was drawn from.

        Raises:
            NotImplementedError: the prior has no components.
        """
        raise NotImplementedError(f"{type(self).__name__} has no components")

    def log_prob(self, z: Tensor) -> Tensor:
        """``log p(z)`` in nats, ``[B]``, for codes ``[B, code_dim]``; optional, some priors have no density.

        Raises:
            NotImplementedError: the prior has no density.
        """
        raise NotImplementedError(f"{type(self).__name__} has no density")

    def enumerate(self) -> tuple[Tensor, Tensor] | None:
        """All codes ``[K, code_dim]`` and their log probabilities ``[K]`` (float64), if there are finitely many."""
        return None

    def manifold(self, side: int) -> Tensor | None:
        """For two-dimensional priors: codes ``[side * side, 2]`` on a grid of equal mass, row-major from top left."""
        return None
