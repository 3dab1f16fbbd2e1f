"""Train rows of the results on a GPU, beside each other, as far as the time goes; the last section of ``make gpu``.

    python benchmarks/gpu_rows.py mnist_clustering_views:5 mnist_semisupervised_20:3 --seconds 400

Every run has a process and CUDA graphs of its own, and processes share the GPU by CUDA's multi-process service. Runs
that are not through when time is up stop after a batch, as ``--trainer.max_time`` does it, and are tested as they are.
The folder gets an archive for each configuration: logs and results of all its seeds, and the weights of the one that
did best on validation images. Nothing here imports PyTorch: seconds count from the first.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import yaml
from gpu_result import result

ROOT = Path(__file__).resolve().parent.parent
TO_THE_END = (
    *("mnist_clustering_views:5", "mnist_clustering:3"),
    *(f"mnist_semisupervised_{labels}:3" for labels in (20, 50, 100)),
)
FAST = ["--trainer.precision", "bf16-mixed", "--compile_decoder", "true", "--cuda_graphs", "true"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0"]
TINY = [
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
    *("--data.init_args.batch_size", "100", "--data.init_args.eval_batch_size", "20"),
]
"""Sizes cut down, to try this on a CPU."""
TINY_TEST = ["--trainer.limit_test_batches", "1", "--data.init_args.eval_batch_size", "20"]
REFUSED = "steps run one operation at a time"
COMPILING, STARTING, ENDING, TESTING, PACKING = 120, 30, 15, 60, 40
"""Seconds for the first steps of each decoder, for a run before its first step and behind its last, for all tests, and
for the archives."""
TRAINING = 60
"""Fewer seconds than these are not worth the others."""


def environment(scratch: Path) -> dict[str, str]:
    """One thread each, one cache of compiled kernels, one multi-process service."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "4",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "CUDA_MPS_PIPE_DIRECTORY": str(scratch / "mps"),
        "CUDA_MPS_LOG_DIRECTORY": str(scratch / "mps-log"),
        "WANDB_MODE": "offline",
    }


def side_by_side(commands: Mapping[Path, list[str]], seconds: float, env: Mapping[str, str]) -> None:
    """Run ``pixelgan`` once for each log, all at the same time.

    What has not ended after ``seconds`` is asked to, which lets a training save, and is killed 8 seconds later.
    """
    processes = []
    for log, command in commands.items():
        with log.open("a") as file:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "pixelgan_lightning", *command], stdout=file, stderr=file, cwd=ROOT, env=env
                )
            )
    for patience, end in ((seconds, subprocess.Popen.terminate), (8, subprocess.Popen.kill)):
        deadline = time.monotonic() + patience
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        late = [process for process in processes if process.poll() is None]
        for process in late:
            end(process)
    for process in late:
        process.wait()


def fit(config: str, seed: int, run: Path) -> list[str]:
    """The command of a run; a seed draws the labels, too."""
    path = ROOT / "configs" / f"{config}.yaml"
    labels = ["--data.init_args.label_seed", str(seed)] if "num_labelled" in path.read_text() else []
    return ["fit", "--config", str(path), "--run_dir", str(run), "--seed_everything", str(seed), *labels, *QUIET]


def named(config: str) -> str:
    """The name of its files."""
    return config.replace("/", "-")


def numbers(run: Path) -> dict[str, float]:
    """Steps, and errors in % on validation and test images, as far as the run has them."""
    found: dict[str, float] = {}
    metrics = run / "fit" / "metrics.csv"
    if metrics.exists():
        for row in csv.DictReader(metrics.open()):
            with contextlib.suppress(TypeError, ValueError):  # the end of a row is not there
                found["steps"] = int(row["step"]) + 1
                if row.get("val/cluster_accuracy"):
                    found["validation"] = 100 - 100 * float(row["val/cluster_accuracy"])
    if (run / "results.json").exists():
        measured = json.loads((run / "results.json").read_text())
        name = "test/accuracy" if "test/accuracy" in measured else "test/cluster_accuracy"
        if name in measured:
            found["test"] = 100 - 100 * float(measured[name])
    return found


def export_of_best(runs: list[Path]) -> dict[Path, list[str]]:
    """By its log, the command that exports the run that did best on validation images; none without a checkpoint."""
    kept = [run for run in runs if (run / "checkpoints" / "last.ckpt").exists()]
    if not kept:
        return {}
    best = min(kept, key=lambda run: numbers(run).get("validation", 100.0))
    checkpoint = str(best / "checkpoints" / "last.ckpt")
    return {best.with_suffix(".log"): ["export", "--ckpt_path", checkpoint, "--out", str(best / "export")]}


