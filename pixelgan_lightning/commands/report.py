"""``pixelgan report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from pixelgan_lightning.files.image_files import check_destination
from pixelgan_lightning.messages import say
from pixelgan_lightning.pages.report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folders", nargs="+", type=Path, metavar="RUN", help="folders of runs; several: compared")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: report.html in the run's folder; of several runs: in the working folder)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write one HTML page about a run, or several beside each other: results, pictures, codes, curves."""
    folders = arguments.run_folders
    out = arguments.out
    if out is not None:
        check_destination(out, ".html")
    else:
        out = (folders[0] if len(folders) == 1 else Path()) / "report.html"
    for words in write_report(folders, out):
        say(words)
    say(f"report: {out}")
