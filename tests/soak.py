"""Runs that are killed and files that are damaged, many times at random: `make soak`, see docs/reliability.md.

    python tests/soak.py --kills 200 --mutants 500 --seed 0

Prints counts; ends with status 1 where anything of what is promised did not hold.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: processes are forked

import argparse
import gzip
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from commandline import SMALL, pixelgan
from PIL import Image
from processes import KILLED, start, start_ranks, wait
from realformats import NORB_STEMS, digit_images, write_mnist, write_norb, write_svhn

from pixelgan_lightning.files.checkpoint_io import AtomicCheckpointIO
from pixelgan_lightning.files.run_folder import OWNER

STEPS = 12
TRAINED = ("global_step", "epoch", "state_dict", "optimizer_states", "current_model_state")
PATIENCE = 60.0  # seconds

RUN: dict[str, Any] = {
    "trainer": {
        "max_epochs": 3,
        "limit_train_batches": STEPS // 3,
        "num_sanity_val_steps": 0,
        "callbacks": [
            {"class_path": "ClusterAccuracy"},
            {"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9, "update_starting_at_step": 2}},
        ],
    },
    "data": {"class_path": "DigitsDataModule", "init_args": {"num_labelled": 20, "labelled_batch_size": 10}},
    "checkpoint": {"every_n_train_steps": 1},
}


# --------------------------------------------------------------------------------------------------------------- kills


def launch(processes: int, *args: object) -> list[int]:
    """Start a command of so many processes; their ids."""
    if processes == 1:
        return [start(lambda: pixelgan(*args), output=Path("rank0"))]
    return start_ranks(processes, *args)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def trained(run: Path) -> dict[str, Any]:
    content = AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt")
    return {key: content[key] for key in TRAINED if key in content}


def wait_for_a_moment(run: Path, duration: float, rng: random.Random) -> None:
    """Until a save has begun, one of the next; or any time after the run's folder is taken. Or until the run ends."""
    saves, seen, last = rng.choice([0, 1, 2, 4, 8]), 0, False
    end = time.monotonic() + duration
    while not (run / OWNER).exists() and time.monotonic() < end:
        time.sleep(0.001)
    if not saves:
        time.sleep(rng.uniform(0, 0.5) * duration)
        return
    while seen < saves and time.monotonic() < end + duration and (run / OWNER).exists():
        saving = any(run.glob("checkpoints/.*.tmp"))
        seen += saving and not last
        last = saving


