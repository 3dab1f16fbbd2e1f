"""The card of an exported model: what is known about its weights, in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixelgan_lightning.errors import ConfigurationError
from pixelgan_lightning.files.places import without_places
from pixelgan_lightning.files.run_folder import CONFIG
from pixelgan_lightning.files.weights import Stored, is_exported
from pixelgan_lightning.plain_files import parse_yaml, read_numbers, read_text


def model_card(name: str, stored: Stored, run: Path) -> str:
    """A card with results, configuration, data, licence and limits, as far as the run's folder tells them.

    Args:
        name: of the model.
        stored: what the checkpoint holds.
        run: folder of the run; ``results.json`` and ``config.yaml`` are read where they exist.

    Raises:
        ConfigurationError: one of these files is damaged.
    """
    numbers = sum(tensor.numel() for name, tensor in stored.tensors.items() if is_exported(name))
    return f"""# {name}

A PixelGAN autoencoder (Makhzani and Frey, 2017, [arXiv:1706.00531](https://arxiv.org/abs/1706.00531)), trained with
pixelgan-lightning. {numbers:,} parameters and buffers; the discriminator is left out.

```sh
pixelgan sample --pretrained {name} --out grid.png
```

## Results

{_results(run / "results.json")}

## Configuration

{_parts(stored.description)}

`config.json` has every argument.

## Data

{_data(run / CONFIG, stored.split_hash)}

## Licence

Apache 2.0, as the package. The data have terms of their own.

## Limits

The model knows images like those it was trained on, prepared in the same way, and no others: whatever else the encoder
is given gets a code too, which then means nothing.
"""


def _results(path: Path) -> str:
    if not path.is_file():
        return "Not measured: the run's folder has no `results.json`."
    rows = [f"| `{name}` | {value:.4f} |" for name, value in read_numbers(path).items()]
    return "\n".join(["| quantity | value |", "|---|---|", *rows])


def _parts(description: dict[str, Any]) -> str:
    rows = []
    for part in ("prior", "posterior", "encoder", "decoder", "likelihood"):
        what = description[part]
        given = ", ".join(f"{key}={value}" for key, value in without_places(what.get("init_args") or {}).items())
        rows.append(f"- {part}: `{what['class_path'].rpartition('.')[2]}({given})`")
    return "\n".join(rows)


def _data(path: Path, split_hash: str | None) -> str:
    lines = []
    if path.is_file():
        data = parse_yaml(read_text(path), str(path)).get("data") or {}
        if not isinstance(data, dict) or not isinstance(data.get("init_args") or {}, dict):
            raise ConfigurationError(f"{path} is not usable: data={data!r}, where allowed are class_path and init_args")
        arguments = without_places(data.get("init_args") or {})
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        lines.append(f"`{str(data.get('class_path')).rpartition('.')[2]}({given})`")
    if split_hash is not None:
        lines.append(f"SHA-256 of the training, validation and labelled images' indices: `{split_hash}`.")
    return "\n\n".join(lines) or "Not recorded."
