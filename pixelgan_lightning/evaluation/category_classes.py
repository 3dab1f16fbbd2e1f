"""Which class each category of a code stands for, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pixelgan_lightning.evaluation.metrics import UNKNOWN


@dataclass(frozen=True)
class CategoryClasses:
    """The class of every category, and the names of the classes.

    Attributes:
        of_category: K class numbers; -1 where nothing is known.
        names: C names, in the order of the labels.
    """

    of_category: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def from_mapping(cls, mapping: Tensor, names: Sequence[str]) -> CategoryClasses | None:
        """From the label of each category, ``[K]``, -1 where unknown; None where all are."""
        of_category = tuple(int(label) for label in mapping)
        return cls(of_category, tuple(map(str, names))) if set(of_category) != {UNKNOWN} else None

    @classmethod
    def from_plain(cls, content: Any) -> CategoryClasses | None:
        """From what :meth:`plain` made; None from anything else, as the file it comes from may be anyone's."""
        if not isinstance(content, dict):
            return None
        labels, names = content.get("of_category"), content.get("names")
        if not (isinstance(labels, list) and isinstance(names, list)):
            return None
        if not all(isinstance(label, int) and UNKNOWN <= label < len(names) for label in labels):
            return None
        return cls(tuple(labels), tuple(map(str, names)))

    def plain(self) -> dict[str, Any]:
        """Plain containers, for checkpoints and JSON."""
        return {"of_category": list(self.of_category), "names": list(self.names)}

    def name_of_label(self, label: int) -> str:
        """The name of a class; empty for -1."""
        return "" if label == UNKNOWN else self.names[label]

    def name_of_category(self, category: int) -> str:
        """The name of the class that a category stands for; empty where that is not known."""
        return self.name_of_label(self.of_category[category])


def class_names(data: Any, num_classes: int | None) -> tuple[str, ...]:
    """Names of the classes: ``data.class_names`` where a data module has them, else the numbers 0 to C-1."""
    names = getattr(data, "class_names", None)
    if names and (num_classes is None or len(names) == num_classes):
        return tuple(map(str, names))
    return tuple(map(str, range(num_classes or 0)))
