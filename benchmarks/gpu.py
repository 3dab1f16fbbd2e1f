"""Measure everything that needs a GPU, in minutes and without a network; ``make gpu``.

Each section is a process of its own with a limit of time, so one that fails or hangs costs its own numbers only. What
it has measured is written at once: ``results.json`` and ``table.md``, beside the output of every section
(``log.txt``), a profile and, at last, archives of the rows that were trained.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from gpu_result import MARK

HERE = Path(__file__).resolve().parent
KIT = HERE.parent


class Report:
    """The folder of results: what is known so far is always on disk."""

    def __init__(self, folder: Path, budget: float) -> None:
        self.folder, self.start, self.budget = folder, time.monotonic(), budget
        self.results: dict[str, Any] = {"sections": {}}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").write_text("")

    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.budget - (time.monotonic() - self.start)

    def log(self, line: str) -> None:
        print(line, flush=True)
        with (self.folder / "log.txt").open("a") as file:
            file.write(line + "\n")

    def save(self) -> None:
        (self.folder / "results.json").write_text(json.dumps(self.results, indent=1) + "\n")
        (self.folder / "table.md").write_text(table(self.results))

    def run(self, name: str, command: Sequence[str], limit: float) -> int | None:
        """One section, at most ``limit`` seconds; its exit code, or None where the time was over before or in it."""
        limit = min(limit, self.left())
        section: dict[str, Any] = {"results": []}
        self.results["sections"][name] = section
        if limit < 5:
            section["skipped"] = "no time left"
            self.save()
            return None
        self.log(f"== {name}: at most {limit:.0f} s of {self.left():.0f} s left")
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command], cwd=KIT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            os.killpg(process.pid, 9)

        timer = threading.Timer(limit, kill)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                with contextlib.suppress(ValueError):  # another process wrote into the line
                    section["results"].append(json.loads(line.removeprefix(MARK)))
                self.save()
            self.log(line.rstrip("\n"))
        code = process.wait()
        timer.cancel()
        section["seconds"] = round(time.monotonic() - began, 1)
        section["ended"] = "out of time" if killed.is_set() else code
        self.save()
        return None if killed.is_set() else code


def install_missing(wheels: Path, site: Path) -> list[str]:
    """Unpack the wheels of packages that this Python lacks; their names."""
    missing = []
    for wheel in sorted(wheels.glob("*.whl")):
        try:
            distribution(wheel.name.split("-")[0])
        except PackageNotFoundError:
            missing.append(wheel)
    if missing:
        command = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target"]
        subprocess.run([sys.executable, *command, str(site), *map(str, missing)], check=True, stdout=sys.stderr)
    return [wheel.name for wheel in missing]


def environment(site: Path) -> None:
    """What the sections inherit: the package, the unpacked wheels, the data."""
    paths = [KIT / "site", site, HERE]
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    os.environ["PIXELGAN_DATA"] = str(KIT / "data")
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ["WANDB_MODE"] = "offline"


def table(results: dict[str, Any]) -> str:
    """All results as tables, a section each; columns are the keys of its results."""
    lines = ["# On a GPU", "", "`make gpu` wrote this page.", ""]
    for name, section in results["sections"].items():
        lines += [f"## {name}", ""]
        rows = section["results"]
        for keys in dict.fromkeys(tuple(row) for row in rows):
            lines += ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
            lines += ["| " + " | ".join(_cell(row[k]) for k in keys) + " |" for row in rows if tuple(row) == keys]
            lines.append("")
        said = {key: section[key] for key in ("seconds", "ended", "skipped") if key in section}
        lines += [", ".join(f"{key}: {value}" for key, value in said.items()), ""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=530, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of the results")
    parser.add_argument("--small", action="store_true", help="sizes cut down, to try the kit on a CPU")
    parser.add_argument("--rows", nargs="*", default=[], help="of the last section, see gpu_rows.py")
    parser.add_argument(
        "--only", default="machine,tests,steps,compiled,sampling,processes,profile,rows", help="sections"
    )
    options = parser.parse_args()
    report = Report(options.out.resolve(), options.budget)
    site = Path("/tmp" if Path("/tmp").is_dir() else KIT) / f"gpu-kit-site-{os.getpid()}"
    installed = install_missing(KIT / "wheels", site)
    report.log(f"wheels unpacked: {', '.join(installed) or 'none'}")
    environment(site)
    small = ["--small"] if options.small else []
    share = options.budget / 530
    sections: dict[str, tuple[list[str], float]] = {
        "machine": (["benchmarks/gpu_machine.py", *small], 40),
        "tests": (["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "tests/test_cuda.py"], 150 * share),
        "steps": (["benchmarks/gpu_steps.py", "eager", *small], 100 * share),
        "compiled": (["benchmarks/gpu_steps.py", "compiled", *small], 120 * share),
        "sampling": (["benchmarks/gpu_sampling.py", *small], 60 * share),
        "processes": (["benchmarks/gpu_processes.py", *small], 60 * share),
        "profile": (["benchmarks/gpu_steps.py", "profile", "--out", str(report.folder), *small], 40 * share),
    }
    for name in options.only.split(","):
        if name == "rows":  # with the time that is left
            out = ["--seconds", str(report.left() - 5), "--out", str(report.folder / "rows")]
            report.run(name, ["benchmarks/gpu_rows.py", *options.rows, *out, *small], report.left())
        else:
            report.run(name, *sections[name])
    shutil.rmtree(site, ignore_errors=True)
    print((report.folder / "table.md").read_text())


if __name__ == "__main__":
    main()
