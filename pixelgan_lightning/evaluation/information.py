"""What a code knows about the image: ``E_x KL(q(z|x)||p(z)) = I_q(z;x) + KL(q(z)||p(z))``, as numbers in nats.

The mean over N images stands for the expectation over x (Hoffman and Johnson, 2016, "ELBO surgery"). With categories
both terms are sums and exact. With densities ``q(z|x)`` the aggregate ``q(z)`` is estimated from the same images in two
ways, whose errors have opposite signs, so that the truth lies between (Poole et al., 2019, "On variational bounds of
mutual information").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Bracket(NamedTuple):
    """Two estimates, one too low and one too high in expectation; equal where the quantity is exact."""

    lower: float
    upper: float


class CategoricalInformation(NamedTuple):
    """Exact over the images given, ``rate = information + marginal_kl``.

    Attributes:
        information: ``I_q(y;x) = H(q(y)) - E_x[H(q(y|x))]``, ``y ~ q(y|x)``.
        marginal_kl: ``KL(q(y)||p(y))``.
        rate: ``E_x KL(q(y|x)||p(y))``, computed without the other two.
    """

    information: float
    marginal_kl: float
    rate: float


class DensityInformation(NamedTuple):
    """Estimated from N images with one code each; ``information + marginal_kl = rate`` holds crosswise.

    Attributes:
        information: ``I_q(z;x)``; the lower end is at most ``log N``.
        marginal_kl: ``KL(q(z)||p(z))``; None where the prior has no density.
        rate: ``E_x KL(q(z|x)||p(z))``, the mean over the codes; None likewise.
        rate_stderr: standard error of ``rate``.
    """

    information: Bracket
    marginal_kl: Bracket | None
    rate: float | None
    rate_stderr: float | None


def categorical_information(logits: Tensor, log_prior: Tensor) -> CategoricalInformation:
    """The decomposition for ``q(y|x)``, unnormalised logarithms ``[N, K]``, and ``log p(y)`` ``[K]``."""
    log_q = logits.double().log_softmax(1)
    log_prior = log_prior.double().to(log_q.device)
    aggregate = log_q.exp().mean(0)
    information = torch.special.entr(aggregate).sum() - torch.special.entr(log_q.exp()).sum(1).mean()
    marginal_kl = -torch.special.entr(aggregate).sum() - (aggregate * log_prior).sum()
    rate = (log_q.exp() * (log_q - log_prior)).nan_to_num().sum(1).mean()
    return CategoricalInformation(float(information), float(marginal_kl), float(rate))


def gaussian_log_densities(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """``log q(z_i|x_j)`` of diagonal Gaussians, ``[M, N]``: codes ``[M, D]``; means and log scales ``[N, D]``."""
    standardised = (z[:, None] - mean) * (-log_scale).exp()
    return -(0.5 * (standardised.square() + math.log(2 * math.pi)) + log_scale).sum(2)


def aggregate_rows(log_densities: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Own density, and both estimates of ``log q(z_i)``, for the rows ``first, first + 1, ...`` of the whole matrix.

    Args:
        log_densities: ``log q(z_i|x_j)``, ``[M, N]``, a part of the rows.
        first: number of the first of them.

    Returns:
        ``log q(z_i|x_i)``, ``log q(z_i)`` with the image itself and without, ``[M]`` each.
    """
    number = log_densities.shape[1]
    rows = torch.arange(len(log_densities), device=log_densities.device)
    own = log_densities[rows, rows + first]
    others = log_densities.clone()
    others[rows, rows + first] = -torch.inf
    return own, log_densities.logsumexp(1) - math.log(number), others.logsumexp(1) - math.log(number - 1)


def density_information(
    own: Tensor, with_itself: Tensor, without_itself: Tensor, log_prior: Tensor | None
) -> DensityInformation:
    """The decomposition for codes ``z_i ~ q(z|x_i)``, from what :func:`aggregate_rows` gives for all N rows.

    ``q(z_i)`` is the mean of ``q(z_i|x_j)`` over all j, the image itself included: too large at its own code, so the
    information comes out too small. Or over all j but i: too small, and the information too large.

    Args:
        own: ``log q(z_i|x_i)``, ``[N]``, N >= 2.
        with_itself: ``log q(z_i)`` with the image itself, ``[N]``.
        without_itself: without it, ``[N]``.
        log_prior: ``log p(z_i)``, ``[N]``; None where the prior has no density.
    """
    information = Bracket(float((own - with_itself).mean()), float((own - without_itself).mean()))
    if log_prior is None:
        return DensityInformation(information, None, None, None)
    cost = own - log_prior
    marginal_kl = Bracket(float((without_itself - log_prior).mean()), float((with_itself - log_prior).mean()))
    stderr = float(cost.std() / math.sqrt(len(cost)))
    return DensityInformation(information, marginal_kl, float(cost.mean()), stderr)
