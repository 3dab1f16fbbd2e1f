"""The contract of a prior ``p(z)`` over codes."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelgan_lightning.component import Component
from pixelgan_lightning.random import RowDraws


class Prior(Component):
    """What the aggregated posterior ``q(z)`` is pushed to (PixelGAN autoencoders, section 2).

    A prior of your own needs :attr:`code_dim` and :meth:`sample`; everything else has a default that says
    "not available". Name it by ``class_path`` in YAML, no registration is needed. In training its codes are drawn on
    the CPU, for all processes in each; one that defines :attr:`num_draws` and :meth:`from_draws` in place of
    :meth:`sample` is drawn on the device, by each process for its own rows.

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

    num_draws: int | None = None
    """Number of uniform draws in [0, 1) that a code needs; None where :meth:`from_draws` is not defined."""

    def from_draws(self, draws: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes ``[n, code_dim]`` (float32) as functions of uniform draws ``[n, num_draws]``, on their device.

        Returns:
            The codes, and the component ``[n]`` (int64) that each was drawn from, None where there are none.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define from_draws(draws)")

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` codes ``[n, code_dim]`` (float32, on the CPU), drawn from ``generator`` and nothing else."""
        return self.from_draws(self._uniform(n, generator, "sample(n, generator)"))[0]

    def sample_with_components(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As :meth:`sample`, together with the component ``[n]`` that each code was drawn from.

        Raises:
            NotImplementedError: the prior has no components.
        """
        if self.num_components is None:
            raise NotImplementedError(f"{type(self).__name__} has no components")
        codes, components = self.from_draws(self._uniform(n, generator, "sample_with_components(n, generator)"))
        assert components is not None
        return codes, components

    def keyed(self, draws: RowDraws, purpose: str, n: int) -> Tensor:
        """Codes ``[n, code_dim]`` for this process's rows of a step, on its device."""
        if self.num_draws is not None and type(self).sample is Prior.sample:
            return self.from_draws(draws.uniform(purpose, n, self.num_draws))[0]
        return draws(purpose, n, self.sample)

    def keyed_with_components(self, draws: RowDraws, purpose: str, n: int) -> tuple[Tensor, Tensor]:
        """As :meth:`keyed`, together with the component ``[n]`` that each code was drawn from."""
        if self.num_draws is not None and type(self).sample_with_components is Prior.sample_with_components:
            codes, components = self.from_draws(draws.uniform(purpose, n, self.num_draws))
            assert components is not None
            return codes, components
        both = draws(purpose, n, lambda m, g: torch.column_stack(self.sample_with_components(m, g)))
        return both[:, :-1], both[:, -1].round().long()

    def _uniform(self, n: int, generator: torch.Generator, wanted: str) -> Tensor:
        if self.num_draws is None:
            raise NotImplementedError(f"{type(self).__name__} does not define {wanted}")
        return torch.rand(n, self.num_draws, generator=generator, dtype=torch.float32)

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