def kills(number: int, processes: int, rng: random.Random) -> Counter[str]:
    """Kill a run again and again until it has come to its end; then begin the next, until ``number`` kills are made."""
    counts: Counter[str] = Counter()
    Path("run.yaml").write_text(yaml.safe_dump(RUN))
    batch = ["--data.init_args.batch_size", 32 // processes, "--data.init_args.labelled_batch_size", 10 // processes]
    first = ["fit", "--config", SMALL, "--config", "run.yaml", *batch, "--run_dir"]
    began = time.monotonic()
    for status in [wait(pid) for pid in launch(processes, *first, f"whole{processes}")]:
        assert status == 0, Path("rank0").read_text()
    duration = time.monotonic() - began
    whole = trained(Path(f"whole{processes}"))
    run, last = Path(f"run{processes}"), Path(f"run{processes}/checkpoints/last.ckpt")
    while counts["kills"] < number or counts["runs that came to their end"] == 0:
        again = last.exists()
        if not again:
            shutil.rmtree(run, ignore_errors=True)
        command = ["fit", "--run_dir", run, "--ckpt_path", "last"] if again else [*first, run]
        pids = launch(processes, *command)
        if counts["kills"] < number:
            wait_for_a_moment(run, duration, rng)
            victims = rng.sample(pids, len(pids))
            os.kill(victims[0], signal.SIGKILL)
            time.sleep(rng.choice([0.0, 0.0, 0.2]) if victims[1:] else 0.0)
            for other in victims[1:]:  # as who has started them would do
                os.kill(other, signal.SIGKILL)
        statuses = [wait(pid, timeout=PATIENCE) for pid in pids]
        if KILLED in statuses:
            counts["kills"] += 1
            counts["kills within a save"] += bool(list(run.glob("checkpoints/.*.tmp")))
            counts["kills before the first checkpoint"] += not last.exists()
            for path in run.glob("checkpoints/*.ckpt"):
                try:
                    AtomicCheckpointIO().load_checkpoint(path)
                except Exception:
                    counts["FAILED: checkpoint not readable"] += 1
        elif any(statuses):
            counts["FAILED: a continued run ended with an error"] += 1
            print(Path("rank0").read_text())
            shutil.rmtree(run)
        if statuses == [0] * processes:
            counts["runs that came to their end"] += 1
            counts["FAILED: weights differ"] += not equal(trained(run), whole)
            shutil.rmtree(run)
    return counts


# ------------------------------------------------------------------------------------------------------------- mutants


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to a thousand bytes changed, a part cut out, doubled or zeroed, or the end missing."""
    data = bytearray(content)
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    kind = rng.choice(["flip", "flip", "header", "cut", "double", "zero", "truncate", "text"])
    if kind == "flip":
        for _ in range(rng.choice([1, 10, 1000])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "header":
        for _ in range(rng.choice([1, 4])):
            data[rng.randrange(min(64, len(data)))] = rng.randrange(256)
    elif kind == "cut":
        del data[a:b]
    elif kind == "double":
        data[b:b] = data[a:b]
    elif kind == "zero":
        data[a:b] = bytes(b - a)
    elif kind == "truncate":
        del data[a:]
    else:
        data[:] = b"not what it was\n"
    return bytes(data)


def command_of(proof: str) -> list[Any]:
    """Values that run a command where somebody makes objects of them."""
    shell = {"args": f"touch {proof}", "shell": True}
    popen = {"class_path": "subprocess.Popen", "init_args": shell}
    return [
        popen,
        {"class_path": "os.system", "init_args": {"command": f"touch {proof}"}},
        {"class_path": "pytorch_lightning.strategies.DDPStrategy", "init_args": {"ddp_comm_state": popen}},
        {"class_path": "pytorch_lightning.callbacks.LambdaCallback", "init_args": {"on_fit_start": popen}},
        {"class_path": "pytorch_lightning.profilers.SimpleProfiler", "init_args": {"dirpath": ".", "filename": proof}},
    ]


def changed(value: Any, rng: random.Random, proof: str, extra: list[str] | None = None) -> Any:
    """A description with one of its values, somewhere, replaced by one that does not belong there."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice([*value, *(extra or [])])
        return {**value, key: changed(value.get(key), rng, proof)}
    odd = [None, -1, 0, 10**40, 1e308, float("nan"), "", "\0", "x" * 10_000, [], {}, [[]], True, "../..", "$HOME"]
    return rng.choice([*odd, *command_of(proof)])


def checkpoint_mutants(rng: random.Random, proof: str) -> Iterator[tuple[str, list[object]]]:
    whole = Path("model/checkpoints/last.ckpt").read_bytes()
    while True:
        path = Path("mutant.ckpt")
        if rng.random() < 0.5:
            path.write_bytes(damaged(whole, rng))
        else:
            content = torch.load("model/checkpoints/last.ckpt", weights_only=True)
            part = rng.choice(["hyper_parameters", "pixelgan_lightning_config", "whole"])
            if part == "whole":
                content = changed(content, rng, proof)
            elif part == "hyper_parameters":
                content[part] = changed(content[part], rng, proof)
            else:
                config = changed(yaml.safe_load(content[part]), rng, proof, ["trainer", "trainer"])
                if rng.random() < 0.5:
                    name = rng.choice(["strategy", "profiler", "callbacks", "logger", "plugins"])
                    config = {**yaml.safe_load(content[part]), "trainer": {name: rng.choice(command_of(proof))}}
                content[part] = yaml.safe_dump(config)
            torch.save(content, path)
        command = rng.choice(
            [
                ["test", "--ckpt_path", path, "--run_dir", "out"],
                ["sample", "--ckpt_path", path, "--out", "out.png", "--num", 2],
                ["export", "--ckpt_path", path, "--out", "out"],
                ["fit", "--ckpt_path", path, "--run_dir", "out", "--trainer.max_epochs", 2],
                ["fit", "--config", SMALL, "--init_from", path, "--run_dir", "out"],
            ]
        )
        yield "checkpoints", command


def export_mutants(rng: random.Random, proof: str) -> Iterator[tuple[str, list[object]]]:
    while True:
        shutil.rmtree("mutant", ignore_errors=True)
        shutil.copytree("exported", "mutant")
        config = Path("mutant/config.json")
        if rng.random() < 0.5:
            victim = rng.choice([config, Path("mutant/model.safetensors")])
            victim.write_bytes(damaged(victim.read_bytes(), rng))
        else:  # JSON is YAML
            description = changed(yaml.safe_load(config.read_text()), rng, proof)
            config.write_text(yaml.safe_dump(description, default_flow_style=True, width=10**6))
        yield (
            "exported models",
            rng.choice(
                [
                    ["sample", "--pretrained", "mutant", "--out", "out.png", "--num", 2],
                    ["fit", "--config", SMALL, "--init_from", "mutant", "--run_dir", "out"],
                ]
            ),
        )


def yaml_mutants(rng: random.Random, proof: str) -> Iterator[tuple[str, list[object]]]:
    """What a user writes may name any code, so no command is among the values here."""
    text = Path(SMALL).read_text()
    while True:
        path = Path("mutant.yaml")
        if rng.random() < 0.5:
            path.write_bytes(damaged(text.encode(), rng))
        else:
            harmless = changed(yaml.safe_load(text), rng, proof)
            path.write_text("{}" if proof in repr(harmless) else yaml.safe_dump(harmless))
        yield "configurations", ["fit", "--config", SMALL, "--config", path, "--run_dir", "out"]


def data_files() -> list[tuple[str, list[object], Path]]:
    """Data sets in all formats: the class, its options, and a file of it."""
    images, labels = digit_images(60, 8)
    arrays = {"images": images[:, None].numpy(), "labels": labels.numpy()}
    np.savez("data/set.npz", **arrays)
    torch.save({"images": images[:, None], "labels": labels}, "data/set.pt")
    rows = ["path,label"]
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = Path(f"data/folder/{label}")
        folder.mkdir(parents=True, exist_ok=True)
        kind = ("png", "jpg", "tif", "bmp", "gif", "webp")[i % 6]
        Image.fromarray(image.numpy()).save(folder / f"{i}.{kind}")
        rows.append(f"folder/{label}/{i}.{kind},{label}")
    Path("data/table.csv").write_text("\n".join(rows) + "\n")
    write_mnist(Path("data"), 60, 20)
    raw = Path("data/MNIST/raw")
    write_mnist(Path("data/packed"), 60, 20)
    for path in list(Path("data/packed/MNIST/raw").iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    write_svhn(Path("data"), 60, 20)
    write_norb(Path("data"), 25)
    write_norb(Path("data/packed"), 25, packed=True)
    own: list[object] = ["--data", "ImageTensorDataModule", "--data.train_path"]
    norb: list[object] = ["--data", "SmallNORBDataModule", "--data.num_val", 10, "--data.data_dir"]
    mnist: list[object] = ["--data", "MNISTDataModule", "--data.num_val", 10, "--data.data_dir"]
    svhn: list[object] = ["--data", "SVHNDataModule", "--data.num_val", 10, "--data.data_dir", "data"]
    pictures = [path for path in sorted(Path("data/folder").rglob("*.*")) if path.parent.name in "012"][:12]
    norb_files = [f"data/smallnorb/{NORB_STEMS['train']}-{kind}.mat" for kind in ("dat", "cat", "info")]
    return [
        ("npz", [*own, "data/set.npz"], Path("data/set.npz")),
        ("pt", [*own, "data/set.pt"], Path("data/set.pt")),
        ("csv", [*own, "data/table.csv"], Path("data/table.csv")),
        *((path.suffix[1:], [*own, "data/folder"], path) for path in pictures),
        *(("idx", [*mnist, "data"], path) for path in sorted(raw.iterdir())),
        *(("idx.gz", [*mnist, "data/packed"], path) for path in sorted(Path("data/packed/MNIST/raw").iterdir())),
        ("svhn mat", svhn, Path("data/SVHN/train_32x32.mat")),
        *(("norb mat", [*norb, "data"], Path(path)) for path in norb_files),
        ("norb mat.gz", [*norb, "data/packed"], next(Path("data/packed/smallnorb").glob("*training-dat.mat.gz"))),
    ]


def data_mutants(rng: random.Random, proof: str) -> Iterator[tuple[str, list[object]]]:
    Path("data").mkdir()
    files = data_files()
    by_format: dict[str, list[tuple[str, list[object], Path]]] = {}
    for file in files:
        by_format.setdefault(file[0], []).append(file)
    likelihood = ["--model.likelihood", "CategoricalLevels", "--model.likelihood.levels", 256]
    small = ["--data.batch_size", 4, "--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1]
    while True:
        for kind in by_format:
            name, options, path = rng.choice(by_format[kind])
            whole = path.read_bytes()
            path.write_bytes(damaged(whole, rng))
            yield f"data: {name}", ["fit", "--config", SMALL, *options, *likelihood, *small, "--run_dir", "out"]
            path.write_bytes(whole)


def mutants(number: int, rng: random.Random) -> Counter[str]:
    counts: Counter[str] = Counter()
    pixelgan("fit", "--config", SMALL, "--run_dir", "model")
    pixelgan("export", "--ckpt_path", "model/checkpoints/last.ckpt", "--out", "exported")
    proof = "proof"
    makers: list[Callable[[random.Random, str], Iterator[tuple[str, list[object]]]]]
    makers = [checkpoint_mutants, export_mutants, yaml_mutants, data_mutants]
    sources = [maker(rng, proof) for maker in makers]
    for i in range(number):
        kind, command = next(sources[i % len(sources)])
        output = Path("output")
        before = set(Path().rglob(".*.tmp"))
        pid = start(lambda command=command: pixelgan(*command), output=output)  # type: ignore[misc]
        try:
            status = wait(pid, timeout=PATIENCE)
        except TimeoutError:
            status = -1
        said = output.read_text(errors="replace")
        failures = {
            "FAILED: hangs": status == -1,
            "FAILED: ends neither well nor with a line": status not in (-1, 0, 1, 2),
            "FAILED: traceback": "Traceback" in said,
            "FAILED: a command ran": bool(list(Path().rglob(f"*{proof}*"))),
            "FAILED: half-written": set(Path().rglob(".*.tmp")) != before
            or (status != 0 and (Path("out.png").exists() or Path("out/model.safetensors").exists())),
        }
        counts[kind] += 1
        counts["refused or ended with a line" if status in (1, 2) else "accepted"] += 1
        for failure, found in failures.items():
            counts[failure] += found
        if any(failures.values()):
            print(f"--- mutant {i} of {kind}: {' '.join(map(str, command))}\n{said[-3000:]}", flush=True)
        for left in Path().rglob(f"*{proof}*"):
            left.unlink()
        shutil.rmtree("out", ignore_errors=True)
        Path("out.png").unlink(missing_ok=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="a quarter of them of runs of two processes")
    parser.add_argument("--mutants", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="pixelgan-soak-") as scratch:
        os.chdir(scratch)
        of_two = arguments.kills // 4
        parts: list[tuple[str, Callable[[], Counter[str]]]] = [
            ("kills of one process", lambda: kills(arguments.kills - of_two, 1, rng)),
            ("kills of two processes", lambda: kills(of_two, 2, rng)),
            ("mutants", lambda: mutants(arguments.mutants, rng)),
        ]
        for title, part in parts:
            if (title == "mutants" and not arguments.mutants) or (title != "mutants" and not arguments.kills):
                continue
            began = time.monotonic()
            counts = part()
            print(f"\n{title} ({time.monotonic() - began:.0f} s)")
            for name, count in counts.items():
                print(f"{count:6d}  {name}")
            sys.stdout.flush()
            failed += sum(count for name, count in counts.items() if name.startswith("FAILED"))
        os.chdir("/")
    print(f"\n{failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
