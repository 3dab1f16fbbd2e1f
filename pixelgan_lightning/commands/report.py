"""``pixelgan report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pixelgan_lightning.messages import say
from pixelgan_lightning.report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the run's folder)")


def run(arguments: argparse.Namespace) -> None:
    """Write one HTML page of everything a run has written: curves, pictures, results, configuration."""
    out = arguments.out or arguments.run_folder / "report.html"
    for words in write_report(arguments.run_folder, out).missing:
        say(words)
    say(f"report: {out}")
