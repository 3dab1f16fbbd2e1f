"""Which codes a picture of samples shows: a row for what the prior names, along the row what it leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.priors import Prior


class CodeRows(NamedTuple):
    """Codes for a grid of samples.

    Attributes:
        codes: ``[R, N, code_dim]``.
        rows: the category or component of each row; None where rows have no meaning.
        categories: whether ``rows`` are categories, which a label may be known for.
    """

    codes: Tensor
    rows: list[int] | None
    categories: bool


def number_of_rows(prior: Prior) -> int | None:
    """Categories (or, for a finite prior without any, codes, or components) of a prior; None where it has none.

    The empty code is one code, but a row for it would say nothing.
    """
    if prior.num_categories is not None:
        return prior.num_categories
    finite = prior.enumerate()
    if finite is not None and prior.code_dim:
        return len(finite[0])
    return prior.num_components


def code_rows(prior: Prior, columns: int, generator: torch.Generator, rows: Sequence[int] | None = None) -> CodeRows:
    """Codes of which each row shares what the prior can name.

    - Categories alone: the one-hot code of the row; what varies along it is the decoder's own randomness.
    - Categories beside a continuous style: row = category, column = style, the same for all rows.
    - Components, as of a mixture: draws from the component of the row.
    - Any other prior: a code drawn from it for each row, as many rows as columns.

    Args:
        prior: ``p(z)``.
        columns: N, codes in a row.
        generator: of the draws.
        rows: which categories or components, in this order; None for all.

    Raises:
        ConfigurationError: ``rows`` that the prior does not have.
    """
    total = number_of_rows(prior)
    if rows is not None:
        if total is None:
            raise ConfigurationError(
                f"categories={_list(rows)} with prior={type(prior).__name__} is not usable: allowed are priors with "
                "categories or components"
            )
        if not rows or not all(0 <= row < total for row in rows):
            raise ConfigurationError(f"categories={_list(rows)} is not usable: allowed are 0 to {total - 1}")
    if total is None:
        codes = prior.sample(columns, generator).unsqueeze(1).repeat(1, columns, 1)
        return CodeRows(codes, None, False)
    wanted = list(range(total)) if rows is None else list(rows)
    finite = prior.enumerate()
    if finite is not None and len(finite[0]) == total:
        codes = finite[0][wanted].unsqueeze(1).repeat(1, columns, 1)
    elif prior.num_categories is not None:
        codes = prior.sample(columns, generator).repeat(len(wanted), 1, 1)
        where = prior.category_slice or slice(0, prior.num_categories)
        codes[:, :, where] = F.one_hot(torch.tensor(wanted), prior.num_categories).to(codes).unsqueeze(1)
    else:
        codes = torch.stack(_draws_by_component(prior, columns, generator))[wanted]
    return CodeRows(codes, wanted, prior.num_categories is not None)


def _draws_by_component(prior: Prior, number: int, generator: torch.Generator) -> list[Tensor]:
    """The first ``number`` draws from each component, ``[number, code_dim]``; a component without any is refused."""
    assert prior.num_components is not None
    found: list[Tensor] = [torch.empty(0, prior.code_dim) for _ in range(prior.num_components)]
    for _ in range(100):
        codes, components = prior.sample_with_components(4 * number * prior.num_components, generator)
        found = [torch.cat([found[i], codes[components == i]])[:number] for i in range(prior.num_components)]
        if all(len(draws) == number for draws in found):
            return found
    raise ConfigurationError(
        f"prior={type(prior).__name__} is not usable for a grid of samples: some of its {prior.num_components} "
        "components are hardly ever drawn"
    )


def _list(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