def pack(config: str, runs: list[Path], out: Path) -> None:
    """One archive: logs, results, pictures and exported weights of all runs of a configuration."""
    with tarfile.open(out / f"{named(config)}.tar.gz", "w:gz") as archive:
        for run in runs:
            for file in [run.with_suffix(".log"), *sorted(path for path in run.rglob("*") if path.is_file())]:
                if "checkpoints" not in file.parts:
                    archive.add(file, file.relative_to(run.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=TO_THE_END, help="configurations and how many seeds, CONFIG:SEEDS")
    parser.add_argument("--seconds", type=float, default=400, help="for everything")
    parser.add_argument("--out", type=Path, default=Path("results/gpu/rows"))
    parser.add_argument("--small", action="store_true", help="sizes cut down, to try it on a CPU")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="gpu-rows-"))
    env = environment(scratch)
    service = None if options.small else shutil.which("nvidia-cuda-mps-control")
    if service:
        # It outlives this process: with its output it would keep the reader of ours waiting.
        silent = subprocess.DEVNULL
        subprocess.run([service, "-d"], env=env, check=False, stdin=silent, stdout=silent, stderr=silent)
    try:
        train([(row.partition(":")[0], int(row.partition(":")[2] or 1)) for row in options.rows], options, end, env)
    finally:
        if service:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run([service], input="quit -t 5\n", text=True, env=env, check=False, timeout=15)
        shutil.rmtree(scratch, ignore_errors=True)


def train(rows: list[tuple[str, int]], options: argparse.Namespace, end: float, env: Mapping[str, str]) -> None:
    """Compile, fit, test, pack.

    Raises:
        SystemExit: steps do not get a CUDA graph, which would waste the time of everybody; too little time is left.
    """
    besides = STARTING + ENDING + TESTING + PACKING
    least = COMPILING + besides + TRAINING
    if not options.small and options.seconds < least:
        sys.exit(f"--seconds {options.seconds:.0f} is not usable: allowed are {least} and more")
    work = ROOT / "runs" / "gpu-rows"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    fast, size = ([], TINY) if options.small else (FAST, [])
    if not options.small:
        first_steps([config for config, _ in rows], work, env)
    runs = {config: [work / f"{named(config)}-{seed}" for seed in range(seeds)] for config, seeds in rows}
    left = end - time.monotonic()
    seconds = int(left if options.small else left - besides)
    limit = ["--trainer.max_time", f"00:{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"]
    fits, tests = {}, {}
    for config, folders in runs.items():
        for seed, run in enumerate(folders):
            log = run.with_suffix(".log")
            fits[log] = [*fit(config, seed, run), *fast, *size, *limit]
            tests[log] = ["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
            tests[log] += TINY_TEST if options.small else []
    side_by_side(fits, max(TRAINING, end - time.monotonic() - TESTING - PACKING), env)
    side_by_side(tests, max(TESTING / 2, end - time.monotonic() - PACKING), env)
    for config, folders in runs.items():
        measured = [numbers(run) for run in folders]
        errors = [each["test"] for each in measured if "test" in each]
        result(
            row=config,
            steps=", ".join(str(each.get("steps", 0)) for each in measured),
            test_error=", ".join(f"{error:.2f}" for error in errors),
            mean=statistics.mean(errors) if errors else None,
            deviation=statistics.stdev(errors) if len(errors) > 1 else None,
        )
    exports = {log: command for folders in runs.values() for log, command in export_of_best(folders).items()}
    side_by_side(exports, max(5, end - time.monotonic() - PACKING / 2), env)
    for config, folders in runs.items():
        pack(config, folders, options.out)


def first_steps(configs: list[str], work: Path, env: Mapping[str, str]) -> None:
    """A few steps and a batch of validation for each kind of decoder: kernels are compiled once, not by every run.

    Raises:
        SystemExit: a run fails, or its steps are no CUDA graphs.
    """
    few = [
        *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6"),
        *("--trainer.limit_val_batches", "1", "--trainer.check_val_every_n_epoch", "1"),
    ]
    kinds = {}
    for config in configs:
        model = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())["model"]
        kinds[json.dumps([model["decoder"], model["prior"]])] = config
    commands = {
        work / f"{named(config)}.log": [*fit(config, 0, work / f"{named(config)}-first"), *FAST, *few]
        for config in kinds.values()
    }
    side_by_side(commands, COMPILING, env | {"TORCHINDUCTOR_COMPILE_THREADS": "8"})
    for log in commands:
        said = log.read_text()
        if REFUSED in said or not (log.parent / f"{log.stem}-first/checkpoints/last.ckpt").exists():
            sys.exit(f"{said}\n{log.stem}: no CUDA graphs, or no checkpoint after {COMPILING} s")


if __name__ == "__main__":
    main()
