"""Train rows of the results on a GPU, beside each other, as far as the time goes; the last section of ``make gpu``.

    python benchmarks/gpu_rows.py mnist_clustering_views:5 mnist_semisupervised_20:3 --seconds 400

Every run has a process and CUDA graphs of its own, and processes share the GPU by CUDA's multi-process service. Runs
that are not through by the end stop after a batch, as ``--trainer.max_time`` does it, and are tested as they are. The
folder gets an archive for each configuration: logs and results of all its seeds, and the weights of the one that did
best on validation images.
"""

from __future__ import annotations

import argparse
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

from gpu_timing import result

ROOT = Path(__file__).resolve().parent.parent
TO_THE_END = (
    *("mnist_clustering_views:5", "mnist_clustering:5"),
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
STARTING, TESTING = 30, 60
"""Seconds that a run takes before its first step, and that all tests take together."""


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
    """Run ``pixelgan`` once for each log, all at the same time; what has not ended after ``seconds`` is ended."""
    processes = []
    for log, command in commands.items():
        with log.open("a") as file:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "pixelgan_lightning", *command], stdout=file, stderr=file, cwd=ROOT, env=env
                )
            )
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def fit(config: str, seed: int, run: Path) -> list[str]:
    """The command of a run; a seed draws the labels, too."""
    path = ROOT / "configs" / f"{config}.yaml"
    labels = ["--data.init_args.label_seed", str(seed)] if "num_labelled" in path.read_text() else []
    return ["fit", "--config", str(path), "--run_dir", str(run), "--seed_everything", str(seed), *labels, *QUIET]


def numbers(run: Path) -> dict[str, float]:
    """Steps, and errors in % on validation and test images, as far as the run has them."""
    found: dict[str, float] = {}
    metrics = run / "fit" / "metrics.csv"
    if metrics.exists():
        for row in csv.DictReader(metrics.open()):
            found["steps"] = int(row["step"]) + 1
            if row.get("val/cluster_accuracy"):
                found["validation"] = 100 - 100 * float(row["val/cluster_accuracy"])
    if (run / "results.json").exists():
        measured = json.loads((run / "results.json").read_text())
        name = "test/accuracy" if "test/accuracy" in measured else "test/cluster_accuracy"
        if name in measured:
            found["test"] = 100 - 100 * float(measured[name])
    return found


def pack(config: str, runs: list[Path], out: Path, env: Mapping[str, str]) -> None:
    """One archive: logs, results and pictures of all runs of a configuration, weights of the best on validation."""
    kept = [run for run in runs if (run / "checkpoints" / "last.ckpt").exists()]
    if kept:
        best = min(kept, key=lambda run: numbers(run).get("validation", 100.0))
        checkpoint = str(best / "checkpoints" / "last.ckpt")
        side_by_side(
            {best.with_suffix(".log"): ["export", "--ckpt_path", checkpoint, "--out", str(best / "export")]}, 60, env
        )
    with tarfile.open(out / f"{config}.tar.gz", "w:gz") as archive:
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
        subprocess.run([service, "-d"], env=env, check=False)
    try:
        train([(row.partition(":")[0], int(row.partition(":")[2] or 1)) for row in options.rows], options, end, env)
    finally:
        if service:
            subprocess.run([service], input="quit\n", text=True, env=env, check=False)
        shutil.rmtree(scratch, ignore_errors=True)


def train(rows: list[tuple[str, int]], options: argparse.Namespace, end: float, env: Mapping[str, str]) -> None:
    """Compile, fit, test, pack.

    Raises:
        SystemExit: steps do not get a CUDA graph, which would waste the time of everybody; too little time is left.
    """
    work = ROOT / "runs" / "gpu-rows"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    fast, size = ([], TINY) if options.small else (FAST, [])
    if not options.small:  # a few steps of each kind: kernels are compiled once, and not by every run
        few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6", "--trainer.limit_val_batches", "0"]
        first = {work / f"{config}.log": [*fit(config, 0, work / f"{config}-first"), *fast, *few] for config, _ in rows}
        side_by_side(first, 120, env)
        for log in first:
            if REFUSED in log.read_text():
                sys.exit(log.read_text())
    runs = {config: [work / f"{config}-{seed}" for seed in range(seeds)] for config, seeds in rows}
    seconds = int(end - time.monotonic() - (0 if options.small else STARTING + TESTING))
    if seconds < 30:
        sys.exit(f"--seconds {options.seconds:.0f} leaves {seconds} s for training: allowed is 30 s or more")
    limit = ["--trainer.max_time", f"00:{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"]
    fits, tests = {}, {}
    for config, folders in runs.items():
        for seed, run in enumerate(folders):
            log = run.with_suffix(".log")
            fits[log] = [*fit(config, seed, run), *fast, *size, *limit]
            tests[log] = ["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
            tests[log] += TINY_TEST if options.small else []
    side_by_side(fits, end - time.monotonic() - 5, env)
    side_by_side(tests, max(30, end - time.monotonic()), env)
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
        pack(config, folders, options.out, env)


if __name__ == "__main__":
    main()
